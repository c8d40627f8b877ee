//! The way to a peer: asked of the kernel for each packet, so that routes and devices may change at any time.

use core::mem::size_of;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
    BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup, bpf_redir_neigh,
};
use aya_ebpf::helpers::{bpf_fib_lookup as lookup, bpf_redirect_neigh};
use landbridge_common::packet::{Leg, Tuple};

use crate::maps::Scratch;
use crate::skb::Skb;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The loopback device, which the kernel itself takes for the origin of what this host sends.
const LOOPBACK: u32 = 1;

/// Where a packet is to go. The next hop is in the scratch.
pub(crate) struct Way {
    device: u32,
    has_hop: bool,
}

/// What is asked for.
pub(crate) struct Question {
    /// The IP protocol.
    pub(crate) protocol: u8,
    /// The type of service, or traffic class.
    pub(crate) class: u32,
    /// The length of one packet on the wire, from the IP header on, in bytes.
    pub(crate) len: u32,
    /// Whether the addresses are IPv6.
    pub(crate) is_ipv6: bool,
}

/// Why there is none.
pub(crate) enum NoWay {
    /// The kernel knows none.
    Unknown,
    /// The packet is too long for it; this is what it takes, in bytes.
    TooLong(u32),
}

/// The way along `leg.out`.
#[inline(always)]
pub(crate) fn find<const LINK: u32>(
    skb: Skb<LINK>,
    scratch: *mut Scratch,
    leg: *mut Leg,
    question: &Question,
) -> Result<Way, NoWay> {
    // SAFETY: the map keeps the value in place; the daemon wrote these before it armed the joint.
    let (out, device, is_bound) = unsafe { (&(*leg).out, (*leg).device, (*leg).is_bound != 0) };
    // SAFETY: the scratch is this run's.
    let fib = unsafe { &raw mut (*scratch).fib };
    // SAFETY: the scratch is this run's, and all fields of the unions are integers.
    unsafe { ask(fib, out, question) };
    let flags = BPF_FIB_LOOKUP_SKIP_NEIGH | if is_bound { BPF_FIB_LOOKUP_OUTPUT } else { 0 };
    // SAFETY: as before; the kernel reads and writes the structure alone.
    let code = unsafe {
        (*fib).ifindex = if is_bound { device } else { LOOPBACK };
        lookup(skb.raw().cast(), fib, size_of::<bpf_fib_lookup>() as i32, flags)
    };
    if code == i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        // SAFETY: as before.
        return Ok(unsafe {
            let hop = &raw mut (*scratch).hop;
            let family = (*fib).family;
            (*hop).nh_family = u32::from(family);
            (*hop).__bindgen_anon_1.ipv6_nh = (*fib).__bindgen_anon_4.ipv6_dst;
            Way { device: (*fib).ifindex, has_hop: true }
        });
    }
    // A kernel that knows the helper but not the flag, or that says nothing about routes because forwarding is off.
    if (code < 0 || code == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)) && device != 0 {
        return Ok(Way { device, has_hop: false });
    }
    if code == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        // SAFETY: as before; all fields of the union are integers.
        return Err(NoWay::TooLong(unsafe { (*fib).__bindgen_anon_1.mtu_result }.into()));
    }
    Err(NoWay::Unknown)
}

/// Fills in the question.
///
/// # Safety
/// `fib` must be writable.
#[inline(always)]
unsafe fn ask(fib: *mut bpf_fib_lookup, out: &Tuple, question: &Question) {
    // SAFETY: the caller's.
    unsafe {
        (*fib).family = if question.is_ipv6 { AF_INET6 } else { AF_INET };
        (*fib).l4_protocol = question.protocol;
        (*fib).sport = out.source_port;
        (*fib).dport = out.destination_port;
        (*fib).__bindgen_anon_1.tot_len = question.len as u16;
        if question.is_ipv6 {
            (*fib).__bindgen_anon_2.flowinfo = (question.class << 20).to_be();
            let mut n = 0;
            while n < 4 {
                // Volatile, else the compiler calls its memmove, which copies byte by byte.
                (*fib).__bindgen_anon_3.ipv6_src[n] = (&raw const out.source[n]).read_volatile();
                (*fib).__bindgen_anon_4.ipv6_dst[n] = (&raw const out.destination[n]).read_volatile();
                n += 1;
            }
        } else {
            (*fib).__bindgen_anon_2.flowinfo = 0;
            (*fib).__bindgen_anon_2.tos = question.class as u8;
            (*fib).__bindgen_anon_3.ipv4_src = out.source[3];
            (*fib).__bindgen_anon_4.ipv4_dst = out.destination[3];
        }
        (*fib).__bindgen_anon_5.tbid = 0;
    }
}

/// Sends the packet; what the program then returns.
#[inline(always)]
pub(crate) fn send(scratch: *mut Scratch, way: &Way) -> i32 {
    // SAFETY: the scratch is this run's, and the kernel copies the next hop. Without one it looks for it on the device.
    unsafe {
        let hop = &raw mut (*scratch).hop;
        let code = if way.has_hop {
            bpf_redirect_neigh(way.device, hop, size_of::<bpf_redir_neigh>() as i32, 0)
        } else {
            bpf_redirect_neigh(way.device, core::ptr::null_mut(), 0, 0)
        };
        code as i32
    }
}
