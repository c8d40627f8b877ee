//! Memory that the allocator keeps for later, although little of it will be needed.

use nix::libc;

/// Gives free pages back to the kernel. To be called after something needed much memory for a moment.
pub(crate) fn give_back() {
    // SAFETY: it concerns only pages that no allocation has.
    unsafe { libc::malloc_trim(0) };
}
