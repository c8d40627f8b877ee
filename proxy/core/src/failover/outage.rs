//! Failures that have one cause: most targets behind one device fail together, so the rest is not tried either.
//!
//! It is a guess. A good probe of any target ends it at once, its time otherwise; no session is ended because of it.

use core::time::Duration;

use super::Group;

/// Targets that die of one cause are noticed within this time of each other, if their probes are not further apart: three
/// connects of a second each, and the phases of their probes.
const TOGETHER: Duration = Duration::from_secs(5);

/// One failure has no other to be together with.
const LEAST: usize = 2;

impl Group {
    /// Some target has begun to fail at `now`: whether most that were good until then have failed together.
    pub(super) fn suspects_outage(&self, now: Duration) -> bool {
        let rounds = self.rules.probes.map_or(Duration::ZERO, |probes| probes.interval * 2);
        let together = TOGETHER.max(rounds);
        let lately = |at: Duration| now.saturating_sub(at) <= together;
        let failed = self.targets.iter().filter(|target| target.failed_at.is_some_and(lately)).count();
        let good = self.targets.iter().filter(|target| target.is_healthy() && !target.monitor.is_failing()).count();
        self.rules.one_way && failed >= LEAST && failed > good
    }

    /// The outage is over: by its time, or because a target has answered.
    pub(super) fn end_outage(&mut self) {
        self.outage = None;
        self.targets.iter_mut().for_each(|target| target.monitor.pardon());
    }
}
