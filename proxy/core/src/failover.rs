//! What a group and its targets may take: health, admin states, the hold before a failback, and the slow start.
//!
//! One [`Group`] is the only opinion there is: selection, metrics, status and readiness all ask it. It takes results and
//! the time, and says what changed. Time is passed in as the time since some fixed moment.

use alloc::vec::Vec;
use core::time::Duration;

use crate::health::{Health, Monitor};

mod outage;
mod words;

pub use words::{AdminState, Change, GroupRules, Standing};

/// The share that a target begins with when it comes back.
const FIRST_PERCENT: u32 = 10;

/// A ramp moves in this many steps: each is a twentieth of `slow_start`, fine enough to look smooth.
const RAMP_STEPS: u32 = 20;

/// A group and its targets.
#[derive(Debug, Clone)]
pub struct Group {
    rules: GroupRules,
    admin: AdminState,
    /// Whether the device that leads to the targets works.
    link: bool,
    /// Until when the group is out because most targets have failed together.
    outage: Option<Duration>,
    targets: Vec<Target>,
    standing: Standing,
    /// Since when there are enough healthy targets, while the group is held.
    healthy_since: Duration,
    /// Before every target had a verdict nothing has come *back*: neither hold nor slow start apply.
    starting: bool,
}

#[derive(Debug, Clone)]
struct Target {
    monitor: Monitor,
    admin: AdminState,
    /// Whether it has no address: it cannot be asked, and is down.
    absent: bool,
    /// When it began to fail, if it does and was good before.
    failed_at: Option<Duration>,
    /// When it came back, while its share still grows.
    ramp: Option<Duration>,
}

impl Target {
    fn is_healthy(&self) -> bool {
        !self.absent && self.monitor.is_healthy()
    }
}

impl Group {
    /// A group whose targets have these monitors and are all active.
    pub fn new(rules: GroupRules, monitors: impl IntoIterator<Item = Monitor>) -> Self {
        let target =
            |monitor| Target { monitor, admin: AdminState::Active, absent: false, failed_at: None, ramp: None };
        let targets = monitors.into_iter().map(target).collect();
        let mut group = Self {
            rules,
            admin: AdminState::Active,
            link: true,
            outage: None,
            targets,
            standing: Standing::Unable,
            healthy_since: Duration::ZERO,
            starting: true,
        };
        group.judge(Duration::ZERO);
        group
    }

    /// Takes over from `old`, whose target `from(index)` is this group's target `index`, what a new configuration does
    /// not change: verdicts, ramps, and whether the group was held.
    pub fn inherit(&mut self, old: &Self, from: impl Fn(usize) -> Option<usize>, now: Duration) {
        for (index, target) in self.targets.iter_mut().enumerate() {
            if let Some(known) = from(index).and_then(|index| old.targets.get(index)) {
                target.monitor = known.monitor.clone().with_rules(self.rules.probes, self.rules.eject);
                target.ramp = known.ramp;
                target.failed_at = known.failed_at;
            }
        }
        self.link = old.link;
        self.outage = old.outage.filter(|_| self.rules.one_way);
        self.standing = old.standing;
        self.healthy_since = old.healthy_since;
        // A target that nobody knows yet has not come back from anything.
        self.starting = old.starting || !self.is_decided();
        self.judge(now);
    }

    /// Takes the result of a probe of target `index`.
    pub fn probed(&mut self, index: usize, good: bool, now: Duration) -> Vec<Change> {
        self.change(now, |group| {
            group.targets[index].monitor.probed(good);
            if good && group.outage.is_some() {
                group.end_outage();
            }
        })
    }

    /// When target `index` is to be probed next, after a probe that ended at `now`; `None`: never.
    pub fn next_probe(&mut self, index: usize, now: Duration) -> Option<Duration> {
        self.targets[index].monitor.next_probe(now)
    }

    /// Traffic failed on target `index`.
    pub fn failed(&mut self, index: usize, now: Duration) -> Vec<Change> {
        let out = self.targets.iter().filter(|target| !target.is_healthy()).count();
        let may_eject = (out + 1) * 100 <= usize::from(self.rules.max_ejected) * self.targets.len();
        self.change(now, |group| group.targets[index].monitor.failed(now, may_eject))
    }

    /// The device that leads to the targets works, or no longer does: then the whole group is down at once.
    pub fn set_link(&mut self, works: bool, now: Duration) -> Vec<Change> {
        self.change(now, |group| group.link = works)
    }

    /// Traffic was answered by target `index`.
    pub fn served(&mut self, index: usize) {
        self.targets[index].monitor.served();
    }

    /// Carries out what is due at `now`.
    pub fn tick(&mut self, now: Duration) -> Vec<Change> {
        self.change(now, |group| {
            group.targets.iter_mut().for_each(|target| target.monitor.tick(now));
            if group.outage.is_some_and(|until| now >= until) {
                group.end_outage();
            }
        })
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let ejections = self.targets.iter().filter_map(|target| target.monitor.deadline());
        let hold = (self.standing == Standing::Held).then(|| self.healthy_since + self.rules.failback_hold);
        let ramps = self.targets.iter().filter_map(|target| target.ramp).map(|since| {
            let step = self.rules.slow_start / RAMP_STEPS;
            let done = (now.saturating_sub(since).as_nanos() / step.as_nanos().max(1)) as u32;
            since + step * (done + 1)
        });
        ejections.chain(hold).chain(ramps).chain(self.outage).min()
    }

    /// What the operator says of the group.
    pub fn set_admin(&mut self, admin: AdminState, now: Duration) -> Vec<Change> {
        self.change(now, |group| {
            group.admin = admin;
            // What the operator switches on has not come back from anything: no hold.
            group.starting = true;
        })
    }

    /// What the operator says of target `index`.
    pub fn set_target_admin(&mut self, index: usize, admin: AdminState, now: Duration) -> Vec<Change> {
        self.change(now, |group| {
            group.targets[index].admin = admin;
            group.starting = true;
        })
    }

    /// Target `index` has no address, and is down for as long as this group lasts.
    pub fn set_absent(&mut self, index: usize, now: Duration) {
        self.targets[index].absent = true;
        self.judge(now);
    }

    /// How many targets there are.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is none, which no configuration allows.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Whether the group takes new sessions.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Until when the group is held, if it is.
    pub fn held_until(&self) -> Option<Duration> {
        (self.standing == Standing::Held).then(|| self.healthy_since + self.rules.failback_hold)
    }

    /// The operator's word on the group.
    pub fn admin(&self) -> AdminState {
        self.admin
    }

    /// The stronger of the operator's words on target `index` and on the group.
    pub fn target_admin(&self, index: usize) -> AdminState {
        match (self.admin, self.targets[index].admin) {
            (AdminState::Disabled, _) | (_, AdminState::Disabled) => AdminState::Disabled,
            (AdminState::Draining, _) | (_, AdminState::Draining) => AdminState::Draining,
            (AdminState::Active, AdminState::Active) => AdminState::Active,
        }
    }

    /// The operator's word on target `index` alone.
    pub fn own_admin(&self, index: usize) -> AdminState {
        self.targets[index].admin
    }

    /// The verdict of the probes on target `index`.
    pub fn health(&self, index: usize) -> Health {
        let target = &self.targets[index];
        if target.absent { Health::Down } else { target.monitor.health() }
    }

    /// Whether traffic has ejected target `index`.
    pub fn is_ejected(&self, index: usize) -> bool {
        self.targets[index].monitor.is_ejected()
    }

    /// Until when target `index` is ejected, if it is.
    pub fn ejected_until(&self, index: usize) -> Option<Duration> {
        self.targets[index].monitor.deadline()
    }

    /// Whether target `index` is healthy: neither down, nor ejected, nor still unknown to its probes, and the way to it works.
    pub fn is_healthy(&self, index: usize) -> bool {
        self.link && self.outage.is_none() && self.targets[index].is_healthy()
    }

    /// How much of its weight target `index` takes at `now`, from 1 to 100; 0: no new sessions.
    pub fn percent(&self, index: usize, now: Duration) -> u8 {
        let target = &self.targets[index];
        if !self.is_healthy(index) || self.target_admin(index) != AdminState::Active {
            return 0;
        }
        let Some(since) = target.ramp else { return 100 };
        let step = (self.rules.slow_start / RAMP_STEPS).as_nanos().max(1);
        let steps = (now.saturating_sub(since).as_nanos() / step).min(u128::from(RAMP_STEPS)) as u32;
        (FIRST_PERCENT + (100 - FIRST_PERCENT) * steps / RAMP_STEPS) as u8
    }

    /// Whether every target has a verdict, or none is asked for.
    pub fn is_decided(&self) -> bool {
        let decided = |(index, target): (usize, &Target)| {
            target.absent
                || target.monitor.health() != Health::Unknown
                || self.target_admin(index) == AdminState::Disabled
        };
        self.rules.probes.is_none() || self.targets.iter().enumerate().all(decided)
    }

    /// Does something and says what changed by it.
    fn change(&mut self, now: Duration, act: impl FnOnce(&mut Self)) -> Vec<Change> {
        let before: Vec<_> = self.targets.iter().map(|target| target.monitor.clone()).collect();
        let (standing, link, outage) = (self.standing, self.link, self.outage.is_some());
        act(self);
        let mut failed = false;
        let mut changes = Vec::new();
        if self.link != link {
            changes.push(Change::Link(self.link));
        }
        for (index, (target, old)) in self.targets.iter_mut().zip(&before).enumerate() {
            let monitor = &target.monitor;
            if monitor.health() != old.health() {
                changes.push(Change::Health(index, monitor.health()));
            }
            match (old.is_ejected(), monitor.is_ejected()) {
                (false, true) => changes.push(Change::Ejected(index, monitor.deadline().unwrap_or(now))),
                (true, false) => changes.push(Change::Returned(index)),
                _ => {}
            }
            if !monitor.is_failing() {
                target.failed_at = None;
            } else if old.is_healthy() && !old.is_failing() {
                target.failed_at = Some(now);
                failed = true;
            }
            let came_back = monitor.is_healthy() && !old.is_healthy() && old.health() != Health::Unknown;
            if !monitor.is_healthy() {
                target.ramp = None;
            } else if (came_back || old.is_ejected() && !monitor.is_ejected()) && !self.rules.slow_start.is_zero() {
                target.ramp = Some(now);
            }
        }
        if failed && self.outage.is_none() && self.suspects_outage(now) {
            self.outage = Some(now + self.rules.eject.hold);
        }
        if self.outage.is_some() != outage {
            changes.push(Change::Outage(self.outage.is_some()));
        }
        self.judge(now);
        if self.standing != standing {
            changes.push(Change::Group(self.standing));
        }
        changes
    }

    /// Ends ramps that are over, and decides whether the group takes sessions.
    fn judge(&mut self, now: Duration) {
        let slow_start = self.rules.slow_start;
        for target in &mut self.targets {
            target.ramp = target.ramp.filter(|since| now < *since + slow_start);
        }
        let active = |index: &usize| self.is_healthy(*index) && self.target_admin(*index) == AdminState::Active;
        let healthy = (0..self.targets.len()).filter(active).count();
        let enough = self.admin == AdminState::Active && healthy >= self.rules.min_healthy as usize && healthy > 0;
        self.standing = match self.standing {
            _ if !enough => Standing::Unable,
            Standing::Able => Standing::Able,
            Standing::Unable if self.starting || self.rules.failback_hold.is_zero() => Standing::Able,
            Standing::Unable => {
                self.healthy_since = now;
                Standing::Held
            }
            Standing::Held if now >= self.healthy_since + self.rules.failback_hold => Standing::Able,
            Standing::Held => Standing::Held,
        };
        self.starting &= !self.is_decided();
    }
}

#[cfg(test)]
mod tests;
