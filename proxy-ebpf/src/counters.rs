//! Counting.

use landbridge_common::Counter;

use crate::atomics::add;
use crate::maps::COUNTERS;

/// Adds to one of the counters of all flows together.
#[inline(always)]
pub(crate) fn count(slot: Counter, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot as u32) {
        // Atomic although the slot is this CPU's own: a verdict on a socket's backlog runs in process context, where a
        // softirq with another verdict can interrupt it.
        // SAFETY: the map keeps the value in place, aligned to 8 bytes, and everyone else only loads it.
        unsafe { add(value, by) };
    }
}
