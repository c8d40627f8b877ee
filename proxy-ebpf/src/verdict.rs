//! The verdict on one packet: hand it to the other leg, or say why not.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::warn;
use landbridge_common::{ALARM_BEHIND, ALARM_BROKEN, Counter, Flow};

use crate::counters::count;
use crate::maps::PEERS;
use crate::tcp::TcpSock;
use crate::{flow, limits, overlap};

/// What becomes of a packet.
///
/// None is ever left to the receiving socket: what a verdict passes waits in the kernel's own queue, behind the other
/// direction's backlog, and is lost when the socket closes. When bytes are dropped here the daemon resets both legs.
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
    // SAFETY: the map keeps the value in place.
    if unsafe { (&raw const (*flow).alarm).read_volatile() } & ALARM_BROKEN != 0 {
        return Verdict::Drop;
    }
    // SAFETY: the kernel sets the socket for the time of the verdict.
    if let Some(socket) = unsafe { TcpSock::of((*packet.skb.skb).__bindgen_anon_2.sk) } {
        note_progress(socket, flow);
        if overlap::cut(packet, socket).is_err() {
            warn!(packet, "a packet of {} repeats bytes, and they cannot be cut off", source);
            return lose(flow);
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
        return lose(flow);
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

/// Drops bytes that TCP has acknowledged: the sink must get nothing that comes after them.
#[inline(always)]
fn lose(flow: *mut Flow) -> Verdict {
    // SAFETY: the map keeps the value in place, and the source's lock is held.
    unsafe {
        (&raw mut (*flow).gate).write_volatile(1);
        limits::raise(flow, ALARM_BEHIND | ALARM_BROKEN);
    }
    Verdict::Drop
}

/// Notes by how much TCP's count of segments is ahead of the gate's. It is exact whenever no other CPU has let one through that TCP
/// has not seen yet, so that the most of all times is.
#[inline(always)]
fn note_progress(source: TcpSock, flow: *mut Flow) {
    let received = source.data_segs_in();
    // SAFETY: the map keeps the value in place, and the source's lock, which is held here, keeps other writers of it away.
    unsafe {
        let passed = (&raw const (*flow).passed).read_volatile() as u32;
        let ahead = received.wrapping_sub(passed);
        if ahead.wrapping_sub((*flow).ahead) as i32 > 0 {
            (&raw mut (*flow).ahead).write_volatile(ahead);
        }
    }
}
