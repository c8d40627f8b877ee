//! The only module that knows TOML: a cursor over the tree of a file that remembers where everything stands.
//!
//! Sections are read by hand instead of through serde, because serde stops at the first error and knows no lines.
//! Each reader returns `Result<_, Noted>`; the caller reads all keys of a table first, calls [`Table::finish`], and only
//! then gives up with `?`.

mod syntax;

use std::cell::RefCell;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::notes::{Noted, Notes, Place};
use super::problem::Problems;
use super::suggest;

/// A file's text as a tree.
#[derive(Debug)]
pub(super) struct Document<'i> {
    text: &'i str,
    tree: DeTable<'i>,
    syntax: Vec<toml::de::Error>,
    lines: Lines,
    notes: Notes,
}

/// A table of the file; empty when the file does not have it, so that defaults and present values are read alike.
#[derive(Debug)]
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    entries: Option<&'d DeTable<'d>>,
    place: Place<'d>,
    asked: RefCell<BTreeSet<&'static str>>,
}

/// A value of the file.
#[derive(Debug)]
pub(super) struct Value<'d> {
    document: &'d Document<'d>,
    node: &'d Spanned<DeValue<'d>>,
    place: Place<'d>,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind<'d> {
    Text(&'d str),
    /// `None`: too large for any option.
    Integer(Option<i128>),
    Float,
    Boolean,
    DateTime,
    Array,
    Table,
}

impl<'i> Document<'i> {
    /// Reads the text as TOML, as far as that is possible.
    pub(super) fn parse(text: &'i str) -> Self {
        let (tree, syntax) = DeTable::parse_recoverable(text);
        Self { text, tree: tree.into_inner(), syntax, lines: Lines::of(text), notes: Notes::default() }
    }

    /// The table that is the whole file.
    pub(super) fn top<'d>(&'d self) -> Table<'d>
    where
        'i: 'd,
    {
        Table::new(self, Some(&self.tree), Place::top(&self.notes))
    }

    /// What was noted, together with the errors of TOML itself.
    pub(super) fn finish(self) -> Problems {
        let (problems, broken) = syntax::problems(self.text, &self.lines, &self.tree, &self.syntax);
        self.notes.finish(problems, &broken)
    }

    /// The keys that readers asked for so far.
    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeSet<super::notes::KnownKey> {
        self.notes.known()
    }
}

impl<'d> Table<'d> {
    fn new(document: &'d Document<'d>, entries: Option<&'d DeTable<'d>>, place: Place<'d>) -> Self {
        Self { document, entries, place, asked: RefCell::default() }
    }

    /// Where the table begins.
    pub(super) fn place(&self) -> &Place<'d> {
        &self.place
    }

    /// Whether the file has the table.
    pub(super) fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// Reads a key that may be missing.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Value<'d>) -> Result<T, Noted>,
    ) -> Result<Option<T>, Noted> {
        self.get(key).map(read).transpose()
    }

    /// Reads a key that has a default.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Value<'d>) -> Result<T, Noted>,
    ) -> Result<T, Noted> {
        self.get(key).map_or(Ok(default), read)
    }

    /// Reads a key that must be there; `example` is a line that would be right.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(Value<'d>) -> Result<T, Noted>,
    ) -> Result<T, Noted> {
        match self.get(key) {
            Some(value) => read(value),
            None => Err(self.place.key(key, self.place.line()).unfit("missing", format!("write {example}"))),
        }
    }

    /// The table under a key.
    pub(super) fn table(&self, key: &'static str) -> Table<'d> {
        let missing = || Table::new(self.document, None, self.place.key(key, self.place.line()));
        self.get(key).and_then(|value| value.table(&format!("[{}]", value.place.option())).ok()).unwrap_or_else(missing)
    }

    /// The tables of the array under a key: `[[key]]`, in order; none when the file does not have it.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Result<Table<'d>, Noted>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let header = format!("[[{}]]", value.place.option());
        match value.node.get_ref() {
            DeValue::Array(_) => value.elements().into_iter().map(|element| element.table(&header)).collect(),
            DeValue::Table(entries) => {
                value.place.wrong("is one table, not a list of them", format!("write {header}"));
                vec![Ok(Table::new(self.document, Some(entries), value.place.element(0, value.place.line())))]
            }
            _ => vec![Err(value.mistyped("a list of tables", format!("write {header}")))],
        }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        for (key, value) in self.entries.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if asked.contains(name) {
                continue;
            }
            // The header of a table says better than its key where it stands: the key's place is that of the first
            // header that mentions it.
            let start = if value.get_ref().is_table() { value.span().start } else { key.span().start };
            let line = self.document.lines.of_offset(start);
            self.place.unknown_key(name, line);
        }
    }

    fn get(&self, key: &'static str) -> Option<Value<'d>> {
        self.asked.borrow_mut().insert(key);
        self.place.know(key);
        let node = self.entries?.get(key)?;
        let line = self.document.lines.of_offset(node.span().start);
        Some(Value { document: self.document, node, place: self.place.key(key, line) })
    }
}

impl<'d> Value<'d> {
    /// Where the value stands.
    pub(super) fn place(&self) -> &Place<'d> {
        &self.place
    }

    /// What the value is.
    pub(super) fn kind(&self) -> Kind<'d> {
        match self.node.get_ref() {
            DeValue::String(text) => Kind::Text(text),
            DeValue::Integer(number) => Kind::Integer(integer(number)),
            DeValue::Float(_) => Kind::Float,
            DeValue::Boolean(_) => Kind::Boolean,
            DeValue::Datetime(_) => Kind::DateTime,
            DeValue::Array(_) => Kind::Array,
            DeValue::Table(_) => Kind::Table,
        }
    }

    /// The values of an array; none when it is not one.
    pub(super) fn elements(&self) -> Vec<Value<'d>> {
        let nodes = self.node.get_ref().as_array().into_iter().flat_map(|array| array.iter());
        let element = |(index, node): (usize, &'d Spanned<DeValue<'d>>)| {
            let line = self.document.lines.of_offset(node.span().start);
            Value { document: self.document, node, place: self.place.element(index, line) }
        };
        nodes.enumerate().map(element).collect()
    }

    /// The value as the file has it, shortened for a message.
    pub(super) fn shown(&self) -> String {
        suggest::shortened(self.document.text.get(self.node.span()).unwrap_or_default())
    }

    /// Notes that the value is of a wrong type.
    pub(super) fn mistyped(&self, expected: &str, remedy: impl Into<String>) -> Noted {
        let actual = match self.kind() {
            Kind::Text(_) => "a string",
            Kind::Integer(_) => "a whole number",
            Kind::Float => "a number with a fraction",
            Kind::Boolean => "a boolean",
            Kind::DateTime => "a date or time",
            Kind::Array => "a list",
            Kind::Table => "a table",
        };
        let what = match self.kind() {
            Kind::Array | Kind::Table => format!("is {actual}, not {expected}"),
            _ => format!("{} is {actual}, not {expected}", self.shown()),
        };
        self.place.wrong(what, remedy)
    }

    fn table(&self, header: &str) -> Result<Table<'d>, Noted> {
        match self.node.get_ref() {
            DeValue::Table(entries) => Ok(Table::new(self.document, Some(entries), self.place.clone())),
            _ => Err(self.mistyped("a table", format!("write {header}"))),
        }
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let begins = text.char_indices().filter(|&(_, c)| c == '\n').map(|(offset, _)| offset + 1);
        // A line break at the very end begins no line.
        let starts = std::iter::once(0).chain(begins.filter(|&start| start < text.len())).collect();
        Self { starts }
    }

    /// The line of a byte, from 1; beyond the end it is the last line.
    fn of_offset(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset).max(1)
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}
