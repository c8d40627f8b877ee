//! The phases against two sockets and two peers: whatever order packets come in, a joint becomes live only when both
//! sockets have everything, and then nothing but the turning packet's acknowledgement is still to reach one.

use std::collections::VecDeque;
use std::vec::Vec;

use landbridge_common::packet::{CLIENT, CLIENT_ACKED, DIRTY, Joint, KNOWN, PHASE, TARGET, TARGET_ACKED, phase};
use proptest::prelude::{Strategy, any, prop, proptest};
use proptest::prop_oneof;
use proptest::strategy::Just;

use crate::packet::parse::{Facts, flag};
use crate::packet::phases::{Course, advance, is_after, reaches};

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The peer sends new payload, or its FIN after it.
    Send { side: usize, len: u32, fin: bool },
    /// The peer sends something again.
    Repeat { side: usize, which: usize },
    /// The peer takes all that the socket has sent, and acknowledges it if asked to.
    Take { side: usize, acknowledge: bool },
    /// A packet out of those on their way, of which any may be the next.
    Arrive { which: usize },
    /// One is lost.
    Lose { which: usize },
    /// A socket takes the next packet that was passed to it.
    Process { side: usize },
    /// The daemon relays all that was read, which makes the other socket send.
    Relay { side: usize },
    /// The daemon looks, and goes a step towards joining or back.
    Daemon,
}

fn step() -> impl Strategy<Value = Step> {
    let side = || 0..2_usize;
    prop_oneof![
        3 => (side(), 1..3000_u32, prop::bool::weighted(0.05)).prop_map(|(side, len, fin)| Step::Send { side, len, fin }),
        1 => (side(), any::<usize>()).prop_map(|(side, which)| Step::Repeat { side, which }),
        4 => (side(), prop::bool::weighted(0.7)).prop_map(|(side, acknowledge)| Step::Take { side, acknowledge }),
        8 => (prop_oneof![3 => 0..1_usize, 1 => any::<usize>()]).prop_map(|which| Step::Arrive { which }),
        1 => any::<usize>().prop_map(|which| Step::Lose { which }),
        8 => side().prop_map(|side| Step::Process { side }),
        4 => side().prop_map(|side| Step::Relay { side }),
        8 => Just(Step::Daemon),
    ]
}

/// A socket of this host, and the peer it is connected to.
#[derive(Debug, Default)]
struct End {
    /// What the peer has sent, as packets that it can repeat.
    peer_sent: Vec<Facts>,
    peer_next: u32,
    peer_fin: bool,
    /// Up to where the peer has received.
    peer_received: u32,
    /// Passed by the program, and not yet processed by the socket.
    passed: VecDeque<Facts>,
    /// Up to where the socket has received, and read.
    received: u32,
    read: u32,
    /// What came too early.
    early: Vec<(u32, u32)>,
    /// Up to where the socket has sent, and its peer acknowledged.
    sent: u32,
    acknowledged: u32,
}

impl End {
    fn process(&mut self, facts: Facts) {
        if is_after(facts.acknowledgement, self.acknowledged) && reaches(self.sent, facts.acknowledgement) {
            self.acknowledged = facts.acknowledgement;
        }
        if facts.occupies() != 0 {
            self.early.push((facts.sequence, facts.end()));
        }
        while let Some(n) = self.early.iter().position(|(begin, _)| reaches(self.received, *begin)) {
            let (_, end) = self.early.swap_remove(n);
            if is_after(end, self.received) {
                self.received = end;
            }
        }
    }
}

#[derive(Debug)]
struct World {
    joint: Joint,
    ends: [End; 2],
    wire: Vec<(usize, Facts)>,
    /// Which packet turned the joint, if one with payload did.
    turned: Option<(usize, Facts)>,
}

impl World {
    fn new(starts: [[u32; 2]; 2]) -> Self {
        let end = |[peer, own]: [u32; 2]| End {
            peer_next: peer,
            received: peer,
            read: peer,
            sent: own,
            peer_received: own,
            acknowledged: own,
            ..End::default()
        };
        let joint = Joint { state: phase::WATCHED, ..Joint::default() };
        Self { joint, ends: starts.map(end), wire: Vec::new(), turned: None }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { side, len, fin } => {
                let end = &mut self.ends[side];
                if end.peer_fin {
                    return;
                }
                let flags = if fin { flag::ACK | flag::FIN } else { flag::ACK };
                let facts = Facts {
                    sequence: end.peer_next,
                    acknowledgement: end.peer_received,
                    flags,
                    window: 1000,
                    payload: len,
                };
                end.peer_next = facts.end();
                end.peer_fin = fin;
                end.peer_sent.push(facts);
                self.wire.push((side, facts));
            }
            Step::Repeat { side, which } => {
                let end = &self.ends[side];
                if let Some(facts) = pick(&end.peer_sent, which) {
                    self.wire.push((side, Facts { acknowledgement: end.peer_received, ..*facts }));
                }
            }
            Step::Take { side, acknowledge } => {
                let end = &mut self.ends[side];
                end.peer_received = end.sent;
                if acknowledge {
                    let facts = Facts {
                        sequence: end.peer_next,
                        acknowledgement: end.peer_received,
                        flags: flag::ACK,
                        ..Facts::default()
                    };
                    self.wire.push((side, facts));
                }
            }
            Step::Arrive { which } => {
                if !self.wire.is_empty() {
                    let (side, facts) = self.wire.remove(which % self.wire.len());
                    self.arrive(side, facts);
                }
            }
            Step::Lose { which } => {
                if !self.wire.is_empty() {
                    self.wire.remove(which % self.wire.len());
                }
            }
            Step::Process { side } => {
                if let Some(facts) = self.ends[side].passed.pop_front() {
                    self.ends[side].process(facts);
                }
            }
            Step::Relay { side } => {
                // Only while it relays; a joint that is being prepared is not written to.
                if self.joint.state & PHASE == phase::WATCHED {
                    let bytes = self.ends[side].received.wrapping_sub(self.ends[side].read);
                    self.ends[side].read = self.ends[side].received;
                    self.ends[1 - side].sent = self.ends[1 - side].sent.wrapping_add(bytes);
                }
            }
            Step::Daemon => self.daemon(),
        }
    }

    fn arrive(&mut self, side: usize, facts: Facts) {
        match advance(&mut self.joint, side, Some(&facts), 1) {
            Course::Pass => self.ends[side].passed.push_back(facts),
            Course::Turn => {
                self.turned = Some((side, facts));
                self.ends[side].passed.push_back(Facts { payload: 0, ..facts });
            }
            Course::Live | Course::Dead => {}
        }
    }

    /// What the daemon does from reading its sockets and the joint alone.
    fn daemon(&mut self) {
        let state = self.joint.state;
        let is_quiet = |end: &End| end.read == end.received;
        match state & PHASE {
            phase::WATCHED if self.ends.iter().all(is_quiet) => self.joint.state = phase::PREPARED,
            phase::PREPARED => {
                let all_arrived = self
                    .ends
                    .iter()
                    .zip(&self.joint.legs)
                    .all(|(end, leg)| leg.passed & KNOWN == 0 || reaches(end.received, leg.passed as u32));
                if state & DIRTY != 0 || !all_arrived || !self.ends.iter().all(is_quiet) {
                    self.joint.state = phase::WATCHED;
                    return;
                }
                let mut next = phase::ARMED;
                for (side, flag) in [(CLIENT, CLIENT_ACKED), (TARGET, TARGET_ACKED)] {
                    let end = &self.ends[side];
                    self.joint.legs[side].received = end.received;
                    self.joint.legs[side].sent = end.sent;
                    if end.acknowledged == end.sent {
                        next |= flag;
                    }
                }
                self.joint.state = next;
            }
            phase::ARMED if state & DIRTY != 0 => self.joint.state = phase::WATCHED,
            _ => {}
        }
    }

    fn is_live(&self) -> bool {
        self.joint.state & PHASE == phase::LIVE
    }

    /// Everything that was passed is processed, and both sockets have to be at rest.
    fn check(&mut self) {
        for (end, leg) in self.ends.iter_mut().zip(&self.joint.legs) {
            while let Some(facts) = end.passed.pop_front() {
                end.process(facts);
            }
            assert_eq!(end.received, leg.received, "a socket took in what the other peer misses: {end:?}");
            assert_eq!(end.read, end.received, "unread bytes: {end:?}");
            assert!(end.early.is_empty(), "a socket holds bytes: {end:?}");
            assert_eq!(end.sent, leg.sent);
            assert_eq!(end.acknowledged, end.sent, "a socket will repeat bytes: {end:?}");
        }
        if let Some((side, facts)) = self.turned {
            assert_eq!(facts.sequence, self.joint.legs[side].received);
        }
    }
}

fn pick<T>(all: &[T], which: usize) -> Option<&T> {
    all.get(which.checked_rem(all.len())?)
}

proptest! {
    #[test]
    fn both_sockets_have_everything(
        starts in any::<[[u32; 2]; 2]>(),
        steps in prop::collection::vec(step(), 1..300),
        more in prop::collection::vec(step(), 50),
    ) {
        let mut world = World::new(starts);
        for step in steps {
            world.step(step);
            if world.is_live() {
                break;
            }
        }
        if world.is_live() {
            // What comes later must not change it either.
            for step in more {
                world.step(step);
            }
            world.check();
        }
    }
}

/// The property would hold if no joint ever became live.
#[test]
fn joints_do_become_live() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(step(), 300);
    let (mut live, mut turned) = (0, 0);
    for _ in 0..200 {
        let steps = strategy.new_tree(&mut runner).expect("a value").current();
        let mut world = World::new([[0xffff_f000, 7], [9, 0x7fff_ff00]]);
        for step in steps {
            world.step(step);
        }
        live += u32::from(world.is_live());
        turned += u32::from(world.turned.is_some());
    }
    assert!(live > 50 && turned > 5, "{live} live, {turned} by a packet with payload");
}
