//! The gate of a direction: while it is shut, arriving payload is dropped before TCP sees it, so that the sender repeats
//! it and nothing is lost.

use core::arch::asm;

use aya_ebpf::programs::SkBuffContext;
use landbridge_common::{Counter, Flow};

use crate::atomics::add;
use crate::counters::count;
use crate::flow;

/// What a socket filter returns: how much of the packet is kept. The kernel takes it as an upper limit.
const ALL: u32 = u32::MAX;
const NOTHING: u32 = 0;

/// Offsets in the TCP header, which a filter's packet begins with.
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const FIN: u8 = 1;

/// Decides about one packet. What carries neither payload nor a FIN always passes: acknowledgements must.
#[inline(always)]
pub(crate) fn decide(packet: &SkBuffContext) -> u32 {
    let Ok(header) = packet.load::<[u8; 16]>(0) else { return ALL };
    let fin = header[FLAGS] & FIN != 0;
    let header_len = u32::from(header[DATA_OFFSET] >> 4) * 4;
    let has_payload = packet.len() > header_len;
    if !has_payload && !fin {
        return ALL;
    }
    // A leg that is not promoted has no gate.
    let Some(flow) = flow::of(flow::cookie(packet)) else { return ALL };
    if is_shut(flow) {
        return drop(flow);
    }
    // As `tcp_segs_in` will count it.
    // SAFETY: the context is the one the kernel called the program with.
    let segments = match unsafe { (*packet.skb.skb).gso_segs } {
        _ if !has_payload => 0,
        0 => 1,
        segments => u64::from(segments),
    };
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe { add_in_order(&raw mut (*flow).passed, segments) };
    // Again, after the barrier: the daemon shuts the gate and then reads what was counted. Either it sees this packet, and waits
    // until TCP has it, or this packet sees the shut gate.
    if is_shut(flow) {
        // SAFETY: as before.
        unsafe { add(&raw mut (*flow).passed, segments.wrapping_neg()) };
        return drop(flow);
    }
    ALL
}

/// The same as [`add`], and a full barrier.
///
/// # Safety
/// `value` must point into a map value and be aligned to 8 bytes.
#[inline(always)]
unsafe fn add_in_order(value: *mut u64, by: u64) {
    // What it was before is not needed, but only that way it is a barrier.
    // SAFETY: the caller's.
    unsafe {
        asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) by => _, in(reg) value, options(nostack));
    }
}

#[inline(always)]
fn is_shut(flow: *mut Flow) -> bool {
    // SAFETY: the map keeps the value in place; the daemon stores the whole word at once.
    unsafe { (&raw const (*flow).gate).read_volatile() != 0 }
}

#[inline(always)]
fn drop(flow: *mut Flow) -> u32 {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe { add(&raw mut (*flow).gate_dropped, 1) };
    count(Counter::GateDropped, 1);
    NOTHING
}
