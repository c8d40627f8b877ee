//! A SYN in the middle of a connection: answered with an acknowledgement (RFC 9293, 3.10.7.4). A peer that has started again
//! resets by its number, and that ends the session; one that knows of the connection ignores it.

use landbridge_common::packet::{CHALLENGE_INTERVAL, KNOWN, PacketCounter};

use crate::counters::{count, drop};
use crate::leg::Arrival;
use crate::maps::Scratch;
use crate::parse::{ACK, Ip, Segment};
use crate::route::{self, Question};
use crate::skb::{Refused, Skb};
use crate::translate::{ports, rescaled};
use crate::{own, turn, window};

const TCP: u32 = 6;

/// A TCP header without options, in bytes.
const HEADER: u32 = 20;

/// Turns the packet into the answer, and sends it back.
#[inline(always)]
pub(crate) fn answer<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    segment: &Segment,
    arrival: Arrival,
    scratch: *mut Scratch,
    now: u64,
) -> i32 {
    let joint = arrival.joint;
    if !own::is_due(joint, now, CHALLENGE_INTERVAL) {
        return drop(joint, PacketCounter::OutOfWindow);
    }
    let question = Question { protocol: TCP as u8, class: 0, len: ip.header() + HEADER, is_ipv6: ip.is_ipv6 };
    let Ok(way) = route::find(skb, scratch, arrival.other, &question) else {
        return drop(joint, PacketCounter::NoRoute);
    };
    if write(skb, ip, segment, arrival, scratch).is_err() {
        return drop(joint, PacketCounter::Failed);
    }
    count(PacketCounter::Challenged);
    route::send(scratch, &way)
}

#[inline(always)]
fn write<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    segment: &Segment,
    arrival: Arrival,
    scratch: *mut Scratch,
) -> Result<(), Refused> {
    let Arrival { leg, other, .. } = arrival;
    let at = ip.header();
    skb.cut(at + HEADER)?;

    // SAFETY: the scratch is this run's, and the map keeps the legs in place, whose values are aligned to 8 bytes; the
    // daemon wrote what is no word of 8 bytes before it armed the joint.
    let (new, tcp, out, acknowledged, announced, received, delta, others_delta, scale) = unsafe {
        (
            &mut (*scratch).ip,
            &mut (*scratch).tcp,
            &(*other).out,
            (&raw const (*other).acknowledged).read_volatile(),
            (&raw const (*other).announced).read_volatile(),
            (*leg).received,
            (*leg).sequence_delta,
            (*other).sequence_delta,
            u32::from((*other).window_scale_out),
        )
    };
    let addresses = own::ip(new, out, ip.is_ipv6, TCP, HEADER);
    skb.store_and_sum(0, (&raw const *new).cast(), at)?;

    // Only what the other peer has: what is acknowledged is not sent again.
    let acknowledged = if acknowledged & KNOWN != 0 { (acknowledged as u32).wrapping_sub(delta) } else { received };
    let window = if announced & KNOWN != 0 {
        // SAFETY: the leg is in the map.
        unsafe { rescaled(announced as u32 & 0xffff, other) }
    } else {
        // Nothing was sent on yet. Sockets announce at least as much before they have to store anything.
        0xffff >> (scale & 31)
    };
    tcp[0] = ports(out.source_port, out.destination_port);
    tcp[1] = window::newest(other).wrapping_add(others_delta).to_be();
    tcp[2] = acknowledged.to_be();
    tcp[3] = (HEADER << 26 | ACK << 16 | window).to_be();
    // The checksum stays as it is for now.
    tcp[4] &= 0xffff;
    skb.store_and_sum(at, (&raw const *tcp).cast(), HEADER)?;
    turn::recompute(skb, at, HEADER, segment.header + segment.payload, addresses, &raw const *tcp)?;
    skb.add_link_header()
}
