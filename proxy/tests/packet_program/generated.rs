//! Generated packets on generated joints: whatever arrives in whatever phase, programs and model agree.

use std::cell::RefCell;

use landbridge_common::packet::{
    CLIENT, CLIENT_ACKED, DIRTY, Joint, KNOWN, LINGER, PHASE, TARGET, TARGET_ACKED, TIMESTAMPS, phase,
};
use landbridge_core::packet::{Verdict, parse};
use landbridge_tests::packet::{Packet, is_intact, sack, timestamps};
use proptest::prelude::{Strategy, any, prop};
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use proptest::{prop_oneof, strategy::Just};

use crate::middle::monotonic;
use crate::rig::{Ends, Link, Rig};

/// A run takes well under a millisecond.
const CASES: u32 = 3_000;

/// Offsets from where a number is expected: mostly close, now and then at the edge of a window or anywhere.
fn offset() -> impl Strategy<Value = u32> {
    let edges = [1 << 20, (1 << 20) + 1, 1_u32.wrapping_sub(1 << 20), 0_u32.wrapping_sub(1 << 20), 1 << 30, 1 << 31];
    prop_oneof![
        6 => Just(0),
        3 => 0..3000_u32,
        3 => (0..3000_u32).prop_map(u32::wrapping_neg),
        1 => select(edges.to_vec()),
        1 => any::<u32>(),
    ]
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        4 => any::<(u32, u32)>().prop_map(|(value, echo)| timestamps(value, echo)),
        4 => prop::collection::vec(any::<u32>(), 0..=4).prop_map(|edges| sack(&[&edges[..], &edges[..]].concat())),
        2 => Just(vec![1]),
        1 => Just(vec![2, 4, 5, 0xb4]),
        1 => prop::collection::vec(any::<u8>(), 0..6)
            .prop_map(|value| [&[254, value.len() as u8 + 2][..], &value].concat()),
        1 => Just(vec![0]),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    // Cut where the header ends, which may be in the middle of an option.
    prop::collection::vec(one, 0..4).prop_map(|all| {
        let mut bytes = all.concat();
        bytes.truncate(40);
        bytes
    })
}

/// Numbers that the programs keep: unknown, or near what is expected.
fn kept() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(offset())
}

#[derive(Debug, Clone)]
struct Case {
    link: Link,
    is_ipv6: [bool; 2],
    side: usize,
    state: u64,
    numbers: [[u32; 2]; 2],
    scales: [u8; 4],
    windows: [u64; 2],
    kept: [[Option<u32>; 4]; 2],
    timestamps: bool,
    /// No packet was seen yet.
    is_new: bool,
    /// Answered just now, so that it is too early to do so again.
    is_answered: bool,
    age: u64,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload: usize,
    hops: u8,
    class: u8,
    padding: usize,
    mutation: Option<(usize, u8)>,
}

fn case(phases: &'static [u64]) -> impl Strategy<Value = Case> {
    let flags = prop_oneof![
        6 => select(vec![16_u8, 24]),
        2 => select(vec![17, 25, 4, 20, 2, 18, 0, 48, 80, 208, 21]),
        1 => any::<u8>(),
    ];
    let marks =
        select(vec![0, 0, CLIENT_ACKED, TARGET_ACKED, CLIENT_ACKED | TARGET_ACKED, DIRTY, DIRTY | CLIENT_ACKED]);
    let state = (select(phases), marks, any::<u32>()).prop_map(|(phase, marks, generation)| {
        let marks = if phase < phase::LIVE { marks } else { 0 };
        u64::from(generation) << 32 | marks | phase
    });
    let leg = || [kept(), kept(), kept(), kept()];
    let joint = (
        (select(vec![Link::Ethernet, Link::Ethernet, Link::Raw]), any::<[bool; 2]>(), 0..2_usize),
        state,
        any::<[[u32; 2]; 2]>(),
        [0..=14_u8, 0..=14, 0..=14, 0..=14],
        [select(vec![0, 1 << 16, 1 << 21, 1 << 30]), select(vec![0, 1 << 16, 1 << 21, 1 << 30])],
        [leg(), leg()],
        (prop::bool::weighted(0.8), any::<[bool; 2]>(), select(vec![0, 0, 0, LINGER / 2, LINGER * 2, LINGER * 20])),
    );
    let packet = (
        (offset(), offset()),
        flags,
        (any::<u16>(), select(vec![0, 1, 2, 64, 64, 64, 64, 255]), any::<u8>()),
        options(),
        prop_oneof![3 => Just(0), 3 => 0..64_usize, 1 => 0..1440_usize],
        select(vec![0, 0, 0, 1, 6]),
        prop::option::weighted(0.1, (0..60_usize, any::<u8>())),
    );
    (joint, packet).prop_map(|(joint, packet)| {
        let ((link, is_ipv6, side), state, numbers, scales, windows, kept, (timestamps, [is_new, is_answered], age)) =
            joint;
        let ((sequence, acknowledgement), flags, (window, hops, class), options, payload, padding, mutation) = packet;
        // What `BPF_PROG_TEST_RUN` gives to the raw program has no room for another header.
        let is_ipv6 = if link == Link::Raw { [is_ipv6[0]; 2] } else { is_ipv6 };
        // Nor does it leave the bytes alone that it takes for an Ethernet header.
        let mutation = if link == Link::Raw { None } else { mutation };
        Case {
            link,
            is_ipv6,
            side,
            state,
            numbers,
            scales,
            windows,
            kept,
            timestamps,
            is_new,
            is_answered,
            age,
            sequence,
            acknowledgement,
            flags,
            window,
            options,
            payload,
            hops,
            class,
            padding,
            mutation,
        }
    })
}

impl Case {
    fn joint(&self, ends: &Ends) -> Joint {
        let mut joint = ends.joint();
        let last = monotonic() - self.age;
        joint.state = self.state;
        joint.live_at = last.min(joint.live_at);
        joint.idle_limit = LINGER * 10;
        // Ahead of this test, so that no pause makes it late.
        joint.answered_at = if self.is_answered { monotonic() + LINGER } else { 0 };
        joint.flags = if self.timestamps { TIMESTAMPS } else { 0 };
        let numbers = self.numbers;
        for side in [CLIENT, TARGET] {
            let [[received, sent], [others_received, others_sent]] = [numbers[side], numbers[1 - side]];
            let leg = &mut joint.legs[side];
            leg.received = received;
            leg.sent = sent;
            leg.sequence_delta = others_sent.wrapping_sub(received);
            leg.acknowledgement_delta = others_received.wrapping_sub(sent);
            leg.window_scale_in = self.scales[2 * side];
            leg.window_scale_out = self.scales[2 * side + 1];
            leg.window = self.windows[side];
            leg.last_seen = if self.is_new { 0 } else { last };
            let known = |offset: Option<u32>, from: u32| {
                offset.map_or(0, |offset| KNOWN | u64::from(from.wrapping_add(offset)))
            };
            let [newest, acknowledged, fin, probe] = self.kept[side];
            leg.newest = known(newest.map(|offset| offset % (1 << 20)), received);
            leg.passed = known(newest, received);
            leg.acknowledged = known(acknowledged, sent);
            leg.fin = known(fin, received);
            leg.probe = known(probe, sent);
            leg.probe_sent = last;
            leg.announced = known(acknowledged.map(|offset| offset & 0x7fff), 0);
            leg.round_trip = if newest.is_some() { 40_000_000 } else { 0 };
        }
        joint
    }

    fn packet(&self, ends: &Ends, joint: &Joint) -> Vec<u8> {
        let leg = &joint.legs[self.side];
        let packet = Packet {
            sequence: leg.received.wrapping_add(self.sequence),
            acknowledgement: leg.sent.wrapping_add(self.acknowledgement),
            flags: self.flags,
            window: self.window,
            options: self.options.clone(),
            payload: (0..self.payload).map(|n| (n * 7) as u8).collect(),
            hops: self.hops,
            class: self.class,
            ..ends.packet(self.side, joint)
        };
        let mut bytes = packet.bytes();
        bytes.extend(vec![0xaa; self.padding]);
        if let Some((at, byte)) = self.mutation
            && let Some(place) = bytes.get_mut(at)
        {
            *place ^= byte;
        }
        bytes
    }
}

/// How often each verdict came, so that no test looks at one kind of packet alone.
#[derive(Debug, Default)]
struct Seen {
    pass: u32,
    turn: u32,
    forward: u32,
    answer: u32,
    drop: u32,
}

fn agree(phases: &'static [u64]) -> Option<Seen> {
    let rig = RefCell::new(Rig::new()?);
    let seen = RefCell::new(Seen::default());
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let result = runner.run(&case(phases), |case| {
        let ends = Ends::new(case.is_ipv6[0], case.is_ipv6[1], case.link);
        let joint = case.joint(&ends);
        let packet = case.packet(&ends, &joint);
        let mut rig = rig.borrow_mut();
        let ours = ends.packet(case.side, &joint).bytes();
        if parse::tuple(&packet) != parse::tuple(&ours) {
            rig.run_foreign(case.link, &packet);
            return Ok(());
        }
        let was_intact = case.mutation.is_none();
        let ran = rig.run(case.link, &ends, &joint, &packet);
        let mut seen = seen.borrow_mut();
        match ran.verdict {
            Verdict::Pass => seen.pass += 1,
            Verdict::Turn(_) => seen.turn += 1,
            Verdict::Forward(_) => seen.forward += 1,
            Verdict::Answer(..) => seen.answer += 1,
            Verdict::Drop(_) => seen.drop += 1,
        }
        if was_intact && matches!(ran.verdict, Verdict::Forward(_) | Verdict::Turn(_) | Verdict::Answer(..)) {
            // Programs and model could be wrong alike.
            assert!(is_intact(&ran.packet), "{:02x?}", ran.packet);
        }
        let is_another = joint.state & PHASE > phase::LIVE && ran.joint.state & PHASE == phase::FREE;
        assert!(ran.joint.state & PHASE >= joint.state & PHASE || is_another);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    Some(seen.into_inner())
}

#[test]
fn packets_of_live_joints() {
    let Some(seen) = agree(&[phase::LIVE, phase::LIVE, phase::CLOSED, phase::RESET, phase::DEAD]) else { return };
    assert!(seen.forward > CASES / 10 && seen.drop > CASES / 10 && seen.answer > CASES / 500, "{seen:?}");
}

#[test]
fn packets_before_that() {
    let Some(seen) = agree(&[phase::FREE, phase::WATCHED, phase::PREPARED, phase::ARMED, phase::ARMED]) else { return };
    assert!(seen.pass > CASES / 3 && seen.turn > CASES / 400, "{seen:?}");
}
