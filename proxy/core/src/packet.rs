//! The packet datapath as pure functions: what becomes of one packet of a joined session.
//!
//! The eBPF programs do the same in another way, within the verifier's limits; they are tested against this model byte
//! for byte, the joint included. Packets begin with the IP header here.

pub mod answer;
mod between;
pub mod checksum;
pub mod icmp;
pub mod options;
pub mod parse;
pub mod phases;
pub mod track;
pub mod translate;
pub mod turn;
pub mod window;

#[cfg(test)]
mod tests;

use landbridge_common::packet::{Joint, LINGER, PHASE, PacketCounter, phase};

use self::parse::{Parsed, Segment, flag};
use self::phases::Course;
use self::translate::Refusal;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to its socket.
    Pass,
    /// A copy arrives once more, and the socket gets this many bytes: the headers.
    Turn(usize),
    /// This many bytes are sent on.
    Forward(usize),
    /// It is dropped, and its sender gets this many bytes as an answer, which is counted here.
    Answer(usize, PacketCounter),
    /// It is dropped, and counted here.
    Drop(PacketCounter),
}

/// What a packet led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// What the daemon is told: an [`event`](landbridge_common::packet::event) without the joint's index.
    pub event: Option<u64>,
}

impl Outcome {
    fn of(verdict: Verdict) -> Self {
        Self { verdict, event: None }
    }
}

/// Where a packet arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The leg: an index into [`Joint::legs`].
    pub side: usize,
    /// By the kernel's monotonic clock, in nanoseconds.
    pub now: u64,
    /// The longest packet that the way to the other peer takes, in bytes.
    pub mtu: usize,
}

/// Decides about a packet of one of the joint's legs, and keeps the joint's books. What goes anywhere is written to
/// `out`, unless it goes as it is.
///
/// # Panics
/// `out` is too short: the packet can grow by 20 bytes, and an answer has up to 108.
pub fn arrive(joint: &mut Joint, arrival: Arrival, packet: &[u8], out: &mut [u8]) -> Outcome {
    let segment = match parse::parse(packet) {
        Parsed::Segment(segment) => Some(segment),
        Parsed::Opaque => None,
        Parsed::Foreign => return Outcome::of(Verdict::Pass),
    };
    let before = joint.state & PHASE;
    let [this, other] = [arrival.side, 1 - arrival.side].map(|side| joint.legs[side].last_seen);
    let completed = before == phase::WATCHED && this == 0 && other != 0;
    let course = phases::advance(joint, arrival.side, segment.as_ref().map(Segment::facts).as_ref(), arrival.now);
    let became_live = before < phase::LIVE && joint.state & PHASE == phase::LIVE;
    let event = match became_live {
        true => Some(landbridge_common::packet::event::LIVE),
        false => completed.then_some(landbridge_common::packet::event::SEEN),
    };
    match (course, segment) {
        (Course::Pass, _) | (Course::Turn, None) => Outcome { verdict: Verdict::Pass, event },
        (Course::Turn, Some(segment)) => Outcome { verdict: Verdict::Turn(turn::trim(&segment, out)), event },
        (Course::Dead, _) => dropped(joint, PacketCounter::Dead),
        (Course::Live, segment) => live(joint, arrival, segment.as_ref(), out),
    }
}

/// A packet of a live joint.
fn live(joint: &mut Joint, arrival: Arrival, segment: Option<&Segment<'_>>, out: &mut [u8]) -> Outcome {
    if has_expired(joint, arrival.now) {
        joint.state = joint.state & !PHASE | phase::DEAD;
        return dropped(joint, PacketCounter::Dead);
    }
    let Some(segment) = segment else { return dropped(joint, PacketCounter::Untranslatable) };
    let facts = segment.facts();
    if facts.has(flag::SYN) && !facts.has(flag::RST) {
        return match answer::challenge(joint, arrival, segment, out) {
            Some(len) => Outcome::of(Verdict::Answer(len, PacketCounter::Challenged)),
            None => dropped(joint, PacketCounter::OutOfWindow),
        };
    }
    if !window::is_plausible(joint, arrival.side, &facts) {
        return dropped(joint, PacketCounter::OutOfWindow);
    }
    match translate::translate(joint, arrival, segment, out) {
        Ok(len) => {
            let event = track::forwarded(joint, arrival.side, &facts, arrival.now);
            Outcome { verdict: Verdict::Forward(len), event }
        }
        Err(Refusal::Untranslatable) => dropped(joint, PacketCounter::Untranslatable),
        Err(Refusal::NoWay) => dropped(joint, PacketCounter::NoRoute),
        Err(Refusal::TooLong) => {
            let answered = answer::too_long(joint, arrival, segment, out);
            let dropped = dropped(joint, PacketCounter::TooLong);
            answered.map_or(dropped, |len| Outcome::of(Verdict::Answer(len, PacketCounter::TooLong)))
        }
    }
}

fn dropped(joint: &mut Joint, reason: PacketCounter) -> Outcome {
    joint.untranslatable += u64::from(reason == PacketCounter::Untranslatable);
    Outcome::of(Verdict::Drop(reason))
}

/// Whether a joint that is live or later has not seen a packet for too long, or has lived too long.
pub fn has_expired(joint: &Joint, now: u64) -> bool {
    if joint.deadline != 0 && now > joint.deadline {
        return true;
    }
    let last = joint.legs.iter().map(|leg| leg.last_seen).fold(joint.live_at, u64::max);
    let limit = if joint.state & PHASE == phase::LIVE { joint.idle_limit } else { LINGER };
    now.saturating_sub(last) > limit
}
