//! Answers to the sender of a packet that is not sent on, made by this host for the other peer.
//!
//! An answer tells nothing that was not sent on or acknowledged, and none is made more often than its interval says, so
//! that whoever forges a packet gains nothing by it.

use landbridge_common::packet::{CHALLENGE_INTERVAL, Joint, KNOWN, Leg, TOO_LONG_INTERVAL, Tuple};

use super::parse::{Segment, flag};
use super::translate::{addresses, rescaled, write_addresses};
use super::window::newest;
use super::{Arrival, checksum};

/// How many routers may see an answer: what Linux gives its own packets.
const HOPS: u8 = 64;

/// A TCP header without options.
const TCP: usize = 20;

/// The header of an ICMP error.
const ICMP: usize = 8;

/// The least that every way takes as one IPv6 packet (RFC 8200), in bytes.
pub(super) const LEAST_V6: usize = 1280;

/// The acknowledgement by which a SYN is answered in the middle of a connection (RFC 9293, 3.10.7.4). A peer that knows
/// of the connection ignores it; one that has started again resets by its number. `None` if it is too early for one.
///
/// # Panics
/// `out` is shorter than 60 bytes.
pub fn challenge(joint: &mut Joint, arrival: Arrival, segment: &Segment<'_>, out: &mut [u8]) -> Option<usize> {
    if !is_due(joint, arrival.now, CHALLENGE_INTERVAL) {
        return None;
    }
    let (leg, other) = (&joint.legs[arrival.side], &joint.legs[1 - arrival.side]);
    let header = segment.ip.len();
    let out = &mut out[..header + TCP];
    let (ip, tcp) = out.split_at_mut(header);
    internet(&other.out, 6, TCP, ip);

    tcp.fill(0);
    tcp[..2].copy_from_slice(&other.out.source_port.to_ne_bytes());
    tcp[2..4].copy_from_slice(&other.out.destination_port.to_ne_bytes());
    let sequence = newest(other).wrapping_add(other.sequence_delta);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    // Only what the other peer has: what is acknowledged is not sent again.
    let has = other.acknowledged & KNOWN != 0;
    let acknowledged = if has { (other.acknowledged as u32).wrapping_sub(leg.sequence_delta) } else { leg.received };
    tcp[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    tcp[12] = (TCP as u8 / 4) << 4;
    tcp[13] = flag::ACK;
    tcp[14..16].copy_from_slice(&window(other).to_be_bytes());
    let field = checksum::of(tcp, checksum::sum(addresses(ip)) + 6 + TCP as u64);
    tcp[16..18].copy_from_slice(&field.to_be_bytes());
    Some(header + TCP)
}

/// The window that the peer of this leg announced last, as the other leg's peer reads it.
fn window(leg: &Leg) -> u16 {
    if leg.announced & KNOWN != 0 {
        return rescaled(leg.announced as u16, leg.window_scale_in, leg.window_scale_out);
    }
    // Nothing was sent on yet. Sockets announce at least as much before they have to store anything.
    u16::MAX >> leg.window_scale_out
}

/// The ICMP error that tells a packet's sender what the way takes, in terms of its own packets. `None` if it is too early
/// for one.
///
/// # Panics
/// `out` is shorter than 108 bytes.
pub fn too_long(joint: &mut Joint, arrival: Arrival, segment: &Segment<'_>, out: &mut [u8]) -> Option<usize> {
    if !is_due(joint, arrival.now, TOO_LONG_INTERVAL) {
        return None;
    }
    let (leg, other) = (&joint.legs[arrival.side], &joint.legs[1 - arrival.side]);
    let header = segment.ip.len();
    let mtu = match (leg.is_ipv6 != 0, other.is_ipv6 != 0) {
        (false, true) => arrival.mtu - 20,
        (true, false) => arrival.mtu + 20,
        _ => arrival.mtu,
    };
    let quoted = header + TCP;
    let out = &mut out[..header + ICMP + quoted];
    let (ip, error) = out.split_at_mut(header);
    internet(&other.out, if header == 40 { 58 } else { 1 }, ICMP + quoted, ip);

    error.fill(0);
    if header == 40 {
        error[0] = 2;
        error[4..8].copy_from_slice(&(mtu.max(LEAST_V6) as u32).to_be_bytes());
    } else {
        error[..2].copy_from_slice(&[3, 4]);
        error[6..8].copy_from_slice(&(mtu as u16).to_be_bytes());
    }
    error[ICMP..ICMP + header].copy_from_slice(segment.ip);
    let tcp = &mut error[ICMP + header..];
    tcp.copy_from_slice(&segment.tcp[..TCP]);
    tcp[16..18].fill(0);
    let field = fixed_point(tcp);
    tcp[16..18].copy_from_slice(&field.to_be_bytes());

    seal(ip, error);
    Some(header + ICMP + quoted)
}

/// Computes the checksum of an ICMP error behind this IP header.
pub(super) fn seal(ip: &[u8], error: &mut [u8]) {
    let pseudo = if ip.len() == 40 { checksum::sum(addresses(ip)) + error.len() as u64 + 58 } else { 0 };
    let field = checksum::of(error, pseudo);
    error[2..4].copy_from_slice(&field.to_be_bytes());
}

/// What the checksum field of the quoted header has to be, so that computing it once more, from the header alone, changes
/// nothing. The packet may have come with a checksum that a device is still to compute, and that device would do so after
/// the error's own checksum is made. Nobody looks at it but for that.
///
/// The field has to be minus half of the rest's sum, modulo 65,535, where halving is to rotate by one bit.
fn fixed_point(rest: &[u8]) -> u16 {
    checksum::of(rest, 0).rotate_right(1)
}

/// Whether it is time for another answer, which is then taken note of.
fn is_due(joint: &mut Joint, now: u64, interval: u64) -> bool {
    let is_due = now.saturating_sub(joint.answered_at) >= interval;
    if is_due {
        joint.answered_at = now;
    }
    is_due
}

/// Writes the IP header of a packet of this host, with so many bytes behind it.
pub(super) fn internet(out: &Tuple, protocol: u8, payload: usize, ip: &mut [u8]) {
    ip.fill(0);
    if ip.len() == 40 {
        ip[0] = 0x60;
        ip[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
        ip[6] = protocol;
        ip[7] = HOPS;
        write_addresses(out, ip);
        return;
    }
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(20 + payload as u16).to_be_bytes());
    // "Don't fragment", so that no identification is needed.
    ip[6] = 0x40;
    ip[8] = HOPS;
    ip[9] = protocol;
    write_addresses(out, ip);
    let field = checksum::of(ip, 0);
    ip[10..12].copy_from_slice(&field.to_be_bytes());
}
