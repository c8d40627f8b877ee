//! What the programs have measured on a leg of a joined session, for metrics and the session log.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::joined::Joined;
use super::joint::{JointCell, now};

/// How a leg of a joined session fares, since it was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegSample {
    /// The smoothed round-trip time between this host and the peer; `None` while there is no measurement.
    pub round_trip: Option<Duration>,
    /// Packets with payload that the peer sent although they, or later ones, had been sent on before. What was lost may have
    /// been lost on either leg.
    pub retransmitted: u64,
    /// Packets of the peer that were sent on; several that the kernel has put together count as one.
    pub packets: u64,
    /// Payload bytes of the peer that were sent on, each counted once.
    pub bytes: u64,
    /// When the peer's first payload since the session is joined was sent on; `None`: it has sent nothing since then.
    pub first_byte: Option<Instant>,
}

impl Joined {
    /// What the client leg and the target leg look like now.
    pub fn samples(&self) -> [LegSample; 2] {
        [0, 1].map(|side| self.joint().sample(side))
    }
}

impl JointCell<'_> {
    fn sample(self, side: usize) -> LegSample {
        let seen = self.seen(side);
        let first = Duration::from_nanos(self.first_payload(side).load(Ordering::Acquire));
        LegSample {
            round_trip: Some(seen.round_trip).filter(|time| !time.is_zero()),
            retransmitted: seen.retransmitted,
            packets: seen.packets,
            bytes: seen.bytes,
            first_byte: Some(first).filter(|at| !at.is_zero()).and_then(instant),
        }
    }
}

/// A time of the programs' clock as this process has it.
fn instant(at: Duration) -> Option<Instant> {
    Instant::now().checked_sub(now().saturating_sub(at))
}
