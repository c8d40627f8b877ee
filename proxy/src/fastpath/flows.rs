//! The array of flows, mapped into this process: counters are read and gates moved without a system call.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use landbridge_common::{Flow, SEQUENCE_KNOWN, Slot};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::Limits;

/// The mapping. Programs write to it while this process reads, so that every access is atomic.
#[derive(Debug)]
pub(super) struct Flows {
    first: NonNull<Flow>,
    len: NonZeroUsize,
    count: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access to it is atomic.
unsafe impl Send for Flows {}
// SAFETY: as above.
unsafe impl Sync for Flows {}

impl Flows {
    /// Maps an array of `count` flows.
    pub(super) fn map(array: impl AsFd, count: u32) -> nix::Result<Self> {
        let len = NonZeroUsize::new(count as usize * size_of::<Flow>()).ok_or(nix::Error::EINVAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let first =
            unsafe { mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, array, 0) }?;
        Ok(Self { first: first.cast(), len, count })
    }

    /// One flow of it.
    ///
    /// # Panics
    /// There is no such slot.
    pub(super) fn at(&self, slot: Slot) -> FlowCell<'_> {
        assert!(slot < self.count, "slot {slot} of {}", self.count);
        // SAFETY: within the mapping, which lives as long as the borrow; page-aligned, as `Flow` needs it.
        FlowCell { flow: unsafe { self.first.add(slot as usize) }, _flows: self }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.first.cast(), self.len.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// What the kernel did for one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redirected {
    /// Payload bytes that the kernel moved from the source to the sink.
    pub bytes: u64,
    /// The packets they came in.
    pub packets: u64,
}

/// One flow of the mapping.
#[derive(Clone, Copy)]
pub(super) struct FlowCell<'a> {
    flow: NonNull<Flow>,
    _flows: &'a Flows,
}

/// A field of a cell as an atomic.
macro_rules! field {
    ($cell:expr, $field:ident, $atomic:ty) => {
        // SAFETY: in the mapping, which outlives the cell, and aligned; all its writers, here and in the programs, store
        // whole words.
        unsafe { <$atomic>::from_ptr(&raw mut (*$cell.flow.as_ptr()).$field) }
    };
}

impl FlowCell<'_> {
    /// Prepares the flow for a new direction. Only before the programs can find it.
    pub(super) fn reset(self, slot: Slot, given: u64, acked: u64, limits: &Limits) {
        for (field, value) in [
            (field!(self, redirected_bytes, AtomicU64), 0),
            (field!(self, redirected_packets, AtomicU64), 0),
            (field!(self, acked_seen, AtomicU64), acked),
            (field!(self, window, AtomicU64), 0),
            (field!(self, burst, AtomicU64), 0),
            (field!(self, processed, AtomicU64), 0),
            (field!(self, given, AtomicU64), given),
            (field!(self, soft, AtomicU64), limits.soft),
            (field!(self, hard, AtomicU64), limits.hard),
            (field!(self, bulk, AtomicU64), limits.bulk),
            (field!(self, passed, AtomicU64), 0),
            (field!(self, gate_dropped, AtomicU64), 0),
        ] {
            field.store(value, Ordering::Relaxed);
        }
        field!(self, slot, AtomicU32).store(slot, Ordering::Relaxed);
        field!(self, alarm, AtomicU32).store(0, Ordering::Relaxed);
        field!(self, gate, AtomicU32).store(0, Ordering::Release);
    }

    pub(super) fn redirected(self) -> Redirected {
        Redirected {
            bytes: field!(self, redirected_bytes, AtomicU64).load(Ordering::Acquire),
            packets: field!(self, redirected_packets, AtomicU64).load(Ordering::Acquire),
        }
    }

    /// The alarm bits.
    pub(super) fn alarm(self) -> u32 {
        field!(self, alarm, AtomicU32).load(Ordering::Acquire)
    }

    /// Packets that the gate dropped.
    pub(super) fn gate_dropped(self) -> u64 {
        field!(self, gate_dropped, AtomicU64).load(Ordering::Relaxed)
    }

    /// Shuts the gate, before everything that this thread loads next.
    pub(super) fn shut_gate(self) {
        field!(self, gate, AtomicU32).swap(1, Ordering::SeqCst);
    }

    /// Lets packets through again.
    pub(super) fn open_gate(self) {
        field!(self, gate, AtomicU32).store(0, Ordering::SeqCst);
    }

    /// Whether TCP has received everything that the gate let through, so that behind a shut gate no packet is on its way
    /// to a verdict. False also when it cannot be told: before the first packet, or while a packet is missing.
    pub(super) fn is_settled(self) -> bool {
        let passed = field!(self, passed, AtomicU64).load(Ordering::SeqCst);
        let processed = field!(self, processed, AtomicU64).load(Ordering::SeqCst);
        passed & SEQUENCE_KNOWN != 0 && passed == processed
    }
}
