//! Runs a program on one packet, and the model on the same: what they return, send and note has to be the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::programs::{TestRun as _, TestRunOptions};
use landbridge_common::packet::{CLIENT, Joint, KNOWN, Leg, PacketCounter, TARGET, TIMESTAMPS, Tuple, phase};
use landbridge_core::packet::{Arrival, Outcome, Verdict, arrive, icmp, parse};
use landbridge_tests::{Net, packet::Packet};

use crate::middle::{INDEX, monotonic, tuple};
use crate::programs::Programs;

const NEXT: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// `Net` gives the proxy's devices this MTU.
pub(crate) const MTU: usize = 1500;

/// Longer than any packet here.
const ROOM: usize = 4096;

/// Which program: for devices with a MAC header, or without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Ethernet,
    Raw,
}

impl Link {
    fn program(self) -> &'static str {
        match self {
            Self::Ethernet => "packet_ethernet",
            Self::Raw => "packet_raw",
        }
    }
}

/// The ends of the two legs: peer and own address, client leg first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends(pub(crate) [[(IpAddr, u16); 2]; 2]);

impl Ends {
    /// Addresses of the network that tests have. Those of the raw device look like an Ethernet header's type to
    /// `BPF_PROG_TEST_RUN`, which expects one whatever the program is for.
    pub(crate) fn new(client_is_ipv6: bool, target_is_ipv6: bool, link: Link) -> Self {
        let end = |is_ipv6: bool, n: u8, host: u8| -> IpAddr {
            match (is_ipv6, link) {
                (false, Link::Ethernet) => Ipv4Addr::new(10, 0, n, host).into(),
                (true, Link::Ethernet) => Ipv6Addr::new(0xfd00, 0, 0, n.into(), 0, 0, 0, host.into()).into(),
                (false, Link::Raw) => Ipv4Addr::new(8, 0, n, host).into(),
                (true, Link::Raw) => Ipv6Addr::new(0xfd01, n.into(), 0x86dd, 0, 0, 0, 0, host.into()).into(),
            }
        };
        let leg = |is_ipv6, n, peer_port, own_port| [(end(is_ipv6, n, 2), peer_port), (end(is_ipv6, n, 1), own_port)];
        Self([leg(client_is_ipv6, 0, 40_001, 8000), leg(target_is_ipv6, 1, 9000, 50_002)])
    }

    pub(crate) fn tuple(&self, side: usize) -> Tuple {
        let [peer, own] = self.0[side];
        tuple(peer.into(), own.into())
    }

    /// A joint that is live, with timestamps known and windows scaled, and both streams wrapping around soon.
    pub(crate) fn joint(&self) -> Joint {
        let now = monotonic();
        let mut joint = Joint {
            state: phase::LIVE,
            clocks_read_at: now - 5_000_000_000,
            live_at: now - 4_000_000_000,
            idle_limit: 3_600_000_000_000,
            flags: TIMESTAMPS,
            index: INDEX,
            ..Joint::default()
        };
        let numbers = [(0xffff_ff00_u32, 0x1000_u32), (0x7fff_fff0, 0xffff_fff8)];
        for side in [CLIENT, TARGET] {
            let ((received, sent), (others_received, others_sent)) = (numbers[side], numbers[1 - side]);
            let out = self.tuple(1 - side);
            joint.legs[side] = Leg {
                out: Tuple {
                    source: out.destination,
                    destination: out.source,
                    source_port: out.destination_port,
                    destination_port: out.source_port,
                },
                received,
                sent,
                sequence_delta: others_sent.wrapping_sub(received),
                acknowledgement_delta: others_received.wrapping_sub(sent),
                window_scale_in: 7,
                window_scale_out: 9,
                is_ipv6: self.0[side][1].0.is_ipv6().into(),
                clock: 0xffff_f000,
                timestamp_delta: KNOWN | 0x8123_4567,
                ..Leg::default()
            };
        }
        joint
    }

    /// An acknowledgement that arrives on a leg and is the next one to be expected.
    pub(crate) fn packet(&self, side: usize, joint: &Joint) -> Packet {
        let [source, destination] = self.0[side];
        Packet {
            source,
            destination,
            sequence: joint.legs[side].received,
            acknowledgement: joint.legs[side].sent,
            flags: 16,
            window: 500,
            options: Vec::new(),
            payload: Vec::new(),
            hops: 64,
            class: 0,
            identification: 0x1234,
        }
    }
}

/// What a run led to, the same for both.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) verdict: Verdict,
    pub(crate) joint: Joint,
    /// What was sent on, or what the socket gets.
    pub(crate) packet: Vec<u8>,
}

/// Programs in a network of their own.
pub(crate) struct Rig {
    net: Net,
    programs: Programs,
    known: Vec<Tuple>,
}

impl Rig {
    /// `None` where programs cannot be loaded.
    pub(crate) fn new() -> Option<Self> {
        let programs = Programs::load()?;
        let net = Net::new(1).expect("namespaces can be made");
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/lo/forwarding");
            net.proxy.enter(|| std::fs::write(&path, "1")).expect("a setting that exists");
        }
        for (device, address) in [("client", "8.0.0.1/24"), ("target0", "8.0.1.1/24")] {
            net.proxy.ip(&format!("addr add {address} dev {device}")).expect("a good address");
        }
        for (device, address) in [("client", "fd01:0:86dd::1/48"), ("target0", "fd01:1:86dd::1/48")] {
            net.proxy.ip(&format!("addr add {address} dev {device} nodad")).expect("a good address");
        }
        Some(Self { net, programs, known: Vec::new() })
    }

    /// Runs a packet that arrives from the IP header on, on a joint, and demands what the model says.
    ///
    /// # Panics
    /// It is something else.
    pub(crate) fn run(&mut self, link: Link, ends: &Ends, joint: &Joint, packet: &[u8]) -> Ran {
        self.know(ends);
        self.programs.joints.set(INDEX, joint);
        let before = self.counters();
        let (code, output) = self.test_run(link, packet);
        let counted: Vec<_> = self
            .counters()
            .into_iter()
            .zip(before)
            .filter(|((_, now), (_, before))| now != before)
            .map(|((slot, _), _)| slot)
            .collect();
        let after = self.programs.joints.get(INDEX);
        let events = self.programs.events();

        // The moment of the program's clock shows in what it wrote, and hardly matters where it wrote nothing.
        let times = |joint: &Joint| {
            let legs = [CLIENT, TARGET].map(|side| joint.legs[side].last_seen);
            [legs[0], legs[1], joint.live_at, joint.answered_at]
        };
        let now = times(&after).into_iter().zip(times(joint)).find(|(after, before)| after != before);
        let now = now.map_or_else(monotonic, |(after, _)| after);
        let mut model = *joint;
        let mut room = vec![0; ROOM];
        let (outcome, is_error) = model_of(&mut model, ends, now, packet, &mut room);
        let told: Vec<u64> = outcome.event.iter().map(|event| event | u64::from(INDEX)).collect();
        assert_eq!(events, told, "{outcome:?}");
        assert_eq!(after, model, "{outcome:?}");

        let (expected_code, expected, counter) = match outcome.verdict {
            Verdict::Pass => (NEXT, packet, PacketCounter::Passed),
            Verdict::Turn(len) => (NEXT, &room[..len], PacketCounter::Passed),
            Verdict::Answer(len, reason) => (REDIRECT, &room[..len], reason),
            Verdict::Drop(reason) => (DROP, packet, reason),
            Verdict::Forward(len) if is_error => (REDIRECT, &room[..len], PacketCounter::IcmpTranslated),
            Verdict::Forward(len) => (REDIRECT, &room[..len], PacketCounter::Forwarded),
        };
        assert_eq!(code, expected_code, "{outcome:?} {counted:?} {packet:02x?}");
        let counts = !is_error || outcome.verdict != Verdict::Pass;
        assert_eq!(counted, if counts { vec![counter] } else { vec![] }, "{outcome:?}");
        if code != DROP {
            assert_eq!(output, expected, "{outcome:?}\n{output:02x?}\n{expected:02x?}");
        }
        Ran { verdict: outcome.verdict, joint: after, packet: output }
    }

    /// Runs a packet that is no joint's, which has to go on as it is and uncounted.
    pub(crate) fn run_foreign(&mut self, link: Link, packet: &[u8]) {
        let before = self.counters();
        let (code, output) = self.test_run(link, packet);
        assert_eq!((code, &output[..]), (NEXT, packet));
        assert_eq!(self.counters(), before);
    }

    /// Runs a packet on a joint whose ways are not what the model takes for granted; returns whether it is sent on.
    pub(crate) fn is_sent_on(&mut self, ends: &Ends, joint: &Joint, packet: &[u8]) -> bool {
        self.know(ends);
        self.programs.joints.set(INDEX, joint);
        match self.test_run(Link::Ethernet, packet).0 {
            REDIRECT => true,
            DROP => false,
            other => panic!("{other}"),
        }
    }

    /// The network that the programs run in: the devices are the proxy's.
    pub(crate) fn net(&self) -> &Net {
        &self.net
    }

    /// What was counted since the start.
    pub(crate) fn count(&self, counter: PacketCounter) -> u64 {
        self.programs.counter(counter)
    }

    fn counters(&self) -> Vec<(PacketCounter, u64)> {
        PacketCounter::ALL.into_iter().map(|slot| (slot, self.programs.counter(slot))).collect()
    }

    fn know(&mut self, ends: &Ends) {
        for side in [CLIENT, TARGET] {
            let tuple = ends.tuple(side);
            if !self.known.contains(&tuple) {
                self.programs.insert(tuple, INDEX << 1 | side as u32);
                self.known.push(tuple);
            }
        }
    }

    /// The code that the program returns, and the packet without the MAC header.
    fn test_run(&mut self, link: Link, packet: &[u8]) -> (i32, Vec<u8>) {
        let mut frame = Vec::new();
        if link == Link::Ethernet {
            // To the loopback device's address, which is where the kernel says it arrives.
            frame.extend([0; 12]);
            frame.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        }
        frame.extend(packet);
        let program = self.programs.program(link.program());
        self.net.proxy.enter(|| {
            let mut output = vec![0; ROOM];
            let options =
                TestRunOptions { data_in: Some(&frame), data_out: Some(&mut output), ..TestRunOptions::default() };
            let ran = program.test_run(options).expect("the kernel runs it");
            output.truncate(ran.data_size_out as usize);
            let code = ran.return_value as i32;
            // What leaves has a MAC header in any case.
            let header = if link == Link::Ethernet || code == REDIRECT { 14 } else { 0 };
            (code, output.split_off(header))
        })
    }
}

/// What the model makes of the packet, and whether it is an ICMP error.
fn model_of(joint: &mut Joint, ends: &Ends, now: u64, packet: &[u8], out: &mut [u8]) -> (Outcome, bool) {
    let (tuple, is_error) = match icmp::about(packet) {
        Some(tuple) => (tuple, true),
        None => (parse::tuple(packet).expect("TCP"), false),
    };
    let side = [CLIENT, TARGET].into_iter().find(|side| ends.tuple(*side) == tuple).expect("a leg of the joint");
    let arrival = Arrival { side, now, mtu: MTU };
    let outcome =
        if is_error { icmp::arrive(joint, arrival, packet, out) } else { arrive(joint, arrival, packet, out) };
    (outcome, is_error)
}
