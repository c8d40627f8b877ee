//! Readers for single values: numbers in a range, durations in limits, words of a list, lists.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Fault;
use super::not_yet;
use super::notes::Noted;
use super::raw::{Kind, Value};
use super::suggest::{one_of, quoted};
use super::units;

/// Which durations an option takes.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) least: Duration,
    pub(super) most: Duration,
    /// The resolution of what the duration is given to.
    pub(super) step: Duration,
    /// What "0s" means, where it has a meaning of its own.
    pub(super) zero: Option<&'static str>,
}

/// The resolution of timers.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

impl<'d> Value<'d> {
    /// A whole number in a range.
    pub(super) fn number<T>(&self, range: RangeInclusive<T>) -> Result<T, Noted>
    where
        T: Copy + Display + PartialOrd + TryFrom<i128>,
    {
        let remedy = || format!("use a whole number from {} to {}", range.start(), range.end());
        match self.kind() {
            Kind::Integer(number) => number
                .and_then(|number| T::try_from(number).ok())
                .filter(|number| range.contains(number))
                .ok_or_else(|| self.place().wrong(format!("{} is out of range", self.shown()), remedy())),
            Kind::Text(text) if text.parse::<i128>().is_ok() => {
                Err(self.mistyped("a number", format!("write {text} without quotes")))
            }
            _ => Err(self.mistyped("a whole number", remedy())),
        }
    }

    /// A duration within limits; "0s" only if the limits include it.
    pub(super) fn duration(&self, limits: &Limits) -> Result<Duration, Noted> {
        let text = match self.kind() {
            Kind::Text(text) => text,
            Kind::Integer(Some(seconds @ 0..)) => {
                return Err(self.mistyped("a duration", format!("write \"{seconds}s\"")));
            }
            _ => return Err(self.mistyped("a duration", limits.remedy())),
        };
        let duration = units::duration(text).map_err(|error| self.fault(error.into()))?;
        if limits.zero.is_some() && duration.is_zero() {
            return Ok(duration);
        }
        if duration.is_zero() && !limits.least.is_zero() {
            return Err(self.place().wrong(format!("{} makes no sense here", quoted(text)), limits.remedy()));
        }
        if !(limits.least..=limits.most).contains(&duration) {
            let what = if duration < limits.least { "too short" } else { "too long" };
            return Err(self.place().wrong(format!("{} is {what}", quoted(text)), limits.remedy()));
        }
        if !duration.as_nanos().is_multiple_of(limits.step.as_nanos()) {
            let step = units::written(limits.step);
            return Err(self.place().wrong(
                format!("{} is finer than this option can be", quoted(text)),
                format!("use a multiple of \"{step}\""),
            ));
        }
        Ok(duration)
    }

    /// A duration within limits, or "0s" for none.
    pub(super) fn duration_or_none(&self, limits: &Limits) -> Result<Option<Duration>, Noted> {
        self.duration(limits).map(|duration| (!duration.is_zero()).then_some(duration))
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
        Err(match not_yet::find_value(&self.place().option(), text) {
            Some(entry) => self.place().wrong(entry.what(), entry.instead),
            None => self.place().wrong(format!("{} is not a choice", quoted(text)), one_of(text, words())),
        })
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

impl Limits {
    fn remedy(&self) -> String {
        let (least, most) = (units::written(self.least), units::written(self.most));
        let whole = if self.step == MILLISECOND { "" } else { " in whole seconds" };
        let zero = self.zero.map(|meaning| format!(", or \"0s\": {meaning}")).unwrap_or_default();
        format!("use a duration from \"{least}\" to \"{most}\"{whole}{zero}")
    }
}
