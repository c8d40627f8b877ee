//! Changes of a joint that depend on what it was, while other CPUs change it.

use core::arch::asm;

use landbridge_common::packet::KNOWN;

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

/// How often [`note`] tries again when another CPU was faster.
const ATTEMPTS: u32 = 8;

/// Notes `end` as the newest sequence number, unless a newer one is known, as a full barrier.
///
/// # Safety
/// `place` must point into a map value and be aligned to 8 bytes, and all programs must change it by this alone.
#[inline(always)]
pub(crate) unsafe fn note(place: *mut u64, end: u32) {
    // SAFETY: the caller's.
    unsafe {
        let mut known = place.read_volatile();
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            let newer = known & KNOWN == 0 || end.wrapping_sub(known as u32) as i32 > 0;
            // Stored even if it is not new, for the barrier.
            let next = if newer { KNOWN | u64::from(end) } else { known };
            let found = compare_exchange(place, known, next);
            if found == known {
                return;
            }
            known = found;
            attempt += 1;
        }
    }
}
