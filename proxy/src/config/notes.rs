//! Collects problems while a file is read, so that reading can go on after the first one.
//!
//! A reader that fails returns [`Noted`]. Only noting a problem makes one, so a failure that nobody reported cannot
//! be written.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::problem::{Problem, Problems};
use super::suggest;

/// The proof that a problem was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted(());

/// The problems of one file so far, and the keys that its readers asked for.
#[derive(Debug, Default)]
pub(super) struct Notes {
    notes: RefCell<Vec<Note>>,
    known: RefCell<BTreeSet<KnownKey>>,
    unknown: RefCell<Vec<UnknownKey>>,
}

/// A key that a reader asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KnownKey {
    /// The table as its header in a file: `[[group]]`, `[group.tcp]`; empty for the top of the file.
    pub(super) header: String,
    pub(super) key: &'static str,
}

#[derive(Debug)]
struct UnknownKey {
    header: String,
    key: String,
    path: String,
    line: usize,
}

#[derive(Debug)]
struct Note {
    problem: Problem,
    /// Whether the problem exists only because of what the rest of the file says or lacks.
    depends_on_rest: bool,
}

/// Lines on which TOML itself is broken: how much of the rest can be believed.
#[derive(Debug, Default)]
pub(super) struct Broken {
    /// What is wrong on these lines was said already.
    pub(super) lines: BTreeSet<usize>,
    /// From this line on, keys may have ended up in a wrong table.
    pub(super) from: Option<usize>,
}

impl Notes {
    /// All problems that are sure, together with the syntax errors.
    pub(super) fn finish(self, mut syntax: Vec<Problem>, broken: &Broken) -> Problems {
        let unknown = self.unknown_keys();
        let notes = self.notes.into_inner();
        let here = notes.iter().filter(|note| !note.depends_on_rest).map(|note| &note.problem).chain(&unknown);
        let sure = |problem: &&Problem| {
            !broken.lines.contains(&problem.line) && broken.from.is_none_or(|from| problem.line < from)
        };
        syntax.extend(here.filter(sure).cloned());
        if broken.from.is_none() {
            syntax.extend(notes.iter().filter(|note| note.depends_on_rest).map(|note| note.problem.clone()));
        }
        Problems::sorted(syntax)
    }

    /// Records that a reader asked for a key of a table.
    pub(super) fn know(&self, header: String, key: &'static str) {
        self.known.borrow_mut().insert(KnownKey { header, key });
    }

    /// Every key that readers asked for so far.
    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeSet<KnownKey> {
        self.known.borrow().clone()
    }

    fn unknown_keys(&self) -> Vec<Problem> {
        let known = self.known.borrow();
        let remedied = |unknown: &UnknownKey| Problem {
            path: unknown.path.clone(),
            line: unknown.line,
            what: "unknown key".to_owned(),
            remedy: suggest::for_unknown_key(&unknown.header, &unknown.key, &known),
        };
        self.unknown.borrow().iter().map(remedied).collect()
    }

    fn note(&self, place: &Place<'_>, what: String, remedy: String, depends_on_rest: bool) -> Noted {
        let problem = Problem { path: place.path.clone(), line: place.line, what, remedy };
        self.notes.borrow_mut().push(Note { problem, depends_on_rest });
        Noted(())
    }
}

/// A place in a file that a problem can point at.
#[derive(Debug, Clone)]
pub(super) struct Place<'d> {
    notes: &'d Notes,
    path: String,
    line: usize,
}

impl<'d> Place<'d> {
    /// The first line, the path of the whole file.
    pub(super) fn top(notes: &'d Notes) -> Self {
        Self { notes, path: String::new(), line: 1 }
    }

    /// The place of a key inside this one.
    pub(super) fn key(&self, key: &str, line: usize) -> Self {
        let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let key = if bare { key.to_owned() } else { suggest::quoted(key) };
        let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
        Self { notes: self.notes, path, line }
    }

    /// The place of an element of the array at this place.
    pub(super) fn element(&self, index: usize, line: usize) -> Self {
        Self { notes: self.notes, path: format!("{}[{index}]", self.path), line }
    }

    /// The path with indexes.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The line, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The path without indexes: `group.target.weight`.
    pub(super) fn option(&self) -> String {
        self.path.split(']').map(|part| part.split('[').next().unwrap_or_default()).collect()
    }

    /// The table at this place as its header in a file.
    pub(super) fn header(&self) -> String {
        match (self.path.is_empty(), self.path.ends_with(']')) {
            (true, _) => String::new(),
            (false, true) => format!("[[{}]]", self.option()),
            (false, false) => format!("[{}]", self.option()),
        }
    }

    /// Notes that what stands here is wrong, whatever else the file says.
    pub(super) fn wrong(&self, what: impl Into<String>, remedy: impl Into<String>) -> Noted {
        self.notes.note(self, what.into(), remedy.into(), false)
    }

    /// Notes a problem that depends on the rest of the file: something is missing, unused, or does not fit together.
    pub(super) fn unfit(&self, what: impl Into<String>, remedy: impl Into<String>) -> Noted {
        self.notes.note(self, what.into(), remedy.into(), true)
    }

    /// Records that a reader asked for a key of the table here.
    pub(super) fn know(&self, key: &'static str) {
        self.notes.know(self.header(), key);
    }

    /// Notes a key of the table here that no reader asked for.
    pub(super) fn unknown_key(&self, key: &str, line: usize) {
        let path = self.key(key, line).path;
        self.notes.unknown.borrow_mut().push(UnknownKey { header: self.header(), key: key.to_owned(), path, line });
    }
}
