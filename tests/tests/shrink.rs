//! A path that becomes narrower while bytes flow: whoever sends too long packets is told, and every byte still arrives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Checker, Config, Daemon, Ending, Host, Metrics, Net, PATIENCE, SocketExt, Source, eventually};

/// The least that IPv6 allows, in bytes.
const NARROW: u32 = 1280;

/// What only IPv4 allows, in bytes.
const NARROWER: u32 = 1000;

/// Longer than a few retransmission timeouts of 200 ms, doubled each time, and far less than it takes to give a path up.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// How much flows before the path shrinks, and after that again, in bytes.
const AMOUNT: u64 = 8 << 20;

/// The largest that is written or read at once.
const CHUNK: usize = 64 << 10;

const GREETING: &[u8] = b"hello";

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Up,
    Down,
}

#[test]
fn an_upload_goes_on_when_the_targets_path_shrinks() -> Result<()> {
    shrinks(Direction::Up, Host::v4, Host::v4)
}

#[test]
fn an_upload_over_ipv6_goes_on_when_the_targets_path_shrinks() -> Result<()> {
    shrinks(Direction::Up, Host::v6, Host::v6)
}

#[test]
fn a_download_goes_on_when_the_clients_path_shrinks() -> Result<()> {
    shrinks(Direction::Down, Host::v4, Host::v4)
}

#[test]
fn a_download_over_ipv6_goes_on_when_the_clients_path_shrinks() -> Result<()> {
    shrinks(Direction::Down, Host::v6, Host::v6)
}

#[test]
fn an_upload_from_one_family_to_the_other_goes_on_when_the_path_shrinks() -> Result<()> {
    shrinks(Direction::Up, Host::v4, Host::v6)?;
    shrinks(Direction::Up, Host::v6, Host::v4)
}

#[test]
fn an_upload_goes_on_when_the_path_behind_a_router_shrinks() -> Result<()> {
    for family in [Host::v4, Host::v6] {
        let metrics = shrinks_behind_a_router(NARROW, family, family)?;
        ensure!(metrics.value(PACKETS, &[("verdict", "icmp_translated")]) > 0.0, "{}", metrics.lines(PACKETS));
    }
    Ok(())
}

/// The router's errors are of one family, and the sender knows the other one only.
#[test]
fn an_upload_from_one_family_to_the_other_goes_on_when_the_path_behind_a_router_shrinks() -> Result<()> {
    for [listener, target] in [[Host::v4, Host::v6], [Host::v6, Host::v4]] {
        let metrics = shrinks_behind_a_router(NARROW, listener, target)?;
        ensure!(metrics.value(PACKETS, &[("verdict", "icmp_translated")]) > 0.0, "{}", metrics.lines(PACKETS));
    }
    Ok(())
}

/// An IPv6 sender cannot be told so: the router has to make fragments.
#[test]
fn an_upload_over_ipv6_goes_on_when_the_path_shrinks_below_what_ipv6_allows() -> Result<()> {
    shrinks_behind_a_router(NARROWER, Host::v6, Host::v4).map(drop)
}

#[test]
fn an_upload_goes_on_when_the_path_behind_an_overlay_shrinks() -> Result<()> {
    for listener in [Host::v4, Host::v6] {
        let net = Net::new(2)?;
        net.put_behind(0, 1)?;
        lay_overlay(&net)?;
        let metrics = beyond(&net, NARROW, listener, Host::v4)?;
        ensure!(metrics.value(PACKETS, &[("verdict", "icmp_translated")]) > 0.0, "{}", metrics.lines(PACKETS));
        ensure!(net.client.counter("Tcp", "InCsumErrors")? == 0, "a checksum was wrong");
    }
    Ok(())
}

const PACKETS: &str = "landbridge_packet_packets_total";

/// The address of a host and a port, by its family.
type Family = fn(&Host, u16) -> SocketAddr;

/// The path of one device of the proxy's own. `listener`, `target`: the families of the legs.
fn shrinks(direction: Direction, listener: Family, target: Family) -> Result<()> {
    let net = Net::new(1)?;
    let narrowed = if direction == Direction::Up { &net.targets[0] } else { &net.client };
    let shrink = || {
        // Its own end too: a device takes no longer packets than it sends.
        narrowed.ip(&format!("link set eth0 mtu {NARROW}"))?;
        net.proxy.ip(&format!("link set {} mtu {NARROW}", narrowed.name()))
    };
    let metrics = goes_on(&net, direction, (listener, target(&net.targets[0], 9000)), &net.targets[0], &shrink)?;
    let too_long = metrics.value(PACKETS, &[("verdict", "too_long")]);
    ensure!(too_long > 0.0, "no packet was too long: {}", metrics.lines(PACKETS));
    Ok(())
}

/// The path to a target behind a router comes to take so many bytes; the proxy's own devices stay as they are.
fn shrinks_behind_a_router(mtu: u32, listener: Family, target: Family) -> Result<Metrics> {
    let net = Net::new(2)?;
    net.put_behind(0, 1)?;
    beyond(&net, mtu, listener, target)
}

/// `net`: target host 0 is a router, and host 1 behind it.
fn beyond(net: &Net, mtu: u32, listener: Family, target: Family) -> Result<Metrics> {
    let [router, host] = [&net.targets[0], &net.targets[1]];
    let shrink = || {
        host.ip(&format!("link set eth0 mtu {mtu}"))?;
        router.ip(&format!("link set {} mtu {mtu}", host.name()))
    };
    let metrics = goes_on(net, Direction::Up, (listener, target(host, 9000)), host, &shrink)?;
    ensure!(metrics.value(PACKETS, &[("verdict", "too_long")]) == 0.0, "{}", metrics.lines(PACKETS));
    Ok(metrics)
}

/// Lays a VXLAN over the link to the router, and routes to the host behind it by that. Its packets arrive with a sum over all of
/// them (`CHECKSUM_COMPLETE`), as some hardware delivers it: the kernel makes one of the UDP checksum that it has checked, which
/// has to be there, so that the link's devices may not leave it out.
fn lay_overlay(net: &Net) -> Result<()> {
    let router = &net.targets[0];
    let ends = [(&net.proxy, router.name(), [1, 2]), (router, "eth0", [2, 1])];
    for (end, device, [own, other]) in ends {
        let off = end.command("ethtool").args(["--offload", device, "tx", "off"]).output()?;
        ensure!(off.status.success(), "{off:?}");
        let link = format!("local 10.0.1.{own} remote 10.0.1.{other} dstport 4789 dev {device}");
        end.ip(&format!("link add overlay type vxlan id 7 {link} udpcsum"))?;
        end.ip(&format!("addr add 10.7.0.{own}/24 dev overlay"))?;
        end.ip("link set overlay up")?;
    }
    net.proxy.ip("route replace 10.0.2.2 via 10.7.0.2")
}

/// A stream goes on after `shrink`. The client connects by the family of the `listener`, and a server on `host` listens on
/// the `target`'s address.
fn goes_on(
    net: &Net,
    direction: Direction,
    (listener, target): (Family, SocketAddr),
    host: &Host,
    shrink: &dyn Fn() -> Result<()>,
) -> Result<Metrics> {
    let flow: &'static Flow = Box::leak(Box::default());
    let server = Scripted::start(host, 9000, move |mut stream| {
        // A question and an answer now and then, so that the session is joined.
        for _ in 0..20 {
            stream.expect(GREETING)?;
            stream.write_all(GREETING)?;
        }
        flow.take_part(stream, direction == Direction::Up)
    })?;
    let config = Config::single(target).bind("[::]:8000");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(listener(&net.proxy, daemon.v4().port()))?;
    for _ in 0..20 {
        client.expect_echo(GREETING)?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    flow.may_begin.store(true, Ordering::Relaxed);

    let pause = thread::scope(|scope| {
        let client = scope.spawn(|| flow.take_part(client, direction == Direction::Down));
        let shrink = || -> Result<()> {
            flow.reaches(AMOUNT)?;
            shrink()?;
            flow.reaches(flow.received.load(Ordering::Relaxed) + AMOUNT)
        };
        let shrunk = shrink();
        // Whatever happened, the threads have to end.
        flow.is_over.store(true, Ordering::Relaxed);
        let client = client.join().expect("a client does not panic");
        shrunk.and(client).and_then(|pause| Ok(pause.max(server.outcome()?)))
    })?;
    ensure!(pause < LONGEST_PAUSE, "nothing arrived for {pause:?}");

    daemon.wait_ended(1, if direction == Direction::Up { "client_closed" } else { "target_closed" })?;
    let metrics = daemon.metrics()?;
    let joined = metrics.value("landbridge_bytes_total", &[("datapath", "packet")]);
    ensure!(joined >= (2 * AMOUNT) as f64, "only {joined} bytes were forwarded as packets");
    daemon.stop()?;
    Ok(metrics)
}

/// A stream of known bytes in one direction.
#[derive(Default)]
struct Flow {
    received: AtomicU64,
    /// A session without a pause is joined late or never.
    may_begin: AtomicBool,
    is_over: AtomicBool,
}

impl Flow {
    /// Waits until so many bytes have arrived.
    fn reaches(&self, bytes: u64) -> Result<()> {
        eventually(&format!("{bytes} bytes have arrived"), || {
            let received = self.received.load(Ordering::Relaxed);
            ensure!(received >= bytes, "{received}");
            Ok(())
        })
    }

    /// Receives or sends until the stream is over; the longest time without a byte.
    fn take_part(&self, stream: TcpStream, receives: bool) -> Result<Duration> {
        if receives { self.receive(stream) } else { self.send(stream).map(|()| Duration::ZERO) }
    }

    fn send(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        eventually("the session is joined", || {
            ensure!(self.may_begin.load(Ordering::Relaxed), "not yet");
            Ok(())
        })?;
        let (mut source, mut chunk) = (Source::new(7), vec![0; CHUNK]);
        while !self.is_over.load(Ordering::Relaxed) {
            source.fill(&mut chunk);
            stream.write_all(&chunk).with_context(|| format!("after {} bytes", source.position()))?;
        }
        stream.finish_writing()?;
        stream.expect_ending(Ending::Closed)
    }

    fn receive(&self, mut stream: TcpStream) -> Result<Duration> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let (mut checker, mut chunk) = (Checker::new(7), vec![0; CHUNK]);
        let mut longest = Duration::ZERO;
        loop {
            let since = Instant::now();
            let read = stream.read(&mut chunk).with_context(|| format!("after {} bytes", checker.position()))?;
            longest = longest.max(since.elapsed());
            if read == 0 {
                return Ok(longest);
            }
            checker.check(&chunk[..read])?;
            self.received.store(checker.position(), Ordering::Relaxed);
        }
    }
}
