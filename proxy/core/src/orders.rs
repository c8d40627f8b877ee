//! What the operator has ordered at run time, apart from the configuration: weights, some for a time only, and states.
//!
//! Orders name groups and targets as the file does, so that they outlast a reload. Time is passed in as the time since some fixed moment.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::failover::AdminState;

/// A group, or a target in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The group's name.
    pub group: String,
    /// The target's address as the file has it, with its DNS name if it has one; `None`: the group itself.
    pub target: Option<String>,
}

/// A weight in place of the configuration's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// The weight.
    pub weight: u16,
    /// When it is over; `None`: when the daemon ends.
    pub until: Option<Duration>,
}

/// All that was ordered.
#[derive(Debug, Default, Clone)]
pub struct Orders {
    weights: BTreeMap<Subject, Weight>,
    states: BTreeMap<Subject, AdminState>,
}

impl Orders {
    /// Orders a weight.
    pub fn set_weight(&mut self, subject: Subject, weight: Weight) {
        self.weights.insert(subject, weight);
    }

    /// Takes the order of a weight back.
    pub fn forget_weight(&mut self, subject: &Subject) {
        self.weights.remove(subject);
    }

    /// Orders a state. Active is what everything is without an order.
    pub fn set_state(&mut self, subject: Subject, state: AdminState) {
        match state {
            AdminState::Active => self.states.remove(&subject),
            AdminState::Draining | AdminState::Disabled => self.states.insert(subject, state),
        };
    }

    /// The weight that was ordered, if one was.
    pub fn weight(&self, subject: &Subject) -> Option<Weight> {
        self.weights.get(subject).copied()
    }

    /// The state that was ordered.
    pub fn state(&self, subject: &Subject) -> AdminState {
        self.states.get(subject).copied().unwrap_or_default()
    }

    /// Whom orders are about.
    pub fn subjects(&self) -> BTreeSet<&Subject> {
        self.weights.keys().chain(self.states.keys()).collect()
    }

    /// Ends the weights whose time is up at `now`, and says whose.
    pub fn expire(&mut self, now: Duration) -> Vec<Subject> {
        let over = |weight: &Weight| weight.until.is_some_and(|until| now >= until);
        let subjects: Vec<_> =
            self.weights.iter().filter(|(_, weight)| over(weight)).map(|(subject, _)| subject.clone()).collect();
        self.weights.retain(|_, weight| !over(weight));
        subjects
    }

    /// When [`Self::expire`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        self.weights.values().filter_map(|weight| weight.until).min()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::ToOwned;

    use super::*;

    fn subject(group: &str, target: Option<&str>) -> Subject {
        Subject { group: group.to_owned(), target: target.map(ToOwned::to_owned) }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_weight_lasts_until_its_time_is_up() {
        let mut orders = Orders::default();
        let (group, target) = (subject("onprem", None), subject("onprem", Some("10.0.0.1:80")));
        orders.set_weight(group.clone(), Weight { weight: 7, until: None });
        orders.set_weight(target.clone(), Weight { weight: 9, until: Some(secs(30)) });
        assert_eq!(orders.deadline(), Some(secs(30)));
        assert_eq!(orders.expire(secs(29)), []);
        assert_eq!(orders.weight(&target).unwrap().weight, 9);
        assert_eq!(orders.expire(secs(30)), core::slice::from_ref(&target));
        assert_eq!(orders.weight(&target), None);
        assert_eq!(orders.weight(&group), Some(Weight { weight: 7, until: None }));
        assert_eq!(orders.deadline(), None);
    }

    #[test]
    fn the_last_order_counts() {
        let mut orders = Orders::default();
        let group = subject("onprem", None);
        orders.set_weight(group.clone(), Weight { weight: 1, until: Some(secs(1)) });
        orders.set_weight(group.clone(), Weight { weight: 2, until: Some(secs(5)) });
        assert_eq!(orders.expire(secs(1)), []);
        assert_eq!(orders.weight(&group).unwrap().weight, 2);
        orders.forget_weight(&group);
        assert_eq!((orders.weight(&group), orders.deadline()), (None, None));
    }

    #[test]
    fn states_are_active_without_an_order() {
        let mut orders = Orders::default();
        let (group, other) = (subject("onprem", None), subject("aws", None));
        orders.set_state(group.clone(), AdminState::Draining);
        orders.set_weight(other.clone(), Weight { weight: 1, until: None });
        assert_eq!(orders.subjects(), [&other, &group].into());
        assert_eq!((orders.state(&group), orders.state(&other)), (AdminState::Draining, AdminState::Active));
        orders.set_state(group.clone(), AdminState::Active);
        assert_eq!(orders.state(&group), AdminState::Active);
    }
}
