//! Every map, and why it has its capacity.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup, bpf_redir_neigh};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use landbridge_common::packet::{Joint, LegRef, MAX_JOINTS, PacketCounter, Tuple};

/// The legs of joined sessions, by the four-tuple as it arrives: two for each joint. Entries are allocated on insert,
/// so that an idle daemon does not hold memory for the full capacity.
#[map]
pub(crate) static LEGS: HashMap<Tuple, LegRef> = HashMap::with_max_entries(2 * MAX_JOINTS, BPF_F_NO_PREALLOC);

/// The joints, mapped into the daemon. The loader makes it as large as the daemon's limits: the kernel allocates all of
/// it at once.
#[map]
pub(crate) static JOINTS: Array<Joint> = Array::with_max_entries(MAX_JOINTS, BPF_F_MMAPABLE);

/// Joints that changed their phase. A record needs 16 bytes, so 4,096 can wait; when one found no room, every session looks
/// at its joint.
#[map]
pub(crate) static PACKET_EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// What the programs did, one set of slots for each CPU so that no CPU waits for another.
#[map]
pub(crate) static PACKET_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(PacketCounter::COUNT, 0);

/// The words of [`Scratch::tcp`]: the longest TCP header is 15 words long. An index into it is masked to 63 bytes, and
/// four SACK blocks of 8 bytes after a head of 2 are read from there on.
pub(crate) const TCP_WORDS: usize = (63 + 2 + 4 * 8_usize).div_ceil(4);

/// Room for what would not fit on the stack of 512 bytes. Valid for one run of a program: packets arrive with softirqs
/// disabled, so that no other run on the same CPU comes in between.
#[repr(C)]
pub(crate) struct Scratch {
    /// The TCP header, and behind it what may be read but does not matter.
    pub(crate) tcp: [u32; TCP_WORDS],
    /// Where in the options the program is.
    pub(crate) at: u32,
    /// The IP header as it arrived, and the ports.
    pub(crate) arrived: [u32; 11],
    /// The four-tuple as it arrived.
    pub(crate) tuple: Tuple,
    /// The new IP header.
    pub(crate) ip: [u32; 10],
    /// What an ICMP error tells of the packet that it is about: the IP header, the ports, the sequence number.
    pub(crate) inner: [u32; 12],
    /// The question to the routing table, and its answer.
    pub(crate) fib: bpf_fib_lookup,
    /// The next hop.
    pub(crate) hop: bpf_redir_neigh,
}

/// One for each CPU.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
