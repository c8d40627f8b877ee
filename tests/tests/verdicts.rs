//! What becomes of the packets of joined sessions is counted, and what a joint drops does its session no harm.
//!
//! `event_lost` takes thousands of joints that change before the daemon looks: see `memory.rs`, which has as many.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::packet::Packet;
use landbridge_tests::{Config, Daemon, Ending, Host, Link, Net, Offloads, SocketExt, Weather, eventually, option};
use nix::libc;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

const PACKETS: &str = "landbridge_packet_packets_total";
const MESSAGE: &[u8] = b"message";

/// The bits of a TCP header's flags.
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

/// The headers of a packet that [`packet`] makes, in bytes.
const HEADERS: usize = 40;

/// A session that is joined, with both of its ends in the test's hands.
struct Joined {
    net: Net,
    daemon: Daemon,
    client: TcpStream,
    target: TcpStream,
}

impl Joined {
    fn start(listener: &str) -> Result<Self> {
        Self::start_over(Net::new(1)?, listener)
    }

    fn start_over(net: Net, listener: &str) -> Result<Self> {
        let ear = net.targets[0].listen(net.targets[0].v4(9000))?;
        let config = Config::single(ear.local_addr()?).listener("datapath = \"packet\"").listener(listener);
        let daemon = Daemon::start(&net.proxy, &config)?;
        let client = net.client.connect(daemon.v4())?;
        let target = ear.accept()?.0;
        target.set_nodelay(true)?;
        let mut joined = Self { net, daemon, client, target };
        (0..20).try_for_each(|_| joined.talk())?;
        joined.daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
        Ok(joined)
    }

    /// A message each way.
    fn talk(&mut self) -> Result<()> {
        self.client.write_all(MESSAGE)?;
        self.target.expect(MESSAGE)?;
        self.target.write_all(MESSAGE)?;
        self.client.expect(MESSAGE)
    }

    fn count(&self, verdict: &str) -> Result<f64> {
        Ok(self.daemon.metrics()?.value(PACKETS, &[("verdict", verdict)]))
    }

    /// Does something that so comes to be counted, which it was not before.
    fn comes_to_be(&mut self, verdict: &str, disturb: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        ensure!(self.count(verdict)? == 0.0, "{verdict} before anything happened");
        disturb(self)?;
        eventually(verdict, || {
            ensure!(self.count(verdict)? > 0.0, "{}", self.daemon.metrics()?.lines(PACKETS));
            Ok(())
        })
    }

    /// It goes on after all that, and ends in order.
    fn end(mut self) -> Result<()> {
        (0..20).try_for_each(|_| self.talk())?;
        self.client.finish_writing()?;
        self.target.expect_ending(Ending::Closed)?;
        drop(self.target);
        self.client.expect_ending(Ending::Closed)?;
        self.daemon.wait_ended(1, "client_closed")?;
        self.daemon.stop().map(drop)
    }

    /// A packet as the client might send it.
    fn of_client(&self, flags: u8) -> Result<Packet> {
        let ends = [self.client.local_addr()?, self.client.peer_addr()?];
        let [source, destination] = ends.map(|end| (end.ip(), end.port()));
        Ok(packet(source, destination, flags, 0))
    }
}

fn packet(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8, sequence: u32) -> Packet {
    Packet {
        source,
        destination,
        sequence,
        acknowledgement: 0,
        flags,
        window: 1000,
        options: Vec::new(),
        payload: Vec::new(),
        hops: 64,
        class: 0,
        identification: 0,
    }
}

/// Sends a whole IPv4 packet from `host` to a neighbour.
fn send(host: &Host, neighbour: IpAddr, packet: &[u8]) -> Result<()> {
    let send = || -> io::Result<usize> {
        // Such a socket takes packets with their header.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.send_to(packet, &SocketAddr::new(neighbour, 0).into())
    };
    let sent = host.enter(send).context("cannot send a packet of one's own making")?;
    ensure!(sent == packet.len(), "{sent} of {} bytes were sent", packet.len());
    Ok(())
}

#[test]
fn packets_of_sessions_that_are_not_joined_yet_pass_and_others_are_forwarded() -> Result<()> {
    let mut joined = Joined::start("")?;
    joined.talk()?;
    for verdict in ["passed", "forwarded"] {
        ensure!(joined.count(verdict)? > 0.0, "{verdict}: {}", joined.daemon.metrics()?.lines(PACKETS));
    }
    joined.end()
}

/// It acknowledges nothing, and is no reset.
#[test]
fn a_packet_that_is_not_near_the_connection_is_dropped() -> Result<()> {
    let mut joined = Joined::start("")?;
    joined.comes_to_be("out_of_window", |joined| {
        send(&joined.net.client, joined.daemon.v4().ip(), &joined.of_client(0)?.bytes())
    })?;
    joined.end()
}

#[test]
fn urgent_data_is_dropped() -> Result<()> {
    let mut joined = Joined::start("")?;
    joined.comes_to_be("untranslatable", |joined| {
        send(&joined.net.client, joined.daemon.v4().ip(), &joined.of_client(ACK | URG)?.bytes())
    })?;
    joined.end()
}

/// The client repeats it with more hops.
#[test]
fn a_packet_without_hops_left_is_dropped_and_its_repetition_is_not() -> Result<()> {
    let mut joined = Joined::start("")?;
    joined.comes_to_be("no_route", |joined| {
        SockRef::from(&joined.client).set_ttl_v4(1)?;
        Ok(joined.client.write_all(MESSAGE)?)
    })?;
    SockRef::from(&joined.client).set_ttl_v4(64)?;
    joined.target.expect(MESSAGE)?;
    joined.end()
}

/// What a router behind the target's device says that it takes.
const NARROW: u32 = 1400;

impl Joined {
    /// It says so of a packet of the client's, and quotes the headers and so many bytes.
    fn complain(&mut self, quoted: usize) -> Result<()> {
        const UNREACHABLE: u8 = 3;
        const FRAGMENTATION_NEEDED: u8 = 4;
        let (proxy, target) = (self.target.peer_addr()?, self.target.local_addr()?);
        let next = expected_next(&self.target)?;
        let too_long = packet((proxy.ip(), proxy.port()), (target.ip(), target.port()), ACK, next);
        let too_long = Packet { payload: vec![0; quoted], ..too_long };
        let error = too_long.error(target.ip(), UNREACHABLE, FRAGMENTATION_NEEDED, NARROW, HEADERS + quoted);
        send(&self.net.targets[0], proxy.ip(), &error)
    }
}

#[test]
fn an_error_about_a_packet_goes_to_the_peer_that_sent_it() -> Result<()> {
    let mut joined = Joined::start("")?;
    joined.comes_to_be("icmp_translated", |joined| joined.complain(0))?;
    let route =
        joined.net.client.command("ip").args(["route", "get", &joined.daemon.v4().ip().to_string()]).output()?;
    let route = String::from_utf8_lossy(&route.stdout);
    ensure!(route.contains(&format!("mtu {NARROW}")), "the client was not told: {route}");
    joined.end()
}

/// Devices without MAC addresses that take packets longer than the kernel puts a MAC header before: that is some 16,000 bytes.
const WIDE: Link = Link { mtu: 40_000, offloads: Offloads::Send, weather: Some(Weather::FAIR), delay: Duration::ZERO };

/// It is one packet, for it fits.
const LONG: usize = 18_000;

#[test]
fn a_packet_that_is_too_long_for_another_header_is_repeated_in_shorter_ones() -> Result<()> {
    let mut joined = Joined::start_over(Net::with_links(WIDE, &[WIDE])?, "")?;
    joined.comes_to_be("too_long", |joined| Ok(joined.client.write_all(&[b'u'; LONG])?))?;
    joined.target.expect(&[b'u'; LONG])?;
    joined.target.write_all(&[b'd'; LONG])?;
    joined.client.expect(&[b'd'; LONG])?;
    ensure!(joined.count("failed")? == 0.0, "{}", joined.daemon.metrics()?.lines(PACKETS));
    joined.end()
}

/// Errors are not repeated, whatever they are about.
#[test]
fn an_error_that_is_too_long_for_another_header_is_dropped() -> Result<()> {
    let mut joined = Joined::start_over(Net::with_links(WIDE, &[WIDE])?, "")?;
    joined.comes_to_be("failed", |joined| joined.complain(LONG))?;
    joined.end()
}

/// The sequence number that a socket expects next.
fn expected_next(socket: &TcpStream) -> Result<u32> {
    option::repair(socket)?;
    let next = option::sequences(socket)?.received;
    option::end_repair(socket)?;
    Ok(next)
}

/// The programs end what is too old by themselves, some seconds after the daemon would have.
#[test]
fn packets_of_a_session_that_is_too_old_are_dropped_without_the_daemon() -> Result<()> {
    /// Its age and an eighth, ten seconds that the daemon has for it, and time to spare.
    const OVER: Duration = Duration::from_secs(20);
    let mut joined = Joined::start("max_session_age = \"1s\"")?;
    joined.daemon.process().stop_running()?;
    joined.client.set_read_timeout(Some(Duration::from_millis(500)))?;
    joined.target.set_nonblocking(true)?;
    let began = Instant::now();
    loop {
        joined.client.write_all(MESSAGE)?;
        std::thread::sleep(Duration::from_millis(500));
        let mut arrived = [0; MESSAGE.len()];
        match joined.target.read(&mut arrived) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            read => ensure!(read? > 0 && began.elapsed() < OVER, "it still arrives after {:?}", began.elapsed()),
        }
    }
    joined.daemon.process().signal(Signal::SIGCONT)?;
    ensure!(joined.count("dead")? > 0.0, "{}", joined.daemon.metrics()?.lines(PACKETS));
    joined.daemon.wait_metric("landbridge_sessions_total", &[], 1.0)?;
    joined.daemon.stop().map(drop)
}
