//! Things of which a file may have only one, such as a name.

use super::notes::{Noted, Place};

/// What was given so far, as messages show it, with its lines.
#[derive(Debug)]
pub(super) struct Unique {
    given: Vec<(String, usize)>,
    remedy: &'static str,
}

impl Unique {
    /// Nothing yet; the remedy is what to do about a second one.
    pub(super) fn new(remedy: &'static str) -> Self {
        Self { given: Vec::new(), remedy }
    }

    /// Adds one; it is a problem when it was given before.
    pub(super) fn add(&mut self, thing: String, place: &Place<'_>) -> Result<(), Noted> {
        if let Some((_, line)) = self.given.iter().find(|(given, _)| *given == thing) {
            return Err(place.wrong(format!("{thing} is already given on line {line}"), self.remedy));
        }
        self.given.push((thing, place.line()));
        Ok(())
    }
}
