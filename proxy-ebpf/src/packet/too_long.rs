//! A packet that is longer than its way allows: its sender is told so by an ICMP error of this host, in terms of what it has
//! sent itself, as by a router.

use landbridge_common::packet::{PacketCounter, TOO_LONG_INTERVAL};

use crate::checksum::fold_16;
use crate::counters::drop;
use crate::leg::Arrival;
use crate::maps::Scratch;
use crate::own::{self, LEAST_V6};
use crate::parse::Ip;
use crate::route::{self, Question};
use crate::skb::{Refused, Skb};

const ICMP: u32 = 1;
const ICMPV6: u32 = 58;

/// The error's own header, and the part of the TCP header that it quotes, in bytes.
const HEADER: u32 = 8;
const QUOTED: u32 = 20;

/// "Fragmentation needed" and "packet too big", type and code.
const UNREACHABLE: u32 = 3 << 24 | 4 << 16;
const TOO_BIG: u32 = 2 << 24;

/// Turns the packet into the error, and sends it back. `limit`: what the way takes, in bytes.
#[inline(always)]
pub(crate) fn tell<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    arrival: Arrival,
    scratch: *mut Scratch,
    now: u64,
    limit: u32,
) -> i32 {
    let joint = arrival.joint;
    if !own::is_due(joint, now, TOO_LONG_INTERVAL) {
        return drop(joint, PacketCounter::TooLong);
    }
    let protocol = if ip.is_ipv6 { ICMPV6 } else { ICMP };
    let len = 2 * ip.header() + HEADER + QUOTED;
    let question = Question { protocol: protocol as u8, class: 0, len, is_ipv6: ip.is_ipv6 };
    let Ok(way) = route::find(skb, scratch, arrival.other, &question) else {
        return drop(joint, PacketCounter::TooLong);
    };
    // SAFETY: the map keeps the value in place; the daemon wrote this before it armed the joint.
    let to_ipv6 = unsafe { (*arrival.other).is_ipv6 != 0 };
    let limit = match (ip.is_ipv6, to_ipv6) {
        (false, true) => limit.wrapping_sub(20),
        (true, false) => limit + 20,
        _ => limit,
    };
    if write(skb, ip, arrival, scratch, limit).is_err() {
        return drop(joint, PacketCounter::Failed);
    }
    let _answered = drop(joint, PacketCounter::TooLong);
    route::send(scratch, &way)
}

#[inline(always)]
fn write<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    arrival: Arrival,
    scratch: *mut Scratch,
    limit: u32,
) -> Result<(), Refused> {
    let at = ip.header();
    // SAFETY: the scratch is this run's, and the map keeps the leg in place; the daemon wrote this before it armed the joint.
    let (new, tcp, out) = unsafe { (&mut (*scratch).ip, &mut (*scratch).tcp, &(*arrival.other).out) };
    // As it arrived: what is in the scratch is translated.
    skb.load_bytes(at, (&raw mut *tcp).cast(), QUOTED)?;
    tcp[4] &= 0xffff_0000;
    let mut sum = 0;
    let mut n = 0;
    while n < 5 {
        sum += u64::from(tcp[n]);
        n += 1;
    }
    // A device that is still to compute the quoted checksum will do so after the error's own is made. This one it will not
    // change: it is minus half of the rest's sum, where halving is to rotate by one bit. Nobody looks at it but for that.
    let field = u32::from((!fold_16(sum)).rotate_right(1));
    tcp[4] |= field;
    sum += u64::from(field);

    let words = if ip.is_ipv6 { 10 } else { 5 };
    n = 0;
    while n < 10 {
        if n < words {
            sum += u64::from(ip.words[n]);
        }
        n += 1;
    }
    let payload = at + HEADER + QUOTED;
    let protocol = if ip.is_ipv6 { ICMPV6 } else { ICMP };
    let addresses = own::ip(new, out, ip.is_ipv6, protocol, payload);
    let mut error = [UNREACHABLE, limit & 0xffff];
    if ip.is_ipv6 {
        error = [TOO_BIG, if limit < LEAST_V6 { LEAST_V6 } else { limit }];
        sum += addresses + u64::from(payload.to_be()) + u64::from(protocol.to_be());
    }
    let error = own::error(error, sum);

    skb.cut(at + QUOTED)?;
    skb.store_bytes(at, (&raw const *tcp).cast(), QUOTED)?;
    let skb = skb.grow(at + HEADER)?;
    skb.store_bytes(0, (&raw const *new).cast(), at)?;
    skb.store_bytes(at, (&raw const error).cast(), HEADER)
}
