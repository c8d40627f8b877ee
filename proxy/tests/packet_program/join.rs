//! Real connections joined: the turning packet, bulk both ways, and a FIN each way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use landbridge_common::packet::{CLIENT, PacketCounter, TARGET, event, phase};
use landbridge_tests::{Checker, Host, Net, Source, eventually};

use crate::middle::{INDEX, Session, Snapshot};
use crate::programs::Programs;

/// Many windows, and a few hundred milliseconds.
const BULK: u64 = 24 << 20;

/// How a test's network differs from the usual one.
#[derive(Clone, Copy)]
struct Case {
    client_is_ipv6: bool,
    target_is_ipv6: bool,
    /// Super-packets on all links.
    offload: bool,
    /// The program may ask for routes; else it uses the devices that it was told.
    routes: bool,
}

const USUAL: Case = Case { client_is_ipv6: false, target_is_ipv6: false, offload: true, routes: true };

#[test]
fn ipv4_with_super_packets() -> Result<()> {
    joined(USUAL)
}

#[test]
fn ipv4_without_offloads() -> Result<()> {
    joined(Case { offload: false, ..USUAL })
}

#[test]
fn ipv4_by_device() -> Result<()> {
    joined(Case { routes: false, ..USUAL })
}

#[test]
fn ipv6() -> Result<()> {
    joined(Case { client_is_ipv6: true, target_is_ipv6: true, ..USUAL })
}

#[test]
fn ipv6_without_offloads() -> Result<()> {
    joined(Case { client_is_ipv6: true, target_is_ipv6: true, offload: false, ..USUAL })
}

#[test]
fn ipv4_to_ipv6() -> Result<()> {
    joined(Case { target_is_ipv6: true, ..USUAL })
}

#[test]
fn ipv6_to_ipv4_without_offloads() -> Result<()> {
    joined(Case { client_is_ipv6: true, offload: false, ..USUAL })
}

#[test]
fn ipv6_to_ipv4_by_device() -> Result<()> {
    joined(Case { client_is_ipv6: true, routes: false, ..USUAL })
}

fn joined(case: Case) -> Result<()> {
    let Some(mut programs) = Programs::load() else { return Ok(()) };
    let net = Net::new(1)?;
    let [client, proxy, target] = [&net.client, &net.proxy, &net.targets[0]];
    let devices = attach(&mut programs, &net, case)?;
    let near = pick(proxy, case.client_is_ipv6, 8000);
    let far = pick(target, case.target_is_ipv6, 9000);
    let mut session = Session::relayed(client, proxy, target, near, far)?;

    session.watch(&mut programs);
    session.relay()?;
    session.settle()?;
    session.arm(&programs, devices)?;
    let before = [Snapshot::of(&session.legs[CLIENT])?, Snapshot::of(&session.legs[TARGET])?];
    assert_eq!(programs.joints.phase(INDEX), phase::ARMED);

    // Everything is acknowledged: the first packet with payload is the turning packet, and a large one with offloads.
    let up = spawn(&session.client, &session.target, 1)?;
    let down = spawn(&session.target, &session.client, 2)?;
    for direction in up.into_iter().chain(down) {
        direction.join().expect("no panic").with_context(|| format!("{:?}", programs.counted()))?;
    }

    eventually("the joint is closed", || {
        ensure!(programs.joints.phase(INDEX) == phase::CLOSED, "{:?}", programs.joints.get(INDEX));
        Ok(())
    })?;
    let joint = programs.joints.get(INDEX);
    let counted = programs.counted();
    assert_eq!(joint.legs[CLIENT].bytes, BULK, "{counted:?}");
    assert_eq!(joint.legs[TARGET].bytes, BULK, "{counted:?}");
    assert_eq!(joint.dropped, 0, "{counted:?}");
    assert_eq!(programs.events(), [event::LIVE | u64::from(INDEX), event::CLOSED | u64::from(INDEX)]);
    let packets = joint.legs[CLIENT].packets + joint.legs[TARGET].packets;
    assert_eq!(programs.counter(PacketCounter::Forwarded), packets);
    for leg in &joint.legs {
        assert!(leg.round_trip > 0 && leg.round_trip < 1_000_000_000, "{leg:?}");
        assert!(leg.first_payload >= joint.live_at, "{leg:?}");
    }
    // The sockets took in nothing: one got the turning packet's acknowledgement, and that was all.
    let mut arrived = 0;
    for (socket, before) in session.legs.iter().zip(before) {
        let now = Snapshot::of(socket)?;
        assert_eq!((now.received, now.sent, now.unread), (before.received, before.sent, 0));
        arrived += now.segments_in - before.segments_in;
    }
    assert_eq!(arrived, 1, "{counted:?}");
    Ok(())
}

/// Sends a stream from one end to the other, with the FIN, and compares all of it.
fn spawn(from: &TcpStream, to: &TcpStream, seed: u64) -> Result<[thread::JoinHandle<Result<()>>; 2]> {
    let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
    from.set_write_timeout(Some(landbridge_tests::PATIENCE))?;
    to.set_read_timeout(Some(landbridge_tests::PATIENCE))?;
    let writer = thread::spawn(move || {
        let mut source = Source::new(seed);
        let mut block = vec![0; 64 << 10];
        for _ in 0..BULK / block.len() as u64 {
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
        ensure!(received == BULK, "{received} of {BULK}");
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
    proxy.enter(|| {
        programs.attach("packet_ethernet", "client");
        programs.attach("packet_ethernet", "target0");
    });
    if case.routes {
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/lo/forwarding");
            proxy.enter(|| std::fs::write(&path, "1")).with_context(|| path.clone())?;
        }
    }
    if case.client_is_ipv6 != case.target_is_ipv6 {
        // An IPv6 header is 20 bytes longer: who sends IPv4 must leave room for it, as the daemon's MSS clamp sees to.
        let host = if case.client_is_ipv6 { &net.targets[0] } else { &net.client };
        host.ip("link set eth0 mtu 1480")?;
    }
    if !case.offload {
        let ends = [(proxy, "client"), (proxy, "target0"), (&net.client, "eth0"), (&net.targets[0], "eth0")];
        for (host, device) in ends {
            let mut command = host.command("ethtool");
            command.args(["-K", device, "tso", "off", "gso", "off", "gro", "off", "tx", "off"]);
            ensure!(command.output()?.status.success(), "ethtool on {device}");
        }
    }
    let index = |device: &str| proxy.enter(|| nix::net::if_::if_nametoindex(device));
    let devices = [index("client")?, index("target0")?];
    Ok(if case.routes { [0, 0] } else { devices })
}
