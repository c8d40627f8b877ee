//! TCP packets made by hand, with right lengths and checksums unless a test breaks them.

use std::net::IpAddr;

/// A TCP packet from the IP header on.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Who sends it; of the same family as the destination.
    pub source: (IpAddr, u16),
    /// Who gets it.
    pub destination: (IpAddr, u16),
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// The lower byte of the flags: FIN is 1, ACK is 16.
    pub flags: u8,
    /// The window field.
    pub window: u16,
    /// The options; NOPs are added up to a whole number of words.
    pub options: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// TTL or hop limit.
    pub hops: u8,
    /// Type of service or traffic class.
    pub class: u8,
    /// The identification of an IPv4 packet, the lower half of the flow label of an IPv6 packet.
    pub identification: u16,
}

impl Packet {
    /// The bytes of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.source.1.to_be_bytes());
        tcp.extend(self.destination.1.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        let words = self.options.len().div_ceil(4);
        tcp.push(((5 + words) << 4) as u8);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.resize(20 + 4 * words, 1);
        tcp.extend(&self.payload);
        let mut packet = header(self.source.0, self.destination.0, 6, tcp.len(), self);
        let sum = transport_checksum(self.source.0, self.destination.0, 6, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend(tcp);
        packet
    }

    /// An ICMP error of the packet's family, sent by `router`, with as many bytes of the packet as `quoted` tells.
    pub fn error(&self, router: IpAddr, kind: u8, code: u8, word: u32, quoted: usize) -> Vec<u8> {
        let protocol = if router.is_ipv4() { 1 } else { 58 };
        let mut icmp = vec![kind, code, 0, 0];
        icmp.extend(word.to_be_bytes());
        icmp.extend(self.bytes().iter().take(quoted));
        let mut packet = header(router, self.source.0, protocol, icmp.len(), self);
        let sum =
            if router.is_ipv4() { checksum(&icmp) } else { transport_checksum(router, self.source.0, protocol, &icmp) };
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        packet.extend(icmp);
        packet
    }
}

/// The timestamp option with two NOPs before it, as most stacks send it.
pub fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut option = vec![1, 1, 8, 10];
    option.extend(value.to_be_bytes());
    option.extend(echo.to_be_bytes());
    option
}

/// A SACK option with these edges.
pub fn sack(edges: &[u32]) -> Vec<u8> {
    let mut option = vec![5, (2 + 4 * edges.len()) as u8];
    option.extend(edges.iter().flat_map(|edge| edge.to_be_bytes()));
    option
}

/// Whether the checksums of a TCP or ICMP packet are right, that of the IP header included.
pub fn is_intact(packet: &[u8]) -> bool {
    let (source, destination, header, protocol) = if packet[0] >> 4 == 4 {
        let ip = |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        if checksum(&packet[..20]) != 0 {
            return false;
        }
        (ip(12), ip(16), 20, packet[9])
    } else {
        let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap_or_default());
        (ip(8), ip(24), 40, packet[6])
    };
    let rest = &packet[header..];
    if protocol == 1 { checksum(rest) == 0 } else { transport_checksum(source, destination, protocol, rest) == 0 }
}

fn header(source: IpAddr, destination: IpAddr, protocol: u8, rest: usize, like: &Packet) -> Vec<u8> {
    let mut header = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([0x45, like.class]);
            header.extend((20 + rest as u16).to_be_bytes());
            header.extend(like.identification.to_be_bytes());
            header.extend([0x40, 0, like.hops, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let first = 6 << 28 | u32::from(like.class) << 20 | u32::from(like.identification);
            header.extend(first.to_be_bytes());
            header.extend((rest as u16).to_be_bytes());
            header.extend([protocol, like.hops]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        _ => panic!("a packet from {source} to {destination}"),
    }
    header
}

fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, rest: &[u8]) -> u16 {
    let mut covered = Vec::new();
    for ip in [source, destination] {
        match ip {
            IpAddr::V4(ip) => covered.extend(ip.octets()),
            IpAddr::V6(ip) => covered.extend(ip.octets()),
        }
    }
    covered.extend((rest.len() as u32).to_be_bytes());
    covered.extend([0, 0, 0, protocol]);
    covered.extend(rest);
    checksum(&covered)
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
