//! The eBPF programs of the packet datapath: entry points only.
//!
//! | program | type | attached to | minimum kernel |
//! |---|---|---|---|
//! | `packet_ethernet` | `sched_cls` | the ingress of devices with a MAC header | 5.12: compare and exchange |
//! | `packet_raw` | `sched_cls` | the ingress of devices without one: TUN, WireGuard | 5.12 |
//! | `deaf` | `socket_filter` | both sockets of a joined session | 3.19 |
//!
//! Kernels before Linux 6.1 are not supported, whatever these tables say.
//!
//! What they call, and since when the kernel has it:
//!
//! | helper | for | kernel |
//! |---|---|---|
//! | `bpf_skb_change_proto` | legs of different families, and errors between them | 4.8 |
//! | `bpf_skb_change_tail`, `bpf_csum_update` | the turning packet, answers, padding | 4.9 |
//! | `bpf_clone_redirect` | the turning packet | 4.2 |
//! | `bpf_skb_change_head` | `packet_raw`, ICMP errors of this host | 5.8 in this type of program |
//! | `bpf_ringbuf_output` | events | 5.8 |
//! | `bpf_redirect_neigh` with a next hop | sending | 5.10 |
//! | `bpf_fib_lookup` with `BPF_FIB_LOOKUP_SKIP_NEIGH` | following the routes | 6.4; before, [`Leg::device`] is used |
//!
//! [`Leg::device`]: landbridge_common::packet::Leg::device
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[path = "../atomics.rs"]
mod atomics;
mod between;
mod challenge;
mod checksum;
mod counters;
mod exchange;
mod icmp;
mod leg;
mod live;
mod maps;
mod options;
mod own;
mod parse;
mod phases;
mod route;
mod skb;
mod too_long;
mod track;
mod translate;
mod turn;
mod window;

use aya_ebpf::macros::{classifier, socket_filter};
use aya_ebpf::programs::{SkBuffContext, TcContext};

use crate::skb::Skb;

/// Decides about each packet that arrives on a device with a MAC header.
#[classifier]
fn packet_ethernet(packet: TcContext) -> i32 {
    parse::classify(Skb::<14>::of(&packet))
}

/// Decides about each packet that arrives on a device whose packets begin with the IP header.
#[classifier]
fn packet_raw(packet: TcContext) -> i32 {
    parse::classify(Skb::<0>::of(&packet))
}

/// Keeps every packet from the socket of a joined session.
#[socket_filter]
fn deaf(_: SkBuffContext) -> i64 {
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The helpers that programs may call depend on this: several are reserved for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
