//! The eBPF programs: entry points only.
//!
//! | program | type | attached to | minimum kernel |
//! |---|---|---|---|
//! | `verdict` | `sk_skb/stream_verdict` | the sockhash `SOURCES` | 5.10: before it, a verdict needed a parser program |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
mod verdict;

use aya_ebpf::macros::stream_verdict;
use aya_ebpf::programs::SkBuffContext;

/// Decides about each packet that arrives on a leg in `SOURCES`.
#[stream_verdict]
fn verdict(packet: SkBuffContext) -> u32 {
    verdict::decide(&packet).into()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The helpers that programs may call depend on this: several are reserved for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
