//! All groups and who may use them: health and failover on one side, selection on the other, never apart.
//!
//! Whatever changes a group goes through [`Pool`], which tells the selector at once what is left of each target. Time is
//! passed in as the time since some fixed moment.

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use crate::failover::{AdminState, Change, Group, GroupRules};
use crate::health::Monitor;
use crate::select::{GroupSpec, NoTarget, Selector, TargetId};

/// Spreads the seeds of monitors (the 64-bit golden ratio), so that their jitter differs.
const SEED_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// See the module's head.
#[derive(Debug)]
pub struct Pool {
    selector: Selector,
    groups: Vec<Group>,
}

impl Pool {
    /// A pool of `groups`; `listeners` lists for each listener the indexes of its groups. Equal seeds and equal calls give
    /// equal choices.
    ///
    /// # Panics
    /// If a listener names a group that does not exist.
    pub fn new(groups: Vec<(GroupSpec, GroupRules)>, listeners: Vec<Vec<usize>>, seed: u64) -> Self {
        let mut seeds = (1..).map(|number: u64| seed.wrapping_add(number.wrapping_mul(SEED_STEP)));
        let watched = |(spec, rules): &(GroupSpec, GroupRules)| {
            let monitors =
                spec.targets.iter().zip(&mut seeds).map(|(_, seed)| Monitor::new(rules.probes, rules.eject, seed));
            Group::new(*rules, monitors.collect::<Vec<_>>())
        };
        let watched: Vec<Group> = groups.iter().map(watched).collect();
        let specs = groups.into_iter().map(|(spec, _)| spec).collect();
        let mut pool = Self { selector: Selector::new(specs, listeners, seed), groups: watched };
        (0..pool.groups.len()).for_each(|index| pool.tell(index, Duration::ZERO));
        pool
    }

    /// Takes over from the pool of the former configuration what this one does not change. `from` says which target of
    /// `old` a target is; targets of one group come from one group.
    pub fn inherit(&mut self, old: &Self, from: impl Fn(TargetId) -> Option<TargetId>, now: Duration) {
        for (index, group) in self.groups.iter_mut().enumerate() {
            let known: Vec<_> = (0..group.len()).map(|target| from(TargetId { group: index, target })).collect();
            if let Some(former) = known.iter().flatten().next().map(|id| &old.groups[id.group]) {
                group.inherit(former, |target| known[target].map(|id| id.target), now);
            }
        }
        (0..self.groups.len()).for_each(|index| self.tell(index, now));
    }

    /// Chooses a target; see [`Selector::select`].
    pub fn select(&mut self, listener: usize, client: IpAddr, tried: &[TargetId]) -> Result<TargetId, NoTarget> {
        self.selector.select(listener, client, tried)
    }

    /// What chooses.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Group `index` and its targets' health.
    pub fn group(&self, index: usize) -> &Group {
        &self.groups[index]
    }

    /// Takes the result of a probe of `id`.
    pub fn probed(&mut self, id: TargetId, good: bool, now: Duration) -> Vec<Change> {
        self.change(id.group, now, |group| group.probed(id.target, good, now))
    }

    /// When `id` is to be probed next, after a probe that ended at `now`; `None`: never.
    pub fn next_probe(&mut self, id: TargetId, now: Duration) -> Option<Duration> {
        self.groups[id.group].next_probe(id.target, now)
    }

    /// Traffic failed on `id`.
    pub fn failed(&mut self, id: TargetId, now: Duration) -> Vec<Change> {
        self.change(id.group, now, |group| group.failed(id.target, now))
    }

    /// The device of group `index` works, or no longer does.
    pub fn set_link(&mut self, index: usize, works: bool, now: Duration) -> Vec<Change> {
        self.change(index, now, |group| group.set_link(works, now))
    }

    /// `id` has no address, and is down for as long as this pool lasts.
    pub fn set_absent(&mut self, id: TargetId) {
        self.groups[id.group].set_absent(id.target, Duration::ZERO);
        self.tell(id.group, Duration::ZERO);
    }

    /// Traffic was answered by `id`.
    pub fn served(&mut self, id: TargetId) {
        self.groups[id.group].served(id.target);
    }

    /// What the operator says of group `index`.
    pub fn set_admin(&mut self, index: usize, admin: AdminState, now: Duration) -> Vec<Change> {
        self.change(index, now, |group| group.set_admin(admin, now))
    }

    /// What the operator says of `id`.
    pub fn set_target_admin(&mut self, id: TargetId, admin: AdminState, now: Duration) -> Vec<Change> {
        self.change(id.group, now, |group| group.set_target_admin(id.target, admin, now))
    }

    /// Gives group `index` another weight.
    pub fn set_group_weight(&mut self, index: usize, weight: u16) {
        self.selector.set_group_weight(index, weight);
    }

    /// Gives `id` another weight.
    pub fn set_weight(&mut self, id: TargetId, weight: u16) {
        self.selector.set_weight(id, weight);
    }

    /// Carries out what is due at `now`; what changed, by group.
    pub fn tick(&mut self, now: Duration) -> Vec<(usize, Vec<Change>)> {
        (0..self.groups.len()).map(|index| (index, self.change(index, now, |group| group.tick(now)))).collect()
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        self.groups.iter().filter_map(|group| group.deadline(now)).min()
    }

    /// Whether every target that is probed has a verdict.
    pub fn is_decided(&self) -> bool {
        self.groups.iter().all(Group::is_decided)
    }

    fn change(&mut self, index: usize, now: Duration, act: impl FnOnce(&mut Group) -> Vec<Change>) -> Vec<Change> {
        let changes = act(&mut self.groups[index]);
        self.tell(index, now);
        changes
    }

    /// Tells the selector what is left of group `index`.
    fn tell(&mut self, index: usize, now: Duration) {
        let Self { selector, groups } = self;
        let group = &groups[index];
        selector.set_standing(index, group.standing());
        for target in 0..group.len() {
            selector.set_percent(TargetId { group: index, target }, group.percent(target, now));
        }
    }
}

#[cfg(test)]
mod tests;
