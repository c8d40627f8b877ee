//! A packet of one leg as a packet of the other.

use landbridge_common::packet::{Joint, KNOWN, TIMESTAMPS, Tuple};

use super::answer::LEAST_V6;
use super::parse::{Segment, be16, be32, flag};
use super::{Arrival, checksum, options};

/// Why a packet cannot be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its options do not parse, or the other family cannot tell its length.
    Untranslatable,
    /// Its hop limit is used up.
    NoWay,
    /// It is too long for the way.
    TooLong,
}

/// Translates a segment into `out`, and fixes the direction's timestamp delta if it is the first one. Returns its
/// length.
///
/// # Errors
/// It cannot be sent on.
///
/// # Panics
/// `out` is too short: 20 bytes more than the packet are enough.
pub fn translate(joint: &mut Joint, arrival: Arrival, segment: &Segment<'_>, out: &mut [u8]) -> Result<usize, Refusal> {
    let hops = if segment.is_ipv6() { segment.ip[7] } else { segment.ip[8] };
    if hops <= 1 {
        return Err(Refusal::NoWay);
    }
    let found = options::find(segment.tcp).ok_or(Refusal::Untranslatable)?;
    let to_ipv6 = joint.legs[1 - arrival.side].is_ipv6 != 0;
    let header = if to_ipv6 { 40 } else { 20 };
    let rest = segment.tcp.len() + segment.payload.len();
    let delta =
        found.timestamps.as_ref().and_then(|range| timestamp_delta(joint, arrival, be32(segment.tcp, range.start)));
    if header + rest > 0xffff {
        return Err(Refusal::Untranslatable);
    }
    if header + rest > arrival.mtu {
        return Err(Refusal::TooLong);
    }

    let out = &mut out[..header + rest];
    let (ip, tcp) = out.split_at_mut(header);
    tcp[..segment.tcp.len()].copy_from_slice(segment.tcp);
    tcp[segment.tcp.len()..].copy_from_slice(segment.payload);
    let (leg, other) = (&joint.legs[arrival.side], &joint.legs[1 - arrival.side]);
    internet(segment, &leg.out, ip);

    tcp[..2].copy_from_slice(&leg.out.source_port.to_ne_bytes());
    tcp[2..4].copy_from_slice(&leg.out.destination_port.to_ne_bytes());
    add(tcp, 4, leg.sequence_delta);
    if tcp[13] & flag::ACK != 0 {
        add(tcp, 8, leg.acknowledgement_delta);
    }
    let window = rescaled(be16(tcp, 14), leg.window_scale_in, leg.window_scale_out);
    tcp[14..16].copy_from_slice(&window.to_be_bytes());
    for edge in found.blocks.into_iter().flat_map(|blocks| blocks.step_by(4)) {
        add(tcp, edge, leg.acknowledgement_delta);
    }
    if let (Some(range), Some(delta)) = (found.timestamps, delta) {
        add(tcp, range.start, delta);
        match other.timestamp_delta {
            known if known & KNOWN != 0 => add(tcp, range.start + 4, (known as u32).wrapping_neg()),
            _ => tcp[range.start + 4..range.end].fill(0),
        }
    }

    // By difference, so that a checksum that was wrong stays wrong.
    let field = be16(segment.tcp, 16);
    let field = checksum::updated(field, &segment.tcp[..16], &tcp[..16]);
    let field = checksum::updated(field, &segment.tcp[20..], &tcp[20..segment.tcp.len()]);
    let field = checksum::updated(field, addresses(segment.ip), addresses(ip));
    tcp[16..18].copy_from_slice(&field.to_be_bytes());
    Ok(header + rest)
}

/// What is added to the direction's timestamps; the first one decides. `None` if the session has none.
fn timestamp_delta(joint: &mut Joint, arrival: Arrival, value: u32) -> Option<u32> {
    if joint.flags & TIMESTAMPS == 0 {
        return None;
    }
    let passed = (arrival.now - joint.clocks_read_at) / 1_000_000;
    let leg = &mut joint.legs[arrival.side];
    if leg.timestamp_delta & KNOWN == 0 {
        let delta = leg.clock.wrapping_add(passed as u32).wrapping_sub(value);
        leg.timestamp_delta = KNOWN | u64::from(delta);
    }
    Some(leg.timestamp_delta as u32)
}

/// A window in units of the other leg: never more than fits, and open if it was open.
pub fn rescaled(window: u16, scale_in: u8, scale_out: u8) -> u16 {
    let bytes = u64::from(window) << scale_in;
    match u16::try_from(bytes >> scale_out) {
        Ok(0) => u16::from(window != 0),
        Ok(scaled) => scaled,
        Err(_) => u16::MAX,
    }
}

fn add(bytes: &mut [u8], at: usize, delta: u32) {
    let sum = be32(bytes, at).wrapping_add(delta);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Source and destination in an IP header.
pub fn addresses(ip: &[u8]) -> &[u8] {
    if ip.len() == 40 { &ip[8..40] } else { &ip[12..20] }
}

/// Writes the IP header, with one hop less.
fn internet(segment: &Segment<'_>, out: &Tuple, ip: &mut [u8]) {
    let old = segment.ip;
    let rest = segment.tcp.len() + segment.payload.len();
    match (segment.is_ipv6(), ip.len() == 40) {
        (true, true) => {
            ip.copy_from_slice(old);
            ip[7] -= 1;
        }
        (false, false) => readdressed(old, out, ip),
        (false, true) => {
            ip.fill(0);
            // Version, traffic class, no flow label.
            ip[0] = 0x60 | old[1] >> 4;
            ip[1] = old[1] << 4;
            ip[4..6].copy_from_slice(&(rest as u16).to_be_bytes());
            ip[6] = 6;
            ip[7] = old[8] - 1;
        }
        (true, false) => {
            ip.fill(0);
            ip[0] = 0x45;
            ip[1] = old[0] << 4 | old[1] >> 4;
            ip[2..4].copy_from_slice(&(20 + rest as u16).to_be_bytes());
            if 20 + rest > LEAST_V6 - 20 {
                // "Don't fragment", so that its sender can be told.
                ip[6] = 0x40;
            } else {
                // No IPv6 packet has to be shorter than that: routers may make fragments (RFC 7915, 5.1).
                ip[4..6].copy_from_slice(&segment.tcp[6..8]);
            }
            ip[8] = old[7] - 1;
            ip[9] = 6;
            write_addresses(out, ip);
            let sum = checksum::of(ip, 0);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    write_addresses(out, ip);
}

/// An IPv4 header with other addresses and one hop less.
pub fn readdressed(old: &[u8], out: &Tuple, ip: &mut [u8]) {
    ip.copy_from_slice(old);
    ip[8] -= 1;
    write_addresses(out, ip);
    let field = checksum::updated(be16(old, 10), &old[..10], &ip[..10]);
    let field = checksum::updated(field, &old[12..], &ip[12..]);
    ip[10..12].copy_from_slice(&field.to_be_bytes());
}

/// Writes source and destination.
pub fn write_addresses(out: &Tuple, ip: &mut [u8]) {
    let (at, first, len) = if ip.len() == 40 { (8, 0, 16) } else { (12, 3, 4) };
    for (n, word) in out.source[first..].iter().enumerate() {
        ip[at + 4 * n..at + 4 * n + 4].copy_from_slice(&word.to_ne_bytes());
    }
    for (n, word) in out.destination[first..].iter().enumerate() {
        ip[at + len + 4 * n..at + len + 4 * n + 4].copy_from_slice(&word.to_ne_bytes());
    }
}
