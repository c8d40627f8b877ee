//! Translating forth and back is the identity, and what one peer says of the other's numbers is true.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec;
use std::vec::Vec;

use landbridge_common::packet::{CLIENT, Joint, KNOWN, Leg, TARGET, TIMESTAMPS, Tuple, phase};
use landbridge_tests::packet::{Packet, is_intact, sack, timestamps};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

use crate::packet::parse::{Parsed, Segment, parse, words};
use crate::packet::translate::{rescaled, translate};
use crate::packet::{Arrival, Verdict, arrive};

const MTU: usize = 2000;

/// Numbers around the wrap, and others.
fn number() -> impl Strategy<Value = u32> {
    proptest::prop_oneof![
        0..50_u32,
        (0..50_u32).prop_map(|n| n.wrapping_neg()),
        (0..50_u32).prop_map(|n| 0x8000_0000_u32.wrapping_sub(25).wrapping_add(n)),
        any::<u32>(),
    ]
}

fn address(is_ipv6: bool, leg: u8, host: u8) -> IpAddr {
    if is_ipv6 {
        Ipv6Addr::new(0x2001, 0xdb8, leg.into(), 0, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(192, 0, 2 + leg, host).into()
    }
}

fn tuple(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Tuple {
    let of = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    Tuple {
        source: of(source.0),
        destination: of(destination.0),
        source_port: source.1.to_be(),
        destination_port: destination.1.to_be(),
    }
}

/// Peer and own end of a leg.
fn ends(is_ipv6: bool, side: usize) -> [(IpAddr, u16); 2] {
    [(address(is_ipv6, side as u8, 9), 4000 + side as u16), (address(is_ipv6, side as u8, 1), 8000 + side as u16)]
}

#[derive(Debug, Clone)]
struct Session {
    is_ipv6: [bool; 2],
    joint: Joint,
}

fn session() -> impl Strategy<Value = Session> {
    let legs = [(number(), number(), 0..=14_u8, number()), (number(), number(), 0..=14_u8, number())];
    (any::<[bool; 2]>(), legs).prop_map(|(is_ipv6, numbers)| {
        let mut joint = Joint { state: phase::LIVE, flags: TIMESTAMPS, idle_limit: u64::MAX, ..Joint::default() };
        for side in [CLIENT, TARGET] {
            let ((received, sent, scale, delta), other) = (numbers[side], numbers[1 - side]);
            let [peer, own] = ends(is_ipv6[1 - side], 1 - side);
            joint.legs[side] = Leg {
                out: tuple(own, peer),
                received,
                sent,
                sequence_delta: other.1.wrapping_sub(received),
                acknowledgement_delta: other.0.wrapping_sub(sent),
                window_scale_in: scale,
                // Our sockets announce what the other peer does, so that windows come back as they were.
                window_scale_out: scale,
                is_ipv6: is_ipv6[side].into(),
                timestamp_delta: KNOWN | u64::from(delta),
                ..Leg::default()
            };
        }
        Session { is_ipv6, joint }
    })
}

#[derive(Debug, Clone)]
struct Content {
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    stamps: Option<(u32, u32)>,
    blocks: Vec<u32>,
    payload: Vec<u8>,
}

fn content() -> impl Strategy<Value = Content> {
    let blocks = (0..=4_usize).prop_flat_map(|n| prop::collection::vec(number(), 2 * n));
    // With timestamps only three blocks fit.
    let options = (prop::option::of((number(), number())), blocks)
        .prop_map(|(stamps, blocks)| (stamps.filter(|_| blocks.len() < 8), blocks));
    (number(), number(), any::<u16>(), options, prop::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(sequence, acknowledgement, window, (stamps, blocks), payload)| Content {
            sequence,
            acknowledgement,
            window,
            stamps,
            blocks,
            payload,
        },
    )
}

impl Content {
    fn packet(&self, ends: [(IpAddr, u16); 2]) -> Packet {
        let mut options = self.stamps.map_or_else(Vec::new, |(value, echo)| timestamps(value, echo));
        if !self.blocks.is_empty() {
            options.extend([1, 1]);
            options.extend(sack(&self.blocks));
        }
        let [source, destination] = ends;
        Packet {
            source,
            destination,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            flags: 24,
            window: self.window,
            options,
            payload: self.payload.clone(),
            hops: 64,
            class: 3,
            identification: 0,
        }
    }
}

fn segment(packet: &[u8]) -> Segment<'_> {
    match parse(packet) {
        Parsed::Segment(segment) => segment,
        other => panic!("{other:?}"),
    }
}

/// The packet as it is sent on from a leg.
fn sent_on(joint: &mut Joint, side: usize, packet: &[u8]) -> Vec<u8> {
    let mut out = vec![0; MTU];
    let len = translate(joint, Arrival { side, now: 0, mtu: MTU }, &segment(packet), &mut out).expect("translatable");
    out.truncate(len);
    out
}

/// The joint that undoes what this one does to the packets of `side`, when they arrive on that side.
fn inverse(session: &Session, side: usize) -> Joint {
    let mut joint = session.joint;
    let leg = session.joint.legs[side];
    let [peer, own] = ends(session.is_ipv6[side], side);
    let negative = |known: u64| KNOWN | u64::from((known as u32).wrapping_neg());
    joint.legs[side] = Leg {
        out: tuple(peer, own),
        sequence_delta: leg.sequence_delta.wrapping_neg(),
        acknowledgement_delta: leg.acknowledgement_delta.wrapping_neg(),
        timestamp_delta: negative(leg.timestamp_delta),
        ..leg
    };
    joint.legs[1 - side] = Leg {
        is_ipv6: session.is_ipv6[side].into(),
        timestamp_delta: negative(session.joint.legs[1 - side].timestamp_delta),
        ..session.joint.legs[1 - side]
    };
    joint
}

proptest! {
    #[test]
    fn forth_and_back_is_the_identity(session in session(), side in 0..2_usize, content in content()) {
        let packet = content.packet(ends(session.is_ipv6[side], side)).bytes();
        let there = sent_on(&mut session.joint.clone(), side, &packet);
        prop_assert!(is_intact(&there));
        let mut back = sent_on(&mut inverse(&session, side), side, &there);
        // Two hops, which the checksum of an IPv4 header covers.
        let as_new = content.packet(ends(session.is_ipv6[side], side));
        let expected = Packet { hops: 62, ..as_new }.bytes();
        // Routers may make fragments of what was a short IPv6 packet.
        if session.is_ipv6 == [side == 1, side == 0] && back.len() <= 1260 {
            let [_, _, high, low] = segment(&there).facts().sequence.to_be_bytes();
            prop_assert!(is_intact(&back));
            prop_assert_eq!(&back[4..8], &[high, low, 0, 0]);
            back[4..8].copy_from_slice(&expected[4..8]);
            back[10..12].copy_from_slice(&expected[10..12]);
        }
        prop_assert_eq!(back, expected);
    }

    /// Whatever a peer sends, the answer to it speaks of the numbers that it used.
    #[test]
    fn answers_speak_of_what_was_sent(session in session(), side in 0..2_usize, content in content()) {
        let mut joint = session.joint;
        let there = sent_on(&mut joint, side, &content.packet(ends(session.is_ipv6[side], side)).bytes());
        let arrived = segment(&there).facts();
        let stamp = (content.stamps.is_some()).then(|| u32::from_be_bytes(there[there.len()
            - content.payload.len() - segment(&there).tcp.len() + 24..][..4].try_into().expect("four bytes")));
        // The other peer acknowledges all of it, and selectively the same; it goes on where this one has acknowledged.
        let answer = Content {
            sequence: arrived.acknowledgement,
            acknowledgement: arrived.end(),
            window: 100,
            stamps: stamp.map(|stamp| (7, stamp)),
            blocks: vec![arrived.sequence, arrived.end()],
            payload: Vec::new(),
        };
        let other = 1 - side;
        let answer = answer.packet(ends(session.is_ipv6[other], other)).bytes();
        let back = sent_on(&mut joint, other, &answer);
        let back = segment(&back);
        let end = content.sequence.wrapping_add(content.payload.len() as u32);
        prop_assert_eq!((back.facts().sequence, back.facts().acknowledgement), (content.acknowledgement, end));
        let options: Vec<u32> =
            back.tcp[20..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().expect("four bytes"))).collect();
        let blocks = if let Some((value, _)) = content.stamps {
            prop_assert_eq!(options[2], value);
            &options[4..6]
        } else {
            &options[1..3]
        };
        prop_assert_eq!(blocks, &[content.sequence, end]);
    }

    /// Windows from and to every scale: never more than was announced, but for what rounding keeps open, and the most
    /// that can be said.
    #[test]
    fn windows_are_not_enlarged(window in any::<u16>(), scale_in in 0..=14_u8, scale_out in 0..=14_u8) {
        let bytes = u64::from(window) << scale_in;
        let scaled = rescaled(window, scale_in, scale_out);
        let said = u64::from(scaled) << scale_out;
        prop_assert_eq!(scaled == 0, window == 0);
        if scaled > 1 {
            prop_assert!(said <= bytes);
        }
        prop_assert!(scaled == u16::MAX || said + (1 << scale_out) > bytes);
        if scale_in == scale_out {
            prop_assert_eq!(scaled, window);
        }
    }

    /// The first packet of a direction continues the clock of the other leg's socket, and the ones after it go on.
    #[test]
    fn timestamps_continue_the_clock(
        session in session(), side in 0..2_usize, content in content(), clock in number(), first in number(),
        elapsed in 0..100_000_u64, step in 0..100_000_u32,
    ) {
        let mut joint = session.joint;
        joint.legs[side].timestamp_delta = 0;
        joint.legs[1 - side].timestamp_delta = 0;
        joint.legs[side].clock = clock;
        joint.clocks_read_at = 5_000_000;
        let mut value_of = |value: u32, now: u64| {
            let content = Content { stamps: Some((value, 99)), blocks: Vec::new(), ..content.clone() };
            let packet = content.packet(ends(session.is_ipv6[side], side)).bytes();
            let mut out = vec![0; MTU];
            let arrival = Arrival { side, now, mtu: MTU };
            let len = translate(&mut joint, arrival, &segment(&packet), &mut out).expect("translatable");
            let tcp = segment(&out[..len]).tcp.to_vec();
            let at = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().expect("four bytes"));
            (at(24), at(28))
        };
        let now = 5_000_000 + elapsed * 1_000_000;
        // The other direction's clock is not known yet, so that nothing can be said of it.
        prop_assert_eq!(value_of(first, now), (clock.wrapping_add(elapsed as u32), 0));
        let later = clock.wrapping_add(elapsed as u32).wrapping_add(step);
        prop_assert_eq!(value_of(first.wrapping_add(step), now + 1), (later, 0));
    }

    /// A session from its first live packet to its end, in either order of closing, with repeated FINs.
    #[test]
    fn both_fins_close(
        session in session(), first in 0..2_usize, repeat in any::<bool>(), simultaneous in any::<bool>(),
    ) {
        let mut joint = session.joint;
        let packet = |joint: &mut Joint, side: usize, flags: u8, offset: u32, acked: u32| {
            let leg = joint.legs[side];
            let packet = Packet {
                flags,
                ..Content {
                    sequence: leg.received.wrapping_add(offset),
                    acknowledgement: leg.sent.wrapping_add(acked),
                    window: 1,
                    stamps: None,
                    blocks: Vec::new(),
                    payload: Vec::new(),
                }
                .packet(ends(session.is_ipv6[side], side))
            };
            let outcome = arrive(joint, Arrival { side, now: 1, mtu: MTU }, &packet.bytes(), &mut vec![0; MTU]);
            assert!(matches!(outcome.verdict, Verdict::Forward(_)), "{outcome:?}");
            joint.state
        };
        let second = 1 - first;
        prop_assert_eq!(packet(&mut joint, first, 17, 0, 0), phase::LIVE);
        if repeat {
            prop_assert_eq!(packet(&mut joint, first, 17, 0, 0), phase::LIVE);
        }
        if simultaneous {
            prop_assert_eq!(packet(&mut joint, second, 17, 0, 0), phase::LIVE);
            prop_assert_eq!(packet(&mut joint, second, 16, 1, 1), phase::LIVE);
        } else {
            prop_assert_eq!(packet(&mut joint, second, 17, 0, 1), phase::LIVE);
        }
        prop_assert_eq!(packet(&mut joint, first, 16, 1, 1), phase::CLOSED);
        // Repetitions go on, and nothing opens again.
        prop_assert_eq!(packet(&mut joint, second, 17, 0, 1), phase::CLOSED);
        prop_assert_eq!(joint.legs.map(|leg| leg.bytes), [0, 0]);
    }

    /// Lost, repeated and reordered: each byte counts once.
    #[test]
    fn bytes_count_once(
        session in session(), side in 0..2_usize,
        order in prop::collection::vec(0..10_usize, 1..30),
    ) {
        let mut joint = session.joint;
        let mut reached = 0;
        for piece in order {
            let content = Content {
                sequence: joint.legs[side].received.wrapping_add(100 * piece as u32),
                acknowledgement: joint.legs[side].sent,
                window: 1,
                stamps: None,
                blocks: Vec::new(),
                payload: vec![0; 100],
            };
            let packet = content.packet(ends(session.is_ipv6[side], side)).bytes();
            let before = joint.legs[side].retransmitted;
            arrive(&mut joint, Arrival { side, now: 1, mtu: MTU }, &packet, &mut vec![0; MTU]);
            let is_new = piece >= reached;
            reached = reached.max(piece + 1);
            prop_assert_eq!(joint.legs[side].bytes, 100 * reached as u64);
            prop_assert_eq!(joint.legs[side].retransmitted - before, u64::from(!is_new));
        }
    }
}
