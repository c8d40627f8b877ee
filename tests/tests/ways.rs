//! The ways of joined sessions: through one device, and along routes, devices and neighbours that change while they run.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Host, LISTENER_PORT, Net, SocketExt};
use socket2::SockRef;

const JOINS: &str = "landbridge_datapath_joins_total";

const ROUNDS: u32 = 20;

/// Segments that sockets of the proxy may get while a joined session goes on: neighbours of the test, if any.
const OTHERS: u64 = 5;

/// Opens a session, the daemon's last of so many, and waits until it is joined.
fn join(daemon: &Daemon, host: &Host, address: SocketAddr, sessions: u32) -> Result<TcpStream> {
    let mut client = host.connect(address)?;
    for _ in 0..ROUNDS {
        client.expect_echo(b"question")?;
    }
    daemon.wait_metric(JOINS, &[], sessions.into())?;
    Ok(client)
}

/// A network with an echo target, a daemon, and a joined session.
fn scene() -> Result<(Net, Echo, Daemon, TcpStream)> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    let client = join(&daemon, &net.client, daemon.v4(), 1)?;
    Ok((net, echo, daemon, client))
}

/// The client of the only session leaves, and the daemon ends.
fn leave(mut daemon: Daemon, client: TcpStream) -> Result<()> {
    drop(client);
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

/// The session goes on, and no socket of the proxy hears of it.
fn is_forwarded(proxy: &Host, client: &mut TcpStream) -> Result<()> {
    let before = proxy.counter("Tcp", "InSegs")?;
    for _ in 0..ROUNDS {
        client.expect_echo(b"another question")?;
    }
    let heard = proxy.counter("Tcp", "InSegs")? - before;
    ensure!(heard < OTHERS, "{heard} segments went to sockets of the proxy");
    Ok(())
}

/// A client that shares the target's way, and one that is the target's host.
#[test]
fn both_legs_by_the_same_device() -> Result<()> {
    let net = Net::new(2)?;
    net.put_behind(0, 1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    let near = SocketAddr::new(net.proxy_towards(0).into(), LISTENER_PORT);
    for (sessions, host) in (1..).zip(&net.targets) {
        let mut client = join(&daemon, host, near, sessions).with_context(|| host.name().to_owned())?;
        is_forwarded(&net.proxy, &mut client)?;
        drop(client);
        daemon.wait_ended(sessions, "client_closed")?;
    }
    daemon.stop().map(drop)
}

/// The device that the packets then take was not there when the daemon started, and the former one is lost.
#[test]
fn another_route_by_a_device_that_comes_later() -> Result<()> {
    let (net, _echo, daemon, mut client) = scene()?;
    net.second_link(0, "second")?;
    let target = net.targets[0].v4(0).ip();
    net.proxy.ip(&format!("route replace {target} dev second"))?;
    net.targets[0].ip(&format!("route replace {} dev second", net.proxy_towards(0)))?;
    net.proxy.ip("link set target0 down")?;
    // What comes before the program is attached to the new device goes to a socket that hears nothing, and is repeated.
    client.expect_echo(b"by the other device")?;
    is_forwarded(&net.proxy, &mut client)?;
    leave(daemon, client)
}

/// As a VPN's that is started again: another device of the same name and addresses.
#[test]
fn a_device_that_goes_and_comes_again() -> Result<()> {
    let (net, _echo, daemon, mut client) = scene()?;
    net.proxy.ip("link del target0")?;
    net.second_link(0, "target0")?;
    let (near, far) = (IpAddr::from(net.proxy_towards(0)), net.targets[0].v4(0).ip());
    for (host, address) in [(&net.proxy, near), (&net.targets[0], far)] {
        host.ip(&format!("addr add {address}/24 dev target0"))?;
    }
    client.expect_echo(b"by the new device")?;
    is_forwarded(&net.proxy, &mut client)?;
    leave(daemon, client)
}

/// As an interface that a bridge or a bond takes in: what arrives on it arrives on the other device again.
#[test]
fn a_device_that_becomes_a_part_of_another() -> Result<()> {
    let (net, echo, daemon, mut before) = scene()?;
    let near = net.proxy.v4(0).ip();
    for arguments in [
        "link add bridge type bridge",
        "link set bridge up",
        "link set client master bridge",
        "addr flush dev client",
        &format!("addr add {near}/24 dev bridge"),
    ] {
        net.proxy.ip(arguments)?;
    }
    net.client.ip("neigh flush dev eth0")?;
    before.expect_echo(b"by the bridge")?;
    is_forwarded(&net.proxy, &mut before)?;
    drop(before);
    daemon.wait_ended(1, "client_closed")?;
    is_joined_by_an_acknowledgement(&net, &daemon)?;
    drop(daemon);

    // The same for a daemon that finds it so.
    let daemon = Daemon::start(&net.proxy, &Config::single(echo.address()))?;
    is_joined_by_an_acknowledgement(&net, &daemon)?;
    daemon.wait_ended(1, "client_closed")
}

/// One more session is joined, by a packet that its socket needs: the acknowledgement of the first answer, which a client that
/// is in no hurry holds back.
fn is_joined_by_an_acknowledgement(net: &Net, daemon: &Daemon) -> Result<()> {
    let joins = daemon.metrics()?.value(JOINS, &[]);
    let mut client = net.client.connect(daemon.v4())?;
    SockRef::from(&client).set_tcp_quickack(false)?;
    client.expect_echo(b"one question")?;
    daemon.wait_metric(JOINS, &[], joins + 1.0)?;
    is_forwarded(&net.proxy, &mut client)
}

/// As a service's address that several hosts have. Packets leave by the device that leads to the peer, not by the one that
/// has the address.
#[test]
fn an_address_on_loopback_where_programs_are_told_no_routes() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let service = SocketAddr::new("192.0.2.7".parse()?, LISTENER_PORT);
    net.proxy.ip(&format!("addr add {}/32 dev lo", service.ip()))?;
    net.client.ip(&format!("route add {} dev eth0", service.ip()))?;
    let daemon = Daemon::start_without_routes(&net.proxy, &Config::single(echo.address()))?;
    let mut client = join(&daemon, &net.client, service, 1)?;
    is_forwarded(&net.proxy, &mut client)?;
    leave(daemon, client)
}

/// As after a failover between two routers, or when a virtual machine moves.
#[test]
fn another_hardware_address_at_either_end() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let target = &net.targets[0];
    for (number, address) in (1..).zip([target.v4(echo.address().port()), target.v6(echo.address().port())]) {
        let daemon = Daemon::start(&net.proxy, &Config::single(address))?;
        let mut client = join(&daemon, &net.client, daemon.v4(), 1)?;
        for ((changed, device), (other, towards)) in [
            ((target, "eth0"), (&net.proxy, "target0")),
            ((&net.proxy, "target0"), (target, "eth0")),
            ((&net.client, "eth0"), (&net.proxy, "client")),
        ] {
            changed.ip(&format!("link set {device} address 02:00:00:00:07:0{number}"))?;
            other.ip(&format!("neigh flush dev {towards}"))?;
            is_forwarded(&net.proxy, &mut client).with_context(|| format!("{device} of {}", changed.name()))?;
        }
        leave(daemon, client)?;
    }
    Ok(())
}

/// A sender that lets routers make fragments of its packets, and a router that has to. Joined sessions cannot have that,
/// and both peers hear of it long before the sender would give up.
#[test]
fn fragments() -> Result<()> {
    /// The sender repeats after 6 and after 12 s, and the second one is late enough.
    const LIMIT: Duration = Duration::from_secs(60);
    let net = Net::new(2)?;
    net.put_behind(0, 1)?;
    let (router, host) = (&net.targets[0], &net.targets[1]);
    host.set_sysctl("ipv4/ip_no_pmtu_disc", "1")?;
    let echo = Echo::start(router, 9000)?;
    let config = Config::single(echo.address()).listener_tcp("keepalive = \"1s\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let near = SocketAddr::new(net.proxy_towards(0).into(), LISTENER_PORT);
    let mut client = join(&daemon, host, near, 1)?;
    router.ip("link set eth0 mtu 1300")?;
    let since = Instant::now();
    client.write_all(&[7; 20_000])?;
    while client.take_error()?.is_none() {
        ensure!(since.elapsed() < LIMIT, "the client was not told");
        sleep(Duration::from_millis(100));
    }
    daemon.wait_ended(1, "integrity_reset")?;
    daemon.stop().map(drop)
}
