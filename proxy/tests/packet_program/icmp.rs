//! ICMP errors about packets that were sent on.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use landbridge_common::packet::{CLIENT, KNOWN, PacketCounter, TARGET, phase};
use landbridge_core::packet::{Verdict, icmp, parse};
use landbridge_tests::packet::{Packet, is_intact};
use proptest::prelude::{any, prop};
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use crate::rig::{Ends, Link, Rig};

/// A run takes well under a millisecond.
const CASES: u32 = 3_000;

const LINKS: [Link; 2] = [Link::Ethernet, Link::Raw];

/// Of a router on the way, from the range of the peer.
fn router(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [a, b, c, 200].into()
        }
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[15] = 200;
            octets.into()
        }
    }
}

/// A packet as it was sent on to the peer of leg `side`, and what that peer's side answers.
fn sent_on(ends: &Ends, side: usize, sequence: u32, acknowledgement: u32) -> Packet {
    let [peer, own] = ends.0[side];
    Packet {
        source: own,
        destination: peer,
        sequence,
        acknowledgement,
        flags: 24,
        window: 77,
        options: Vec::new(),
        payload: vec![1; 100],
        hops: 61,
        class: 0,
        identification: 7,
    }
}

#[test]
fn errors_go_back_to_whom_they_concern() {
    let Some(mut rig) = Rig::new() else { return };
    for link in LINKS {
        for is_ipv6 in [false, true] {
            let kinds: &[(u8, u8, u32)] = if is_ipv6 {
                &[(1, 0, 0), (1, 4, 0), (2, 0, 1280), (3, 0, 0)]
            } else {
                &[(3, 1, 0), (3, 3, 0), (3, 4, 1280), (11, 0, 0)]
            };
            for side in [CLIENT, TARGET] {
                for &(kind, code, word) in kinds {
                    // The least that an error must tell, and more; also an odd number of bytes.
                    let header = if is_ipv6 { 40 } else { 20 };
                    for quoted in [header + 8, header + 20, header + 33] {
                        let ends = Ends::new(is_ipv6, is_ipv6, link);
                        let mut joint = ends.joint();
                        let (leg, origin) = (joint.legs[side], &mut joint.legs[1 - side]);
                        origin.newest = KNOWN | u64::from(origin.received.wrapping_add(1000));
                        let sequence = leg.sent.wrapping_add(900);
                        let original = origin.received.wrapping_add(900);
                        let packet = sent_on(&ends, side, sequence, leg.received);
                        let error = packet.error(router(ends.0[side][0].0), kind, code, word, quoted);
                        let ran = rig.run(link, &ends, &joint, &error);
                        assert_eq!(ran.verdict, Verdict::Forward(error.len()));
                        assert!(is_intact(&ran.packet), "{:02x?}", ran.packet);

                        // As the other peer would get it from a router if there were no proxy in between.
                        let [peer, own] = ends.0[1 - side];
                        let as_sent = Packet {
                            source: peer,
                            destination: own,
                            sequence: original,
                            acknowledgement: leg.received,
                            ..packet.clone()
                        };
                        let mut expected = as_sent.error(own.0, kind, code, word, header + 8);
                        expected.truncate(header + 8 + header + 8);
                        let (hops, sum) = if is_ipv6 { (7, 42..44) } else { (8, 22..24) };
                        expected[hops] -= 1;
                        let mut got = ran.packet.clone();
                        // The sums cover what was quoted beyond that, and the lengths tell of it.
                        let lengths = if is_ipv6 { 4..6 } else { 2..4 };
                        for bytes in [&mut got, &mut expected] {
                            bytes[sum.clone()].fill(0);
                            bytes[lengths.clone()].fill(0);
                            if !is_ipv6 {
                                bytes[10..12].fill(0);
                            }
                        }
                        assert_eq!(got[..expected.len()], expected);
                    }
                }
            }
        }
    }
}

/// An error's type and code, and the size that it tells.
type Says = ([u8; 2], u32);

/// What an error of IPv4 or IPv6 is in the other family: RFC 7915, 4.2 and 5.2.
const BETWEEN: [(bool, Says, Option<Says>); 22] = [
    (false, ([3, 0], 0), Some(([1, 0], 0))),
    (false, ([3, 1], 0), Some(([1, 0], 0))),
    (false, ([3, 2], 0), None),
    (false, ([3, 3], 0), Some(([1, 4], 0))),
    (false, ([3, 4], 1400), Some(([2, 0], 1420))),
    (false, ([3, 4], 1000), Some(([2, 0], 1280))),
    (false, ([3, 4], 0), Some(([2, 0], 1280))),
    (false, ([3, 6], 0), Some(([1, 0], 0))),
    (false, ([3, 13], 0), Some(([1, 1], 0))),
    (false, ([3, 14], 0), None),
    (false, ([11, 0], 0), Some(([3, 0], 0))),
    (false, ([11, 1], 0), Some(([3, 1], 0))),
    (true, ([1, 0], 0), Some(([3, 1], 0))),
    (true, ([1, 1], 0), Some(([3, 10], 0))),
    (true, ([1, 3], 0), Some(([3, 1], 0))),
    (true, ([1, 4], 0), Some(([3, 3], 0))),
    (true, ([1, 5], 0), None),
    (true, ([2, 0], 1400), Some(([3, 4], 1380))),
    (true, ([2, 0], 1280), Some(([3, 4], 1260))),
    (true, ([2, 0], 68), Some(([3, 4], 1260))),
    (true, ([2, 0], 1 << 20), Some(([3, 4], 0xffff))),
    (true, ([3, 0], 0), Some(([11, 0], 0))),
];

#[test]
fn errors_go_back_to_a_peer_of_the_other_family() {
    let Some(mut rig) = Rig::new() else { return };
    for link in LINKS {
        for (is_ipv6, ([kind, code], word), expected) in BETWEEN {
            for side in [CLIENT, TARGET] {
                let header = if is_ipv6 { 40 } else { 20 };
                // Shorter and longer than what is made of it.
                for quoted in [header + 8, header + 33, header + 120] {
                    let ends = if side == CLIENT {
                        Ends::new(is_ipv6, !is_ipv6, link)
                    } else {
                        Ends::new(!is_ipv6, is_ipv6, link)
                    };
                    let mut joint = ends.joint();
                    let (leg, origin) = (joint.legs[side], &mut joint.legs[1 - side]);
                    origin.newest = KNOWN | u64::from(origin.received.wrapping_add(1000));
                    let sequence = leg.sent.wrapping_add(900);
                    let original = origin.received.wrapping_add(900);
                    let packet = Packet { class: 0xb8, ..sent_on(&ends, side, sequence, leg.received) };
                    let error = packet.error(router(ends.0[side][0].0), kind, code, word, quoted);
                    let ran = rig.run(link, &ends, &joint, &error);
                    let Some(([kind, code], word)) = expected else {
                        assert_eq!(ran.verdict, Verdict::Pass, "{kind} {code}");
                        continue;
                    };
                    assert!(is_intact(&ran.packet), "{:02x?}", ran.packet);

                    // As this host itself would say it about the packet that the other peer has sent.
                    let [peer, own] = ends.0[1 - side];
                    let as_sent =
                        Packet { source: peer, destination: own, sequence: original, identification: 0, ..packet };
                    let header = if is_ipv6 { 20 } else { 40 };
                    let mut expected = as_sent.error(own.0, kind, code, word, header + 8);
                    // It is a new packet.
                    if is_ipv6 {
                        expected[1] = 0;
                        expected[8] = 64;
                        expected[10..12].fill(0);
                    } else {
                        expected[..2].copy_from_slice(&[0x60, 0]);
                        expected[7] = 64;
                    }
                    let mut got = ran.packet;
                    if is_ipv6 {
                        got[10..12].fill(0);
                    }
                    assert_eq!(got, expected, "{got:02x?}\n{expected:02x?}");
                }
            }
        }
    }
}

#[test]
fn errors_about_nothing_on_its_way_are_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    for is_ipv6 in [false, true] {
        let ends = Ends::new(is_ipv6, is_ipv6, Link::Ethernet);
        let joint = ends.joint();
        let (kind, quoted) = if is_ipv6 { (2, 48) } else { (3, 28) };
        for (offset, is_on_its_way) in
            [(0, true), (1, false), (u32::MAX, true), (0x8000_0000, false), (0_u32.wrapping_sub((1 << 20) + 1), false)]
        {
            let sequence = joint.legs[TARGET].sent.wrapping_add(offset);
            let packet = sent_on(&ends, TARGET, sequence, joint.legs[TARGET].received);
            let error = packet.error(router(ends.0[TARGET][0].0), kind, 4, 1400, quoted);
            let ran = rig.run(Link::Ethernet, &ends, &joint, &error);
            let expected =
                if is_on_its_way { Verdict::Forward(error.len()) } else { Verdict::Drop(PacketCounter::OutOfWindow) };
            assert_eq!(ran.verdict, expected, "{offset:x}");
        }
    }
}

#[test]
fn other_errors_are_left_to_the_stack() {
    let Some(mut rig) = Rig::new() else { return };
    let ends = Ends::new(false, false, Link::Ethernet);
    let joint = ends.joint();
    let packet = sent_on(&ends, TARGET, joint.legs[TARGET].sent, 0);
    let from = router(ends.0[TARGET][0].0);
    // Echo, redirect, parameter problem.
    for kind in [0, 5, 8, 12] {
        rig.run_foreign(Link::Ethernet, &packet.error(from, kind, 0, 0, 28));
    }
    // Too short to tell.
    rig.run_foreign(Link::Ethernet, &packet.error(from, 3, 4, 0, 27));
    // Another connection.
    let other = Packet { source: (packet.source.0, 1), ..packet.clone() };
    rig.run_foreign(Link::Ethernet, &other.error(from, 3, 4, 0, 28));

    // Not live.
    for state in [phase::FREE, phase::WATCHED, phase::PREPARED, phase::ARMED, phase::CLOSED, phase::RESET, phase::DEAD]
    {
        let mut joint = joint;
        joint.state = state;
        let ran = rig.run(Link::Ethernet, &ends, &joint, &packet.error(from, 3, 4, 1280, 28));
        assert_eq!(ran.verdict, Verdict::Pass);
    }
}

/// Errors with any bytes wrong: programs and model agree about whose they are, and what becomes of them.
#[test]
fn broken_errors() {
    let Some(rig) = Rig::new() else { return };
    let rig = RefCell::new(rig);
    let forwarded = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let changes = prop::collection::vec((0..100_usize, any::<u8>()), 0..3);
    let strategy = (any::<[bool; 2]>(), 0..2_usize, 0..1500_u32, select(vec![1_u8, 2, 3, 11]), 0..120_usize, changes);
    let result = runner.run(&strategy, |(is_ipv6, side, offset, kind, quoted, changes)| {
        let ends = Ends::new(is_ipv6[0], is_ipv6[1], Link::Ethernet);
        let mut joint = ends.joint();
        let (leg, origin) = (joint.legs[side], &mut joint.legs[1 - side]);
        origin.newest = KNOWN | u64::from(origin.received.wrapping_add(1000));
        let packet = sent_on(&ends, side, leg.sent.wrapping_add(offset), leg.received);
        let mut error = packet.error(router(ends.0[side][0].0), kind, 0, 1300, quoted);
        let version = error[0] >> 4;
        for (at, change) in changes {
            let at = at % error.len();
            error[at] ^= change;
        }
        // The other version would come with another type in the Ethernet header.
        error[0] = error[0] & 15 | version << 4;
        let is_ours = icmp::about(&error).is_some_and(|tuple| (0..2).any(|side| ends.tuple(side) == tuple));
        let mut rig = rig.borrow_mut();
        if !is_ours && parse::tuple(&error).is_none() {
            rig.run_foreign(Link::Ethernet, &error);
        } else if is_ours {
            let ran = rig.run(Link::Ethernet, &ends, &joint, &error);
            forwarded.set(forwarded.get() + u32::from(matches!(ran.verdict, Verdict::Forward(_))));
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(forwarded.get() > CASES / 20, "{}", forwarded.get());
}
