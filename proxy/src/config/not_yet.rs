//! Values of the documented options whose machinery does not exist yet.
//!
//! They are refused, never ignored: an operator who writes one must not believe that it works. Whoever builds the machinery
//! deletes its line here and reads the value in its section.

use super::suggest::quoted;

/// How this table calls target addresses that have to be resolved.
pub(super) const DNS_NAMES: &str = "a DNS name";

/// A value of an option that is not supported yet.
#[derive(Debug)]
pub(super) struct NotYet {
    /// The option's path without indexes.
    pub(super) option: &'static str,
    /// The value.
    pub(super) value: &'static str,
    /// What to write until then.
    pub(super) instead: &'static str,
}

/// Everything that is not supported yet.
pub(super) const NOT_YET: &[NotYet] =
    &[NotYet { option: "group.target.address", value: DNS_NAMES, instead: "give an IP address" }];

impl NotYet {
    /// The problem in words.
    pub(super) fn what(&self) -> String {
        match self.value {
            DNS_NAMES => format!("{DNS_NAMES} is not yet supported"),
            value => format!("{} is not yet supported", quoted(value)),
        }
    }
}

/// Whether a value of an option is not supported yet.
pub(super) fn find_value(option: &str, value: &str) -> Option<&'static NotYet> {
    NOT_YET.iter().find(|entry| entry.option == option && entry.value == value)
}
