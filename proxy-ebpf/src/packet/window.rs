//! Whether a packet can belong to its connection. Each peer's TCP checks for itself; this keeps a stranger who knows
//! the addresses and ports from changing what is known about the joint.

use landbridge_common::packet::{KNOWN, Leg};

use crate::leg::Arrival;
use crate::parse::{ACK, RST, SYN, Segment};

/// What is always in the window, in bytes: a peer may have sent this much before its other end's window was seen here.
/// Only a floor: the daemon writes more (16 MiB) before it arms a joint.
const FLOOR: u64 = 1 << 20;

/// The largest window that TCP can announce.
const CEILING: u64 = 1 << 30;

/// How far from where they are expected sequence numbers may be that `receiver` takes.
#[inline(always)]
fn span(receiver: *mut Leg) -> i32 {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    let window = unsafe { (&raw const (*receiver).window).read_volatile() };
    let window = if window > CEILING { CEILING } else { window };
    (if window < FLOOR { FLOOR } else { window }) as i32
}

/// The end of the newest payload or FIN that was sent on for this leg's peer, as it counts.
#[inline(always)]
pub(crate) fn newest(leg: *mut Leg) -> u32 {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe {
        let known = (&raw const (*leg).newest).read_volatile();
        if known & KNOWN != 0 { known as u32 } else { (*leg).received }
    }
}

/// How far `receiver`'s peer has acknowledged what this leg's peer sends, as the latter counts.
#[inline(always)]
fn acknowledged(leg: *mut Leg, receiver: *mut Leg) -> u32 {
    // SAFETY: the map keeps the values in place, aligned to 8 bytes.
    unsafe {
        let known = (&raw const (*receiver).acknowledged).read_volatile();
        if known & KNOWN != 0 { (known as u32).wrapping_sub((*leg).sequence_delta) } else { (*leg).received }
    }
}

/// Whether the packet's numbers are near what is expected. Forward they are measured from what the receiver has
/// acknowledged, which a stranger's packets do not move: else a few of them would leave the peer's own ones behind.
#[inline(always)]
pub(crate) fn is_plausible(segment: &Segment, arrival: Arrival) -> bool {
    let Arrival { leg, other, .. } = arrival;
    let end = segment.end();
    let reach = span(other);
    let beyond = end.wrapping_sub(acknowledged(leg, other)) as i32;
    let ahead = end.wrapping_sub(newest(leg)) as i32;
    if beyond > reach || ahead < -reach {
        return false;
    }
    if segment.flags & RST != 0 {
        return true;
    }
    if segment.flags & ACK == 0 || segment.flags & SYN != 0 {
        return false;
    }
    // SAFETY: the map keeps the value in place.
    let delta = unsafe { (*other).sequence_delta };
    let outstanding = newest(other).wrapping_add(delta).wrapping_sub(segment.acknowledgement) as i32;
    outstanding >= 0 && outstanding <= span(leg)
}

/// Whether `sequence`, as the peer of `leg` counts, is of a packet that was sent on to `receiver` and may be on its
/// way.
#[inline(always)]
pub(crate) fn is_on_its_way(sequence: u32, leg: *mut Leg, receiver: *mut Leg) -> bool {
    let behind = newest(leg).wrapping_sub(sequence) as i32;
    behind >= 0 && behind <= span(receiver)
}
