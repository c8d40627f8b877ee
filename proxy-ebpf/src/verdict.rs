//! The verdict on one packet: hand it to the other leg, or say why not.

use core::arch::asm;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::warn;
use landbridge_common::{Cookie, Counter};

use crate::maps::{COUNTERS, FLOWS, PEERS};

/// What becomes of a packet.
pub(crate) enum Verdict {
    /// The other leg sends it on.
    Redirected,
    /// It is discarded.
    Drop,
    /// The receiving socket queues it for user space.
    Pass,
}

impl From<Verdict> for u32 {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            // The redirect helper has noted the socket; the action that makes the kernel follow it is SK_PASS.
            Verdict::Redirected | Verdict::Pass => SK_PASS,
            Verdict::Drop => SK_DROP,
        }
    }
}

/// Decides about one packet and counts the decision.
#[inline(always)]
pub(crate) fn decide(packet: &SkBuffContext) -> Verdict {
    let len = u64::from(packet.len());
    if len == 0 {
        // A FIN without data. TCP has processed it already; redirected, it would break the other leg.
        count(Counter::EmptyDropped, 1);
        return Verdict::Drop;
    }

    // SAFETY: the context is the one the kernel called the program with.
    let cookie: Cookie = unsafe { bpf_get_socket_cookie(packet.skb.skb.cast()) };
    let Some(flow) = FLOWS.get_ptr_mut(cookie) else {
        count(Counter::NoFlow, 1);
        warn!(packet, "leg {} is promoted but has no flow: left to user space", cookie);
        return Verdict::Pass;
    };

    if PEERS.redirect_skb(packet, cookie, 0) != i64::from(SK_PASS) {
        count(Counter::NoPeer, 1);
        warn!(packet, "the other leg of {} is gone: {} bytes dropped", cookie, len);
        return Verdict::Drop;
    }

    // SAFETY: the map keeps the value in place, and the receiving socket's lock, which is held here, keeps every other
    // writer of this flow away.
    unsafe {
        (*flow).redirected_packets += 1;
        (*flow).redirected_bytes += len;
    }
    count(Counter::RedirectedPackets, 1);
    count(Counter::RedirectedBytes, len);
    Verdict::Redirected
}

#[inline(always)]
fn count(slot: Counter, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot as u32) {
        // Atomic although the slot is this CPU's own: a verdict on a socket's backlog runs in process context, where a
        // softirq with another verdict can interrupt it. The target's atomic types have no read-modify-write methods.
        // SAFETY: the map keeps the value in place, aligned to 8 bytes, and everyone else only loads it.
        unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) value, in(reg) by, options(nostack)) };
    }
}
