//! The eBPF programs: entry points only.
//!
//! | program | type | attached to | minimum kernel |
//! |---|---|---|---|
//! | `verdict` | `sk_skb/stream_verdict` | the sockhash `SOURCES` | 5.11: the coarse clock; 5.10 for a verdict without a parser |
//! | `gate` | `socket_filter` | each leg that was promoted | 5.12: compare and exchange |
//!
//! They work there; the daemon uses them from the kernels on that forward without known bugs.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomics;
mod counters;
mod flow;
mod gate;
mod limits;
mod maps;
mod overlap;
mod tcp;
mod verdict;

use aya_ebpf::macros::{socket_filter, stream_verdict};
use aya_ebpf::programs::SkBuffContext;

/// Decides about each packet that arrives on a leg in `SOURCES`, after TCP took it.
#[stream_verdict]
fn verdict(packet: SkBuffContext) -> u32 {
    verdict::decide(&packet).into()
}

/// Decides about each packet that arrives on a leg, before TCP sees it.
#[socket_filter]
fn gate(packet: SkBuffContext) -> i64 {
    gate::decide(&packet).into()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The helpers that programs may call depend on this: several are reserved for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
