//! Packets of this host: when one may be sent, and its IP header.

use landbridge_common::packet::{Joint, Tuple};

use crate::checksum::fold_16;
use crate::exchange::compare_exchange;
use crate::translate;

/// How many routers may see it: what Linux gives its own packets.
const HOPS: u32 = 64;

/// The least that every way takes as one IPv6 packet (RFC 8200), in bytes.
pub(crate) const LEAST_V6: u32 = 1280;

/// Whether it is time for another answer about this joint, which is then taken note of. By exchange, so that one packet
/// on each CPU does not get one each.
#[inline(always)]
pub(crate) fn is_due(joint: *mut Joint, now: u64, interval: u64) -> bool {
    // SAFETY: the map keeps the value in place, aligned to 8 bytes.
    unsafe {
        let place = &raw mut (*joint).answered_at;
        let last = place.read_volatile();
        // The other CPU may have answered just now.
        now >= last && now - last >= interval && compare_exchange(place, last, now) == last
    }
}

/// Writes the IP header of a packet along `out`, with `payload` bytes behind it; returns the sum of the addresses.
#[inline(always)]
pub(crate) fn ip(new: &mut [u32; 10], out: &Tuple, is_ipv6: bool, protocol: u32, payload: u32) -> u64 {
    if is_ipv6 {
        new[0] = 0x6000_0000_u32.to_be();
        new[1] = (payload << 16 | protocol << 8 | HOPS).to_be();
        return translate::ipv6_addresses(new, out);
    }
    let (source, destination) = (out.source[3], out.destination[3]);
    new[0] = (0x4500_0000 | (20 + payload)).to_be();
    // "Don't fragment", so that no identification is needed.
    new[1] = 0x4000_u32.to_be();
    let third = (HOPS << 24 | protocol << 16).to_be();
    let addresses = u64::from(source) + u64::from(destination);
    let sum = u64::from(new[0]) + u64::from(new[1]) + u64::from(third) + addresses;
    new[2] = third | u32::from(!fold_16(sum)) << 16;
    new[3] = source;
    new[4] = destination;
    addresses
}

/// The first eight bytes of an ICMP error that says this, where all else that its checksum covers has this sum.
#[inline(always)]
pub(crate) fn error(says: [u32; 2], sum: u64) -> [u32; 2] {
    let [kind, more] = [says[0].to_be(), says[1].to_be()];
    let sum = sum + u64::from(kind) + u64::from(more);
    [kind | u32::from(!fold_16(sum)) << 16, more]
}
