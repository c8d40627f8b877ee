//! What the daemon and its eBPF programs share: keys and values of the maps, and the counter slots.
//!
//! Every type is `repr(C)` without hidden padding, so that both sides, compiled for different machines, read the same
//! bytes.
#![no_std]

pub mod packet;

use core::mem::{align_of, offset_of, size_of};

/// The kernel's name for one TCP socket (`SO_COOKIE`, `bpf_get_socket_cookie`): never reused while the machine is up,
/// and the same for IPv4 and IPv6. It keys every map that knows about legs.
pub type Cookie = u64;

/// The index of a [`Flow`] in the array `FLOWS`.
pub type Slot = u32;

/// Directions that can be in the kernel at once, at most; a session promoted both ways needs two.
pub const MAX_FLOWS: u32 = 65_536;

/// The windows in which bulk is recognised are 2^23 ns long, 8.4 ms: the verdict shifts a clock instead of dividing it.
pub const BULK_WINDOW_SHIFT: u32 = 23;

/// More than [`Flow::soft`] bytes are on their way: the sink's peer falls behind.
pub const ALARM_BEHIND: u32 = 1;
/// More than [`Flow::bulk`] bytes arrived in one window.
pub const ALARM_BULK: u32 = 1 << 1;
/// More than [`Flow::hard`] bytes are on their way: the verdict has shut the gate.
pub const ALARM_HARD: u32 = 1 << 2;
/// Bytes that TCP has acknowledged are lost. Nothing that comes after them is handed on, and the verdict has shut the
/// gate.
pub const ALARM_BROKEN: u32 = 1 << 3;

/// What the programs know and count about one promoted direction.
///
/// The array that holds it is mapped into the daemon, which reads and writes single fields while the programs run. The
/// first cache line is the verdict's, which writes it under the source's socket lock; the second one is the daemon's
/// and the gate's, apart from [`Flow::gate`], which the verdict writes too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Flow {
    /// Payload bytes handed to the sink.
    pub redirected_bytes: u64,
    /// Packets handed to the sink.
    pub redirected_packets: u64,
    /// The sink's `bytes_acked` when the verdict last looked.
    pub acked_seen: u64,
    /// The window that `burst` is about.
    pub window: u64,
    /// Bytes of the current window.
    pub burst: u64,
    /// `ALARM_*`, set by the verdict and never cleared while the direction is promoted.
    pub alarm: u32,
    /// This flow's own index, so that an alarm can name it.
    pub slot: Slot,
    /// By how many segments the source's `data_segs_in` is ahead of [`Flow::passed`], at most, modulo 2^32: those that
    /// came before the gate counted. While it is less ahead a packet is on its way from the gate to TCP.
    pub ahead: u32,
    /// The rest of the line.
    pub reserved: [u32; 3],

    /// What the sink's `bytes_acked` will be when everything that it was given before the promotion is acknowledged.
    pub given: u64,
    /// Bytes on their way from which [`ALARM_BEHIND`] is raised.
    pub soft: u64,
    /// Bytes on their way from which the gate is shut.
    pub hard: u64,
    /// Bytes in one window from which [`ALARM_BULK`] is raised.
    pub bulk: u64,
    /// Segments with payload that the gate let through, counted as `data_segs_in` counts them.
    pub passed: u64,
    /// Packets that the gate dropped.
    pub gate_dropped: u64,
    /// 0: open; 1: shut.
    pub gate: u32,
    /// The rest of the line.
    pub reserved_2: [u32; 3],
}

/// The slots of the per-CPU array `COUNTERS`. Sum a slot over all CPUs to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Packets handed to the other leg.
    RedirectedPackets = 0,
    /// Payload bytes handed to the other leg.
    RedirectedBytes = 1,
    /// Packets without payload that were dropped: FINs, which TCP itself has processed by then.
    EmptyDropped = 2,
    /// Packets dropped because their leg has no [`Flow`].
    NoFlow = 3,
    /// Packets dropped because the other leg is gone.
    NoPeer = 4,
    /// Packets that a shut gate dropped before TCP saw them; their senders repeat them.
    GateDropped = 5,
    /// Alarms that found the ring buffer full.
    AlarmLost = 6,
    /// Packets that began with bytes which had been forwarded before; these were cut off.
    Overlapping = 7,
}

impl Counter {
    /// Every slot, in the order of the array.
    pub const ALL: [Self; 8] = [
        Self::RedirectedPackets,
        Self::RedirectedBytes,
        Self::EmptyDropped,
        Self::NoFlow,
        Self::NoPeer,
        Self::GateDropped,
        Self::AlarmLost,
        Self::Overlapping,
    ];

    /// The slots of the array.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

const _: () = {
    assert!(size_of::<Flow>() == 128 && align_of::<Flow>() == 64);
    assert!(offset_of!(Flow, reserved) == 52 && offset_of!(Flow, given) == 64 && offset_of!(Flow, reserved_2) == 116);
    let mut slot = 0;
    while slot < Counter::ALL.len() {
        assert!(Counter::ALL[slot] as usize == slot);
        slot += 1;
    }
};
