//! How soon a target closes connections that are idle.
//!
//! A balancer in front that keeps connections open for longer than that sends requests into connections that are just being
//! closed, and answers them with 502.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A target that closes because it has answered, or was asked to, does so at once; on a busy one that takes a moment more.
const SHORTEST_IDLE: Duration = Duration::from_secs(2);

const NEVER: u64 = u64::MAX;

/// The shortest time without a byte after which a target closed a session first and in order. Written by one worker.
#[derive(Debug)]
pub struct IdleClose(AtomicU64);

impl Default for IdleClose {
    fn default() -> Self {
        Self(AtomicU64::new(NEVER))
    }
}

impl IdleClose {
    /// The target has closed a session in which nothing had moved for so long.
    pub(crate) fn note(&self, quiet: Duration) {
        if quiet >= SHORTEST_IDLE {
            let millis = u64::try_from(quiet.as_millis()).unwrap_or(NEVER);
            self.0.fetch_min(millis, Ordering::Relaxed);
        }
    }

    /// The shortest time; `None`: no target has closed an idle session.
    pub(crate) fn get(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|millis| *millis != NEVER).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_the_idle_ones_counts() {
        let seen = IdleClose::default();
        for (quiet, expected) in [(1_999, None), (7_000, Some(7_000)), (9_000, Some(7_000)), (2_000, Some(2_000))] {
            seen.note(Duration::from_millis(quiet));
            assert_eq!(seen.get(), expected.map(Duration::from_millis), "after {quiet} ms");
        }
    }
}
