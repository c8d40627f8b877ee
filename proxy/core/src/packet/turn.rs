//! What the socket gets of the turning packet: the headers, with lengths and checksums that fit.

use super::checksum;
use super::parse::{Segment, be16};
use super::translate::addresses;

/// Writes them to `out`, and returns their length.
///
/// # Panics
/// `out` is too short.
pub fn trim(segment: &Segment<'_>, out: &mut [u8]) -> usize {
    let (header, rest) = (segment.ip.len(), segment.tcp.len());
    let (ip, tcp) = out[..header + rest].split_at_mut(header);
    ip.copy_from_slice(segment.ip);
    tcp.copy_from_slice(segment.tcp);
    if segment.is_ipv6() {
        ip[4..6].copy_from_slice(&(rest as u16).to_be_bytes());
    } else {
        ip[2..4].copy_from_slice(&((header + rest) as u16).to_be_bytes());
        let field = checksum::updated(be16(ip, 10), &segment.ip[2..4], &ip[2..4]);
        ip[10..12].copy_from_slice(&field.to_be_bytes());
    }
    // All of it, for what it would have to be corrected by is the sum of all the payload.
    tcp[16..18].fill(0);
    let pseudo = checksum::sum(addresses(ip)) + 6 + rest as u64;
    let field = checksum::of(tcp, pseudo);
    tcp[16..18].copy_from_slice(&field.to_be_bytes());
    header + rest
}
