//! Orders of the operator at run time, apart from the configuration: weights and states of groups and targets, and the
//! end of their sessions.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::failover::AdminState;
use landbridge_core::orders::{Orders, Subject, Weight};
use landbridge_core::select::TargetId;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::config::OnDown;
use crate::config::diff::Change;
use crate::shared::Shared;

/// A name that is no group or target of the running configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    /// No such group.
    #[error("there is no group \"{name}\"; the groups are {known}")]
    Group {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No such target in the group.
    #[error("group \"{group}\" has no target \"{name}\"; its targets are {known}")]
    Target {
        /// Where it was looked for.
        group: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

/// Longer than a process that takes over needs to adopt the joined sessions.
const ADOPTED: Duration = Duration::from_secs(1);

/// What the operator has ordered of a group or a target, on its way to the process that takes over. That may be another
/// version: it leaves out what it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ordered {
    group: String,
    /// The target's address as the file has it; `None`: the group itself.
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    weight: Option<u16>,
    /// How long the weight still lasts, if not for good.
    #[serde(default)]
    weight_left: Option<Duration>,
    /// `draining` or `disabled`.
    #[serde(default)]
    state: Option<String>,
    /// How long the sessions that are left still have.
    #[serde(default)]
    ends_in: Option<Duration>,
}

/// A group or one of its targets, by index.
#[derive(Debug, Clone, Copy)]
enum Found {
    Group(usize),
    Target(TargetId),
}

impl Shared {
    /// Gives `of`, `GROUP` or `GROUP/TARGET`, a weight for some time, or until the daemon ends; `None`: the configuration's.
    pub(crate) fn order_weight(
        &self,
        of: &str,
        weight: Option<u16>,
        duration: Option<Duration>,
    ) -> Result<(), Unknown> {
        let found = self.find(of)?;
        let until = duration.map(|duration| self.now().saturating_add(duration));
        match weight {
            Some(weight) => self.orders().set_weight(self.subject(found), Weight { weight, until }),
            None => self.orders().forget_weight(&self.subject(found)),
        }
        let weight = weight.unwrap_or_else(|| self.configured_weight(found));
        self.weigh(found, weight);
        self.call_waiting();
        info!(of, weight, duration = ?duration, "weight ordered");
        self.changed.notify_one();
        Ok(())
    }

    /// Gives `of`, `GROUP` or `GROUP/TARGET`, a state, and does what that means for its sessions.
    pub(crate) fn order_state(&self, of: &str, state: AdminState) -> Result<(), Unknown> {
        let found = self.find(of)?;
        self.orders().set_state(self.subject(found), state);
        info!(of, state = state.label(), "state ordered");
        self.set_state(found, state);
        for id in self.targets_of(found) {
            match self.admin_state(id) {
                AdminState::Active => self.state(id).stop_ending(),
                AdminState::Draining => self.end_sessions(id, OnDown::Drain, SessionEnd::Drained),
                AdminState::Disabled => self.end_sessions(id, OnDown::Reset, SessionEnd::Drained),
            }
        }
        Ok(())
    }

    /// Resets the sessions that `of`, `GROUP` or `GROUP/TARGET`, has now; new ones come as before.
    pub(crate) fn shut_down_sessions(&self, of: &str) -> Result<(), Unknown> {
        let found = self.find(of)?;
        info!(of, "sessions shut down");
        for id in self.targets_of(found) {
            let state = Arc::clone(self.state(id));
            // Beside an end that a state or a failure has set, which goes on.
            tokio::spawn(async move { state.cut_paced(SessionEnd::ShutDown).await });
        }
        Ok(())
    }

    fn targets_of(&self, found: Found) -> Vec<TargetId> {
        match found {
            Found::Target(id) => vec![id],
            Found::Group(group) => self.config.target_ids().filter(|id| id.group == group).collect(),
        }
    }

    /// Carries out, on a new configuration, what was ordered before.
    pub(crate) fn follow_orders(&self) {
        let groups = (0..self.config.groups.len()).map(Found::Group);
        for found in groups.chain(self.config.target_ids().map(Found::Target)) {
            let subject = self.subject(found);
            let (weight, state) = {
                let orders = self.orders();
                (orders.weight(&subject), orders.state(&subject))
            };
            if let Some(Weight { weight, .. }) = weight {
                self.weigh(found, weight);
            }
            let current = match found {
                Found::Group(index) => self.pool().group(index).admin(),
                Found::Target(id) => self.pool().group(id.group).own_admin(id.target),
            };
            if state != current {
                self.set_state(found, state);
            }
        }
    }

    /// All orders, for the process that takes over.
    pub(crate) fn ordered(&self) -> Vec<Ordered> {
        let (orders, now) = (self.orders().clone(), self.now());
        let ordered = |subject: &Subject| {
            let weight = orders.weight(subject);
            let state = Some(orders.state(subject)).filter(|state| *state != AdminState::Active);
            let targets = self.find(&named(subject)).map(|found| self.targets_of(found)).unwrap_or_default();
            let ends_in = targets.into_iter().filter_map(|id| self.state(id).ends_in()).max();
            Ordered {
                group: subject.group.clone(),
                target: subject.target.clone(),
                weight: weight.map(|of| of.weight),
                weight_left: weight.and_then(|of| of.until).map(|until| until.saturating_sub(now)),
                state: state.map(|state| state.label().to_owned()),
                ends_in: state.and(ends_in),
            }
        };
        orders.subjects().into_iter().map(ordered).collect()
    }

    /// Takes over what the former process was ordered.
    pub(crate) fn inherit_orders(&self, ordered: Vec<Ordered>) {
        if ordered.is_empty() {
            return;
        }
        info!(orders = ordered.len(), "the operator's weights and states go on");
        let now = self.now();
        let mut ending = Vec::new();
        for Ordered { group, target, weight, weight_left, state, ends_in } in ordered {
            let subject = Subject { group, target };
            if let Some(weight) = weight {
                let until = weight_left.map(|left| now.saturating_add(left));
                self.orders().set_weight(subject.clone(), Weight { weight, until });
            }
            if let Some(state) = AdminState::ALL.into_iter().find(|of| state.as_deref() == Some(of.label())) {
                self.orders().set_state(subject.clone(), state);
            }
            ending.extend(ends_in.map(|left| (named(&subject), left)));
        }
        self.follow_orders();
        // A group comes before its targets, which may have a time of their own.
        for (of, left) in ending {
            let targets = self.find(&of).map(|found| self.targets_of(found)).unwrap_or_default();
            // Joined sessions are adopted in the moments to come.
            let left = left.max(ADOPTED);
            targets.into_iter().for_each(|id| self.end_sessions_after(id, left, SessionEnd::Drained));
        }
        self.changed.notify_one();
    }

    /// Ends the weights whose time is up.
    pub(crate) fn expire_orders(&self) {
        let expired = self.orders().expire(self.now());
        for subject in expired {
            let name = named(&subject);
            if let Ok(found) = self.find(&name) {
                self.weigh(found, self.configured_weight(found));
            }
            info!(of = name, "the ordered weight is over");
        }
    }

    /// When a weight is over.
    pub(crate) fn orders_deadline(&self) -> Option<Duration> {
        self.orders().deadline()
    }

    /// Whether the operator has ordered a weight, and how long it still lasts if not for good.
    pub(crate) fn ordered_weight(&self, group: &str, target: Option<String>) -> Option<Option<Duration>> {
        let ordered = self.orders().weight(&Subject { group: group.to_owned(), target })?;
        Some(ordered.until.map(|until| until.saturating_sub(self.now())))
    }

    /// What a reload changes, in words: where the operator's weight goes on, that too.
    pub(crate) fn told(&self, changes: &[Change]) -> Vec<String> {
        let told = |change: &Change| match self.weight_that_stays(change) {
            Some(weight) => format!("{change} (the operator's {weight} stays in force)"),
            None => change.to_string(),
        };
        changes.iter().map(told).collect()
    }

    fn weight_that_stays(&self, change: &Change) -> Option<u16> {
        change.to.as_ref()?;
        let of = change.what.strip_suffix(": weight")?;
        let (group, target) = match of.strip_prefix("group ") {
            Some(group) => (group, None),
            None => of.strip_prefix("target ")?.split_once('/').map(|(group, target)| (group, Some(target)))?,
        };
        let subject = Subject { group: group.to_owned(), target: target.map(ToOwned::to_owned) };
        self.orders().weight(&subject).map(|of| of.weight)
    }

    fn weigh(&self, found: Found, weight: u16) {
        match found {
            Found::Group(index) => self.pool().set_group_weight(index, weight),
            Found::Target(id) => self.pool().set_weight(id, weight),
        }
    }

    fn configured_weight(&self, found: Found) -> u16 {
        match found {
            Found::Group(index) => self.config.groups[index].weight,
            Found::Target(id) => self.target(id).1.weight,
        }
    }

    fn set_state(&self, found: Found, state: AdminState) {
        let now = self.now();
        let (group, changes) = match found {
            Found::Group(index) => (index, self.pool().set_admin(index, state, now)),
            Found::Target(id) => (id.group, self.pool().set_target_admin(id, state, now)),
        };
        self.follow(group, &changes, None);
    }

    /// The group or target that `of` names, the target by its name or address.
    fn find(&self, of: &str) -> Result<Found, Unknown> {
        let (name, target) = of.split_once('/').map_or((of, None), |(group, target)| (group, Some(target)));
        let listed = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
        let index = self.config.groups.iter().position(|group| group.name == name).ok_or_else(|| Unknown::Group {
            name: name.to_owned(),
            known: listed(&mut self.config.groups.iter().map(|group| group.name.clone())),
        })?;
        let Some(target) = target else { return Ok(Found::Group(index)) };
        let targets = &self.config.groups[index].targets;
        let named = targets.iter().position(|of| of.name == target);
        let labelled = || targets.iter().position(|of| of.label() == target);
        let found = named.or_else(labelled).or_else(|| targets.iter().position(|of| of.address.to_string() == target));
        let found = found.ok_or_else(|| Unknown::Target {
            group: name.to_owned(),
            name: target.to_owned(),
            known: listed(&mut targets.iter().map(|of| of.name.clone())),
        })?;
        Ok(Found::Target(TargetId { group: index, target: found }))
    }

    fn subject(&self, found: Found) -> Subject {
        let (group, target) = match found {
            Found::Group(index) => (&self.config.groups[index], None),
            Found::Target(id) => {
                let (group, target) = self.target(id);
                (group, Some(target.label()))
            }
        };
        Subject { group: group.name.clone(), target }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        // An order is one assignment: a panic leaves none half done.
        Arc::as_ref(&self.orders).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As the command line names it.
fn named(Subject { group, target }: &Subject) -> String {
    match target {
        Some(address) => format!("{group}/{address}"),
        None => group.clone(),
    }
}
