//! Which listener refers to which group, by name.

use std::net::SocketAddr;

use super::notes::{Noted, Place};
use super::raw::Value;
use super::suggest::{nearest, quoted};

/// The groups of the file, in order, good or bad: a reference to a bad group is no second problem.
#[derive(Debug, Default)]
pub(super) struct Groups<'d> {
    groups: Vec<Known<'d>>,
    /// Set when a group cannot even be read for its name: it may be the one that a reference means.
    unreadable: Option<Noted>,
    /// A listener does not say its groups, so nobody knows which groups are in use.
    some_use_is_unreadable: bool,
}

#[derive(Debug)]
struct Known<'d> {
    place: Place<'d>,
    /// As in the file, even if it breaks the rules for names; `None`: missing.
    name: Option<String>,
    targets: Vec<SocketAddr>,
    in_use: bool,
}

/// What one listener refers to.
#[derive(Debug)]
pub(super) struct References<'g, 'd> {
    groups: &'g mut Groups<'d>,
    /// Index and line of each group that was read.
    seen: Vec<(usize, usize)>,
    any_read: bool,
}

impl<'d> Groups<'d> {
    /// Adds the next group of the file.
    pub(super) fn add(&mut self, place: Place<'d>, name: Result<String, Noted>, targets: Vec<SocketAddr>) {
        self.unreadable = self.unreadable.or(name.as_ref().err().copied());
        let name = name.ok();
        self.groups.push(Known { place, name, targets, in_use: false });
    }

    /// A group was given that is not even a table.
    pub(super) fn add_unreadable(&mut self, noted: Noted) {
        self.unreadable = Some(noted);
    }

    /// A listener was given that is not even a table.
    pub(super) fn add_unreadable_use(&mut self) {
        self.some_use_is_unreadable = true;
    }

    /// Begins to read the references of a listener.
    pub(super) fn references(&mut self) -> References<'_, 'd> {
        References { groups: self, seen: Vec::new(), any_read: false }
    }

    /// The addresses of a group's targets.
    pub(super) fn targets_of(&self, group: usize) -> impl Iterator<Item = SocketAddr> {
        self.groups.get(group).into_iter().flat_map(|group| group.targets.iter().copied())
    }

    /// Reports the groups that no listener refers to.
    pub(super) fn report_unused(&self) {
        if self.some_use_is_unreadable {
            return;
        }
        for group in self.groups.iter().filter(|group| !group.in_use) {
            if let Some(name) = &group.name {
                let remedy = format!("add {} to the groups of a listener, or remove the group", quoted(name));
                group.place.unfit("no listener uses this group", remedy);
            }
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| group.name.as_deref() == Some(name))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().filter_map(|group| group.name.as_deref())
    }

    fn unknown(&mut self, name: &str, place: &Place<'_>) -> Noted {
        if let Some(noted) = self.unreadable {
            return noted;
        }
        let nearest = nearest(name, self.names()).map(ToOwned::to_owned);
        let remedy = match &nearest {
            Some(meant) => format!("did you mean {}?", quoted(meant)),
            None if self.groups.is_empty() => format!("add [[group]] with name = {}", quoted(name)),
            None => format!("the groups are {}", self.names().map(quoted).collect::<Vec<_>>().join(", ")),
        };
        if let Some(index) = nearest.and_then(|meant| self.position(&meant)) {
            // A slip of the pen does not make the group it meant unused.
            self.groups[index].in_use = true;
        }
        place.unfit(format!("there is no group {}", quoted(name)), remedy)
    }
}

impl References<'_, '_> {
    /// Resolves the name of a group to its index in the file.
    pub(super) fn resolve(&mut self, value: &Value<'_>) -> Result<usize, Noted> {
        let name = value.text("onprem")?;
        self.any_read = true;
        let Some(index) = self.groups.position(name) else {
            return Err(self.groups.unknown(name, value.place()));
        };
        // That two groups have this name is reported where the second one is named.
        self.groups
            .groups
            .iter_mut()
            .filter(|group| group.name.as_deref() == Some(name))
            .for_each(|group| group.in_use = true);
        if let Some((_, line)) = self.seen.iter().find(|(seen, _)| *seen == index) {
            let what = format!("{} is already in this list (line {line})", quoted(name));
            return Err(value.place().wrong(what, "remove it"));
        }
        self.seen.push((index, value.place().line()));
        Ok(index)
    }

    /// Ends the references of a listener and returns those that were read.
    pub(super) fn finish(self) -> Vec<usize> {
        self.groups.some_use_is_unreadable |= !self.any_read;
        self.seen.into_iter().map(|(index, _)| index).collect()
    }
}
