//! Changes of map values that several CPUs make at once. Both objects have this file.

use core::arch::asm;

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
