//! What a packet is, as far as is needed to know whose it is.

use crate::icmp;
use crate::leg::{self, Arrival};
use crate::maps::{SCRATCH, Scratch};
use crate::phases;
use crate::skb::{NEXT, Refused, Skb};

const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;

const ICMP: u32 = 1;
const TCP: u32 = 6;
const ICMPV6: u32 = 58;

/// The words of an IPv6 header, and one for the ports.
const WORDS: usize = 11;

/// How many extension headers are followed to a TCP header behind them. Nobody who opens connections in good faith
/// sends one; what hides behind more is left to the stack.
const EXTENSION_HEADERS: u32 = 4;

/// Address words of an IPv4 address mapped into IPv6.
pub(crate) const MAPPED: u32 = 0xffff_u32.to_be();

pub(crate) const FIN: u32 = 1;
pub(crate) const SYN: u32 = 2;
pub(crate) const RST: u32 = 4;
pub(crate) const ACK: u32 = 16;
pub(crate) const URG: u32 = 32;

/// The IP header, in the scratch.
#[derive(Clone, Copy)]
pub(crate) struct Ip<'s> {
    pub(crate) words: &'s [u32; WORDS],
    pub(crate) is_ipv6: bool,
}

impl Ip<'_> {
    /// The header's length in bytes; options do not count, since a packet that has some is not translated.
    #[inline(always)]
    pub(crate) fn header(&self) -> u32 {
        if self.is_ipv6 { 40 } else { 20 }
    }

    /// The length of header and payload that the header tells; 0 if the packet is too large for that.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        if self.is_ipv6 {
            match u32::from_be(self.words[1]) >> 16 {
                0 => 0,
                payload => payload + 40,
            }
        } else {
            u32::from_be(self.words[0]) & 0xffff
        }
    }
}

/// What TCP says in its header.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// FIN to URG; the rest of the byte too.
    pub(crate) flags: u32,
    /// The window field.
    pub(crate) window: u32,
    /// The header's length in bytes: 20 to 60.
    pub(crate) header: u32,
    /// Bytes of payload.
    pub(crate) payload: u32,
}

impl Segment {
    /// How much of the sequence space it occupies.
    #[inline(always)]
    pub(crate) fn occupies(&self) -> u32 {
        self.payload + (self.flags & FIN)
    }

    /// The sequence number after it.
    #[inline(always)]
    pub(crate) fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.occupies())
    }
}

/// Decides about a packet.
#[inline(always)]
pub(crate) fn classify<const LINK: u32>(skb: Skb<LINK>) -> i32 {
    if !skb.is_for_us() {
        return NEXT;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NEXT };
    let decided = match skb.protocol() {
        ETHERTYPE_IPV4 => ipv4(skb, scratch),
        ETHERTYPE_IPV6 => ipv6(skb, scratch),
        _ => Err(Refused),
    };
    decided.unwrap_or(NEXT)
}

#[inline(always)]
fn ipv4<const LINK: u32>(skb: Skb<LINK>, scratch: *mut Scratch) -> Result<i32, Refused> {
    // SAFETY: the scratch is this run's.
    let (words, tuple) = unsafe { (&mut (*scratch).arrived, &mut (*scratch).tuple) };
    // The header and the ports, if it has no options.
    skb.load_bytes(0, (&raw mut *words).cast(), 24)?;
    let first = u32::from_be(words[0]) >> 24;
    let fragment = u32::from_be(words[1]);
    let protocol = u32::from_be(words[2]) >> 16 & 0xff;
    if fragment & 0x1fff != 0 {
        // Not the first fragment: no ports. It never completes when the first one is dropped.
        return Ok(NEXT);
    }
    let whole = fragment & 0x2000 == 0;
    if protocol == ICMP && first == 0x45 && whole {
        return icmp::ipv4(skb, &Ip { words, is_ipv6: false }, scratch);
    }
    if protocol != TCP || !(0x45..=0x4f).contains(&first) {
        return Ok(NEXT);
    }
    if first != 0x45 {
        skb.load((first & 15) * 4, &raw mut words[5])?;
    }
    tuple.source = [0, 0, MAPPED, words[3]];
    tuple.destination = [0, 0, MAPPED, words[4]];
    tuple.source_port = words[5] as u16;
    tuple.destination_port = (words[5] >> 16) as u16;
    match leg::find(tuple) {
        Some(arrival) => Ok(joined(skb, &Ip { words, is_ipv6: false }, arrival, whole && first == 0x45, scratch)),
        None => Ok(NEXT),
    }
}

#[inline(always)]
fn ipv6<const LINK: u32>(skb: Skb<LINK>, scratch: *mut Scratch) -> Result<i32, Refused> {
    // SAFETY: the scratch is this run's.
    let (words, tuple) = unsafe { (&mut (*scratch).arrived, &mut (*scratch).tuple) };
    skb.load_bytes(0, (&raw mut *words).cast(), 40)?;
    if u32::from_be(words[0]) >> 28 != 6 {
        return Ok(NEXT);
    }
    let next = u32::from_be(words[1]) >> 8 & 0xff;
    if next == ICMPV6 {
        return icmp::ipv6(skb, &Ip { words, is_ipv6: true }, scratch);
    }
    let at = if next == TCP { 40 } else { behind_extensions(skb, next)? };
    skb.load(at, &raw mut words[10])?;
    tuple.source = [words[2], words[3], words[4], words[5]];
    tuple.destination = [words[6], words[7], words[8], words[9]];
    tuple.source_port = words[10] as u16;
    tuple.destination_port = (words[10] >> 16) as u16;
    match leg::find(tuple) {
        Some(arrival) => Ok(joined(skb, &Ip { words, is_ipv6: true }, arrival, next == TCP, scratch)),
        None => Ok(NEXT),
    }
}

/// Where the TCP header is that comes after extension headers.
#[inline(always)]
fn behind_extensions<const LINK: u32>(skb: Skb<LINK>, first: u32) -> Result<u32, Refused> {
    const HOP_BY_HOP: u32 = 0;
    const ROUTING: u32 = 43;
    const FRAGMENT: u32 = 44;
    const DESTINATION: u32 = 60;

    let mut next = first;
    let mut at = 40;
    let mut n = 0;
    while n < EXTENSION_HEADERS {
        if next != HOP_BY_HOP && next != ROUTING && next != FRAGMENT && next != DESTINATION {
            return Err(Refused);
        }
        let mut head = 0_u32;
        skb.load(at, &raw mut head)?;
        let head = u32::from_be(head);
        if next == FRAGMENT {
            if head & 0xfff8 != 0 {
                return Err(Refused);
            }
            at += 8;
        } else {
            at += ((head >> 16 & 0xff) + 1) * 8;
        }
        next = head >> 24;
        if next == TCP {
            return Ok(at);
        }
        n += 1;
    }
    Err(Refused)
}

/// Decides about a packet of a joined session; `plain` unless it is a fragment or has options or extension headers.
#[inline(always)]
fn joined<const LINK: u32>(skb: Skb<LINK>, ip: &Ip<'_>, arrival: Arrival, plain: bool, scratch: *mut Scratch) -> i32 {
    let segment = if plain { segment(skb, ip, scratch) } else { None };
    phases::decide(skb, ip, segment, arrival, scratch)
}

/// Reads the TCP header into the scratch; `None` if it is not one, or URG is set, which is not translated either.
#[inline(always)]
fn segment<const LINK: u32>(skb: Skb<LINK>, ip: &Ip, scratch: *mut Scratch) -> Option<Segment> {
    let told = ip.len();
    let end = if told == 0 && skb.gso_size() != 0 { skb.len() } else { told };
    if end > skb.len() {
        return None;
    }
    let rest = end.checked_sub(ip.header())?;
    if rest < 20 {
        return None;
    }
    let read = if rest > 60 { 60 } else { rest };
    // SAFETY: the scratch is this run's.
    let tcp = unsafe { &raw mut (*scratch).tcp };
    skb.load_bytes(ip.header(), tcp.cast(), read).ok()?;
    // SAFETY: the scratch is this run's.
    let (sequence, acknowledgement, word) = unsafe { ((*tcp)[1], (*tcp)[2], u32::from_be((*tcp)[3])) };
    let header = word >> 28 << 2;
    let flags = word >> 16 & 0xff;
    if header < 20 || header > rest || flags & URG != 0 {
        return None;
    }
    Some(Segment {
        sequence: u32::from_be(sequence),
        acknowledgement: u32::from_be(acknowledgement),
        flags,
        window: word & 0xffff,
        header,
        payload: rest - header,
    })
}
