//! What a packet does to the phase of its joint, and what becomes of it.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use landbridge_common::packet::{
    CLIENT_ACKED, DIRTY, Joint, PHASE, PacketCounter, TARGET_ACKED, WAS_RESET, event, phase,
};

use crate::counters::{count, drop, tell};
use crate::exchange::{compare_exchange, note};
use crate::leg::Arrival;
use crate::live;
use crate::maps::Scratch;
use crate::parse::{ACK, FIN, Ip, RST, SYN, Segment};
use crate::skb::{NEXT, Skb};
use crate::turn;

/// How often a packet tries to change the word that another CPU has just changed. All that can happen between FREE and
/// LIVE are five changes.
const ATTEMPTS: u32 = 8;

const ACKED: u64 = CLIENT_ACKED | TARGET_ACKED;

enum Course {
    /// To its socket.
    Pass,
    /// To its socket, but without its payload, which goes the other way.
    Turn,
    /// Translated.
    Live,
    /// Nowhere.
    Dead,
}

/// Decides about a packet of a joint. `segment` is `None` for one that cannot be translated.
#[inline(always)]
pub(crate) fn decide<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    segment: Option<Segment>,
    arrival: Arrival,
    scratch: *mut Scratch,
) -> i32 {
    match course(segment.as_ref(), arrival) {
        Course::Pass => {
            count(PacketCounter::Passed);
            NEXT
        }
        Course::Dead => drop(arrival.joint, PacketCounter::Dead),
        Course::Turn => match segment {
            Some(segment) => turn::turn(skb, ip, &segment, arrival.joint, scratch),
            None => NEXT,
        },
        Course::Live => live::forward(skb, ip, segment, arrival, scratch),
    }
}

/// Changes the phase as this packet demands it, until no other CPU comes in between.
#[inline(always)]
fn course(segment: Option<&Segment>, arrival: Arrival) -> Course {
    let mut attempt = 0;
    let mut noted = false;
    let mut time = 0;
    while attempt < ATTEMPTS {
        attempt += 1;
        let old = state(arrival.joint);
        let now = old & PHASE;
        if now == phase::FREE {
            return Course::Pass;
        }
        if now == phase::DEAD {
            return Course::Dead;
        }
        if now >= phase::LIVE {
            let Some(segment) = segment else { return Course::Live };
            if now == phase::LIVE || segment.flags & SYN == 0 {
                return Course::Live;
            }
            // Another connection begins with the same addresses and ports.
            let reset = if now == phase::RESET { WAS_RESET } else { 0 };
            if exchange(arrival.joint, old, old & !PHASE | phase::FREE | reset) == old {
                return Course::Pass;
            }
            continue;
        }
        if time == 0 {
            // SAFETY: the helper has no conditions.
            time = unsafe { bpf_ktime_get_ns() };
            appeared(arrival, now, time);
        }
        // Noted first, and the phase read again behind the barrier: the daemon changes the phase and then reads what
        // was noted, so that either it sees this packet or this packet sees the new phase.
        if !noted {
            noted = true;
            if let Some(segment) = segment
                && segment.occupies() != 0
            {
                // SAFETY: the map keeps the value in place, aligned to 8 bytes.
                unsafe { note(&raw mut (*arrival.leg).passed, segment.end()) };
                continue;
            }
        }
        let new = demanded(old, segment, arrival, time);
        if new == old || exchange(arrival.joint, old, new) == old {
            if new & PHASE != phase::LIVE {
                return Course::Pass;
            }
            tell(arrival.joint, event::LIVE);
            return if segment.is_some_and(|segment| segment.payload != 0) { Course::Turn } else { Course::Pass };
        }
    }
    // It cannot be said where the packet belongs. A lost packet does no harm.
    Course::Dead
}

/// What the state is to become before this packet goes to its socket.
#[inline(always)]
fn demanded(old: u64, segment: Option<&Segment>, arrival: Arrival, time: u64) -> u64 {
    // How far it reaches cannot be noted, so that the daemon must not believe what it reads.
    let Some(segment) = segment else { return old | DIRTY };
    let now = old & PHASE;
    if now == phase::WATCHED || old & DIRTY != 0 {
        return old;
    }
    if segment.flags & (FIN | SYN | RST) != 0 {
        return old | DIRTY;
    }
    if now == phase::PREPARED {
        return if segment.payload != 0 { old | DIRTY } else { old };
    }
    // SAFETY: the map keeps the value in place; the daemon wrote these before it armed the joint.
    let (received, sent) = unsafe { ((*arrival.leg).received, (*arrival.leg).sent) };
    let (mine, others) = if arrival.is_target { (TARGET_ACKED, CLIENT_ACKED) } else { (CLIENT_ACKED, TARGET_ACKED) };
    let acknowledges_all = segment.flags & ACK != 0 && segment.acknowledgement == sent;
    if segment.payload == 0 {
        if !acknowledges_all {
            return old;
        }
        return if old & others != 0 { live(arrival.joint, old, time) } else { old | mine };
    }
    if segment.sequence == received && acknowledges_all && old & others != 0 {
        return live(arrival.joint, old, time);
    }
    old | DIRTY
}

/// The state of a live joint; says since when first, since idleness is counted from there.
#[inline(always)]
fn live(joint: *mut Joint, old: u64, time: u64) -> u64 {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes. Whoever makes the joint live stores about the same.
    unsafe { (&raw mut (*joint).live_at).write_volatile(time) };
    old & !(PHASE | ACKED | DIRTY) | phase::LIVE
}

/// Notes that packets of a leg come this way at all.
#[inline(always)]
fn appeared(arrival: Arrival, now: u64, time: u64) {
    // SAFETY: the map keeps the values in place, aligned to 8 bytes.
    let (seen, others) = unsafe { (&raw mut (*arrival.leg).last_seen, &raw const (*arrival.other).last_seen) };
    // SAFETY: as before.
    let both = unsafe {
        if seen.read_volatile() != 0 {
            return;
        }
        seen.write_volatile(time);
        others.read_volatile() != 0
    };
    if both && now == phase::WATCHED {
        tell(arrival.joint, event::SEEN);
    }
}

/// The joint's state as it is now.
#[inline(always)]
pub(crate) fn state(joint: *mut Joint) -> u64 {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe { (&raw const (*joint).state).read_volatile() }
}

/// Changes the state if it still is `old`; returns what it was.
#[inline(always)]
pub(crate) fn exchange(joint: *mut Joint, old: u64, new: u64) -> u64 {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe { compare_exchange(&raw mut (*joint).state, old, new) }
}

/// Ends a live joint, or one that lingers after its end for good, with these flags; returns whether this packet did it.
/// A RST after both FINs does not count: a peer that has forgotten the connection answers so to what comes late.
#[inline(always)]
pub(crate) fn end(joint: *mut Joint, phase: u64, flags: u64) -> bool {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let old = state(joint);
        let now = old & PHASE;
        let lingers = (phase::LIVE..phase::DEAD).contains(&now);
        if now != phase::LIVE && !(phase == phase::DEAD && lingers) {
            return false;
        }
        if exchange(joint, old, old & !PHASE | phase | flags) == old {
            return true;
        }
        attempt += 1;
    }
    false
}
