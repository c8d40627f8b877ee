//! How soon a target closes connections that are idle.
//!
//! A balancer in front that keeps connections open for longer than that sends requests into connections that are just being
//! closed, and answers them with 502.
//!
//! A single close says little: a target that is restarted closes all of its connections at once, however long each of them was
//! idle. A timeout closes after the same time again and again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A target that closes because it has answered, or was asked to, does so at once; on a busy one that takes a moment more.
const SHORTEST_IDLE: Duration = Duration::from_secs(2);

/// Closes within this time may have one cause. More than the second by which those of joined sessions are seen late.
const ONE_CAUSE: Duration = Duration::from_secs(2);

/// So many closes after about the same time are a timeout.
const AGREEING: usize = 3;

/// How much they may differ, besides a tenth: joined sessions are looked at once a second.
const ROUND: Duration = Duration::from_secs(1);

/// So many closes are remembered, for so long: what a target did before its timeout was changed is forgotten.
const REMEMBERED: usize = 16;
const MEMORY: Duration = Duration::from_hours(24);

/// The last times without a byte after which a target closed a session first and in order. Written by one worker.
#[derive(Debug, Default)]
pub struct IdleClose(Mutex<VecDeque<(Instant, Duration)>>);

impl IdleClose {
    /// Whether a session that lived for so long can have been idle until it was closed.
    pub(crate) fn is_possible(lived: Duration) -> bool {
        lived >= SHORTEST_IDLE
    }

    /// The target has closed a session in which nothing had moved for so long.
    pub(crate) fn note(&self, quiet: Duration) {
        self.note_at(quiet, Instant::now());
    }

    fn note_at(&self, quiet: Duration, now: Instant) {
        if quiet < SHORTEST_IDLE {
            return;
        }
        let mut closes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if closes.back().is_some_and(|(at, _)| now.duration_since(*at) < ONE_CAUSE) {
            return;
        }
        if closes.len() == REMEMBERED {
            closes.pop_front();
        }
        closes.push_back((now, quiet));
    }

    /// The shortest time that several closes at different moments agree on; `None`: there is none.
    pub(crate) fn get(&self) -> Option<Duration> {
        self.get_at(Instant::now())
    }

    fn get_at(&self, now: Instant) -> Option<Duration> {
        let closes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = || closes.iter().filter(|(at, _)| now.duration_since(*at) < MEMORY).map(|(_, quiet)| *quiet);
        let agree = |quiet: &Duration| {
            let alike = known().filter(|other| (*quiet..=*quiet + *quiet / 10 + ROUND).contains(other));
            alike.count() >= AGREEING
        };
        known().filter(agree).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known after closes at these seconds, each after so many milliseconds without a byte.
    fn known(closes: &[(u64, u64)]) -> Option<u64> {
        let (seen, start) = (IdleClose::default(), Instant::now());
        for (at, quiet) in closes {
            seen.note_at(Duration::from_millis(*quiet), start + Duration::from_secs(*at));
        }
        let now = start + Duration::from_secs(closes.last().map_or(0, |(at, _)| *at));
        seen.get_at(now).map(|quiet| quiet.as_millis() as u64)
    }

    #[test]
    fn a_timeout_is_what_closes_at_three_moments_after_the_same_time() {
        assert_eq!(known(&[(0, 5_000), (10, 5_000)]), None);
        assert_eq!(known(&[(0, 5_000), (10, 5_900), (11, 5_000), (20, 5_100)]), Some(5_000));
        // Another one beside it, and sessions that were closed for other reasons.
        assert_eq!(known(&[(0, 5_000), (9, 60_000), (18, 5_000), (27, 33_000), (36, 5_000)]), Some(5_000));
        assert_eq!(known(&[(0, 1_999), (10, 1_999), (20, 1_999)]), None, "at once");
    }

    #[test]
    fn a_restart_is_no_timeout() {
        let restart: Vec<_> = (0..100).map(|session| (session / 60, 2_000 + 10 * session)).collect();
        assert_eq!(known(&restart), None);
        // Nor are several: traffic has left each of them another time.
        assert_eq!(known(&[(0, 9_000), (0, 5_000), (100, 4_000), (100, 5_000), (200, 30_000), (200, 5_000)]), None);
    }

    #[test]
    fn what_was_is_forgotten_when_it_is_old_or_much_came_since() {
        let mut closes = vec![(0, 5_000), (10, 5_000), (20, 5_000)];
        let day = MEMORY.as_secs();
        assert_eq!(known(&[&closes[..], &[(day - 1, 60_000)]].concat()), Some(5_000));
        assert_eq!(known(&[&closes[..], &[(day, 60_000)]].concat()), None);
        closes.extend((0..REMEMBERED as u64).map(|number| (100 + 10 * number, 60_000)));
        assert_eq!(known(&closes), Some(60_000));
    }
}
