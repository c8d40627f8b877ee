//! Counting.

use core::arch::asm;

use landbridge_common::Counter;

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

/// Adds to a value that others may add to at the same time.
///
/// # Safety
/// `value` must point into a map value and be aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn add(value: *mut u64, by: u64) {
    // The target's atomic types have no read-modify-write methods.
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) value, in(reg) by, options(nostack)) };
}

/// Stores `new` if the value still is `old`, as a full barrier, and returns what it was.
///
/// # Safety
/// `value` must point into a map value and be aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(value: *mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: the caller's.
    unsafe {
        asm!("r0 = cmpxchg_64({} + 0, r0, {})", in(reg) value, in(reg) new, inout("r0") old => found, options(nostack));
    }
    found
}
