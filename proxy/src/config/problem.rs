//! What is wrong with a configuration file, in words for the person who wrote it.

use std::fmt;
use std::path::Path;

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The option, such as `group[1].target[0].weight`; empty when the text is not TOML there.
    pub path: String,
    /// The line it stands on, from 1. Something that is missing is reported where it would belong.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

impl Problem {
    /// A problem that concerns the text, not an option.
    pub(super) fn of_text(line: usize, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: String::new(), line, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what, remedy } = self;
        write!(f, "{line}: ")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        write!(f, "{what}; {remedy}")
    }
}

/// Everything that is wrong with a configuration file: at least one problem, in the order of the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Puts problems in order.
    pub(super) fn sorted(mut list: Vec<Problem>) -> Self {
        list.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
        Self(list)
    }

    /// Whether nothing is wrong; never for problems that a caller outside got.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems, in the order of the lines.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// The problems as lines `FILE:LINE: PATH: WHAT; REMEDY`.
    pub fn in_file<'a>(&'a self, file: &'a Path) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| self.write_lines(f, Some(file)))
    }

    fn write_lines(&self, f: &mut fmt::Formatter<'_>, file: Option<&Path>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            if let Some(file) = file {
                write!(f, "{}:", file.display())?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_lines(f, None)
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
