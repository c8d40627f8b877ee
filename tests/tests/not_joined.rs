//! Sessions that cannot be joined at packet level: each is counted once by its reason, and its bytes arrive all the same.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Host, Link, Net, SocketExt, eventually};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use socket2::{Domain, SockRef, Socket, Type};

const FALLBACKS: &str = "landbridge_datapath_fallbacks_total";
const JOINS: &str = "landbridge_datapath_joins_total";

/// Far more than it takes until a session is joined.
const ROUNDS: u32 = 50;

/// Sessions of less than 100 ms are not counted as never quiet.
const LONG: Duration = Duration::from_millis(200);

/// A network with an echo target and a daemon whose sessions would be joined at their first rest.
fn scene() -> Result<(Net, Echo, Daemon)> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let daemon = Daemon::start(&net.proxy, &Config::single(echo.address()).listener("datapath = \"packet\""))?;
    Ok((net, echo, daemon))
}

/// Talks until the session would have been joined, and longer: it goes on, and is counted as not joined, once and for this
/// reason.
fn not_joined(mut daemon: Daemon, mut client: TcpStream, reason: &str) -> Result<()> {
    let because = [("datapath", "packet"), ("reason", reason)];
    for _ in 0..ROUNDS {
        client.expect_echo(b"question")?;
    }
    daemon.wait_metric(FALLBACKS, &because, 1.0).context(reason.to_owned())?;
    client.expect_echo(b"and another one")?;
    client.finish_writing()?;
    client.expect_ending(Ending::Closed)?;
    daemon.wait_ended(1, "client_closed")?;
    let metrics = daemon.metrics()?;
    ensure!(metrics.value(FALLBACKS, &[]) == 1.0, "{reason}: {}", metrics.lines(FALLBACKS));
    ensure!(metrics.value(JOINS, &[]) == 0.0, "{reason}: it was joined");
    daemon.stop().map(drop)
}

#[test]
fn a_client_on_this_host() -> Result<()> {
    let (net, _echo, daemon) = scene()?;
    let client = net.proxy.connect(daemon.v4())?;
    not_joined(daemon, client, "local_peer")
}

#[test]
fn a_target_on_this_host() -> Result<()> {
    let net = Net::new(0)?;
    let echo = Echo::start(&net.proxy, 9000)?;
    let daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    let client = net.client.connect(daemon.v4())?;
    not_joined(daemon, client, "local_peer")
}

#[test]
fn peers_with_other_tcp_options_than_each_other() -> Result<()> {
    for option in ["tcp_sack", "tcp_window_scaling", "tcp_timestamps"] {
        for changes in [|net: &Net| net.client.clone(), |net: &Net| net.targets[0].clone()] {
            let (net, _echo, daemon) = scene()?;
            changes(&net).set_sysctl(&format!("ipv4/{option}"), "0")?;
            let client = net.client.connect(daemon.v4())?;
            not_joined(daemon, client, "tcp_options").with_context(|| option.to_owned())?;
        }
    }
    Ok(())
}

/// Both agree on it: then they can be joined.
#[test]
fn peers_that_lack_the_same_tcp_options_are_joined() -> Result<()> {
    for option in ["tcp_sack", "tcp_window_scaling", "tcp_timestamps"] {
        let (net, _echo, mut daemon) = scene()?;
        net.proxy.set_sysctl(&format!("ipv4/{option}"), "0")?;
        let mut client = net.client.connect(daemon.v4())?;
        for _ in 0..ROUNDS {
            client.expect_echo(b"question")?;
        }
        daemon.wait_metric(JOINS, &[], 1.0).with_context(|| option.to_owned())?;
        client.expect_echo(b"and another one")?;
        drop(client);
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_target_whose_route_has_timestamps_in_microseconds() -> Result<()> {
    let (net, _echo, daemon) = scene()?;
    count_microseconds(&net.proxy, &net.targets[0])?;
    let client = net.client.connect(daemon.v4())?;
    not_joined(daemon, client, "timestamp_clock")
}

/// They need not concern the session: which packets they concern is not asked.
#[test]
fn ipsec_policies() -> Result<()> {
    const POLICY: &str = "dir out src 192.0.2.0/24 dst 198.51.100.0/24";
    let (net, _echo, mut daemon) = scene()?;
    for (change, reason) in [("add", Some("ipsec")), ("delete", None)] {
        net.proxy.ip(&format!("xfrm policy {change} {POLICY}"))?;
        let known = if reason.is_some() { "there are IPsec policies" } else { "there are no IPsec policies any more" };
        eventually(known, || {
            let log = daemon.process().stderr();
            ensure!(log.contains(known), "{log}");
            Ok(())
        })?;
        let mut client = net.client.connect(daemon.v4())?;
        for _ in 0..ROUNDS {
            client.expect_echo(b"question")?;
        }
        daemon.wait_metric(JOINS, &[], f64::from(u8::from(reason.is_none())))?;
        let metrics = daemon.metrics()?;
        ensure!(metrics.value(FALLBACKS, &[("reason", "ipsec")]) == 1.0, "{}", metrics.lines(FALLBACKS));
    }
    daemon.stop_at_once().map(drop)
}

/// Only what is sent with the protocol known has a way there.
#[test]
fn a_way_that_nobody_tells() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let target = echo.address().ip();
    net.proxy.ip(&format!("route add {target} dev target0 table 100"))?;
    net.proxy.ip(&format!("rule add to {target} ipproto tcp lookup 100"))?;
    net.proxy.ip(&format!("route add unreachable {target}"))?;
    let config = Config::single(echo.address()).listener("datapath = \"packet\"");
    let daemon = Daemon::start_without_routes(&net.proxy, &config)?;
    let client = net.client.connect(daemon.v4())?;
    not_joined(daemon, client, "device")
}

/// The client was told how much it may send when the way was wider.
#[test]
fn a_way_to_the_target_that_becomes_narrow_before_the_session_rests() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    // It is not joined before its first byte.
    let daemon = Daemon::start(&net.proxy, &Config::single(echo.address()).datapath("join_quiet = \"1m\""))?;
    let client = net.client.connect(daemon.v4())?;
    daemon.wait_metric("landbridge_target_connect_seconds_count", &[], 1.0)?;
    net.proxy.ip("link set target0 mtu 1400")?;
    not_joined(daemon, client, "client_mss")
}

/// Clients are told what fits on the way of now, so that all of them can be joined.
#[test]
fn a_way_to_the_target_that_becomes_narrow_and_wide_again() -> Result<()> {
    let (net, _echo, mut daemon) = scene()?;
    let target = net.targets[0].v4(0).ip();
    let joined_bytes =
        || Ok::<_, anyhow::Error>(daemon.metrics()?.value("landbridge_bytes_total", &[("datapath", "packet")]));
    let told = |change: &str, expected: std::ops::RangeInclusive<u32>| -> Result<()> {
        net.proxy.ip(change)?;
        let mut client = eventually(change, || {
            let client = net.client.connect(daemon.v4())?;
            let segment = SockRef::from(&client).tcp_mss()?;
            ensure!(expected.contains(&segment), "segments of {segment} bytes");
            Ok(client)
        })?;
        let before = joined_bytes()?;
        eventually("it is joined", || {
            client.expect_echo(b"question")?;
            ensure!(joined_bytes()? > before, "{change}");
            Ok(())
        })
    };
    told("link set target0 mtu 1400", 1300..=1360)?;
    told(&format!("route replace {target} dev target0 mtu 1300"), 1200..=1260)?;
    told("link set target0 mtu 1500", 1200..=1260)?;
    told(&format!("route del {target} dev target0"), 1400..=1460)?;
    daemon.stop().map(drop)
}

/// The target was connected when the way was wider, and its greeting is the first packet that has to fit.
#[test]
fn a_way_to_the_client_that_becomes_narrow_before_the_session_rests() -> Result<()> {
    let net = Net::new(1)?;
    let (narrow, is_narrow) = mpsc::channel();
    let is_narrow = Mutex::new(is_narrow);
    let target = Scripted::start(&net.targets[0], 9000, move |mut stream| {
        is_narrow.lock().unwrap_or_else(PoisonError::into_inner).recv()?;
        stream.write_all(b"welcome")?;
        io::copy(&mut stream.try_clone()?, &mut stream)?;
        Ok(())
    })?;
    // It is not joined before its first byte.
    let config = Config::single(target.address()).datapath("join_quiet = \"1m\"");
    let daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(daemon.v4())?;
    daemon.wait_metric("landbridge_target_connect_seconds_count", &[], 1.0)?;
    net.proxy.ip("link set client mtu 1400")?;
    narrow.send(())?;
    client.expect(b"welcome")?;
    not_joined(daemon, client, "target_mss")
}

/// From the start narrower on one side: both peers are told, and the session is joined.
#[test]
fn ways_that_were_narrow_from_the_start_hinder_nothing() -> Result<()> {
    let narrow = Link { mtu: 1400, ..Link::default() };
    for (to_client, to_target) in [(narrow, Link::default()), (Link::default(), narrow)] {
        let net = Net::with_links(to_client, &[to_target])?;
        let echo = Echo::start(&net.targets[0], 9000)?;
        let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
        let mut client = net.client.connect(daemon.v4())?;
        for _ in 0..ROUNDS {
            client.expect_echo(b"question")?;
        }
        daemon.wait_metric(JOINS, &[], 1.0)?;
        drop(client);
        daemon.stop()?;
    }
    Ok(())
}

/// Its client's window is so small that something is on its way at any time.
#[test]
fn a_stream_that_is_never_quiet() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        while stream.write_all(&[b'x'; 65_536]).is_ok() {}
        Ok(())
    })?;
    let config = Config::single(target.address()).listener("datapath = \"packet\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let never_quiet = [("datapath", "packet"), ("reason", "never_quiet")];
    let proxy = daemon.v4();
    let client = net.client.enter(|| -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(1)?;
        socket.connect(&proxy.into())?;
        Ok(socket.into())
    })?;
    // The time is the subject here.
    thread::sleep(LONG);
    let metrics = daemon.metrics()?;
    ensure!(
        metrics.value(FALLBACKS, &[]) + metrics.value(JOINS, &[]) == 0.0,
        "{}",
        metrics.lines("landbridge_datapath")
    );
    client.reset()?;
    daemon.wait_metric(FALLBACKS, &never_quiet, 1.0)?;
    daemon.wait_ended(1, "client_reset")?;
    ensure!(daemon.metrics()?.value(FALLBACKS, &[]) == 1.0, "{}", daemon.metrics()?.lines(FALLBACKS));
    daemon.stop().map(drop)
}

/// Joints linger after their session, for repetitions that come late, so that many short sessions use them up.
#[test]
fn more_joints_than_there_is_room_for() -> Result<()> {
    /// One for the place that the listener has, and those that may linger.
    const JOINTS: f64 = 1025.0;
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).listener("datapath = \"packet\"").listener("max_connections = 1");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let full = || Ok::<_, anyhow::Error>(daemon.metrics()?.value(FALLBACKS, &[("reason", "joints_full")]));
    let mut sessions = 0;
    while full()? == 0.0 {
        ensure!(sessions < 4 * JOINTS as u32, "{sessions} sessions found room");
        sessions += 1;
        // The place of the one before may still be taken.
        let mut client = eventually("a place", || {
            let mut client = net.client.connect(daemon.v4())?;
            client.expect_echo(b"hello")?;
            Ok(client)
        })?;
        for _ in 0..3 {
            client.expect_echo(b"question")?;
        }
        client.finish_writing()?;
        client.expect_ending(Ending::Closed)?;
    }
    let metrics = daemon.metrics()?;
    let joints = metrics.value("landbridge_packet_joints", &[]);
    ensure!(joints <= JOINTS && metrics.value(JOINS, &[]) > 0.9 * JOINTS, "{}", metrics.lines(FALLBACKS));
    daemon.stop().map(drop)
}

/// Somebody else has seen to it that nobody changes the table of legs any more.
#[test]
fn a_kernel_that_refuses() -> Result<()> {
    let (net, _echo, mut daemon) = scene()?;
    daemon.process().borrow_map("LEGS")?.freeze()?;
    let client = net.client.connect(daemon.v4())?;
    not_joined(daemon, client, "join_refused")
}

/// Has `host` count the timestamps of its connections to `peer` in microseconds, a property of the route that Debian's `ip`
/// cannot set.
fn count_microseconds(host: &Host, peer: &Host) -> Result<()> {
    // linux/rtnetlink.h
    const RTM_NEWROUTE: u16 = 24;
    const REQUEST_ACK_CREATE_REPLACE: u16 = 0x1 | 0x4 | 0x400 | 0x100;
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_METRICS: u16 = 8;
    const RTAX_FEATURES: u16 = 12;
    const TCP_USEC_TS: u32 = 1 << 4;
    const HEADER: usize = 16;
    let attribute =
        |kind: u16, value: &[u8]| [&(4 + value.len() as u16).to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    let IpAddr::V4(address) = peer.v4(0).ip() else { anyhow::bail!("an IPv4 address") };
    host.enter(|| -> Result<()> {
        let device = if_nametoindex(peer.name())?;
        // Family, length of the destination, main table, set by the administrator, scope of the link, unicast.
        let mut message = vec![2, 32, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0];
        message.extend(attribute(RTA_DST, &Ipv4Addr::octets(&address)));
        message.extend(attribute(RTA_OIF, &device.to_ne_bytes()));
        message.extend(attribute(RTA_METRICS, &attribute(RTAX_FEATURES, &TCP_USEC_TS.to_ne_bytes())));
        let mut request = ((HEADER + message.len()) as u32).to_ne_bytes().to_vec();
        request.extend(RTM_NEWROUTE.to_ne_bytes());
        request.extend(REQUEST_ACK_CREATE_REPLACE.to_ne_bytes());
        request.extend([0; 8]);
        request.extend(message);
        let netlink =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answer = [0; 1024];
        let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let code = answer[..length].get(HEADER..HEADER + 4).context("an acknowledgement")?;
        match i32::from_ne_bytes(code.try_into()?) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)).context("the route was refused"),
        }
    })
}
