//! Directions that go into the kernel and out of it every few milliseconds under load: no byte may be lost, doubled or
//! out of order.
//!
//! Needs root and the eBPF object (`cargo xtask test`), else it says that it did nothing. Runs for 5 seconds for each pair
//! of limits, with `LANDBRIDGE_LONG=1` for 60.

use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use landbridge::fastpath::{Fallback, FastPath, Limits, Promoted, Unavailable};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Sessions at once; the machines that run this have few CPUs, so that they disturb each other.
const SESSIONS: u64 = 16;

/// How long a direction may take to be delivered: a slow reader with full buffers needs its time, a lost byte for ever.
const STUCK: Duration = Duration::from_secs(10);

#[test]
fn with_limits_so_small_that_they_are_always_crossed() -> Result<()> {
    stress(Limits { soft: 4 << 10, hard: 16 << 10, ..Limits::default() })
}

#[test]
fn with_the_default_limits() -> Result<()> {
    stress(Limits::default())
}

#[test]
fn with_limits_so_large_that_they_are_never_crossed() -> Result<()> {
    stress(Limits { soft: u64::MAX / 2, hard: u64::MAX, bulk: u64::MAX, ..Limits::default() })
}

/// What all sessions saw.
#[derive(Default)]
struct Totals {
    stops: AtomicU64,
    settled: AtomicU64,
    stop_ns: Mutex<Vec<u64>>,
    promote_ns: Mutex<Vec<u64>>,
    gate_dropped: AtomicU64,
    redirected: AtomicU64,
    bytes: AtomicU64,
}

fn stress(limits: Limits) -> Result<()> {
    let fast_path = match FastPath::start(limits) {
        Ok(fast_path) => fast_path,
        Err(why @ (Unavailable::NotBuilt | Unavailable::NoCapability { .. } | Unavailable::KernelTooOld { .. })) => {
            eprintln!("skipped: {}", landbridge::chain::chain(&why));
            return Ok(());
        }
        Err(why) => bail!("{}", landbridge::chain::chain(&why)),
    };
    let seconds = if env::var_os("LANDBRIDGE_LONG").is_some() { 60 } else { 5 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let totals = Totals::default();
    let ended = thread::scope(|scope| {
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|seed| {
                (
                    seed,
                    scope.spawn({
                        let (fast_path, totals) = (&fast_path, &totals);
                        move || session(fast_path, seed, end, totals)
                    }),
                )
            })
            .collect();
        sessions.into_iter().try_for_each(|(seed, session)| {
            session.join().expect("a session does not panic").with_context(|| format!("session {seed}"))
        })
    });
    let counted = fast_path.counters()?;
    ended.with_context(|| format!("{counted:?}"))?;

    let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let stops = get(&totals.stops);
    eprintln!(
        "{limits:?}: {stops} stops ({} settled), {}; promotions {}; {:.2} packets dropped by the gate each; \
         {} MB, {} MB of them redirected; {counted:?}",
        get(&totals.settled),
        quantiles(&totals.stop_ns),
        quantiles(&totals.promote_ns),
        get(&totals.gate_dropped) as f64 / stops as f64,
        get(&totals.bytes) / 1_000_000,
        get(&totals.redirected) / 1_000_000,
    );
    ensure!(stops > 500, "only {stops} stops");
    ensure!(counted.no_flow == 0 && counted.no_peer == 0, "{counted:?}");
    ensure!(fast_path.promoted() == 0, "{} directions were left behind", fast_path.promoted());
    Ok(())
}

fn quantiles(nanoseconds: &Mutex<Vec<u64>>) -> String {
    let mut sorted = nanoseconds.lock().expect("nobody panics").clone();
    sorted.sort_unstable();
    let at = |share: usize| sorted[(sorted.len() - 1) * share / 100] / 1000;
    format!("{} us (half of them), {} us (90 of 100), {} us (all)", at(50), at(90), at(100))
}

/// One session with a direction each way, all bytes compared at both ends.
fn session(fast_path: &FastPath, seed: u64, end: Instant, totals: &Totals) -> Result<()> {
    let (client, client_leg) = connect()?;
    let (target_leg, target) = connect()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let ways = [(&client, &client_leg, &target_leg, &target), (&target, &target_leg, &client_leg, &client)];
        let mut ends = Vec::new();
        for (way, (from, source, sink, to)) in ways.into_iter().enumerate() {
            let seed = seed * 2 + way as u64;
            let writer = scope.spawn({
                let stop = &stop;
                move || write(from, seed, stop)
            });
            let reader = scope.spawn(move || {
                let read = read(to, seed);
                if read.is_err() {
                    // Ends the relay, which would wait for ever.
                    let _ = to.shutdown(Shutdown::Both);
                }
                read
            });
            let relay = scope.spawn({
                let stop = &stop;
                move || {
                    let relayed = relay(fast_path, source, sink, seed, end, stop, totals);
                    if relayed.is_err() {
                        // Ends the reader and the writer, which would wait for ever.
                        for leg in [source, sink] {
                            let _ = leg.shutdown(Shutdown::Both);
                        }
                    }
                    relayed
                }
            });
            ends.push((writer, reader, relay));
        }
        let mut faults = Vec::new();
        for (writer, reader, relay) in ends {
            let relayed = relay.join().expect("the relay does not panic");
            let written = writer.join().expect("the writer does not panic");
            let read = reader.join().expect("the reader does not panic");
            match (relayed, written, read) {
                (Ok(()), Ok(written), Ok(read)) if written == read => {
                    totals.bytes.fetch_add(read, Ordering::Relaxed);
                }
                // All of them: one direction that fails breaks the other.
                failed => faults.push(format!("{failed:?}")),
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        Ok(())
    })
}

fn connect() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// The byte at an offset of a stream: every eight of them are their own number, so that any sixteen tell where they belong.
fn pattern(offset: u64) -> u8 {
    (offset / 8).to_be_bytes()[(offset % 8) as usize]
}

/// Where in a stream these bytes belong, if they are of one piece.
fn place(bytes: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    (0..8).find_map(|at| {
        let number = word(at)?;
        (word(at + 8)? == number + 1).then(|| (number * 8).checked_sub(at as u64))?
    })
}

/// Writes tokens and blocks, with pauses, until it is told to stop; returns how many bytes.
fn write(mut to: &TcpStream, seed: u64, stop: &AtomicBool) -> io::Result<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut offset = 0;
    while !stop.load(Ordering::Relaxed) {
        let len = if random.random_bool(0.3) { random.random_range(1..60_000) } else { random.random_range(1..2_000) };
        let block: Vec<u8> = (offset..offset + len).map(pattern).collect();
        to.write_all(&block)?;
        offset += len;
        if random.random_bool(0.2) {
            sleep(Duration::from_micros(random.random_range(0..400)));
        }
    }
    to.shutdown(Shutdown::Write)?;
    Ok(offset)
}

/// Reads to the end and compares; every other reader is slow.
fn read(mut from: &TcpStream, seed: u64) -> Result<u64> {
    let mut random = StdRng::seed_from_u64(!seed);
    let mut offset = 0;
    let mut block = vec![0; 100_000];
    loop {
        let len = from.read(&mut block)? as u64;
        if len == 0 {
            return Ok(offset);
        }
        if let Some(differs) = (offset..offset + len).position(|at| block[(at - offset) as usize] != pattern(at)) {
            let (at, rest) = (offset + differs as u64, &block[differs..len as usize]);
            let mut pieces: Vec<(u64, Option<i64>)> = Vec::new();
            for (n, chunk) in (0..).zip(rest.chunks(32)) {
                let at = at + 32 * n;
                let ahead = place(chunk).map(|place| place.wrapping_sub(at).cast_signed());
                if pieces.last().is_none_or(|(_, last)| *last != ahead) {
                    pieces.push((at, ahead));
                }
            }
            let around = &block[differs.saturating_sub(16)..(differs + 48).min(len as usize)];
            bail!("in {len} bytes from {offset} on: {pieces:?} (where, so far ahead), {around:02x?}");
        }
        offset += len;
        if seed.is_multiple_of(4) && random.random_bool(0.3) {
            sleep(Duration::from_micros(random.random_range(0..3000)));
        }
    }
}

/// Moves one direction, in and out of the kernel until the end, and closes it in order.
fn relay(
    fast_path: &FastPath,
    source: &TcpStream,
    sink: &TcpStream,
    seed: u64,
    end: Instant,
    stop: &AtomicBool,
    totals: &Totals,
) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed << 32);
    let mut way = Way { source, sink, copied: 0, redirected: 0, block: vec![0; 64 << 10] };
    loop {
        if Instant::now() > end {
            stop.store(true, Ordering::Relaxed);
        }
        if way.copy_queued()? {
            break;
        }
        let before = Instant::now();
        match fast_path.promote(source.as_fd(), sink.as_fd(), way.copied + way.redirected) {
            Ok(promoted) => {
                totals.promote_ns.lock().expect("nobody panics").push(before.elapsed().as_nanos() as u64);
                sleep(Duration::from_micros(random.random_range(0..3000)));
                way.redirected += way.leave(promoted, totals)?;
            }
            // The sender is done; the rest goes through user space.
            Err(error) if error.fallback() == Fallback::InsertRefused => sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
        let until = Instant::now() + Duration::from_micros(random.random_range(0..500));
        let mut over = false;
        while Instant::now() < until && !over {
            over = way.copy_queued()?;
        }
        if over {
            break;
        }
    }
    let received = FastPath::received(source.as_fd())? - 1;
    let moved = way.copied + way.redirected;
    ensure!(received == moved, "{received} bytes received, {moved} moved: {} copied", way.copied);
    sink.shutdown(Shutdown::Write)?;
    totals.redirected.fetch_add(way.redirected, Ordering::Relaxed);
    Ok(())
}

/// One direction in user space.
struct Way<'s> {
    source: &'s TcpStream,
    sink: &'s TcpStream,
    copied: u64,
    redirected: u64,
    block: Vec<u8>,
}

impl Way<'_> {
    /// Copies until there is nothing to read; returns whether that is the end of the stream.
    ///
    /// Both legs are in blocking mode, since each is the other direction's sink; hence the flag.
    fn copy_queued(&mut self) -> Result<bool> {
        loop {
            match nix::sys::socket::recv(fd(self.source), &mut self.block, nix::sys::socket::MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Ok(true),
                Ok(len) => {
                    (&mut &*self.sink).write_all(&self.block[..len])?;
                    self.copied += len as u64;
                }
                Err(nix::Error::EAGAIN) => return Ok(false),
                Err(error) => return Err(error).context("reading the source"),
            }
        }
    }

    /// Takes the direction out of the kernel and returns how many bytes went that way.
    fn leave(&self, mut promoted: Promoted<'_>, totals: &Totals) -> Result<u64> {
        let before = Instant::now();
        let stopped = promoted.stop()?;
        let took = before.elapsed().as_nanos() as u64;
        totals.stops.fetch_add(1, Ordering::Relaxed);
        totals.settled.fetch_add(stopped.settled.into(), Ordering::Relaxed);
        totals.stop_ns.lock().expect("nobody panics").push(took);
        totals.gate_dropped.fetch_add(stopped.gate_dropped, Ordering::Relaxed);

        let redirected = promoted.redirected();
        let stuck = Instant::now() + STUCK;
        while !promoted.is_delivered()? {
            ensure!(
                Instant::now() < stuck,
                "stuck: {redirected:?} of {} copied and {} redirected before",
                self.copied,
                self.redirected
            );
            thread::yield_now();
        }
        ensure!(promoted.redirected() == redirected, "a verdict ran after the stop");
        Ok(promoted.finish()?.bytes)
    }
}

fn fd(stream: &TcpStream) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(stream)
}
