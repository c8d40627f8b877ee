//! Readers that stop, in front of fast senders: what the kernel holds for them is bounded, and nothing of it is lost.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Checker, Config, Daemon, Host, Memory, Net, SocketExt, Source, large_chunks, pump};

const SESSIONS: u64 = 50;

/// What each sends, in bytes: many times what may be held.
const LENGTH: u64 = 16 << 20;

/// The largest buffers that sockets get, so that what they account for does not hide what nobody does.
const BUFFERS: &str = "4096 65536 262144";

/// The default hard limit, in bytes: the kernel takes no more of a direction. Most are demoted earlier: of 50 that all
/// began at once on two CPUs, each had 1.6 to 3.8 MB taken, the soft limit of 1 MiB and what arrived while it was demoted.
const HARD: u64 = 4 << 20;

/// A verdict looks after a packet, and a packet has up to 64 KiB. As many are on their way when the gate shuts.
const LATE_PACKETS: u64 = 4 * (64 << 10);

/// What the buffers of a session's four sockets hold, in bytes, the kernel's own for packets included. Seen: 1 MB.
const BUFFERED: u64 = 2 << 20;

/// By how much the kernel's memory may change because of others on this machine, in bytes. Compilers were seen to do half of
/// it; without limits the sessions would take six times as much.
const OTHERS: u64 = 128 << 20;

/// Messages before the bulk, as slow as tokens, so that `auto` has the direction in the kernel when it begins.
const MESSAGES: u64 = 12;
const MESSAGE: u64 = 100;
const GAP: Duration = Duration::from_millis(12);

/// Senders that have not sent a byte for this long are held.
const STANDSTILL: Duration = Duration::from_secs(1);

/// How long they may take to come to a standstill.
const LIMIT: Duration = Duration::from_secs(30);

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// A network whose sockets have buffers of that size.
fn narrow() -> Result<Net> {
    let net = Net::new(1)?;
    for host in [&net.client, &net.proxy, &net.targets[0]] {
        host.set_sysctl("ipv4/tcp_rmem", BUFFERS)?;
        host.set_sysctl("ipv4/tcp_wmem", BUFFERS)?;
    }
    Ok(net)
}

#[test]
fn stopped_readers_cost_no_more_than_the_limits_say() -> Result<()> {
    let net = narrow()?;
    // Legs that disagree about timestamps cannot be joined. What is joined is bounded by its own ends.
    net.client.set_sysctl("ipv4/tcp_timestamps", "0")?;
    // User space holds back what its sinks do not take: this is what buffers cost anyway.
    let anyway = hold(&net, "copy")?;
    for datapath in ["sockmap", "auto"] {
        let Cost { sent, kernel } = hold(&net, datapath)?;
        let taken = sent.saturating_sub(anyway.sent) / SESSIONS;
        println!("{datapath}: {taken} bytes of each are taken, beside what buffers hold");
        ensure!(taken < HARD + LATE_PACKETS, "{datapath}: {taken} bytes are taken for each stopped reader");
        let limit = SESSIONS * (HARD + BUFFERED) + OTHERS;
        ensure!(kernel < limit, "{datapath}: {kernel} bytes of kernel memory for all stopped readers");
    }
    Ok(())
}

/// Where sessions are joined their senders are throttled by the readers themselves, and this host holds nothing: less is taken
/// than user space takes, whose sockets have buffers, and the kernel's memory is the clients' and the target's.
#[test]
fn stopped_readers_of_joined_sessions_cost_this_host_nothing() -> Result<()> {
    let net = narrow()?;
    let relayed = hold(&net, "copy")?;
    let joined = hold(&net, "packet")?;
    ensure!(joined.sent < relayed.sent, "{joined:?} {relayed:?}");
    ensure!(joined.kernel < relayed.kernel + OTHERS, "{joined:?} {relayed:?}");
    Ok(())
}

/// What stopped readers cost, all together, in bytes.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// What was taken from their senders.
    sent: u64,
    /// By how much the kernel's memory grew.
    kernel: u64,
}

/// Runs all sessions, with all readers stopped until all senders are held.
fn hold(net: &Net, datapath: &str) -> Result<Cost> {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let target = Scripted::start(&net.targets[0], 9000, move |mut stream| {
        let mut seed = [0; 8];
        stream.read_exact(&mut seed)?;
        let seed = u64::from_be_bytes(seed);
        let mut source = Source::new(seed);
        for _ in 0..MESSAGES {
            thread::sleep(GAP);
            let mut message = [0; MESSAGE as usize];
            source.fill(&mut message);
            stream.write_all(&message)?;
        }
        stream.read_exact(&mut [0])?;
        pump(Counted { stream: &stream, sent: &count }, source, MESSAGES * MESSAGE + LENGTH, large_chunks())?;
        stream.finish_writing()
    })?;
    let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    // All clients, and this thread.
    let [begin, resume] = [(); 2].map(|()| Barrier::new(SESSIONS as usize + 1));

    let cost = thread::scope(|scope| -> Result<Cost> {
        let clients: Vec<_> = (0..SESSIONS)
            .map(|seed| {
                let (client, address, begin, resume) = (&net.client, daemon.v4(), &begin, &resume);
                scope.spawn(move || {
                    let opened = open(client, address, seed);
                    begin.wait();
                    let begun = opened.and_then(|(mut stream, checker)| {
                        stream.write_all(b"!")?;
                        Ok((stream, checker))
                    });
                    resume.wait();
                    let (stream, checker) = begun?;
                    checker.drain(&stream, MESSAGES * MESSAGE + LENGTH, large_chunks())
                })
            })
            .collect();
        let before = Memory::now(&net.proxy);
        begin.wait();
        let held = before.and_then(|before| watch(net, datapath, &sent, before));
        resume.wait();
        for (session, client) in clients.into_iter().enumerate() {
            let outcome = client.join().map_err(|_| anyhow!("the client panicked"))?;
            outcome.map_err(|error| error.context(format!("{datapath}: client of session {session}")))?;
        }
        held
    })?;
    for _ in 0..SESSIONS {
        target.outcome()?;
    }
    daemon.wait_ended(u32::try_from(SESSIONS)?, "target_closed")?;
    let metrics = daemon.metrics()?;
    println!("{}", metrics.lines("landbridge_datapath_demotions_total"));
    ensure!(metrics.value("landbridge_integrity_resets_total", &[]) == 0.0);
    if datapath == "packet" {
        let joins = metrics.value("landbridge_datapath_joins_total", &[]);
        ensure!(joins == SESSIONS as f64, "only {joins} were joined");
    } else if datapath != "copy" {
        let promotions = metrics.value("landbridge_datapath_promotions_total", &[]);
        ensure!(promotions >= SESSIONS as f64, "{datapath}: only {promotions} were in the kernel");
        let demotions = metrics.value("landbridge_datapath_demotions_total", &[("reason", "behind")])
            + metrics.value("landbridge_datapath_demotions_total", &[("reason", "bulk")]);
        ensure!(demotions >= SESSIONS as f64, "{datapath}: {demotions} demotions");
    }
    daemon.stop()?;
    Ok(cost)
}

/// Connects and reads the messages.
fn open(client: &Host, address: std::net::SocketAddr, seed: u64) -> Result<(TcpStream, Checker)> {
    let mut stream = client.connect(address)?;
    stream.write_all(&seed.to_be_bytes())?;
    let mut messages = vec![0; (MESSAGES * MESSAGE) as usize];
    stream.read_exact(&mut messages)?;
    let mut checker = Checker::new(seed);
    checker.check(&messages)?;
    Ok((stream, checker))
}

/// Looks at memory until the senders stand still.
fn watch(net: &Net, datapath: &str, sent: &AtomicU64, before: Memory) -> Result<Cost> {
    let begin = Instant::now();
    let (mut moved, mut since) = (0, begin);
    let mut most = before;
    loop {
        thread::sleep(INTERVAL);
        let now = Memory::now(&net.proxy)?;
        most.kernel = most.kernel.max(now.kernel);
        most.slab = most.slab.max(now.slab);
        most.tcp = most.tcp.max(now.tcp);
        most.available = most.available.min(now.available);
        let total = sent.load(Ordering::Relaxed);
        if total > moved {
            (moved, since) = (total, Instant::now());
        }
        if moved > 0 && since.elapsed() > STANDSTILL {
            break;
        }
        ensure!(begin.elapsed() < LIMIT, "{datapath}: still sending after {LIMIT:?}: {total} bytes");
    }
    ensure!(moved < SESSIONS * LENGTH / 2, "{datapath}: nobody is held: {moved} bytes were sent");
    let each = |bytes: u64| bytes / SESSIONS;
    println!(
        "{datapath}: a stopped reader costs {} bytes of kernel memory ({} of slab, {} accounted by TCP), {} of what is \
         available; {} were sent",
        each(most.kernel - before.kernel),
        each(most.slab - before.slab),
        each(most.tcp.saturating_sub(before.tcp)),
        each(before.available - most.available),
        each(moved),
    );
    Ok(Cost { sent: moved, kernel: most.kernel - before.kernel })
}

/// A stream that adds what it takes to a counter.
struct Counted<'a> {
    stream: &'a TcpStream,
    sent: &'a AtomicU64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.sent.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
