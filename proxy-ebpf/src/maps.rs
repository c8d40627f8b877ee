//! Every map, and why it has its capacity.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, SockHash};
use landbridge_common::{Cookie, Counter, Flow, MAX_FLOWS, Slot};

/// The legs whose arriving bytes the kernel forwards: cookie -> that leg. The verdict is attached here, so a leg in it is
/// promoted and a leg that leaves it is not. One entry a direction.
#[map]
pub(crate) static SOURCES: SockHash<Cookie> = SockHash::with_max_entries(MAX_FLOWS, 0);

/// Where the bytes go: cookie of the leg they arrived on -> the other leg. No program is attached. A leg keeps its kernel
/// backlog as long as it is in any sockhash, so it can leave `SOURCES` without losing bytes while it is in here.
#[map]
pub(crate) static PEERS: SockHash<Cookie> = SockHash::with_max_entries(MAX_FLOWS, 0);

/// Which flow belongs to a leg in `SOURCES`. Entries are allocated on insert, so that an idle daemon does not hold memory
/// for the full capacity.
#[map]
pub(crate) static SLOTS: HashMap<Cookie, Slot> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);

/// The flows, mapped into the daemon, which reads counters and moves gates without a system call. The loader makes it as
/// large as the daemon's budget: the kernel allocates all of it at once.
#[map]
pub(crate) static FLOWS: Array<Flow> = Array::with_max_entries(MAX_FLOWS, BPF_F_MMAPABLE);

/// Slots of flows that raised an alarm. A record needs 16 bytes, so 4,096 can wait; the daemon looks at all flows when
/// one found no room.
#[map]
pub(crate) static ALARMS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// What all programs together did, one set of slots for each CPU so that no CPU waits for another.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
