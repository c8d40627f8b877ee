//! The turning packet: it acknowledges the last bytes that a socket had sent, and brings new ones for the other peer.
//!
//! A full copy arrives once more and is translated like any other. The socket gets the headers alone: with the
//! acknowledgement it has nothing left to repeat, and it takes in nothing that the other peer would miss.

use landbridge_common::packet::{Joint, PacketCounter};

use crate::checksum::{change, fold, fold_16, updated};
use crate::counters::{count, drop};
use crate::maps::{Scratch, TCP_WORDS};
use crate::parse::{Ip, Segment};
use crate::skb::{NEXT, Refused, Skb};

const TCP: u64 = 6;
const CHECKSUM: u32 = 16;

/// Splits the packet.
#[inline(always)]
pub(crate) fn turn<const LINK: u32>(
    skb: Skb<LINK>,
    ip: &Ip<'_>,
    segment: &Segment,
    joint: *mut Joint,
    scratch: *mut Scratch,
) -> i32 {
    skb.repeat();
    if trim(skb, ip, segment, scratch).is_err() {
        return drop(joint, PacketCounter::Failed);
    }
    count(PacketCounter::Passed);
    NEXT
}

/// Takes the payload off, and makes lengths and checksums right again.
#[inline(always)]
fn trim<const LINK: u32>(skb: Skb<LINK>, ip: &Ip<'_>, segment: &Segment, scratch: *mut Scratch) -> Result<(), Refused> {
    let at = ip.header();
    skb.cut(at + segment.header)?;

    // SAFETY: the scratch is this run's.
    let (tcp, new) = unsafe { (&raw const (*scratch).tcp, &mut (*scratch).ip) };
    let mut n = 0;
    while n < 10 {
        new[n] = ip.words[n];
        n += 1;
    }
    let mut addresses = 0;
    let old_len = segment.header + segment.payload;
    if ip.is_ipv6 {
        new[1] = (u32::from_be(new[1]) & 0xffff | segment.header << 16).to_be();
        skb.store_and_sum(0, (&raw const *new).cast(), 40)?;
        let mut n = 2;
        while n < 10 {
            addresses += u64::from(new[n]);
            n += 1;
        }
    } else {
        let first = (u32::from_be(new[0]) & 0xffff_0000 | (at + segment.header)).to_be();
        let sum = updated((new[2] >> 16) as u16, change(new[0], first));
        new[0] = first;
        new[2] = new[2] & 0xffff | u32::from(sum) << 16;
        skb.store_and_sum(0, (&raw const *new).cast(), 20)?;
        addresses += u64::from(new[3]) + u64::from(new[4]);
    }

    recompute(skb, at, segment.header, old_len, addresses, tcp)
}

/// Makes the checksum right of a packet that ends with its TCP header of `header` bytes, of which `tcp` is a copy, and had
/// `old_len` bytes from there on. `addresses` is their sum.
#[inline(always)]
pub(crate) fn recompute<const LINK: u32>(
    skb: Skb<LINK>,
    at: u32,
    header: u32,
    old_len: u32,
    addresses: u64,
    tcp: *const [u32; TCP_WORDS],
) -> Result<(), Refused> {
    // If the checksum is yet to be computed, the field has the pseudo header's sum, of which this changes the length.
    skb.adjust_pseudo(at + CHECKSUM, fold(change(old_len.to_be(), header.to_be())))?;

    // Else the field must become the sum of what is left. This difference does nothing in the first case.
    let mut field = 0_u16;
    skb.load(at + CHECKSUM, &raw mut field)?;
    let mut sum = addresses + (TCP << 24) + u64::from(header.to_be());
    let mut n = 0;
    while n < 15 {
        if n * 4 < header {
            // SAFETY: the scratch is this run's.
            let word = unsafe { (*tcp)[n as usize] };
            sum += u64::from(if n == 4 { word & 0xffff_0000 } else { word });
        }
        n += 1;
    }
    let right = !fold_16(sum);
    let difference = u64::from(!right) + u64::from(field);
    skb.adjust(at + CHECKSUM, fold(difference))?;
    // The payload's part of the sum over all of the packet went with it; the field's has changed besides.
    skb.add_to_sum(fold(u64::from(right) + u64::from(!field)));
    Ok(())
}
