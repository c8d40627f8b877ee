//! The array of joints, mapped into the test.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use landbridge_common::packet::{Joint, PHASE};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The mapping. Programs write to it while the test reads.
pub(crate) struct Joints {
    first: NonNull<Joint>,
    len: NonZeroUsize,
    count: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Joints {}
// SAFETY: as above; what threads share is accessed as single words.
unsafe impl Sync for Joints {}

impl Joints {
    pub(crate) fn map(array: impl AsFd, count: u32) -> Self {
        let len = NonZeroUsize::new(count as usize * size_of::<Joint>()).expect("at least one");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let first = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, array, 0) }.expect("it can be mapped");
        Self { first: first.cast(), len, count }
    }

    fn at(&self, index: u32) -> *mut Joint {
        assert!(index < self.count);
        // SAFETY: within the mapping.
        unsafe { self.first.add(index as usize) }.as_ptr()
    }

    /// A copy of a joint, of which each word is one that was there.
    pub(crate) fn get(&self, index: u32) -> Joint {
        // SAFETY: within the mapping and aligned.
        unsafe { self.at(index).read_volatile() }
    }

    /// Overwrites a joint that no program uses.
    pub(crate) fn set(&self, index: u32, joint: &Joint) {
        // SAFETY: within the mapping and aligned.
        unsafe { self.at(index).write_volatile(*joint) };
    }

    /// Changes parts of a joint that no program writes.
    pub(crate) fn change(&self, index: u32, change: impl FnOnce(&mut Joint)) {
        // SAFETY: within the mapping and aligned; the caller keeps away from what programs write.
        change(unsafe { &mut *self.at(index) });
    }

    pub(crate) fn phase(&self, index: u32) -> u64 {
        self.state(index).load(Ordering::SeqCst) & PHASE
    }

    pub(crate) fn state(&self, index: u32) -> &AtomicU64 {
        // SAFETY: within the mapping and aligned; programs change the word atomically too.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.at(index)).state) }
    }

    /// How far packets reached that went to a socket.
    pub(crate) fn passed(&self, index: u32, side: usize) -> u64 {
        // SAFETY: within the mapping and aligned; programs change the word atomically too.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.at(index)).legs[side].passed) }.load(Ordering::SeqCst)
    }
}

impl Drop for Joints {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.first.cast(), self.len.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}
