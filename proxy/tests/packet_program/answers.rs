//! What the programs send of their own accord: to a peer that begins anew, and to one whose packets are too long.

use landbridge_common::packet::{CHALLENGE_INTERVAL, CLIENT, Joint, KNOWN, PacketCounter, TARGET, phase};
use landbridge_core::packet::Verdict;
use landbridge_core::packet::parse::{be16, be32};
use landbridge_tests::packet::{Packet, is_intact, timestamps};

use crate::middle::monotonic;
use crate::rig::{Ends, Link, MTU, Rig};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Every combination of families, over both kinds of device; those without a MAC header keep their family here.
fn combinations() -> impl Iterator<Item = (Link, [bool; 2])> {
    let ethernet =
        [[false, false], [true, true], [false, true], [true, false]].map(|families| (Link::Ethernet, families));
    let raw = [[false, false], [true, true]].map(|families| (Link::Raw, families));
    ethernet.into_iter().chain(raw)
}

/// A joint on which the target's last byte was sent on and some of the client's are not acknowledged.
fn busy(ends: &Ends) -> Joint {
    let mut joint = ends.joint();
    for (side, [sent_on, acknowledged]) in [(CLIENT, [5_000, 700]), (TARGET, [900, 3_000])] {
        let leg = &mut joint.legs[side];
        leg.newest = KNOWN | u64::from(leg.received.wrapping_add(sent_on));
        leg.acknowledged = KNOWN | u64::from(leg.sent.wrapping_add(acknowledged));
        leg.announced = KNOWN | 400;
    }
    joint
}

#[test]
fn a_syn_is_answered_and_the_answer_ends_what_was_forgotten() {
    let Some(mut rig) = Rig::new() else { return };
    for (link, families) in combinations() {
        for side in [CLIENT, TARGET] {
            let ends = Ends::new(families[0], families[1], link);
            let joint = busy(&ends);
            let packet = ends.packet(side, &joint);
            let is_ipv6 = families[side];
            let header = if is_ipv6 { 40 } else { 20 };
            // Whatever it is numbered, and whatever else it has.
            for (sequence, flags, payload) in [(77, SYN, 0), (packet.sequence, SYN, 300), (0, SYN | ACK, 0)] {
                let syn =
                    Packet { sequence, flags, payload: vec![9; payload], options: timestamps(1, 0), ..packet.clone() };
                let ran = rig.run(link, &ends, &joint, &syn.bytes());
                assert_eq!(ran.verdict, Verdict::Answer(header + 20, PacketCounter::Challenged));
                assert!(is_intact(&ran.packet), "{:02x?}", ran.packet);
                // It changes nothing but when the next one may come.
                assert_eq!(Joint { answered_at: 0, ..ran.joint }, joint);

                let tcp = &ran.packet[header..];
                assert_eq!([be16(tcp, 0), be16(tcp, 2)], [packet.destination.1, packet.source.1]);
                assert_eq!(tcp[13], ACK);
                let (leg, other) = (&joint.legs[side], &joint.legs[1 - side]);
                assert_eq!(be32(tcp, 4), (other.newest as u32).wrapping_add(other.sequence_delta));
                // What the other peer has, which is less than what was sent on.
                let acknowledged = be32(tcp, 8);
                assert_eq!(acknowledged, leg.received.wrapping_add([3_000, 700][side]));
                // 400 units of 128 bytes are 100 of 512.
                assert_eq!(be16(tcp, 14), 100);

                // So answers who knows of no such connection (RFC 9293, 3.10.7.3).
                let reset = Packet { sequence: acknowledged, flags: RST, ..packet.clone() };
                let ran = rig.run(link, &ends, &ran.joint, &reset.bytes());
                assert!(matches!(ran.verdict, Verdict::Forward(_)));
                assert_eq!(ran.joint.state & 0xff, phase::RESET);
            }
        }
    }
}

#[test]
fn syns_are_not_answered_one_by_one() {
    let Some(mut rig) = Rig::new() else { return };
    let ends = Ends::new(false, true, Link::Ethernet);
    let syn = Packet { flags: SYN, ..ends.packet(CLIENT, &ends.joint()) }.bytes();
    let first = rig.run(Link::Ethernet, &ends, &ends.joint(), &syn);
    assert_eq!(first.verdict, Verdict::Answer(40, PacketCounter::Challenged));
    for (ago, is_answered) in [(CHALLENGE_INTERVAL / 5, false), (CHALLENGE_INTERVAL, true)] {
        let joint = Joint { answered_at: monotonic() - ago, ..ends.joint() };
        let ran = rig.run(Link::Ethernet, &ends, &joint, &syn);
        assert_eq!(matches!(ran.verdict, Verdict::Answer(..)), is_answered);
        assert_eq!(ran.verdict == Verdict::Drop(PacketCounter::OutOfWindow), !is_answered);
    }
}

#[test]
fn before_anything_was_sent_on_a_syn_is_answered_as_the_sockets_would() {
    let Some(mut rig) = Rig::new() else { return };
    let ends = Ends::new(true, false, Link::Ethernet);
    let joint = ends.joint();
    let packet = ends.packet(CLIENT, &joint);
    let ran = rig.run(Link::Ethernet, &ends, &joint, &Packet { flags: SYN, ..packet.clone() }.bytes());
    let tcp = &ran.packet[40..];
    assert_eq!([be32(tcp, 4), be32(tcp, 8)], [packet.acknowledgement, packet.sequence]);
    assert!(u32::from(be16(tcp, 14)) << 9 >= 0xfe00);
}

#[test]
fn the_sender_of_a_packet_that_is_too_long_is_told() {
    let Some(mut rig) = Rig::new() else { return };
    for (link, families) in combinations() {
        for side in [CLIENT, TARGET] {
            let ends = Ends::new(families[0], families[1], link);
            let joint = busy(&ends);
            let [is_ipv6, to_ipv6] = [families[side], families[1 - side]];
            let (header, other) = (if is_ipv6 { 40 } else { 20 }, if to_ipv6 { 40 } else { 20 });
            let options = timestamps(5, 6);
            // The first payload that is too long.
            let payload = vec![3; MTU - other - 20 - options.len() + 1];
            let packet = Packet { payload, options, ..ends.packet(side, &joint) };
            let bytes = packet.bytes();
            let ran = rig.run(link, &ends, &joint, &bytes);
            let len = 2 * header + 28;
            assert_eq!(ran.verdict, Verdict::Answer(len, PacketCounter::TooLong));
            assert!(is_intact(&ran.packet), "{:02x?}", ran.packet);
            assert_eq!(ran.joint.legs[side].newest, joint.legs[side].newest, "it was not sent on");

            // In the sender's terms: what it sent, and how long it may be.
            let icmp = &ran.packet[header..];
            assert_eq!(icmp[..2], if is_ipv6 { [2, 0] } else { [3, 4] });
            assert_eq!(be32(icmp, 4) as usize, MTU - other + header);
            let tcp = header + 16;
            assert_eq!(icmp[8..8 + tcp], bytes[..tcp]);

            // A window of them gets one answer.
            let again = rig.run(link, &ends, &Joint { answered_at: monotonic() + 1_000_000_000, ..joint }, &bytes);
            assert_eq!(again.verdict, Verdict::Drop(PacketCounter::TooLong));
        }
    }
}

/// Where a device is still to compute the checksum of what is quoted, it must not change it any more.
#[test]
fn what_is_quoted_has_a_checksum_that_computing_does_not_change() {
    let Some(mut rig) = Rig::new() else { return };
    let ends = Ends::new(false, false, Link::Ethernet);
    let joint = ends.joint();
    for seed in 0..200_u32 {
        let packet = ends.packet(CLIENT, &joint);
        let sequence = packet.sequence.wrapping_add(seed * 4_099);
        let payload = vec![seed as u8; MTU];
        let ran = rig.run(Link::Ethernet, &ends, &joint, &Packet { sequence, payload, ..packet }.bytes());
        let tcp = &ran.packet[48..];
        assert_eq!(tcp.len(), 20);
        // As the kernel computes it from the sum that is in the field: over all of it, the field included.
        let computed = landbridge_core::packet::checksum::of(tcp, 0);
        assert_eq!(computed, be16(tcp, 16), "{tcp:02x?}");
    }
}
