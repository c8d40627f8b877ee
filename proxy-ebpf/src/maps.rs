//! Every map, and why it has its capacity.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, SockHash};
use landbridge_common::{Cookie, Counter, Flow, MAX_LEGS};

/// The legs whose arriving bytes the kernel forwards: cookie -> that leg. The verdict is attached here, so a leg in it is
/// promoted and a leg that leaves it is not. One entry a leg.
#[map]
pub(crate) static SOURCES: SockHash<Cookie> = SockHash::with_max_entries(MAX_LEGS, 0);

/// Where the bytes go: cookie of the leg they arrived on -> the other leg. No program is attached. A leg keeps its kernel
/// backlog as long as it is in any sockhash, so it can leave `SOURCES` without losing bytes while it is in here.
#[map]
pub(crate) static PEERS: SockHash<Cookie> = SockHash::with_max_entries(MAX_LEGS, 0);

/// What is counted for each leg in `SOURCES`. User space inserts before it promotes and reads while it demotes; entries
/// are allocated on insert, so that an idle daemon does not hold memory for the full capacity.
#[map]
pub(crate) static FLOWS: HashMap<Cookie, Flow> = HashMap::with_max_entries(MAX_LEGS, BPF_F_NO_PREALLOC);

/// What all verdicts together did, one set of slots for each CPU so that no CPU waits for another.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
