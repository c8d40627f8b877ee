//! What is learned from a packet that is sent on: bytes, progress, round-trip times, and how the session ends.

use landbridge_common::packet::{AHEAD, BY_TARGET, KNOWN, Leg, event, phase};

use crate::atomics::add;
use crate::counters::tell;
use crate::exchange::compare_exchange;
use crate::leg::Arrival;
use crate::parse::{ACK, FIN, RST, Segment};
use crate::{phases, window};

/// Keeps the books about a packet of this leg.
#[inline(always)]
pub(crate) fn forwarded(segment: &Segment, arrival: Arrival, now: u64) {
    let Arrival { joint, leg, other, .. } = arrival;
    // SAFETY: the map keeps the values in place, aligned to 8 bytes. Packets of one leg seldom run on two CPUs at once;
    // if they do, a statistic may miss one.
    unsafe {
        (&raw mut (*leg).last_seen).write_volatile(now);
        add(&raw mut (*leg).packets, 1);
        if segment.flags & (FIN | RST) != 0 && (&raw const (*leg).ended_at).read_volatile() == 0 {
            (&raw mut (*leg).ended_at).write_volatile(now);
        }
        if segment.flags & RST != 0 {
            let by = if arrival.is_target { BY_TARGET } else { 0 };
            if is_expected(segment, leg, other) && phases::end(joint, phase::RESET, by) {
                tell(joint, event::RESET);
            }
            return;
        }
        if segment.occupies() != 0 {
            sent(segment, leg, other, now);
        }
        if segment.flags & ACK != 0 {
            acknowledged(segment.acknowledgement, leg, now);
        }
        let ahead = if (segment.sequence.wrapping_sub(window::newest(leg)) as i32) > 0 { AHEAD } else { 0 };
        (&raw mut (*leg).announced).write_volatile(KNOWN | ahead | u64::from(segment.window));
        let announced = u64::from(segment.window) << ((*leg).window_scale_in & 31);
        if announced > (&raw const (*leg).window).read_volatile() {
            (&raw mut (*leg).window).write_volatile(announced);
        }
        if is_acknowledged(leg, other) && is_acknowledged(other, leg) && phases::end(joint, phase::CLOSED, 0) {
            tell(joint, event::CLOSED);
        }
    }
}

/// Whether a RST is where the other peer expects it, so that it ends the connection. Elsewhere in the window it is sent
/// on, and that peer decides (RFC 5961).
///
/// # Safety
/// The legs must point into the map.
#[inline(always)]
unsafe fn is_expected(segment: &Segment, leg: *mut Leg, other: *mut Leg) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let acknowledged = (&raw const (*other).acknowledged).read_volatile();
        segment.sequence == window::newest(leg)
            || acknowledged & KNOWN != 0 && segment.sequence.wrapping_add((*leg).sequence_delta) == acknowledged as u32
    }
}

/// Notes payload or a FIN.
///
/// # Safety
/// As [`is_expected`].
#[inline(always)]
unsafe fn sent(segment: &Segment, leg: *mut Leg, other: *mut Leg, now: u64) {
    // SAFETY: the caller's.
    unsafe {
        let end = segment.end();
        let fin = segment.flags & FIN;
        let probe = &raw mut (*other).probe;
        match advance(leg, end) {
            Some(newest) => {
                add(&raw mut (*leg).bytes, u64::from(end.wrapping_sub(newest) - fin));
                if (segment.sequence.wrapping_sub(newest) as i32) < 0 {
                    // Partly a repetition: its acknowledgement tells nothing (Karn).
                    probe.write_volatile(0);
                } else if probe.read_volatile() == 0 {
                    (&raw mut (*other).probe_sent).write_volatile(now);
                    probe.write_volatile(KNOWN | u64::from(end.wrapping_add((*leg).sequence_delta)));
                }
            }
            None => {
                probe.write_volatile(0);
                if segment.payload != 0 {
                    add(&raw mut (*leg).retransmitted, 1);
                }
            }
        }
        if segment.payload != 0 && (*leg).first_payload == 0 {
            (&raw mut (*leg).first_payload).write_volatile(now);
        }
        if fin != 0 {
            // By its number and not counted: a FIN may come more than once.
            (&raw mut (*leg).fin).write_volatile(KNOWN | u64::from(end));
        }
    }
}

/// Notes that packets have been sent on up to `end`; returns how far it was before, or `None` if it was as far. By exchange,
/// because two packets of a leg on two CPUs must not both count the same bytes.
///
/// # Safety
/// As [`is_expected`].
#[inline(always)]
unsafe fn advance(leg: *mut Leg, end: u32) -> Option<u32> {
    /// More CPUs than this do not have packets of one leg at once.
    const ATTEMPTS: u32 = 4;
    // SAFETY: the caller's; programs change the word by this exchange alone.
    unsafe {
        let place = &raw mut (*leg).newest;
        let mut known = place.read_volatile();
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            let newest = if known & KNOWN != 0 { known as u32 } else { (*leg).received };
            if end.wrapping_sub(newest) as i32 <= 0 {
                return None;
            }
            let found = compare_exchange(place, known, KNOWN | u64::from(end));
            if found == known {
                return Some(newest);
            }
            known = found;
            attempt += 1;
        }
        None
    }
}

/// Notes an acknowledgement of this leg's peer.
///
/// # Safety
/// As [`is_expected`].
#[inline(always)]
unsafe fn acknowledged(number: u32, leg: *mut Leg, now: u64) {
    // SAFETY: the caller's.
    unsafe {
        let known = (&raw const (*leg).acknowledged).read_volatile();
        if known & KNOWN == 0 || number.wrapping_sub(known as u32) as i32 > 0 {
            (&raw mut (*leg).acknowledged).write_volatile(KNOWN | u64::from(number));
        }
        let probe = (&raw const (*leg).probe).read_volatile();
        if probe & KNOWN != 0 && number.wrapping_sub(probe as u32) as i32 >= 0 {
            let sample = now.wrapping_sub((&raw const (*leg).probe_sent).read_volatile());
            let smoothed = (*leg).round_trip;
            let next = if smoothed == 0 { sample } else { smoothed - (smoothed >> 3) + (sample >> 3) };
            (&raw mut (*leg).round_trip).write_volatile(next);
            (&raw mut (*leg).probe).write_volatile(0);
        }
    }
}

/// Whether this leg's peer has sent its FIN, and the other peer has acknowledged it.
///
/// # Safety
/// As [`is_expected`].
#[inline(always)]
unsafe fn is_acknowledged(leg: *mut Leg, other: *mut Leg) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let fin = (&raw const (*leg).fin).read_volatile();
        let acknowledged = (&raw const (*other).acknowledged).read_volatile();
        let end = (fin as u32).wrapping_add((*leg).sequence_delta);
        fin & acknowledged & KNOWN != 0 && (acknowledged as u32).wrapping_sub(end) as i32 >= 0
    }
}
