//! Options of the documented file whose machinery does not exist yet.
//!
//! They are refused, never ignored: an operator who sets a limit must not believe that it holds. Whoever builds
//! the machinery of an option deletes its line here and reads it in its section.

use super::suggest::quoted;

/// How this table calls target addresses that have to be resolved.
pub(super) const DNS_NAMES: &str = "a DNS name";

/// An option, or one value of an option, that is not supported yet.
#[derive(Debug)]
pub(super) struct NotYet {
    /// The path without indexes; a table stands for all its keys.
    pub(super) option: &'static str,
    /// The value concerned; `None`: the option as a whole.
    pub(super) value: Option<&'static str>,
    /// What to write until then.
    pub(super) instead: &'static str,
}

/// Everything that is not supported yet.
pub(super) const NOT_YET: &[NotYet] =
    &[key("admin.socket", "remove it"), value("group.target.address", DNS_NAMES, "give an IP address")];

impl NotYet {
    /// The problem in words.
    pub(super) fn what(&self) -> String {
        match self.value {
            None => "not yet supported".to_owned(),
            Some(DNS_NAMES) => format!("{DNS_NAMES} is not yet supported"),
            Some(value) => format!("{} is not yet supported", quoted(value)),
        }
    }
}

/// Whether an option as a whole is not supported yet.
pub(super) fn find_key(option: &str) -> Option<&'static NotYet> {
    NOT_YET.iter().find(|entry| entry.option == option && entry.value.is_none())
}

/// Whether a value of a supported option is not supported yet.
pub(super) fn find_value(option: &str, value: &str) -> Option<&'static NotYet> {
    NOT_YET.iter().find(|entry| entry.option == option && entry.value == Some(value))
}

const fn key(option: &'static str, instead: &'static str) -> NotYet {
    NotYet { option, value: None, instead }
}

const fn value(option: &'static str, value: &'static str, instead: &'static str) -> NotYet {
    NotYet { option, value: Some(value), instead }
}
