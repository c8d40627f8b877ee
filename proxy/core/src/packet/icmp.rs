//! ICMP errors about packets that were sent on.

use landbridge_common::packet::{Joint, PHASE, PacketCounter, Tuple, phase};

use super::parse::{be16, be32, tuple};
use super::translate::{readdressed, write_addresses};
use super::{Arrival, Outcome, Verdict, between, checksum, dropped, window};

/// The header of an error, before the packet that it is about.
pub(super) const HEADER: usize = 8;

/// The length of the IP header of a packet that is an error that TCP acts on.
fn header(packet: &[u8]) -> Option<usize> {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    let first = *packet.first()?;
    if first == 0x45 && packet.len() >= 20 {
        let is_whole = be16(packet, 6) & 0x3fff == 0;
        // Destination unreachable, time exceeded.
        return (packet[9] == ICMP && is_whole && matches!(packet.get(20)?, 3 | 11)).then_some(20);
    }
    // Destination unreachable, packet too big, time exceeded.
    (first >> 4 == 6 && packet.len() >= 40 && packet[6] == ICMPV6 && matches!(packet.get(40)?, 1..=3)).then_some(40)
}

/// The four-tuple, as its answers arrive, of the connection that an ICMP error is about.
pub fn about(packet: &[u8]) -> Option<Tuple> {
    let header = header(packet)?;
    let inner = packet.get(header + HEADER..)?;
    // The addresses, the ports and the sequence number; no options or extension headers.
    if inner.len() < header + 8 || inner[0] >> 4 != packet[0] >> 4 || inner[if header == 20 { 9 } else { 6 }] != 6 {
        return None;
    }
    if header == 20 && inner[0] != 0x45 {
        return None;
    }
    tuple(inner).map(|sent| reversed(&sent))
}

/// The four-tuple of the packets the other way.
pub(super) fn reversed(tuple: &Tuple) -> Tuple {
    Tuple {
        source: tuple.destination,
        destination: tuple.source,
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
    }
}

/// Decides about an ICMP error that is [`about`] a packet which was sent on to the peer of the leg `arrival.side`.
///
/// # Panics
/// `out` is shorter than the packet or than 96 bytes, or this is no such error.
pub fn arrive(joint: &mut Joint, arrival: Arrival, packet: &[u8], out: &mut [u8]) -> Outcome {
    let header = header(packet).expect("the caller found out whose it is");
    let (leg, origin) = (&joint.legs[arrival.side], &joint.legs[1 - arrival.side]);
    if joint.state & PHASE != phase::LIVE {
        return Outcome::of(Verdict::Pass);
    }
    let other = if (origin.is_ipv6 != 0) == (header == 40) {
        None
    } else {
        let Some(head) = between::head(header == 40, &packet[header..]) else { return Outcome::of(Verdict::Pass) };
        Some(head)
    };
    let inner = header + HEADER;
    let sequence = be32(packet, inner + header + 4).wrapping_sub(origin.sequence_delta);
    if !window::is_on_its_way(sequence, origin, leg) {
        return dropped(joint, PacketCounter::OutOfWindow);
    }
    let hops = if header == 40 { packet[7] } else { packet[8] };
    if hops <= 1 {
        return dropped(joint, PacketCounter::NoRoute);
    }
    if let Some(head) = other {
        return Outcome::of(Verdict::Forward(between::make(joint, arrival, head, (&packet[inner..], sequence), out)));
    }
    if packet.len() > arrival.mtu {
        return dropped(joint, PacketCounter::NoRoute);
    }

    let out = &mut out[..packet.len()];
    out.copy_from_slice(packet);
    // As the other peer sent it: to this host.
    let sent = reversed(&leg.out);
    let end = inner + header;
    write_addresses(&sent, &mut out[inner..end]);
    if header == 20 {
        let field = checksum::updated(be16(packet, inner + 10), &packet[inner + 12..end], &out[inner + 12..end]);
        out[inner + 10..inner + 12].copy_from_slice(&field.to_be_bytes());
        readdressed(&packet[..20], &leg.out, &mut out[..20]);
    } else {
        write_addresses(&leg.out, &mut out[..40]);
        out[7] -= 1;
    }
    out[end..end + 2].copy_from_slice(&sent.source_port.to_ne_bytes());
    out[end + 2..end + 4].copy_from_slice(&sent.destination_port.to_ne_bytes());
    out[end + 4..end + 8].copy_from_slice(&sequence.to_be_bytes());

    let mut field = checksum::updated(be16(packet, header + 2), &packet[inner..end + 8], &out[inner..end + 8]);
    if header == 40 {
        field = checksum::updated(field, &packet[8..40], &out[8..40]);
    }
    out[header + 2..header + 4].copy_from_slice(&field.to_be_bytes());
    Outcome::of(Verdict::Forward(out.len()))
}
