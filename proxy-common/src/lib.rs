//! What the daemon and its eBPF programs share: keys and values of the maps, and the counter slots.
//!
//! Every type is `repr(C)` without padding, so that both sides, compiled for different machines, read the same bytes.
#![no_std]

use core::mem::{align_of, size_of};

/// The kernel's name for one TCP socket (`SO_COOKIE`, `bpf_get_socket_cookie`): never reused while the machine is up,
/// and the same for IPv4 and IPv6. It keys every map that knows about legs.
pub type Cookie = u64;

/// Legs that can be in the kernel at once; a session promoted both ways needs two. The maps have this capacity, and an
/// insert beyond it fails, which leaves the session in user space.
pub const MAX_LEGS: u32 = 65_536;

/// What the verdict knows and counts about one direction, kept under the cookie of the leg that receives its bytes.
///
/// Only the verdict writes it while the direction is promoted, always under that leg's socket lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Packets handed to the other leg.
    pub redirected_packets: u64,
    /// Payload bytes handed to the other leg.
    pub redirected_bytes: u64,
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
    /// Packets of a leg that has no [`Flow`], left to user space.
    NoFlow = 3,
    /// Packets dropped because the other leg is gone.
    NoPeer = 4,
}

impl Counter {
    /// Every slot, in the order of the array.
    pub const ALL: [Self; 5] =
        [Self::RedirectedPackets, Self::RedirectedBytes, Self::EmptyDropped, Self::NoFlow, Self::NoPeer];

    /// The slots of the array.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

const _: () = {
    assert!(size_of::<Flow>() == 16 && align_of::<Flow>() == 8);
    let mut slot = 0;
    while slot < Counter::ALL.len() {
        assert!(Counter::ALL[slot] as usize == slot);
        slot += 1;
    }
};
