//! Which flow a packet belongs to.

use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;
use landbridge_common::{Cookie, Flow};

use crate::maps::{FLOWS, SLOTS};

/// The name of the leg that the packet arrived on.
#[inline(always)]
pub(crate) fn cookie(packet: &SkBuffContext) -> Cookie {
    // SAFETY: the context is the one the kernel called the program with.
    unsafe { bpf_get_socket_cookie(packet.skb.skb.cast()) }
}

/// The flow of the direction that begins at a leg, if it is promoted.
#[inline(always)]
pub(crate) fn of(source: Cookie) -> Option<*mut Flow> {
    // SAFETY: the daemon removes entries, and the kernel frees them only after every program that runs now has ended.
    let slot = unsafe { SLOTS.get(source) }?;
    FLOWS.get_ptr_mut(*slot)
}
