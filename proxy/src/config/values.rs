//! Readers for single values: numbers in a range, durations in limits, words of a list, lists.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::durations::DurationRange;
use super::fault::Fault;
use super::notes::Noted;
use super::raw::{Kind, Value};
use super::suggest::{one_of, quoted};
use super::units::{self, written_size};

/// The word of a list that stands for a value: what [`Value::choice`] reads.
pub(super) fn word<T: PartialEq>(choices: &[(&'static str, T)], value: &T) -> &'static str {
    choices.iter().find(|(_, choice)| choice == value).expect("every value that can be chosen has a word").0
}

impl<'d> Value<'d> {
    /// A whole number in a range.
    pub(super) fn number<T>(&self, range: RangeInclusive<T>) -> Result<T, Noted>
    where
        T: Copy + Display + PartialOrd + TryFrom<i128>,
    {
        let remedy = || format!("use a whole number from {} to {}", range.start(), range.end());
        let in_range = |number: i128| T::try_from(number).ok().filter(|number| range.contains(number));
        match self.kind() {
            Kind::Integer(number) => number
                .and_then(in_range)
                .ok_or_else(|| self.place().wrong(format!("{} is out of range", self.shown()), remedy())),
            Kind::Text(text) if text.parse().ok().and_then(in_range).is_some() => {
                Err(self.mistyped("a whole number", format!("write {text} without quotes")))
            }
            _ => Err(self.mistyped("a whole number", remedy())),
        }
    }

    /// A duration within limits; "0s" only if the limits include it.
    pub(super) fn duration(&self, limits: &DurationRange) -> Result<Duration, Noted> {
        match self.kind() {
            Kind::Text(text) => limits.read(text).map_err(|fault| self.fault(fault)),
            Kind::Integer(number) => {
                let meant = number.and_then(|number| limits.meant_by(number));
                let remedy = meant.map_or_else(|| limits.remedy(), |meant| format!("write \"{meant}\""));
                Err(self.mistyped("a duration", remedy))
            }
            _ => Err(self.mistyped("a duration", limits.remedy())),
        }
    }

    /// A duration within limits, or "0s" for none.
    pub(super) fn duration_or_none(&self, limits: &DurationRange) -> Result<Option<Duration>, Noted> {
        self.duration(limits).map(|duration| (!duration.is_zero()).then_some(duration))
    }

    /// A size in bytes within a range.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Result<u64, Noted> {
        let remedy =
            || format!("use a size from \"{}\" to \"{}\"", written_size(*range.start()), written_size(*range.end()));
        match self.kind() {
            Kind::Text(text) => {
                let size = units::size(text).map_err(|error| self.fault(error.into()))?;
                let wrong = |what: &str| Err(self.place().wrong(format!("{} is too {what}", quoted(text)), remedy()));
                match size {
                    size if size < *range.start() => wrong("small"),
                    size if size > *range.end() => wrong("large"),
                    size => Ok(size),
                }
            }
            Kind::Integer(Some(number)) if u64::try_from(number).is_ok_and(|bytes| range.contains(&bytes)) => {
                Err(self.mistyped("a size", format!("write \"{number}B\"")))
            }
            _ => Err(self.mistyped("a size", remedy())),
        }
    }

    /// One word of a list.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Result<T, Noted> {
        let words = || choices.iter().map(|(word, _)| *word);
        let Kind::Text(text) = self.kind() else {
            return Err(self.mistyped("a string", one_of("", words())));
        };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        Err(self.place().wrong(format!("{} is not a choice", quoted(text)), one_of(text, words())))
    }

    /// A string that follows rules; `example` is one that does.
    pub(super) fn parse<T>(&self, example: &str, rules: impl FnOnce(&str) -> Result<T, Fault>) -> Result<T, Noted> {
        rules(self.text(example)?).map_err(|fault| self.fault(fault))
    }

    /// Any string; `example` is one that would do.
    pub(super) fn text(&self, example: &str) -> Result<&'d str, Noted> {
        match self.kind() {
            Kind::Text(text) => Ok(text),
            Kind::Array => Err(self.mistyped("a string", format!("write one string, such as \"{example}\""))),
            _ => Err(self.mistyped("a string", format!("write a string in quotes, such as \"{example}\""))),
        }
    }

    /// A list of at least one element. All elements are read, also after a bad one.
    pub(super) fn list<T>(
        &self,
        example: &str,
        mut read: impl FnMut(Value<'d>) -> Result<T, Noted>,
    ) -> Result<Vec<T>, Noted> {
        match self.kind() {
            Kind::Array => {}
            Kind::Text(_) => return Err(self.mistyped("a list", format!("write [{}]", self.shown()))),
            _ => return Err(self.mistyped("a list", format!("write a list, such as [\"{example}\"]"))),
        }
        let read: Vec<_> = self.elements().into_iter().map(&mut read).collect();
        if read.is_empty() {
            return Err(self.place().wrong("the list is empty", format!("give at least one, such as [\"{example}\"]")));
        }
        read.into_iter().collect()
    }

    fn fault(&self, fault: Fault) -> Noted {
        self.place().wrong(fault.what, fault.remedy)
    }
}
