//! A path that becomes narrower while bytes flow: whoever sends too long packets is told, and every byte still arrives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Checker, Config, Daemon, Ending, Host, Net, PATIENCE, SocketExt, Source, eventually};

/// The least that IPv6 allows, in bytes.
const NARROW: u32 = 1280;

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

/// `listener`, `target`: the families of the legs.
fn shrinks(
    direction: Direction,
    listener: fn(&Host, u16) -> SocketAddr,
    target: fn(&Host, u16) -> SocketAddr,
) -> Result<()> {
    let net = Net::new(1)?;
    let flow: &'static Flow = Box::leak(Box::default());
    let server = Scripted::start(&net.targets[0], 9000, move |mut stream| {
        // A question and an answer now and then, so that the session is joined.
        for _ in 0..20 {
            stream.expect(GREETING)?;
            stream.write_all(GREETING)?;
        }
        flow.take_part(stream, direction == Direction::Up)
    })?;
    let config = Config::single(target(&net.targets[0], 9000)).bind("[::]:8000");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut client = net.client.connect(listener(&net.proxy, daemon.v4().port()))?;
    for _ in 0..20 {
        client.expect_echo(GREETING)?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    flow.may_begin.store(true, Ordering::Relaxed);

    let narrowed = if direction == Direction::Up { &net.targets[0] } else { &net.client };
    let pause = thread::scope(|scope| {
        let client = scope.spawn(|| flow.take_part(client, direction == Direction::Down));
        let shrink = || -> Result<()> {
            flow.reaches(AMOUNT)?;
            // Its own end too: a device takes no longer packets than it sends.
            narrowed.ip(&format!("link set eth0 mtu {NARROW}"))?;
            net.proxy.ip(&format!("link set {} mtu {NARROW}", narrowed.name()))?;
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
    let too_long = metrics.value("landbridge_packet_packets_total", &[("verdict", "too_long")]);
    ensure!(too_long > 0.0, "no packet was too long: {}", metrics.lines("landbridge_packet_packets_total"));
    let joined = metrics.value("landbridge_bytes_total", &[("datapath", "packet")]);
    ensure!(joined >= (2 * AMOUNT) as f64, "only {joined} bytes were forwarded as packets");
    daemon.stop().map(drop)
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
