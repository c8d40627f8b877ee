//! Watches how much of a flow is on its way and how fast it comes, and tells the daemon.

use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_map_lookup_elem, bpf_sk_release};
use landbridge_common::{ALARM_BEHIND, ALARM_BULK, ALARM_HARD, BULK_WINDOW_SHIFT, Cookie, Counter, Flow};

use crate::counters::count;
use crate::maps::{ALARMS, PEERS};
use crate::tcp::TcpSock;

/// Looks at the flow after `len` more bytes were counted into it.
///
/// # Safety
/// `flow` must point into the map, and the source's socket lock must be held, as it is in the verdict.
#[inline(always)]
pub(crate) unsafe fn watch(flow: *mut Flow, source: Cookie, len: u64) {
    // SAFETY: the map keeps the value in place, and the lock keeps every other writer of these fields away.
    unsafe {
        let given = (*flow).given.wrapping_add((*flow).redirected_bytes);
        // The sink is only asked when what is known of it is half a limit old.
        if given.wrapping_sub((*flow).acked_seen) > (*flow).soft / 2 {
            if let Some(acked) = bytes_acked(source) {
                (*flow).acked_seen = acked;
            }
            let on_its_way = given.wrapping_sub((*flow).acked_seen);
            if on_its_way > (*flow).hard {
                (&raw mut (*flow).gate).write_volatile(1);
                raise(flow, ALARM_BEHIND | ALARM_HARD);
            } else if on_its_way > (*flow).soft {
                raise(flow, ALARM_BEHIND);
            }
        }

        // The coarse clock costs no access to the machine's timer; its steps of at most 10 ms are fine enough.
        let window = bpf_ktime_get_coarse_ns() >> BULK_WINDOW_SHIFT;
        if window != (*flow).window {
            (*flow).window = window;
            (*flow).burst = 0;
        }
        (*flow).burst += len;
        if (*flow).burst > (*flow).bulk {
            raise(flow, ALARM_BULK);
        }
    }
}

/// How much of what the sink was given its peer has acknowledged; `None` if there is no sink any more.
#[inline(always)]
fn bytes_acked(source: Cookie) -> Option<u64> {
    // SAFETY: the map is a sockhash, so that a lookup gives a socket with a reference, which is released below.
    unsafe {
        let sink = bpf_map_lookup_elem((&raw const PEERS).cast_mut().cast(), (&raw const source).cast());
        if sink.is_null() {
            return None;
        }
        let acked = TcpSock::of(sink).map(TcpSock::bytes_acked);
        bpf_sk_release(sink);
        acked
    }
}

/// Sets alarm bits, and tells the daemon if one of them is new.
///
/// # Safety
/// As [`watch`].
#[inline(always)]
pub(crate) unsafe fn raise(flow: *mut Flow, bits: u32) {
    // SAFETY: the caller's.
    let slot = unsafe {
        let raised = (*flow).alarm;
        if raised & bits == bits {
            return;
        }
        (&raw mut (*flow).alarm).write_volatile(raised | bits);
        (*flow).slot
    };
    if ALARMS.output::<u64>(u64::from(slot), 0).is_err() {
        count(Counter::AlarmLost, 1);
    }
}
