//! Real connections joined: the turning packet, bulk both ways, and a FIN each way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use landbridge_common::packet::{CLIENT, CLIENT_ACKED, PacketCounter, TARGET, event, phase};
use landbridge_tests::{Checker, Host, Link, Net, Offloads, SocketExt as _, Source, Weather, eventually};

use crate::middle::{INDEX, Session, Snapshot};
use crate::programs::Programs;

/// Many windows, and a few hundred milliseconds.
const BULK: u64 = 24 << 20;

/// The payload of a full packet, in bytes.
const SEGMENT: u64 = 1448;

/// The same where packets get lost.
const LESS: u64 = 3 << 20;

/// How often a turning packet is tried for that acknowledges something: a client that is held up acknowledges first,
/// after 40 ms.
const ATTEMPTS: u32 = 20;

/// How a test's network and session differ from the usual ones.
#[derive(Clone, Copy)]
struct Case {
    /// The family of each leg.
    is_ipv6: [bool; 2],
    links: [Link; 2],
    /// The program may ask for routes; else it uses the devices that it was told.
    routes: bool,
    /// The joint becomes live by a packet that also acknowledges the last response.
    outstanding: bool,
}

const ETHERNET: Link = Link { mtu: 1500, offloads: Offloads::Send, weather: None, delay: Duration::ZERO };
const SEGMENTS: Link = Link { offloads: Offloads::Neither, ..ETHERNET };
const RECEIVE: Link = Link { offloads: Offloads::Receive, ..ETHERNET };
const TUN: Link = Link { weather: Some(FINE), ..ETHERNET };
const STORM: Link = Link { weather: Some(ROUGH), ..ETHERNET };
const FINE: Weather = Weather { seed: 1, lost: 0.0, duplicated: 0.0, late: 0.0, latest: Duration::ZERO };
const ROUGH: Weather = Weather { seed: 2, lost: 0.005, duplicated: 0.01, late: 0.02, latest: Duration::from_millis(3) };

const USUAL: Case = Case { is_ipv6: [false; 2], links: [ETHERNET; 2], routes: true, outstanding: false };

/// A link for IPv4 towards IPv6, whose header is 20 bytes longer. The daemon's MSS clamp leaves that room.
const fn narrow(link: Link) -> Link {
    Link { mtu: link.mtu - 20, ..link }
}

#[test]
fn ipv4_with_super_packets() -> Result<()> {
    joined(USUAL)
}

#[test]
fn ipv4_in_segments() -> Result<()> {
    joined(Case { links: [SEGMENTS; 2], ..USUAL })
}

#[test]
fn ipv4_put_together_on_arrival() -> Result<()> {
    joined(Case { links: [RECEIVE; 2], ..USUAL })
}

#[test]
fn ipv4_by_device() -> Result<()> {
    joined(Case { routes: false, ..USUAL })
}

#[test]
fn ipv6() -> Result<()> {
    joined(Case { is_ipv6: [true; 2], ..USUAL })
}

#[test]
fn ipv6_in_segments() -> Result<()> {
    joined(Case { is_ipv6: [true; 2], links: [SEGMENTS; 2], ..USUAL })
}

#[test]
fn ipv4_to_ipv6() -> Result<()> {
    joined(Case { is_ipv6: [false, true], links: [narrow(ETHERNET), ETHERNET], ..USUAL })
}

#[test]
fn ipv6_to_ipv4_in_segments() -> Result<()> {
    joined(Case { is_ipv6: [true, false], links: [SEGMENTS, narrow(SEGMENTS)], ..USUAL })
}

#[test]
fn ipv6_to_ipv4_by_device() -> Result<()> {
    joined(Case { is_ipv6: [true, false], links: [ETHERNET, narrow(ETHERNET)], routes: false, ..USUAL })
}

#[test]
fn the_turning_packet_acknowledges() -> Result<()> {
    joined(Case { outstanding: true, ..USUAL })
}

#[test]
fn the_turning_packet_acknowledges_in_segments() -> Result<()> {
    joined(Case { outstanding: true, is_ipv6: [true; 2], links: [SEGMENTS; 2], ..USUAL })
}

#[test]
fn ethernet_to_tun() -> Result<()> {
    joined(Case { links: [ETHERNET, TUN], ..USUAL })
}

#[test]
fn tun_to_ethernet_from_ipv4_to_ipv6() -> Result<()> {
    joined(Case { is_ipv6: [false, true], links: [narrow(TUN), ETHERNET], outstanding: true, ..USUAL })
}

#[test]
fn tun_to_tun_from_ipv6_to_ipv4() -> Result<()> {
    joined(Case { is_ipv6: [true, false], links: [TUN, narrow(TUN)], ..USUAL })
}

#[test]
fn lost_repeated_and_reordered() -> Result<()> {
    joined(Case { links: [STORM, STORM], ..USUAL })
}

fn joined(case: Case) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let Some(mut programs) = Programs::load() else { return Ok(()) };
        if is_joined_as_told(case, &mut programs)? {
            return Ok(());
        }
    }
    bail!("in {ATTEMPTS} attempts the client always acknowledged before it wrote")
}

/// Joins one session. `false` if the client acknowledged the last response before it went on, and that was not wanted.
fn is_joined_as_told(case: Case, programs: &mut Programs) -> Result<bool> {
    let net = Net::with_links(case.links[CLIENT], &case.links[TARGET..])?;
    let [client, proxy, target] = [&net.client, &net.proxy, &net.targets[0]];
    let devices = attach(programs, &net, case)?;
    let near = pick(proxy, case.is_ipv6[CLIENT], 8000);
    let far = pick(target, case.is_ipv6[TARGET], 9000);
    let mut session = Session::relayed(client, proxy, target, near, far)?;
    let is_rough = case.links.iter().any(|link| link.weather.is_some_and(|weather| weather.late > 0.0));
    let bulk = if is_rough { LESS } else { BULK };

    session.watch(programs);
    session.relay()?;
    if !case.outstanding {
        session.settle()?;
    }
    if is_rough {
        // What is still to come late would spoil it.
        thread::sleep(ROUGH.latest * 2);
    }
    session.arm(programs, devices)?;
    let before = [Snapshot::of(&session.legs[CLIENT])?, Snapshot::of(&session.legs[TARGET])?];

    let is_outstanding = programs.joints.state(INDEX).load(SeqCst) & CLIENT_ACKED == 0;

    // The first packet with payload is the turning packet, and a large one with offloads.
    let mut ways = Vec::new();
    ways.extend(spawn(&session.client, &session.target, 1, bulk)?);
    if case.outstanding {
        eventually("the joint is live", || {
            ensure!(programs.joints.phase(INDEX) >= phase::LIVE, "{:x}", programs.joints.get(INDEX).state);
            Ok(())
        })?;
    }
    ways.extend(spawn(&session.target, &session.client, 2, bulk)?);
    for way in ways {
        way.join().expect("no panic").with_context(|| format!("{:?} {:?}", programs.counted(), net.damage()))?;
    }

    eventually("the joint is closed", || {
        ensure!(programs.joints.phase(INDEX) == phase::CLOSED, "{:?}", programs.joints.get(INDEX));
        Ok(())
    })?;
    let joint = programs.joints.get(INDEX);
    let counted = programs.counted();
    // Only packets with payload are noted, before the joint is live.
    let turned = (joint.legs[CLIENT].passed as u32) != before[CLIENT].received;
    if case.outstanding && (!turned || !is_outstanding) {
        return Ok(false);
    }
    assert_eq!(joint.legs.map(|leg| leg.bytes), [bulk; 2], "{counted:?}");
    let is_drop = |slot| {
        use PacketCounter::{Failed, NoRoute, OutOfWindow, TooLong, Untranslatable};
        matches!(slot, OutOfWindow | Untranslatable | NoRoute | Failed | TooLong)
    };
    assert!(!counted.iter().any(|(slot, _)| is_drop(*slot)), "{counted:?}");
    if case.links.iter().all(|link| link.weather.is_none() && link.offloads == Offloads::Send) {
        // Fewer than segments, acknowledgements of the other direction included: nobody has cut what came uncut.
        assert!(joint.legs.iter().all(|leg| leg.packets < bulk / SEGMENT / 2), "{joint:?}");
    }
    let told = programs.events();
    let told: Vec<u64> = told.into_iter().filter(|told| told >> 32 != event::SEEN >> 32).collect();
    assert_eq!(told, [event::LIVE | u64::from(INDEX), event::CLOSED | u64::from(INDEX)]);
    // Repetitions may still come after the end.
    eventually("the programs and the joint count the same", || {
        let packets: u64 = programs.joints.get(INDEX).legs.iter().map(|leg| leg.packets).sum();
        let forwarded = programs.counter(PacketCounter::Forwarded);
        ensure!(forwarded == packets, "{forwarded} {packets}");
        Ok(())
    })?;
    for leg in &joint.legs {
        assert!(leg.round_trip > 0 && leg.round_trip < 1_000_000_000, "{leg:?}");
        assert!(leg.first_payload >= joint.live_at && leg.ended_at > leg.first_payload, "{leg:?}");
    }
    // The sockets took in nothing: one got the turning packet's acknowledgement, and that was all.
    let mut arrived = 0;
    for (socket, before) in session.legs.iter().zip(before) {
        let now = Snapshot::of(socket)?;
        assert_eq!((now.received, now.sent, now.unread), (before.received, before.sent, 0));
        assert_eq!(socket.unacknowledged()?, 0);
        arrived += now.segments_in - before.segments_in;
    }
    assert!(arrived == 1 || is_rough, "{arrived} {counted:?}");
    Ok(true)
}

/// Sends a stream from one end to the other, with the FIN, and compares all of it.
fn spawn(from: &TcpStream, to: &TcpStream, seed: u64, bulk: u64) -> Result<[thread::JoinHandle<Result<()>>; 2]> {
    let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
    from.set_write_timeout(Some(landbridge_tests::PATIENCE))?;
    to.set_read_timeout(Some(landbridge_tests::PATIENCE))?;
    let writer = thread::spawn(move || {
        let mut source = Source::new(seed);
        let mut block = vec![0; 64 << 10];
        for _ in 0..bulk / block.len() as u64 {
            source.fill(&mut block);
            from.write_all(&block).context("writing")?;
        }
        from.shutdown(Shutdown::Write).context("closing")
    });
    let reader = thread::spawn(move || {
        let mut checker = Checker::new(seed);
        let mut block = vec![0; 64 << 10];
        let mut received = 0;
        loop {
            let read = to.read(&mut block).with_context(|| format!("reading after {received}"))?;
            if read == 0 {
                break;
            }
            received += read as u64;
            checker.check(&block[..read])?;
        }
        ensure!(received == bulk, "{received} of {bulk}");
        Ok(())
    });
    Ok([writer, reader])
}

fn pick(host: &Host, is_ipv6: bool, port: u16) -> SocketAddr {
    if is_ipv6 { host.v6(port) } else { host.v4(port) }
}

/// Attaches the program towards both ends; returns the devices' indexes if it is to fall back on them.
fn attach(programs: &mut Programs, net: &Net, case: Case) -> Result<[u32; 2]> {
    let proxy = &net.proxy;
    let program = |link: Link| if link.weather.is_some() { "packet_raw" } else { "packet_ethernet" };
    proxy.enter(|| {
        programs.attach(program(case.links[CLIENT]), "client");
        programs.attach(program(case.links[TARGET]), "target0");
    });
    if case.routes {
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/lo/forwarding");
            proxy.enter(|| std::fs::write(&path, "1")).with_context(|| path.clone())?;
        }
    }
    let index = |device: &str| proxy.enter(|| nix::net::if_::if_nametoindex(device));
    let devices = [index("client")?, index("target0")?];
    Ok(if case.routes { [0, 0] } else { devices })
}
