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
