//! A packet's headers.

use landbridge_common::packet::Tuple;

/// TCP flags.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// The connection is reset.
    pub const RST: u8 = 4;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 16;
    /// The urgent pointer is valid.
    pub const URG: u8 = 32;
}

const TCP: u8 = 6;

/// How many extension headers are followed to a TCP header.
const EXTENSION_HEADERS: usize = 4;

/// What a packet is.
#[derive(Debug, Clone, Copy)]
pub enum Parsed<'p> {
    /// Not TCP, or not recognisable as such.
    Foreign,
    /// TCP, but not to be translated: a fragment, IP options, extension headers, URG, wrong lengths.
    Opaque,
    /// TCP.
    Segment(Segment<'p>),
}

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'p> {
    /// The IP header.
    pub ip: &'p [u8],
    /// The TCP header with its options.
    pub tcp: &'p [u8],
    /// What comes after it.
    pub payload: &'p [u8],
}

/// The numbers of a segment that decisions are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// All flags but the one for accurate ECN.
    pub flags: u8,
    /// The window field.
    pub window: u16,
    /// Bytes of payload.
    pub payload: u32,
}

impl Facts {
    /// Whether one of these flags is set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// How much of the sequence space it occupies. A SYN never comes so far as to matter.
    pub fn occupies(&self) -> u32 {
        self.payload + u32::from(self.has(flag::FIN))
    }

    /// The sequence number after it.
    pub fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.occupies())
    }
}

impl Segment<'_> {
    /// Whether the header is IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.ip.len() == 40
    }

    /// The numbers.
    pub fn facts(&self) -> Facts {
        Facts {
            sequence: be32(self.tcp, 4),
            acknowledgement: be32(self.tcp, 8),
            flags: self.tcp[13],
            window: be16(self.tcp, 14),
            payload: self.payload.len() as u32,
        }
    }
}

/// Two bytes as a number.
///
/// # Panics
/// There are not so many.
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four bytes as a number.
///
/// # Panics
/// There are not so many.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Where TCP begins, and whether nothing is in between that cannot be translated.
struct Place {
    at: usize,
    is_plain: bool,
}

fn place(packet: &[u8]) -> Option<Place> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let header = usize::from(packet[0] & 15) * 4;
            let fragment = be16(packet, 6);
            if packet[9] != TCP || header < 20 || fragment & 0x1fff != 0 {
                return None;
            }
            Some(Place { at: header, is_plain: header == 20 && fragment & 0x2000 == 0 })
        }
        6 if packet.len() >= 40 => {
            if packet[6] == TCP {
                return Some(Place { at: 40, is_plain: true });
            }
            behind_extensions(packet).map(|at| Place { at, is_plain: false })
        }
        _ => None,
    }
}

fn behind_extensions(packet: &[u8]) -> Option<usize> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    let (mut next, mut at) = (packet[6], 40);
    for _ in 0..EXTENSION_HEADERS {
        let head = packet.get(at..at + 4)?;
        at += match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(head[1]) + 1) * 8,
            FRAGMENT if be16(head, 2) & 0xfff8 == 0 => 8,
            _ => return None,
        };
        next = head[0];
        if next == TCP {
            return Some(at);
        }
    }
    None
}

/// The four-tuple of a TCP packet, as [`Tuple`] has it.
pub fn tuple(packet: &[u8]) -> Option<Tuple> {
    let ports = packet.get(place(packet)?.at..)?.get(..4)?;
    let (source, destination) =
        if packet[0] >> 4 == 6 { (&packet[8..24], &packet[24..40]) } else { (&packet[12..16], &packet[16..20]) };
    Some(Tuple {
        source: words(source),
        destination: words(destination),
        source_port: u16::from_ne_bytes([ports[0], ports[1]]),
        destination_port: u16::from_ne_bytes([ports[2], ports[3]]),
    })
}

/// An address of either family as [`Tuple`] has it.
pub fn words(address: &[u8]) -> [u32; 4] {
    let mut mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    mapped[16 - address.len()..].copy_from_slice(address);
    core::array::from_fn(|n| {
        u32::from_ne_bytes([mapped[4 * n], mapped[4 * n + 1], mapped[4 * n + 2], mapped[4 * n + 3]])
    })
}

/// Parses a packet.
pub fn parse(packet: &[u8]) -> Parsed<'_> {
    let Some(Place { at, is_plain }) = place(packet) else { return Parsed::Foreign };
    if packet.len() < at + 4 {
        return Parsed::Foreign;
    }
    if is_plain && let Some(segment) = segment(packet, at) { Parsed::Segment(segment) } else { Parsed::Opaque }
}

fn segment(packet: &[u8], at: usize) -> Option<Segment<'_>> {
    let end = if at == 20 { be16(packet, 2).into() } else { 40 + usize::from(be16(packet, 4)) };
    // What follows is padding of a short frame.
    let rest = packet.get(at..end)?;
    let header = usize::from(rest.get(12)? >> 4) * 4;
    if rest.len() < 20 || header < 20 || header > rest.len() || rest[13] & flag::URG != 0 {
        return None;
    }
    let (tcp, payload) = rest.split_at(header);
    Some(Segment { ip: &packet[..at], tcp, payload })
}
