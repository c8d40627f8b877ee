//! ICMP errors told to a peer of the other family: made anew, from what the error tells (RFC 7915, 4.2 and 5.2).

use landbridge_common::packet::Joint;

use super::answer::{LEAST_V6, internet, seal};
use super::icmp::{HEADER, reversed};
use super::parse::{be16, be32};
use super::translate::write_addresses;
use super::{Arrival, checksum};

/// What of the TCP header is quoted: the ports and the sequence number.
const QUOTED: usize = 8;

/// The first eight bytes of the error in terms of the other family, the checksum still 0. `None` if it has no such error.
pub(super) fn head(is_ipv6: bool, error: &[u8]) -> Option<[u8; HEADER]> {
    let (kind, code, mtu) = if is_ipv6 { v6_to_v4(error)? } else { v4_to_v6(error)? };
    let [a, b, c, d] = mtu.to_be_bytes();
    Some([kind, code, 0, 0, a, b, c, d])
}

fn v4_to_v6(error: &[u8]) -> Option<(u8, u8, u32)> {
    match (error[0], error[1]) {
        // Packet too big. A router that tells nothing is one that knows of no sizes (RFC 1191): the least is always good.
        (3, 4) => Some((2, 0, (u32::from(be16(error, 6)) + 20).max(LEAST_V6 as u32))),
        // No route; port unreachable; prohibited.
        (3, 0 | 1 | 5..=8 | 11 | 12) => Some((1, 0, 0)),
        (3, 3) => Some((1, 4, 0)),
        (3, 9 | 10 | 13 | 15) => Some((1, 1, 0)),
        (11, code) => Some((3, code, 0)),
        _ => None,
    }
}

fn v6_to_v4(error: &[u8]) -> Option<(u8, u8, u32)> {
    match (error[0], error[1]) {
        // Fragmentation needed. Less than the least is no more than a lie.
        (2, _) => Some((3, 4, (be32(error, 4).max(LEAST_V6 as u32) - 20).min(0xffff))),
        // Host unreachable, prohibited, port unreachable.
        (1, 0 | 2 | 3) => Some((3, 1, 0)),
        (1, 1) => Some((3, 10, 0)),
        (1, 4) => Some((3, 3, 0)),
        (3, code) => Some((11, code, 0)),
        _ => None,
    }
}

/// Makes the error that begins with `head` about the packet that the other peer has sent, with this `sequence` number;
/// `inner` is that packet as it was sent on. Returns the length.
///
/// # Panics
/// `out` is shorter than 96 bytes.
pub(super) fn make(
    joint: &Joint,
    arrival: Arrival,
    head: [u8; HEADER],
    (inner, sequence): (&[u8], u32),
    out: &mut [u8],
) -> usize {
    let leg = &joint.legs[arrival.side];
    let header = if inner[0] >> 4 == 6 { 20 } else { 40 };
    let (ip, error) = out[..2 * header + HEADER + QUOTED].split_at_mut(header);
    internet(&leg.out, if header == 40 { 58 } else { 1 }, error.len(), ip);

    error[..HEADER].copy_from_slice(&head);
    let (quoted_ip, tcp) = error[HEADER..].split_at_mut(header);
    let sent = reversed(&leg.out);
    quoted_ip.fill(0);
    if header == 40 {
        quoted_ip[0] = 0x60 | inner[1] >> 4;
        quoted_ip[1] = inner[1] << 4;
        quoted_ip[4..6].copy_from_slice(&be16(inner, 2).wrapping_sub(20).to_be_bytes());
        quoted_ip[6] = 6;
        quoted_ip[7] = inner[8];
        write_addresses(&sent, quoted_ip);
    } else {
        quoted_ip[0] = 0x45;
        quoted_ip[1] = inner[0] << 4 | inner[1] >> 4;
        quoted_ip[2..4].copy_from_slice(&be16(inner, 4).wrapping_add(20).to_be_bytes());
        quoted_ip[6] = 0x40;
        quoted_ip[8] = inner[7];
        quoted_ip[9] = 6;
        write_addresses(&sent, quoted_ip);
        let field = checksum::of(quoted_ip, 0);
        quoted_ip[10..12].copy_from_slice(&field.to_be_bytes());
    }
    tcp[..2].copy_from_slice(&sent.source_port.to_ne_bytes());
    tcp[2..4].copy_from_slice(&sent.destination_port.to_ne_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());

    seal(ip, error);
    ip.len() + error.len()
}
