//! The gate of a direction: while it is shut, arriving payload is dropped before TCP sees it, so that the sender repeats
//! it and nothing is lost.

use aya_ebpf::programs::SkBuffContext;
use landbridge_common::{Counter, Flow};

use crate::atomics::{add, note};
use crate::counters::count;
use crate::flow;

/// What a socket filter returns: how much of the packet is kept. The kernel takes it as an upper limit.
const ALL: u32 = u32::MAX;
const NOTHING: u32 = 0;

/// Offsets in the TCP header, which a filter's packet begins with.
const SEQUENCE: usize = 4;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const FIN: u8 = 1;

/// Decides about one packet. What carries neither payload nor a FIN always passes: acknowledgements must.
#[inline(always)]
pub(crate) fn decide(packet: &SkBuffContext) -> u32 {
    let Ok(header) = packet.load::<[u8; 16]>(0) else { return ALL };
    let fin = u32::from(header[FLAGS] & FIN);
    let header_len = u32::from(header[DATA_OFFSET] >> 4) * 4;
    let occupies = packet.len().wrapping_sub(header_len).wrapping_add(fin);
    if occupies == 0 {
        return ALL;
    }
    // A leg that is not promoted has no gate.
    let Some(flow) = flow::of(flow::cookie(packet)) else { return ALL };
    if is_shut(flow) {
        return drop(flow);
    }
    let begin =
        u32::from_be_bytes([header[SEQUENCE], header[SEQUENCE + 1], header[SEQUENCE + 2], header[SEQUENCE + 3]]);
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe { note(&raw mut (*flow).passed, begin.wrapping_add(occupies)) };
    // Again, after the barrier of `note`: the daemon shuts the gate and then reads what was noted. Either it sees this
    // packet, and waits for its verdict, or this packet sees the shut gate.
    if is_shut(flow) { drop(flow) } else { ALL }
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
