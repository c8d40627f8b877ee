//! ICMP errors about packets that were sent on: the peer that they came from gets them, about the packets that it sent.

use landbridge_common::packet::{PHASE, PacketCounter, phase};

use crate::checksum::{change, fold, updated};
use crate::counters::{count, drop};
use crate::leg::{self, Arrival};
use crate::maps::Scratch;
use crate::parse::{Ip, MAPPED};
use crate::route::{self, Question};
use crate::skb::{NEXT, Refused, Skb};
use crate::translate::{self, ports};
use crate::{between, phases, window};

pub(crate) const ICMP: u8 = 1;
const TCP: u32 = 6;
pub(crate) const ICMPV6: u8 = 58;

/// The header of an error, before the packet that it is about.
pub(crate) const HEADER: u32 = 8;
/// Where its checksum is.
const CHECKSUM: u32 = 2;

/// What TCP acts on: destination unreachable, fragmentation needed included, and time exceeded.
const UNREACHABLE: u32 = 3;
const TIME_EXCEEDED: u32 = 11;
/// ICMPv6: destination unreachable, packet too big, time exceeded are 1 to 3.
const LAST_OF_V6: u32 = 3;

/// Decides about an ICMP packet.
#[inline(always)]
pub(crate) fn ipv4<const LINK: u32>(skb: Skb<LINK>, ip: &Ip<'_>, scratch: *mut Scratch) -> Result<i32, Refused> {
    let mut head = [0_u32; 2];
    skb.load(20, &raw mut head)?;
    let kind = head[0] & 0xff;
    if kind != UNREACHABLE && kind != TIME_EXCEEDED {
        return Ok(NEXT);
    }
    // SAFETY: the scratch is this run's.
    let (inner, about) = unsafe { (&mut (*scratch).inner, &mut (*scratch).tuple) };
    skb.load_bytes(20 + HEADER, (&raw mut *inner).cast(), 28)?;
    let (first, fragment) = (u32::from_be(inner[0]) >> 24, u32::from_be(inner[1]) & 0x1fff);
    if first != 0x45 || fragment != 0 || u32::from_be(inner[2]) >> 16 & 0xff != TCP {
        return Ok(NEXT);
    }
    // As the answer to the packet would arrive.
    about.source = [0, 0, MAPPED, inner[4]];
    about.destination = [0, 0, MAPPED, inner[3]];
    about.source_port = (inner[5] >> 16) as u16;
    about.destination_port = inner[5] as u16;
    let Some(arrival) = leg::find(about) else { return Ok(NEXT) };
    if phases::state(arrival.joint) & PHASE != phase::LIVE {
        return Ok(NEXT);
    }
    // SAFETY: the map keeps the value in place; the daemon wrote these before it armed the joint.
    let (out, to_ipv6) = unsafe { (&(*arrival.leg).out, (*arrival.other).is_ipv6 != 0) };
    let says = [u32::from_be(head[0]) >> 16, u32::from_be(head[1])];
    let says = if to_ipv6 { between::v4_to_v6(says) } else { Some(says) };
    let Some(says) = says else { return Ok(NEXT) };
    let Some(sequence) = origin(arrival, u32::from_be(inner[6])) else {
        return Ok(drop(arrival.joint, PacketCounter::OutOfWindow));
    };
    if to_ipv6 {
        let quoted = between::Quoted {
            class: u32::from_be(inner[0]) >> 16 & 0xff,
            payload: (u32::from_be(inner[0]) & 0xffff).wrapping_sub(20),
            hops: u32::from_be(inner[2]) >> 24,
            sequence,
        };
        return Ok(between::send(skb, ip, scratch, arrival, &quoted, says));
    }

    let addresses = change(inner[3], out.destination[3]) + change(inner[4], out.source[3]);
    let sum = updated((inner[2] >> 16) as u16, addresses);
    let third = inner[2] & 0xffff | u32::from(sum) << 16;
    let (back, sequence) = (ports(out.destination_port, out.source_port), sequence.to_be());
    let changes = addresses + change(inner[2], third) + change(inner[5], back) + change(inner[6], sequence);
    inner[2] = third;
    inner[3] = out.destination[3];
    inner[4] = out.source[3];
    inner[5] = back;
    inner[6] = sequence;
    Ok(send(skb, ip, scratch, arrival, changes))
}

/// Decides about an `ICMPv6` packet.
#[inline(always)]
pub(crate) fn ipv6<const LINK: u32>(skb: Skb<LINK>, ip: &Ip<'_>, scratch: *mut Scratch) -> Result<i32, Refused> {
    let mut head = [0_u32; 2];
    skb.load(40, &raw mut head)?;
    let kind = head[0] & 0xff;
    if kind == 0 || kind > LAST_OF_V6 {
        return Ok(NEXT);
    }
    // SAFETY: the scratch is this run's.
    let (inner, about) = unsafe { (&mut (*scratch).inner, &mut (*scratch).tuple) };
    skb.load_bytes(40 + HEADER, (&raw mut *inner).cast(), 48)?;
    if u32::from_be(inner[0]) >> 28 != 6 || u32::from_be(inner[1]) >> 8 & 0xff != TCP {
        return Ok(NEXT);
    }
    about.source = [inner[6], inner[7], inner[8], inner[9]];
    about.destination = [inner[2], inner[3], inner[4], inner[5]];
    about.source_port = (inner[10] >> 16) as u16;
    about.destination_port = inner[10] as u16;
    let Some(arrival) = leg::find(about) else { return Ok(NEXT) };
    if phases::state(arrival.joint) & PHASE != phase::LIVE {
        return Ok(NEXT);
    }
    // SAFETY: the map keeps the value in place; the daemon wrote these before it armed the joint.
    let (out, to_ipv6) = unsafe { (&(*arrival.leg).out, (*arrival.other).is_ipv6 != 0) };
    let says = [u32::from_be(head[0]) >> 16, u32::from_be(head[1])];
    let says = if to_ipv6 { Some(says) } else { between::v6_to_v4(says) };
    let Some(says) = says else { return Ok(NEXT) };
    let Some(sequence) = origin(arrival, u32::from_be(inner[11])) else {
        return Ok(drop(arrival.joint, PacketCounter::OutOfWindow));
    };
    if !to_ipv6 {
        let quoted = between::Quoted {
            class: u32::from_be(inner[0]) >> 20 & 0xff,
            payload: u32::from_be(inner[1]) >> 16,
            hops: u32::from_be(inner[1]) & 0xff,
            sequence,
        };
        return Ok(between::send(skb, ip, scratch, arrival, &quoted, says));
    }

    let (back, sequence) = (ports(out.destination_port, out.source_port), sequence.to_be());
    let mut changes = change(inner[10], back) + change(inner[11], sequence);
    inner[10] = back;
    inner[11] = sequence;
    let mut n = 0;
    while n < 4 {
        changes += change(inner[2 + n], out.destination[n]) + change(inner[6 + n], out.source[n]);
        inner[2 + n] = out.destination[n];
        inner[6 + n] = out.source[n];
        n += 1;
    }
    Ok(send(skb, ip, scratch, arrival, changes))
}

/// The sequence number, as the other peer sent it, of the packet that an error on this leg is about; `None` if nothing with
/// this number is on its way.
#[inline(always)]
fn origin(arrival: Arrival, sequence: u32) -> Option<u32> {
    // SAFETY: the map keeps the value in place; the daemon wrote this before it armed the joint.
    let sequence = sequence.wrapping_sub(unsafe { (*arrival.other).sequence_delta });
    if window::is_on_its_way(sequence, arrival.other, arrival.leg) { Some(sequence) } else { None }
}

/// Sends the error on, with the packet in the scratch that it now is about.
#[inline(always)]
fn send<const LINK: u32>(skb: Skb<LINK>, ip: &Ip<'_>, scratch: *mut Scratch, arrival: Arrival, changes: u64) -> i32 {
    let joint = arrival.joint;
    if translate::hops(ip) <= 1 {
        return drop(joint, PacketCounter::NoRoute);
    }
    // SAFETY: the map keeps the value in place; the daemon wrote this before it armed the joint.
    let out = unsafe { &(*arrival.leg).out };
    let Some(pseudo) = translate::ip(scratch, ip, out, ip.is_ipv6, None) else {
        return drop(joint, PacketCounter::Untranslatable);
    };
    let protocol = if ip.is_ipv6 { ICMPV6 } else { ICMP };
    let question = Question { protocol, class: translate::class(ip), len: skb.len(), is_ipv6: ip.is_ipv6 };
    let Ok(way) = route::find(skb, scratch, arrival.leg, &question) else {
        return drop(joint, PacketCounter::NoRoute);
    };
    if write(skb, ip, scratch, changes, pseudo).is_err() {
        return drop(joint, PacketCounter::Failed);
    }
    count(PacketCounter::IcmpTranslated);
    route::send(scratch, &way)
}

#[inline(always)]
fn write<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    scratch: *mut Scratch,
    changes: u64,
    pseudo: u64,
) -> Result<(), Refused> {
    // SAFETY: the scratch is this run's.
    let (new_ip, inner) = unsafe { (&raw const (*scratch).ip, &raw const (*scratch).inner) };
    if ip.is_ipv6 {
        skb.store_and_sum(0, new_ip.cast(), 40)?;
        skb.store_bytes(40 + HEADER, inner.cast(), 48)?;
        skb.adjust(40 + CHECKSUM, fold(changes))?;
        skb.adjust_pseudo(40 + CHECKSUM, fold(pseudo))?;
    } else {
        skb.store_and_sum(0, new_ip.cast(), 20)?;
        skb.store_bytes(20 + HEADER, inner.cast(), 28)?;
        skb.adjust(20 + CHECKSUM, fold(changes))?;
    }
    skb.add_link_header()
}
