//! An array map of the programs, mapped into this process: values are read and changed without a system call.

use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The mapping. Programs write to it while this process reads, so that every access has to be atomic: see [`field`].
pub(super) struct Mapped<T> {
    first: NonNull<T>,
    len: NonZeroUsize,
    count: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access to it is atomic.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps an array of `count` values. Its type says whether every bit pattern is a value; those of `landbridge_common`
    /// are made of integers.
    pub(super) fn map(array: impl AsFd, count: u32) -> nix::Result<Self> {
        let len = NonZeroUsize::new(count as usize * size_of::<T>()).ok_or(nix::Error::EINVAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let first =
            unsafe { mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, array, 0) }?;
        Ok(Self { first: first.cast(), len, count })
    }

    /// Where the value at `index` is, as long as the mapping lives.
    ///
    /// # Panics
    /// There is no such value.
    pub(super) fn at(&self, index: u32) -> NonNull<T> {
        assert!(index < self.count, "index {index} of {}", self.count);
        // SAFETY: within the mapping; page-aligned, as the values of `landbridge_common` need it.
        unsafe { self.first.add(index as usize) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.first.cast(), self.len.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

impl<T> fmt::Debug for Mapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("count", &self.count).finish_non_exhaustive()
    }
}

/// A field of a value in a mapping, given as a `NonNull` to it, as an atomic.
macro_rules! field {
    ($value:expr, $field:ident $([$index:expr].$part:ident)?, $atomic:ty) => {
        // SAFETY: in the mapping, which outlives the borrow, and aligned; all its writers, here and in the programs, store
        // whole words.
        unsafe { <$atomic>::from_ptr(&raw mut (*$value.as_ptr()).$field $([$index].$part)?) }
    };
}
pub(super) use field;
