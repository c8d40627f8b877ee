//! What is wrong with one text, before it is known where in a file the text stands.

use super::units::UnitError;

/// Why a text does not follow the rules of its option, and what would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl From<UnitError> for Fault {
    fn from(error: UnitError) -> Self {
        Self::new(error.to_string(), error.remedy())
    }
}
