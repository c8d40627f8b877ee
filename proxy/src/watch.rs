//! Keeps the pool's opinion of targets up to date, and carries out what follows from a change: logs, and sessions that
//! have to end.
//!
//! [`watch_targets`] starts one task for what is due by time and one per probed target, on the supervisor's runtime. All end with
//! the returned [`Watch`]; what is known by then stays in the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use landbridge_core::end::SessionEnd;
use landbridge_core::failover::{AdminState, Change, Standing};
use landbridge_core::health::Health;
use landbridge_core::select::TargetId;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use crate::config::OnDown;
use crate::devices;
use crate::net::dial::FailureReason;
use crate::probe::{self, ProbeError};
use crate::shared::Shared;
use crate::stalls;

/// How often the ages of sessions are looked at: the shortest limit is a second, the usual ones are hours.
const AGE_ROUND: Duration = Duration::from_secs(1);

/// The tasks that watch the targets of one configuration.
#[derive(Debug)]
pub(crate) struct Watch {
    _tasks: JoinSet<()>,
}

/// Starts to watch.
pub(crate) fn watch_targets(shared: &Arc<Shared>) -> Watch {
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_time(Arc::clone(shared)));
    tasks.spawn(devices::follow(Arc::clone(shared)));
    tasks.spawn(look_at_ages(Arc::clone(shared)));
    tasks.spawn(stalls::follow(Arc::clone(shared)));
    for id in shared.config.target_ids() {
        tasks.spawn(probe::run(Arc::clone(shared), id));
    }
    Watch { _tasks: tasks }
}

/// Waits until every probed target has its first verdict, or the time that a probe may take is over.
pub(crate) async fn first_verdicts(shared: &Shared) {
    let longest =
        shared.config.groups.iter().filter_map(|group| group.health.as_ref()).map(|check| check.timeout).max();
    let Some(longest) = longest else { return };
    let decided = async {
        while !shared.pool().is_decided() {
            shared.verdict.notified().await;
        }
    };
    // The rest is found out while others serve.
    let _ = timeout_at(Instant::now() + longest, decided).await;
}

/// Carries out what is due by time.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        let health = shared.pool().deadline(shared.now());
        let deadline = health.into_iter().chain(shared.orders_deadline()).min();
        let due = async {
            match deadline {
                Some(deadline) => sleep_until(shared.instant(deadline)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => shared.tick(),
            () = shared.changed.notified() => {}
        }
    }
}

/// Ends the sessions that are too old. Those of a former configuration end by what that said.
async fn look_at_ages(shared: Arc<Shared>) {
    let mut rounds = interval(AGE_ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        shared.config.target_ids().for_each(|id| shared.state(id).cut_old());
    }
}

impl Shared {
    /// Takes the result of a probe of `id` that took `took`.
    pub(crate) fn probed(&self, id: TargetId, result: &Result<(), ProbeError>, took: Duration) {
        let state = self.state(id);
        state.probes.record(result, took);
        let now = self.now();
        let changes = self.pool().probed(id, result.is_ok(), now);
        let why = result.as_ref().err().map(ToString::to_string);
        self.follow(id.group, &changes, why.as_deref());
        state.set_last_failure(why);
        self.verdict.notify_one();
        if result.is_err() {
            self.doubt_name(id);
        }
    }

    /// A connect to `id` failed.
    pub(crate) fn connect_failed(&self, id: TargetId, reason: FailureReason) {
        // What this host lacks says nothing about the target.
        if reason != FailureReason::Local {
            self.suspect(id);
        }
    }

    /// A session's packets to `id` are not acknowledged.
    pub(crate) fn stalled(&self, id: TargetId) {
        debug!(group = self.target(id).0.name, target_name = self.target(id).1.name, "a session stalls");
        self.suspect(id);
    }

    /// The device of group `index` works, or not.
    pub(crate) fn link_changed(&self, index: usize, works: bool) {
        let now = self.now();
        let changes = self.pool().set_link(index, works, now);
        self.follow(index, &changes, None);
    }

    /// A session with `id` ended; `answered`: the target sent a byte.
    pub(crate) fn session_ended(&self, id: TargetId, end: SessionEnd, answered: bool) {
        let state = self.state(id);
        if answered {
            // The plain load keeps the lock out of the way of everyday sessions.
            if state.suspected.load(Ordering::Relaxed) && state.suspected.swap(false, Ordering::Relaxed) {
                self.pool().served(id);
            }
        } else if end == SessionEnd::TargetReset {
            self.suspect(id);
        }
    }

    /// When `id` is to be probed next.
    pub(crate) fn next_probe(&self, id: TargetId) -> Option<Instant> {
        let now = self.now();
        self.pool().next_probe(id, now).map(|due| self.instant(due))
    }

    /// Whether the probes of `id` have a verdict.
    pub(crate) fn is_known(&self, id: TargetId) -> bool {
        self.pool().group(id.group).health(id.target) != Health::Unknown
    }

    /// What the operator says of `id`.
    pub(crate) fn admin_state(&self, id: TargetId) -> AdminState {
        self.pool().group(id.group).target_admin(id.target)
    }

    fn suspect(&self, id: TargetId) {
        let state = self.state(id);
        state.suspected.store(true, Ordering::Relaxed);
        let now = self.now();
        let changes = self.pool().failed(id, now);
        self.follow(id.group, &changes, None);
        state.suspicion.notify_one();
        self.doubt_name(id);
    }

    /// Something failed on `id`: if its address comes from a name, that may have another one by now.
    fn doubt_name(&self, id: TargetId) {
        if let Some(host) = &self.target(id).1.host {
            let out = !self.pool().group(id.group).is_healthy(id.target);
            self.names.doubt(host, out);
        }
    }

    fn tick(&self) {
        let now = self.now();
        let changes = self.pool().tick(now);
        for (group, changes) in changes {
            self.follow(group, &changes, None);
        }
        self.expire_orders();
    }

    /// Logs what changed in group `index`, and does what its configuration says about it.
    pub(crate) fn follow(&self, index: usize, changes: &[Change], why: Option<&str>) {
        if changes.is_empty() {
            return;
        }
        let group = &self.config.groups[index];
        let name = group.name.as_str();
        let target = |target: usize| group.targets[target].name.as_str();
        for change in changes {
            match *change {
                Change::Health(number, Health::Up) => {
                    info!(group = name, target_name = target(number), "up");
                    let id = TargetId { group: index, target: number };
                    // What the operator drains goes on draining.
                    if self.admin_state(id) == AdminState::Active {
                        self.state(id).stop_ending();
                    }
                }
                Change::Health(number, health) => {
                    warn!(group = name, target_name = target(number), "{}: {}", health.label(), why.unwrap_or("-"));
                    let id = TargetId { group: index, target: number };
                    self.end_sessions(id, group.on_down, SessionEnd::TargetDown);
                }
                Change::Ejected(number, until) => {
                    let hold = until.saturating_sub(self.now());
                    warn!(
                        group = name,
                        target_name = target(number),
                        "taken out for {hold:.0?}: sessions failed in a row"
                    );
                }
                Change::Returned(number) => info!(group = name, target_name = target(number), "takes sessions again"),
                Change::Link(true) => {
                    info!(group = name, interface = group.tcp.interface, "the device works again");
                    for id in self.config.target_ids().filter(|id| id.group == index) {
                        if self.admin_state(id) == AdminState::Active {
                            self.state(id).stop_ending();
                        }
                    }
                }
                Change::Link(false) => {
                    warn!(group = name, interface = group.tcp.interface, "the device is down or gone");
                    for id in self.config.target_ids().filter(|id| id.group == index) {
                        self.end_sessions(id, group.on_down, SessionEnd::TargetDown);
                    }
                }
                Change::Outage(true) => {
                    warn!(group = name, interface = group.tcp.interface, "most targets failed together");
                }
                Change::Outage(false) => {
                    info!(group = name, interface = group.tcp.interface, "targets are tried again");
                }
                Change::Group(Standing::Able) => info!(group = name, "takes sessions"),
                Change::Group(Standing::Held) => {
                    info!(group = name, hold = ?group.failback_hold, "healthy again, held back");
                }
                Change::Group(Standing::Unable) => warn!(group = name, "takes no sessions"),
            }
        }
        self.changed.notify_one();
        self.call_waiting();
    }

    /// Ends the sessions of those targets of this configuration that `next` no longer has, as their group says.
    pub(crate) fn end_removed(&self, next: &Self) {
        for id in self.config.target_ids().filter(|&id| next.config.same_target(&self.config, id).is_none()) {
            let (group, target) = self.target(id);
            let rules = next.config.groups.iter().find(|of| of.name == group.name).unwrap_or(group);
            info!(group = group.name, target_name = target.name, sessions = self.sessions(id), "removed");
            self.end_sessions(id, rules.on_removal, SessionEnd::Drained);
        }
    }

    /// Ends the sessions of a target, in the way and as the end that are given.
    pub(crate) fn end_sessions(&self, id: TargetId, how: OnDown, end: SessionEnd) {
        match how {
            OnDown::Keep => {}
            OnDown::Drain => self.end_sessions_after(id, self.config.runtime.drain_timeout, end),
            OnDown::Reset => self.end_sessions_after(id, Duration::ZERO, end),
        }
    }

    /// Ends the sessions that a target still has after `limit`.
    pub(crate) fn end_sessions_after(&self, id: TargetId, limit: Duration, end: SessionEnd) {
        let state = Arc::clone(self.state(id));
        let ending = {
            let state = Arc::clone(&state);
            async move { state.cut_after(limit, end).await }
        };
        state.set_ending(tokio::spawn(ending), limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test(start_paused = true)]
    async fn the_start_waits_for_the_last_first_verdict_and_no_longer_than_a_probe_may_take() {
        let health = "health = { kind = \"tcp\", timeout = \"700ms\" }";
        let config = config::example("", health, "[[group.target]]\naddress = \"192.0.2.2:9000\"");
        for (verdicts, expected) in [(0, 700), (1, 700), (2, 200)] {
            let shared = Shared::new(config.clone(), 1, Arc::default());
            let begun = Instant::now();
            let probes = async {
                for target in 0..verdicts {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    shared.probed(TargetId { group: 0, target }, &Ok(()), Duration::ZERO);
                }
            };
            tokio::join!(first_verdicts(&shared), probes);
            assert_eq!(begun.elapsed(), Duration::from_millis(expected), "{verdicts} verdicts");
        }
    }
}
