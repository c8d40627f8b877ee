//! The verdict on one packet: hand it to the other leg, or say why not.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::warn;
use landbridge_common::{Counter, Flow, SEQUENCE_KNOWN};

use crate::counters::count;
use crate::maps::PEERS;
use crate::tcp::TcpSock;
use crate::{flow, limits, overlap};

/// What becomes of a packet.
///
/// None is ever left to the receiving socket: what a verdict passes waits in the kernel's own queue, behind the other
/// direction's backlog, and is lost when the socket closes. What is dropped here is missing when the daemon compares
/// received with forwarded bytes, and it then resets both legs.
pub(crate) enum Verdict {
    /// The other leg sends it on.
    Redirected,
    /// It is discarded.
    Drop,
}

impl From<Verdict> for u32 {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            // The redirect helper has noted the socket; the action that makes the kernel follow it is SK_PASS.
            Verdict::Redirected => SK_PASS,
            Verdict::Drop => SK_DROP,
        }
    }
}

/// Decides about one packet and counts the decision.
#[inline(always)]
pub(crate) fn decide(packet: &SkBuffContext) -> Verdict {
    let source = flow::cookie(packet);
    let Some(flow) = flow::of(source) else {
        // The daemon inserts the flow before the leg and removes it after the leg: a session that is being reset.
        count(Counter::NoFlow, 1);
        return Verdict::Drop;
    };
    // SAFETY: the kernel sets the socket for the time of the verdict.
    if let Some(socket) = unsafe { TcpSock::of((*packet.skb.skb).__bindgen_anon_2.sk) } {
        note_progress(socket, flow);
        if overlap::cut(packet, socket).is_err() {
            warn!(packet, "a packet of {} repeats bytes, and they cannot be cut off", source);
            return Verdict::Drop;
        }
    }

    let len = u64::from(packet.len());
    if len == 0 {
        // A FIN without data. TCP has processed it already; redirected, it would break the other leg.
        count(Counter::EmptyDropped, 1);
        return Verdict::Drop;
    }
    if PEERS.redirect_skb(packet, source, 0) != i64::from(SK_PASS) {
        count(Counter::NoPeer, 1);
        warn!(packet, "the other leg of {} is gone: {} bytes dropped", source, len);
        return Verdict::Drop;
    }

    // SAFETY: the map keeps the value in place, and the receiving socket's lock, which is held here, keeps every other
    // writer of these fields away.
    unsafe {
        (*flow).redirected_packets += 1;
        (*flow).redirected_bytes += len;
        limits::watch(flow, source, len);
    }
    count(Counter::RedirectedPackets, 1);
    count(Counter::RedirectedBytes, len);
    Verdict::Redirected
}

/// Notes how far the source has received: nothing that the gate let through up to there is still on its way to a verdict,
/// except what this run of verdicts is about to take.
#[inline(always)]
fn note_progress(source: TcpSock, flow: *mut Flow) {
    let processed = SEQUENCE_KNOWN | u64::from(source.rcv_nxt());
    // SAFETY: the map keeps the value in place.
    unsafe { (&raw mut (*flow).processed).write_volatile(processed) };
}
