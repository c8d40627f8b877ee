//! ICMP errors told to a peer of the other family: made anew, from what the error tells (RFC 7915, 4.2 and 5.2).

use landbridge_common::packet::{PacketCounter, Tuple};

use crate::checksum::fold_16;
use crate::counters::{count, drop};
use crate::icmp::{HEADER, ICMP, ICMPV6};
use crate::leg::Arrival;
use crate::maps::Scratch;
use crate::own::{self, LEAST_V6};
use crate::parse::Ip;
use crate::route::{self, Question};
use crate::skb::{Refused, Skb};
use crate::translate::{self, ports};

/// What of the TCP header is quoted: the ports and the sequence number.
const QUOTED: u32 = 8;

/// What is told of the packet that was sent on, and the number that it had as it arrived.
pub(crate) struct Quoted {
    pub(crate) class: u32,
    /// Bytes behind the IP header.
    pub(crate) payload: u32,
    pub(crate) hops: u32,
    pub(crate) sequence: u32,
}

/// What an error says, by type and code and by its second word, in terms of IPv6.
#[inline(always)]
pub(crate) fn v4_to_v6([kind, more]: [u32; 2]) -> Option<[u32; 2]> {
    const TOO_BIG: u32 = 0x200;
    let code = kind & 0xff;
    if kind >> 8 == 11 {
        return Some([0x300 | code, 0]);
    }
    // Of "unreachable". A router that tells no size is one that knows of none (RFC 1191): the least is always good.
    Some(match code {
        4 => {
            let limit = (more & 0xffff) + 20;
            [TOO_BIG, if limit < LEAST_V6 { LEAST_V6 } else { limit }]
        }
        0 | 1 | 5..=8 | 11 | 12 => [0x100, 0],
        3 => [0x104, 0],
        9 | 10 | 13 | 15 => [0x101, 0],
        _ => return None,
    })
}

/// The same in terms of IPv4.
#[inline(always)]
pub(crate) fn v6_to_v4([kind, more]: [u32; 2]) -> Option<[u32; 2]> {
    const FRAGMENTATION_NEEDED: u32 = 0x304;
    let code = kind & 0xff;
    match kind >> 8 {
        // Less than the least is no more than a lie.
        2 => {
            let limit = if more < LEAST_V6 { LEAST_V6 } else { more } - 20;
            Some([FRAGMENTATION_NEEDED, if limit > 0xffff { 0xffff } else { limit }])
        }
        3 => Some([0xb00 | code, 0]),
        _ => Some(match code {
            0 | 2 | 3 => [0x301, 0],
            1 => [0x30a, 0],
            4 => [0x303, 0],
            _ => return None,
        }),
    }
}

/// Sends the other peer an error that says so about the packet that it has sent.
#[inline(always)]
pub(crate) fn send<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    scratch: *mut Scratch,
    arrival: Arrival,
    quoted: &Quoted,
    says: [u32; 2],
) -> i32 {
    let joint = arrival.joint;
    if translate::hops(ip) <= 1 {
        return drop(joint, PacketCounter::NoRoute);
    }
    let is_ipv6 = !ip.is_ipv6;
    let (header, protocol) = if is_ipv6 { (40, ICMPV6) } else { (20, ICMP) };
    let payload = HEADER + header + QUOTED;
    let question = Question { protocol, class: 0, len: header + payload, is_ipv6 };
    let Ok(way) = route::find(skb, scratch, arrival.leg, &question) else {
        return drop(joint, PacketCounter::NoRoute);
    };
    if write(skb, scratch, arrival, quoted, says, is_ipv6).is_err() {
        return drop(joint, PacketCounter::Failed);
    }
    count(PacketCounter::IcmpTranslated);
    route::send(scratch, &way)
}

#[inline(always)]
fn write<const LINK: u32>(
    skb: Skb<LINK>,
    scratch: *mut Scratch,
    arrival: Arrival,
    quoted: &Quoted,
    says: [u32; 2],
    is_ipv6: bool,
) -> Result<(), Refused> {
    // SAFETY: the scratch is this run's, and the map keeps the leg in place; the daemon wrote this before it armed the joint.
    let (new, inner, out) = unsafe { (&mut (*scratch).ip, &mut (*scratch).inner, &(*arrival.leg).out) };
    let mut sum = if is_ipv6 { quote_v6(inner, out, quoted) } else { quote_v4(inner, out, quoted) };
    if is_ipv6 {
        let payload = HEADER + 40 + QUOTED;
        let addresses = own::ip(new, out, true, ICMPV6.into(), payload);
        sum += addresses + u64::from(payload.to_be()) + u64::from(u32::from(ICMPV6).to_be());
        let error = own::error([says[0] << 16, says[1]], sum);
        skb.change_family(0x86dd_u16.to_be())?;
        skb.cut(40 + payload)?;
        skb.store_bytes(0, (&raw const *new).cast(), 40)?;
        skb.store_bytes(40, (&raw const error).cast(), HEADER)?;
        skb.store_bytes(40 + HEADER, (&raw const *inner).cast(), 40 + QUOTED)?;
    } else {
        let payload = HEADER + 20 + QUOTED;
        own::ip(new, out, false, ICMP.into(), payload);
        let error = own::error([says[0] << 16, says[1]], sum);
        skb.change_family(0x0800_u16.to_be())?;
        skb.cut(20 + payload)?;
        skb.store_bytes(0, (&raw const *new).cast(), 20)?;
        skb.store_bytes(20, (&raw const error).cast(), HEADER)?;
        skb.store_bytes(20 + HEADER, (&raw const *inner).cast(), 20 + QUOTED)?;
    }
    skb.add_link_header()
}

/// Writes the packet as the other peer sent it; returns its sum.
#[inline(always)]
fn quote_v6(inner: &mut [u32; 12], out: &Tuple, quoted: &Quoted) -> u64 {
    inner[0] = (6 << 28 | quoted.class << 20).to_be();
    inner[1] = ((quoted.payload & 0xffff) << 16 | 6 << 8 | quoted.hops).to_be();
    let mut n = 0;
    while n < 4 {
        // Volatile, else the compiler calls its memmove, which copies byte by byte.
        // SAFETY: references to aligned words.
        unsafe {
            inner[2 + n] = (&raw const out.destination[n]).read_volatile();
            inner[6 + n] = (&raw const out.source[n]).read_volatile();
        }
        n += 1;
    }
    inner[10] = ports(out.destination_port, out.source_port);
    inner[11] = quoted.sequence.to_be();
    let mut sum = 0;
    n = 0;
    while n < 12 {
        sum += u64::from(inner[n]);
        n += 1;
    }
    sum
}

/// The same with IPv4.
#[inline(always)]
fn quote_v4(inner: &mut [u32; 12], out: &Tuple, quoted: &Quoted) -> u64 {
    inner[0] = (0x4500_0000 | quoted.class << 16 | (quoted.payload + 20) & 0xffff).to_be();
    inner[1] = 0x4000_u32.to_be();
    inner[2] = (quoted.hops << 24 | 6 << 16).to_be();
    inner[3] = out.destination[3];
    inner[4] = out.source[3];
    let mut sum = 0;
    let mut n = 0;
    while n < 5 {
        sum += u64::from(inner[n]);
        n += 1;
    }
    inner[2] |= u32::from(!fold_16(sum)) << 16;
    inner[5] = ports(out.destination_port, out.source_port);
    inner[6] = quoted.sequence.to_be();
    sum = 0;
    n = 0;
    while n < 7 {
        sum += u64::from(inner[n]);
        n += 1;
    }
    sum
}
