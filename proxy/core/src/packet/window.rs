//! Whether a packet can belong to its connection.

use landbridge_common::packet::{Joint, KNOWN, Leg};

use super::parse::{Facts, flag};

/// What is always in the window, in bytes: a peer may have sent this much before its other end's window was seen here.
/// Only a floor: the daemon writes more (16 MiB) before it arms a joint.
pub const FLOOR: u64 = 1 << 20;

/// The largest window that TCP can announce, in bytes.
pub const CEILING: u64 = 1 << 30;

/// How far from where they are expected sequence numbers may be that this leg's peer takes.
pub fn span(receiver: &Leg) -> i64 {
    receiver.window.clamp(FLOOR, CEILING) as i64
}

/// The end of the newest payload or FIN that was sent on for this leg's peer, as it counts.
pub fn newest(leg: &Leg) -> u32 {
    if leg.newest & KNOWN != 0 { leg.newest as u32 } else { leg.received }
}

/// How far the receiver's peer has acknowledged what this leg's peer sends, as the latter counts.
fn acknowledged(leg: &Leg, receiver: &Leg) -> u32 {
    let known = receiver.acknowledged;
    if known & KNOWN != 0 { (known as u32).wrapping_sub(leg.sequence_delta) } else { leg.received }
}

/// Whether the packet's numbers are near what is expected: its end no further than a window beyond what the receiver has
/// acknowledged, and no further behind the newest one; its acknowledgement of something that was sent and not long ago.
pub fn is_plausible(joint: &Joint, side: usize, facts: &Facts) -> bool {
    let (leg, other) = (&joint.legs[side], &joint.legs[1 - side]);
    let beyond = i64::from(facts.end().wrapping_sub(acknowledged(leg, other)) as i32);
    let ahead = i64::from(facts.end().wrapping_sub(newest(leg)) as i32);
    if beyond > span(other) || ahead < -span(other) {
        return false;
    }
    if facts.has(flag::RST) {
        return true;
    }
    if !facts.has(flag::ACK) || facts.has(flag::SYN) {
        return false;
    }
    let sent = newest(other).wrapping_add(other.sequence_delta);
    let outstanding = i64::from(sent.wrapping_sub(facts.acknowledgement) as i32);
    (0..=span(leg)).contains(&outstanding)
}

/// Whether `sequence`, as the peer of `leg` counts, is of something that was sent on to `receiver` and may be on its
/// way.
pub fn is_on_its_way(sequence: u32, leg: &Leg, receiver: &Leg) -> bool {
    (0..=span(receiver)).contains(&i64::from(newest(leg).wrapping_sub(sequence) as i32))
}
