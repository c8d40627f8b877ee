//! The flows in their mapped array: counters are read and gates moved without a system call.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use landbridge_common::{Flow, Slot};

use super::Limits;
use super::mapped::{Mapped, field};

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
    _flows: &'a Mapped<Flow>,
}

/// The flow in a slot.
///
/// # Panics
/// There is no such slot.
pub(super) fn cell(flows: &Mapped<Flow>, slot: Slot) -> FlowCell<'_> {
    FlowCell { flow: flows.at(slot), _flows: flows }
}

impl FlowCell<'_> {
    /// Prepares the flow for a new direction, whose source has received so many segments. Only before the programs can find it.
    pub(super) fn reset(self, slot: Slot, (given, acked): (u64, u64), segments: u32, limits: &Limits) {
        for (field, value) in [
            (field!(self.flow, redirected_bytes, AtomicU64), 0),
            (field!(self.flow, redirected_packets, AtomicU64), 0),
            (field!(self.flow, acked_seen, AtomicU64), acked),
            (field!(self.flow, window, AtomicU64), 0),
            (field!(self.flow, burst, AtomicU64), 0),
            (field!(self.flow, given, AtomicU64), given),
            (field!(self.flow, soft, AtomicU64), limits.soft),
            (field!(self.flow, hard, AtomicU64), limits.hard),
            (field!(self.flow, bulk, AtomicU64), limits.bulk),
            (field!(self.flow, passed, AtomicU64), 0),
            (field!(self.flow, gate_dropped, AtomicU64), 0),
        ] {
            field.store(value, Ordering::Relaxed);
        }
        field!(self.flow, slot, AtomicU32).store(slot, Ordering::Relaxed);
        field!(self.flow, ahead, AtomicU32).store(segments, Ordering::Relaxed);
        field!(self.flow, alarm, AtomicU32).store(0, Ordering::Relaxed);
        field!(self.flow, gate, AtomicU32).store(0, Ordering::Release);
    }

    pub(super) fn redirected(self) -> Redirected {
        Redirected {
            bytes: field!(self.flow, redirected_bytes, AtomicU64).load(Ordering::Acquire),
            packets: field!(self.flow, redirected_packets, AtomicU64).load(Ordering::Acquire),
        }
    }

    /// The alarm bits.
    pub(super) fn alarm(self) -> u32 {
        field!(self.flow, alarm, AtomicU32).load(Ordering::Acquire)
    }

    /// Packets that the gate dropped.
    pub(super) fn gate_dropped(self) -> u64 {
        field!(self.flow, gate_dropped, AtomicU64).load(Ordering::Relaxed)
    }

    /// Shuts the gate, before everything that this thread loads next.
    pub(super) fn shut_gate(self) {
        field!(self.flow, gate, AtomicU32).swap(1, Ordering::SeqCst);
    }

    /// Lets packets through again.
    pub(super) fn open_gate(self) {
        field!(self.flow, gate, AtomicU32).store(0, Ordering::SeqCst);
    }

    /// Whether everything that the gate let through has come to TCP, which has received so many `segments`. Behind a shut gate it
    /// stays so.
    pub(super) fn is_settled(self, segments: u32) -> bool {
        let passed = field!(self.flow, passed, AtomicU64).load(Ordering::SeqCst) as u32;
        let ahead = field!(self.flow, ahead, AtomicU32).load(Ordering::Relaxed);
        segments.wrapping_sub(passed).wrapping_sub(ahead).cast_signed() >= 0
    }
}
