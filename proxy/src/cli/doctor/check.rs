//! One finding: what was looked at, what was found, and the remedy if that is not as it should be.

use serde::Serialize;

/// One line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) ok: bool,
    /// Whether something that the configuration promises will not work.
    pub(super) breaks: bool,
    pub(super) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Check {
    pub(super) fn good(name: impl ToString, detail: impl ToString) -> Self {
        Self { name: name.to_string(), ok: true, breaks: false, detail: detail.to_string(), remedy: None }
    }

    /// Something is slower or less than it could be.
    pub(super) fn bad(name: impl ToString, detail: impl ToString, remedy: impl ToString) -> Self {
        Self { ok: false, remedy: Some(remedy.to_string()), ..Self::good(name, detail) }
    }

    /// Something will not work.
    pub(super) fn breaks(name: impl ToString, detail: impl ToString, remedy: impl ToString) -> Self {
        Self { breaks: true, ..Self::bad(name, detail, remedy) }
    }
}
