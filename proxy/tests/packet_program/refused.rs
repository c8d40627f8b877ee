//! Every reason why a packet of a live joint is not sent on, and that none of them reaches the socket.

use landbridge_common::packet::{CLIENT, DIRTY, Joint, PacketCounter, TARGET, phase};
use landbridge_core::packet::Verdict;
use landbridge_tests::packet::{Packet, sack, timestamps};

use crate::middle::monotonic;
use crate::rig::{Ends, Link, MTU, Rig};

const RST: u8 = 4;

const UNTRANSLATABLE: Verdict = Verdict::Drop(PacketCounter::Untranslatable);
const OUT_OF_WINDOW: Verdict = Verdict::Drop(PacketCounter::OutOfWindow);
const NO_ROUTE: Verdict = Verdict::Drop(PacketCounter::NoRoute);

fn live(is_ipv6: bool) -> (Ends, Joint) {
    let ends = Ends::new(is_ipv6, is_ipv6, Link::Ethernet);
    (ends, ends.joint())
}

/// The packet goes nowhere, and before the joint is live it makes it dirty.
fn refused(rig: &mut Rig, ends: &Ends, joint: &Joint, packet: &[u8], reason: Verdict) {
    assert_eq!(rig.run(Link::Ethernet, ends, joint, packet).verdict, reason, "{packet:02x?}");
    if reason != UNTRANSLATABLE {
        return;
    }
    for phase in [phase::WATCHED, phase::PREPARED, phase::ARMED] {
        let ran = rig.run(Link::Ethernet, ends, &Joint { state: phase, ..*joint }, packet);
        assert_eq!((ran.verdict, ran.joint.state), (Verdict::Pass, phase | DIRTY));
    }
}

#[test]
fn headers_that_cannot_be_translated() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, joint) = live(false);
    let packet = ends.packet(CLIENT, &joint);
    let bytes = Packet { payload: vec![1; 40], ..packet.clone() }.bytes();

    let mut fragment = bytes.clone();
    fragment[6] |= 0x20;
    refused(&mut rig, &ends, &joint, &fragment, UNTRANSLATABLE);
    // A later fragment has no ports. The packet never completes without the first one.
    fragment[7] = 5;
    rig.run_foreign(Link::Ethernet, &fragment);

    let mut options = bytes.clone();
    options.splice(20..20, [1, 1, 1, 0]);
    options[0] = 0x46;
    let len = options.len() as u16;
    options[2..4].copy_from_slice(&len.to_be_bytes());
    refused(&mut rig, &ends, &joint, &options, UNTRANSLATABLE);

    let urgent = Packet { flags: 16 | 32, ..packet.clone() }.bytes();
    refused(&mut rig, &ends, &joint, &urgent, UNTRANSLATABLE);

    for (at, value) in [(2, 0xff), (3, 39), (32, 0x40), (32, 0xf0)] {
        let mut wrong = packet.bytes();
        wrong[at] = value;
        refused(&mut rig, &ends, &joint, &wrong, UNTRANSLATABLE);
    }
}

#[test]
fn extension_headers() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, joint) = live(true);
    let bytes = ends.packet(CLIENT, &joint).bytes();
    let with = |chain: &[(u8, [u8; 8])]| {
        let mut packet = bytes.clone();
        let mut headers = Vec::new();
        for (n, (_, header)) in chain.iter().enumerate() {
            let mut header = *header;
            header[0] = chain.get(n + 1).map_or(6, |next| next.0);
            headers.extend(header);
        }
        packet[6] = chain[0].0;
        packet.splice(40..40, headers);
        let len = packet.len() as u16 - 40;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    };
    let padding = [0, 0, 1, 4, 0, 0, 0, 0];
    for kind in [0, 43, 44, 60] {
        let header = if kind == 44 { [0; 8] } else { padding };
        refused(&mut rig, &ends, &joint, &with(&[(kind, header)]), UNTRANSLATABLE);
    }
    refused(
        &mut rig,
        &ends,
        &joint,
        &with(&[(0, padding), (60, padding), (43, padding), (60, padding)]),
        UNTRANSLATABLE,
    );
    // First fragment with more to come, and a later one.
    refused(&mut rig, &ends, &joint, &with(&[(44, [0, 0, 0, 1, 0, 0, 0, 9])]), UNTRANSLATABLE);
    rig.run_foreign(Link::Ethernet, &with(&[(44, [0, 0, 1, 0, 0, 0, 0, 9])]));
    // Deeper than anything that is followed.
    rig.run_foreign(Link::Ethernet, &with(&[(60, padding); 5]));
}

#[test]
fn tcp_options_that_do_not_parse() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, joint) = live(false);
    let packet = ends.packet(TARGET, &joint);
    let mut short = sack(&[1, 2]);
    short[1] = 6;
    let bad: [Vec<u8>; 7] = [
        vec![8, 1],
        vec![8, 0],
        vec![1, 1, 1, 8],
        vec![1, 1, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0],
        [timestamps(1, 2), timestamps(3, 4)].concat(),
        [sack(&[1, 2]), sack(&[3, 4])].concat(),
        short,
    ];
    for options in bad {
        let bytes = Packet { options, ..packet.clone() }.bytes();
        let ran = rig.run(Link::Ethernet, &ends, &joint, &bytes);
        assert_eq!(ran.verdict, UNTRANSLATABLE, "{bytes:02x?}");
    }
}

#[test]
fn numbers_outside_the_window() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, joint) = live(false);
    let packet = ends.packet(CLIENT, &joint);
    let megabyte = 1_u32 << 20;
    let at = |offset: u32| packet.sequence.wrapping_add(offset);
    for (sequence, is_good) in [
        (at(megabyte), true),
        (at(megabyte + 1), false),
        (at(megabyte.wrapping_neg()), true),
        (at((megabyte + 1).wrapping_neg()), false),
        (at(1 << 31), false),
    ] {
        for flags in [16, 4, 20] {
            let bytes = Packet { sequence, flags, ..packet.clone() }.bytes();
            let ran = rig.run(Link::Ethernet, &ends, &joint, &bytes);
            assert_eq!(ran.verdict == OUT_OF_WINDOW, !is_good, "{sequence:x} {flags}");
            // In the window is enough to be sent on, only the expected number ends the joint.
            assert_eq!(ran.joint.state, phase::LIVE);
        }
    }
    let reset = rig.run(Link::Ethernet, &ends, &joint, &Packet { flags: 4, ..packet.clone() }.bytes());
    assert_eq!(reset.joint.state, phase::RESET);

    let acknowledging = |acknowledgement: u32| Packet { acknowledgement, ..packet.clone() }.bytes();
    let sent = packet.acknowledgement;
    refused(&mut rig, &ends, &joint, &acknowledging(sent.wrapping_add(1)), OUT_OF_WINDOW);
    refused(&mut rig, &ends, &joint, &acknowledging(sent.wrapping_sub(megabyte + 1)), OUT_OF_WINDOW);
    // One that does not acknowledge at all.
    refused(&mut rig, &ends, &joint, &Packet { flags: 8, ..packet.clone() }.bytes(), OUT_OF_WINDOW);
}

/// A stranger who knows the ports and guesses numbers moves what was sent, but never away from what the receiver has had.
#[test]
fn forged_packets_leave_the_peers_own_ones_in_the_window() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, mut joint) = live(false);
    let packet = ends.packet(CLIENT, &joint);
    let mut taken = 0;
    for step in 1..=8 {
        let sequence = packet.sequence.wrapping_add(step * (300 << 10));
        let forged = Packet { sequence, flags: 24, payload: vec![0; 100], ..packet.clone() }.bytes();
        let ran = rig.run(Link::Ethernet, &ends, &joint, &forged);
        taken += u32::from(ran.verdict != OUT_OF_WINDOW);
        joint = ran.joint;
    }
    assert_eq!(taken, 3, "900 KiB, with a window of 1 MiB");
    let own = Packet { flags: 24, payload: vec![1; 100], ..packet.clone() }.bytes();
    let ran = rig.run(Link::Ethernet, &ends, &joint, &own);
    assert!(matches!(ran.verdict, Verdict::Forward(_)), "{:?}", ran.verdict);

    // What the receiver acknowledges moves the window on.
    let other = ends.packet(TARGET, &joint);
    let acknowledgement = other.acknowledgement.wrapping_add(300 << 10);
    joint = rig.run(Link::Ethernet, &ends, &joint, &Packet { acknowledgement, ..other }.bytes()).joint;
    let sequence = packet.sequence.wrapping_add(1200 << 10);
    let ran = rig.run(Link::Ethernet, &ends, &joint, &Packet { sequence, ..packet }.bytes());
    assert!(matches!(ran.verdict, Verdict::Forward(_)), "{:?}", ran.verdict);
}

#[test]
fn no_way_to_the_peer() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, joint) = live(false);
    let packet = ends.packet(CLIENT, &joint);
    for hops in [0, 1] {
        refused(&mut rig, &ends, &joint, &Packet { hops, ..packet.clone() }.bytes(), NO_ROUTE);
    }
    // As long as the way allows, and a byte more.
    for (payload, is_good) in [(MTU - 40, true), (MTU - 39, false)] {
        let bytes = Packet { payload: vec![1; payload], ..packet.clone() }.bytes();
        let ran = rig.run(Link::Ethernet, &ends, &joint, &bytes);
        assert_eq!(matches!(ran.verdict, Verdict::Answer(_, PacketCounter::TooLong)), !is_good);
    }
    // IPv6 needs 20 bytes more.
    let ends = Ends::new(false, true, Link::Ethernet);
    let joint = ends.joint();
    for (payload, is_good) in [(MTU - 60, true), (MTU - 59, false)] {
        let bytes = Packet { payload: vec![1; payload], ..ends.packet(CLIENT, &joint) }.bytes();
        let ran = rig.run(Link::Ethernet, &ends, &joint, &bytes);
        assert_eq!(matches!(ran.verdict, Verdict::Answer(_, PacketCounter::TooLong)), !is_good);
    }
}

/// A leg that is bound to a device has its ways there alone. One that is not follows the routes, as far as the kernel
/// tells them, else it has the device that the daemon found.
#[test]
fn ways_by_device() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, joint) = live(false);
    let bytes = ends.packet(CLIENT, &joint).bytes();
    let [right, wrong] = ["target0", "client"]
        .map(|device| rig.net().proxy.enter(|| nix::net::if_::if_nametoindex(device)).expect("the proxy has it"));
    let forwarding = |rig: &Rig, device: &str, value: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/forwarding");
        rig.net().proxy.enter(|| std::fs::write(&path, value)).expect("a setting that exists");
    };
    for device in ["target0", "client"] {
        forwarding(&rig, device, "1");
    }
    let is_sent_on = |rig: &mut Rig, device: u32, is_bound: bool| {
        let mut joint = joint;
        joint.legs[CLIENT].device = device;
        joint.legs[CLIENT].is_bound = is_bound.into();
        rig.is_sent_on(&ends, &joint, &bytes)
    };
    assert!(is_sent_on(&mut rig, right, true));
    assert!(!is_sent_on(&mut rig, wrong, true));
    assert!(is_sent_on(&mut rig, wrong, false));

    rig.net().proxy.ip("route flush dev target0").expect("it has routes");
    assert!(!is_sent_on(&mut rig, right, true) && !is_sent_on(&mut rig, right, false));

    // Now the kernel does not say anything about routes.
    for device in ["lo", "target0", "client"] {
        forwarding(&rig, device, "0");
    }
    assert!(is_sent_on(&mut rig, right, false) && is_sent_on(&mut rig, right, true));
    assert!(!is_sent_on(&mut rig, 0, false));
}

#[test]
fn joints_that_are_too_old() {
    let Some(mut rig) = Rig::new() else { return };
    let (ends, live) = live(false);
    let bytes = ends.packet(CLIENT, &live).bytes();
    let limit = 20_000_000_000;
    let now = monotonic();
    for (state, age, is_dead) in [
        (phase::LIVE, limit / 2, false),
        (phase::LIVE, limit + 1, true),
        (phase::CLOSED, 50_000_000_000, false),
        (phase::CLOSED, 61_000_000_000, true),
        (phase::RESET, 61_000_000_000, true),
        (phase::DEAD, 0, true),
    ] {
        let mut joint = Joint { state, live_at: now.saturating_sub(4 * limit), idle_limit: limit, ..live };
        // Either direction keeps the joint alive.
        joint.legs[TARGET].last_seen = now.saturating_sub(age);
        let ran = rig.run(Link::Ethernet, &ends, &joint, &bytes);
        let expected = if is_dead { Verdict::Drop(PacketCounter::Dead) } else { Verdict::Forward(bytes.len()) };
        assert_eq!((ran.verdict, ran.joint.state), (expected, if is_dead { phase::DEAD } else { state }), "{age}");
    }
    // However busy it is, a joint does not outlive its deadline.
    for (deadline, state) in [(now + limit, phase::LIVE), (now - 1, phase::DEAD)] {
        let joint = Joint { state: phase::LIVE, live_at: now, idle_limit: limit, deadline, ..live };
        assert_eq!(rig.run(Link::Ethernet, &ends, &joint, &bytes).joint.state, state);
    }
}

/// Resets are told to the daemon; when it does not listen, packets go on all the same, and what it missed is counted.
#[test]
fn events_that_find_no_room_are_counted() {
    /// What the ring buffer holds: it is never quite full.
    const ROOM: u64 = 4095;
    const MORE: u64 = 100;
    let Some(mut rig) = Rig::new() else { return };
    let (ends, joint) = live(false);
    let reset = Packet { flags: RST, ..ends.packet(CLIENT, &joint) }.bytes();
    for _ in 0..ROOM + MORE {
        assert!(rig.is_sent_on(&ends, &joint, &reset));
    }
    assert_eq!(rig.count(PacketCounter::EventLost), MORE);
    assert_eq!(rig.count(PacketCounter::Forwarded), ROOM + MORE);
}
