//! Whether what the peers of a session send can pass: packets that cannot be translated are dropped, however often they
//! come.

use core::time::Duration;

use crate::vigil::PeerSeen;

/// How long nothing passes before a sender counts as blocked. It has repeated itself about six times by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches one session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passage {
    untranslatable: u64,
    /// The bytes that have come from each peer, and those that the other one owes: progress changes them.
    stands: [(u64, u32); 2],
    /// When a packet was dropped first since then.
    since: [Option<Duration>; 2],
}

impl Passage {
    pub(crate) const fn new() -> Self {
        Self { untranslatable: 0, stands: [(0, 0); 2], since: [None; 2] }
    }

    /// Whether packets are dropped for some time while something of a peer is missing and nothing more of it arrives.
    /// Dropped packets alone mean nothing: a stranger may have sent them, to a session that is idle.
    pub(crate) fn is_blocked(&mut self, signs: [PeerSeen; 2], untranslatable: u64, now: Duration) -> bool {
        let dropped = untranslatable != core::mem::replace(&mut self.untranslatable, untranslatable);
        let mut is_blocked = false;
        for side in [0, 1] {
            let owed = signs[1 - side].unacknowledged;
            let stand = (signs[side].bytes, owed);
            let stood = core::mem::replace(&mut self.stands[side], stand);
            if stand != stood || !signs[side].is_ahead && owed == 0 {
                self.since[side] = None;
            } else if dropped {
                let since = *self.since[side].get_or_insert(now);
                is_blocked |= now.saturating_sub(since) >= PATIENCE;
            }
        }
        is_blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a session counts as blocked whose packets are dropped at these seconds.
    fn blocked(drops: &[u64], signs: impl Fn(u64) -> [PeerSeen; 2]) -> Option<u64> {
        let mut passage = Passage::new();
        (0..100).find(|now| {
            let untranslatable = drops.iter().filter(|at| *at <= now).count() as u64;
            passage.is_blocked(signs(*now), untranslatable, Duration::from_secs(*now))
        })
    }

    /// As a sender repeats itself.
    const DROPS: [u64; 7] = [1, 2, 3, 6, 12, 25, 51];

    #[test]
    fn a_sender_is_blocked_whose_packets_are_dropped_without_progress() {
        for side in [0, 1] {
            let mut ahead = [PeerSeen::default(); 2];
            ahead[side].is_ahead = true;
            assert_eq!(blocked(&DROPS, |_| ahead), Some(12));
            // A small one has passed and the other peer waits for those before it.
            let mut gap = [PeerSeen::default(); 2];
            gap[1 - side].unacknowledged = 3_000;
            assert_eq!(blocked(&DROPS, |_| gap), Some(12));
        }
    }

    #[test]
    fn packets_of_a_stranger_end_nothing() {
        let all: std::vec::Vec<u64> = (0..100).collect();
        assert_eq!(blocked(&all, |_| [PeerSeen::default(); 2]), None, "idle");
        let busy = |now| [PeerSeen { bytes: now / 9, is_ahead: true, ..PeerSeen::default() }, PeerSeen::default()];
        assert_eq!(blocked(&all, busy), None, "busy");
        let acknowledged =
            |now: u64| [PeerSeen::default(), PeerSeen { unacknowledged: 200 - now as u32, ..PeerSeen::default() }];
        assert_eq!(blocked(&all, acknowledged), None, "acknowledged bit by bit");
    }

    #[test]
    fn loss_without_drops_is_left_to_the_peers() {
        assert_eq!(blocked(&[1], |_| [PeerSeen { is_ahead: true, ..PeerSeen::default() }; 2]), None);
    }
}
