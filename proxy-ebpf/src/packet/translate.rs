//! A packet of one leg as a packet of the other: the headers, made in the scratch.

use landbridge_common::packet::{Leg, Tuple};

use crate::checksum::{change, fold_16, updated};
use crate::leg::Arrival;
use crate::maps::Scratch;
use crate::options;
use crate::parse::{ACK, Ip, Segment};

/// How the sums change that the TCP checksum is about.
pub(crate) struct Changes {
    /// Of the TCP header.
    pub(crate) header: u64,
    /// Of the pseudo header.
    pub(crate) pseudo: u64,
}

/// Ports as they are in the header.
#[inline(always)]
pub(crate) fn ports(source: u16, destination: u16) -> u32 {
    u32::from(source) | u32::from(destination) << 16
}

/// Translates the TCP header in the scratch; returns how its sum changes, or `None` if its options do not parse.
#[inline(always)]
pub(crate) fn tcp(scratch: *mut Scratch, segment: &Segment, arrival: Arrival, now: u64) -> Option<u64> {
    // SAFETY: the scratch is this run's.
    let words = unsafe { &mut (*scratch).tcp };
    // SAFETY: the map keeps the value in place; the daemon wrote these before it armed the joint.
    let (out, sequence_delta, acknowledgement_delta, window) = unsafe {
        let leg = arrival.leg;
        (
            ports((*leg).out.source_port, (*leg).out.destination_port),
            (*leg).sequence_delta,
            (*leg).acknowledgement_delta,
            rescaled(segment.window, leg),
        )
    };
    let sequence = segment.sequence.wrapping_add(sequence_delta).to_be();
    // Without the flag the number means nothing.
    let delta = if segment.flags & ACK != 0 { acknowledgement_delta } else { 0 };
    let acknowledgement = segment.acknowledgement.wrapping_add(delta).to_be();
    let rest = (u32::from_be(words[3]) & 0xffff_0000 | window).to_be();

    let mut changes = change(words[0], out);
    changes += change(words[1], sequence);
    changes += change(words[2], acknowledgement);
    changes += change(words[3], rest);
    words[0] = out;
    words[1] = sequence;
    words[2] = acknowledgement;
    words[3] = rest;
    Some(changes + options::translate(scratch, segment.header, arrival, now)?)
}

/// The window in units of the other leg. One that is open stays open.
///
/// # Safety
/// `leg` must point into the map.
#[inline(always)]
pub(crate) unsafe fn rescaled(window: u32, leg: *mut Leg) -> u32 {
    // SAFETY: the caller's.
    let (scale_in, scale_out) = unsafe { (u32::from((*leg).window_scale_in), u32::from((*leg).window_scale_out)) };
    let scaled = window << (scale_in & 31) >> (scale_out & 31);
    if scaled > 0xffff {
        0xffff
    } else if scaled == 0 && window != 0 {
        1
    } else {
        scaled
    }
}

/// The type of service, or traffic class.
#[inline(always)]
pub(crate) fn class(ip: &Ip<'_>) -> u32 {
    let first = u32::from_be(ip.words[0]);
    (if ip.is_ipv6 { first >> 20 } else { first >> 16 }) & 0xff
}

/// How many more routers may see it.
#[inline(always)]
pub(crate) fn hops(ip: &Ip<'_>) -> u32 {
    if ip.is_ipv6 { u32::from_be(ip.words[1]) & 0xff } else { u32::from_be(ip.words[2]) >> 24 }
}

/// Writes the addresses of `out` into an IPv6 header; returns their sum.
#[inline(always)]
pub(crate) fn ipv6_addresses(new: &mut [u32; 10], out: &Tuple) -> u64 {
    let mut sum = 0;
    let mut n = 0;
    while n < 4 {
        // Volatile, else the compiler calls its memmove, which copies byte by byte.
        // SAFETY: references to aligned words.
        let (source, destination) =
            unsafe { ((&raw const out.source[n]).read_volatile(), (&raw const out.destination[n]).read_volatile()) };
        new[2 + n] = source;
        new[6 + n] = destination;
        sum += u64::from(source) + u64::from(destination);
        n += 1;
    }
    sum
}

/// Makes the new IP header in the scratch, with one hop less; returns how the pseudo header's sum changes, or `None` if
/// the other family cannot tell the length. `parts`: from IPv6 to IPv4, whether routers may make fragments, and of which
/// identification.
#[inline(always)]
pub(crate) fn ip(scratch: *mut Scratch, ip: &Ip<'_>, out: &Tuple, to_ipv6: bool, parts: Option<u32>) -> Option<u64> {
    // SAFETY: the scratch is this run's.
    let new = unsafe { &mut (*scratch).ip };
    let mut pseudo = 0;
    if ip.is_ipv6 {
        let mut n = 2;
        while n < 10 {
            pseudo += u64::from(!ip.words[n]);
            n += 1;
        }
    } else {
        pseudo += u64::from(!ip.words[3]) + u64::from(!ip.words[4]);
    }
    if ip.is_ipv6 != to_ipv6 && ip.len() == 0 {
        return None;
    }

    if to_ipv6 {
        if ip.is_ipv6 {
            new[0] = ip.words[0];
            new[1] = (u32::from_be(ip.words[1]) - 1).to_be();
        } else {
            new[0] = (6 << 28 | class(ip) << 20).to_be();
            new[1] = ((ip.len() - 20) << 16 | 6 << 8 | (hops(ip) - 1)).to_be();
        }
        return Some(pseudo + ipv6_addresses(new, out));
    }

    let (source, destination) = (out.source[3], out.destination[3]);
    pseudo += u64::from(source) + u64::from(destination);
    new[3] = source;
    new[4] = destination;
    if ip.is_ipv6 {
        let len = ip.len() - 20;
        if len > 0xffff {
            return None;
        }
        new[0] = (0x4500_0000 | class(ip) << 16 | len).to_be();
        // No identification is needed where nobody may make fragments.
        new[1] = match parts {
            Some(identification) => identification << 16,
            None => 0x4000,
        }
        .to_be();
        let third = ((hops(ip) - 1) << 24 | 6 << 16).to_be();
        let sum = u64::from(new[0]) + u64::from(new[1]) + u64::from(third) + u64::from(source) + u64::from(destination);
        new[2] = third | u32::from(!fold_16(sum)) << 16;
    } else {
        new[0] = ip.words[0];
        new[1] = ip.words[1];
        let old = ip.words[2] & 0xffff;
        let third = old - 1;
        let changes = change(old, third) + change(ip.words[3], source) + change(ip.words[4], destination);
        new[2] = third | u32::from(updated((ip.words[2] >> 16) as u16, changes)) << 16;
    }
    Some(pseudo)
}
