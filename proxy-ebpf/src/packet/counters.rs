//! Counting, and telling the daemon.

use landbridge_common::packet::{Joint, PacketCounter};

use crate::atomics::add;
use crate::maps::{PACKET_COUNTERS, PACKET_EVENTS};
use crate::skb::DROP;

/// Counts one packet.
#[inline(always)]
pub(crate) fn count(slot: PacketCounter) {
    if let Some(value) = PACKET_COUNTERS.get_ptr_mut(slot as u32) {
        // SAFETY: the map keeps the value in place, aligned to 8 bytes, and it is this CPU's own: softirqs do not nest.
        unsafe { *value += 1 };
    }
}

/// Drops a packet of a joint.
#[inline(always)]
pub(crate) fn drop(joint: *mut Joint, reason: PacketCounter) -> i32 {
    count(reason);
    if reason as u32 == PacketCounter::Untranslatable as u32 {
        // SAFETY: the map keeps the value in place, aligned to 8 bytes.
        unsafe { add(&raw mut (*joint).untranslatable, 1) };
    }
    DROP
}

/// Tells the daemon what became of a joint.
#[inline(always)]
pub(crate) fn tell(joint: *mut Joint, event: u64) {
    // SAFETY: the map keeps the value in place, and the daemon wrote the index before the joint was watched.
    let index = unsafe { (*joint).index };
    if PACKET_EVENTS.output::<u64>(event | u64::from(index), 0).is_err() {
        count(PacketCounter::EventLost);
    }
}
