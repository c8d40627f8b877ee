//! Sessions whose bytes the kernel forwards: they really go there, and they end as any other session.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{
    Checker, Config, Daemon, Ending, Net, SocketExt, Source, eventually, large_chunks, pump, random_chunks,
};

/// Datapaths that use the kernel, each with what carries its bytes, and what is counted when a session is there.
const DATAPATHS: [(&str, &str, (&str, f64)); 3] = [
    ("auto", "packet", ("landbridge_datapath_joins_total", 1.0)),
    ("packet", "packet", ("landbridge_datapath_joins_total", 1.0)),
    ("sockmap", "sockmap", ("landbridge_datapath_promotions_total", 2.0)),
];

const MESSAGE: [u8; 100] = [b'm'; 100];

/// More than a direction needs before it is promoted.
const ROUNDS: u64 = 50;

/// As many as it takes.
const SLOW_ROUNDS: u64 = 10;

#[test]
fn the_kernel_carries_messages() -> Result<()> {
    const MANY: u64 = 500;
    let net = Net::new(1)?;
    for (datapath, carrier, _) in DATAPATHS {
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            answer(&mut stream, MANY)?;
            stream.expect_ending(Ending::Closed)
        })?;
        let daemon = start(&net, &target, datapath, "")?;
        let mut client = net.client.connect(daemon.v4())?;
        ask(&mut client, MANY)?;
        client.finish_writing()?;
        client.expect_ending(Ending::Closed)?;
        target.outcome()?;
        daemon.wait_ended(1, "client_closed")?;

        let metrics = daemon.metrics()?;
        let total = metrics.value("landbridge_bytes_total", &[]);
        let kernel = metrics.value("landbridge_bytes_total", &[("datapath", carrier)]);
        let sent = (2 * MANY * MESSAGE.len() as u64) as f64;
        ensure!(total == sent, "{datapath}: {total} bytes were counted, {sent} were sent");
        ensure!(kernel > sent * 0.9, "{datapath}: the kernel carried only {kernel} of {sent} bytes");
        ensure!(metrics.value("landbridge_fastpath_available", &[("reason", "none")]) == 1.0);
        stop(daemon)?;
    }
    Ok(())
}

#[test]
fn a_reset_by_the_client_reaches_the_target() -> Result<()> {
    after_promotion(
        |mut stream| stream.read_to_ending(),
        |mut client| {
            client.write_all(b"last words")?;
            client.reset()
        },
        (b"last words", Ending::Reset),
        "client_reset",
    )
}

#[test]
fn a_reset_by_the_target_reaches_the_client() -> Result<()> {
    after_promotion(
        |mut stream| {
            stream.write_all(b"last words")?;
            stream.reset()?;
            Ok((Vec::new(), Ending::Reset))
        },
        |mut client| {
            let (words, ending) = client.read_to_ending()?;
            ensure!((&words[..], ending) == (b"last words", Ending::Reset), "{} bytes, {ending:?}", words.len());
            Ok(())
        },
        (b"", Ending::Reset),
        "target_reset",
    )
}

#[test]
fn a_client_that_finishes_first_still_receives() -> Result<()> {
    after_promotion(
        |mut stream| {
            let heard = stream.read_to_ending()?;
            stream.write_all(&[b'a'; 100_000])?;
            Ok(heard)
        },
        |mut client| {
            client.write_all(b"question")?;
            client.finish_writing()?;
            ensure!(client.read_to_ending()? == (vec![b'a'; 100_000], Ending::Closed));
            Ok(())
        },
        (b"question", Ending::Closed),
        "client_closed",
    )
}

#[test]
fn a_target_that_finishes_first_still_receives() -> Result<()> {
    after_promotion(
        |mut stream| {
            stream.write_all(b"that is all")?;
            stream.finish_writing()?;
            stream.read_to_ending()
        },
        |mut client| {
            ensure!(client.read_to_ending()? == (b"that is all".to_vec(), Ending::Closed));
            client.write_all(b"but I go on")?;
            Ok(())
        },
        (b"but I go on", Ending::Closed),
        "target_closed",
    )
}

/// The kernel has no backpressure of its own: the direction has to leave it, and not a byte may be lost on the way.
#[test]
fn a_reader_that_falls_behind_takes_the_direction_out_of_the_kernel() -> Result<()> {
    const LENGTH: u64 = 48 << 20;
    const SEED: u64 = 7;
    let net = Net::new(1)?;
    {
        let datapath = "sockmap";
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            answer(&mut stream, ROUNDS)?;
            pump(&stream, Source::new(SEED), LENGTH, random_chunks(SEED, Duration::ZERO))?;
            stream.finish_writing()
        })?;
        let daemon = start(&net, &target, datapath, "")?;
        let mut client = net.client.connect(daemon.v4())?;
        ask(&mut client, ROUNDS)?;
        thread::sleep(Duration::from_millis(500));
        Checker::new(SEED).drain(&client, LENGTH, random_chunks(SEED + 1, Duration::ZERO))?;
        target.outcome()?;
        drop(client);
        daemon.wait_ended(1, "target_closed").with_context(|| format!("datapath {datapath}"))?;
        let metrics = daemon.metrics()?;
        let demotions = metrics.value("landbridge_datapath_demotions_total", &[("reason", "behind")])
            + metrics.value("landbridge_datapath_demotions_total", &[("reason", "bulk")]);
        ensure!(demotions >= 1.0, "{datapath}: {}", metrics.lines("landbridge_datapath_demotions_total"));
        stop(daemon)?;
    }
    Ok(())
}

const DEMOTIONS: &str = "landbridge_datapath_demotions_total";

/// Each reason by a limit that nothing else reaches: a direction leaves the kernel, and its bytes arrive.
#[test]
fn a_direction_is_demoted_by_the_limit_that_it_crosses() -> Result<()> {
    const LENGTH: u64 = 8 << 20;
    const SEED: u64 = 9;
    const MOST: &str = "1GiB";
    for (datapath, soft, bulk, reason) in [("sockmap", "64KiB", MOST, "behind"), ("auto", "512MiB", "64KiB", "bulk")] {
        let net = Net::new(1)?;
        // So that it is promoted and not joined.
        net.targets[0].set_sysctl("ipv4/tcp_sack", "0")?;
        // A target that reads at once may leave nothing behind.
        let demoted = Arc::new(Barrier::new(2));
        let resume = Arc::clone(&demoted);
        let target = Scripted::start(&net.targets[0], 9000, move |mut stream| {
            answer(&mut stream, ROUNDS)?;
            resume.wait();
            Checker::new(SEED).drain(&stream, LENGTH, large_chunks())
        })?;
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let config = config.datapath(&format!("soft_limit = {soft:?}")).datapath(&format!("bulk_limit = {bulk:?}"));
        let config = config.datapath(&format!("hard_limit = {MOST:?}")).datapath("promote_gap = \"0ms\"");
        let daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(daemon.v4())?;
        ask(&mut client, ROUNDS)?;
        daemon.wait_metric("landbridge_datapath_promotions_total", &[], 2.0)?;
        daemon.wait_metric(DEMOTIONS, &[], 0.0)?;
        thread::scope(|scope| {
            let sender = scope.spawn(|| pump(&client, Source::new(SEED), LENGTH, large_chunks()));
            // It may be promoted again in between.
            let seen = eventually("it is demoted", || {
                let metrics = daemon.metrics()?;
                ensure!(metrics.value(DEMOTIONS, &[("reason", reason)]) >= 1.0, "{}", metrics.lines(DEMOTIONS));
                Ok(())
            });
            demoted.wait();
            sender.join().map_err(|_| anyhow!("the client panicked"))??;
            seen
        })?;
        client.finish_writing()?;
        client.expect_ending(Ending::Closed)?;
        target.outcome()?;
        daemon.wait_ended(1, "client_closed")?;
        let metrics = daemon.metrics()?;
        let demotions = |reason| metrics.value(DEMOTIONS, &[("reason", reason)]);
        let for_load = demotions("behind") + demotions("bulk");
        ensure!(demotions(reason) >= 1.0 && demotions(reason) == for_load, "{reason}: {}", metrics.lines(DEMOTIONS));
        // The download was there until its end.
        ensure!(demotions("ended") >= 1.0, "{reason}: {}", metrics.lines(DEMOTIONS));
        stop(daemon)?;
    }
    Ok(())
}

#[test]
fn a_silent_session_is_found_in_the_kernel_too() -> Result<()> {
    let net = Net::new(1)?;
    for (datapath, ..) in DATAPATHS {
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            answer(&mut stream, ROUNDS)?;
            stream.expect_ending(Ending::Reset)
        })?;
        let daemon = start(&net, &target, datapath, "idle_timeout = \"3s\"")?;
        let mut client = net.client.connect(daemon.v4())?;
        ask(&mut client, ROUNDS)?;
        let since = Instant::now();
        client.expect_ending(Ending::Reset)?;
        ensure!(since.elapsed() >= Duration::from_secs(3), "{datapath}: cut after {:?}", since.elapsed());
        target.outcome()?;
        daemon.wait_ended(1, "idle")?;
        stop(daemon)?;
    }
    Ok(())
}

/// Runs one session through each datapath that is in the kernel both ways when the scripts begin.
fn after_promotion(
    script: impl Fn(TcpStream) -> Result<(Vec<u8>, Ending)> + Copy + Send + Sync + 'static,
    client: impl Fn(TcpStream) -> Result<()>,
    heard: (&[u8], Ending),
    end: &str,
) -> Result<()> {
    let net = Net::new(1)?;
    for (datapath, _, (there, times)) in DATAPATHS {
        let one = || -> Result<()> {
            let target = Scripted::start(&net.targets[0], 9000, move |mut stream| {
                answer(&mut stream, ROUNDS)?;
                script(stream)
            })?;
            let daemon = start(&net, &target, datapath, "")?;
            let mut stream = net.client.connect(daemon.v4())?;
            ask(&mut stream, ROUNDS)?;
            daemon.wait_metric(there, &[], times)?;
            client(stream).context("client")?;
            let (bytes, ending) = target.outcome().context("target")?;
            ensure!((&bytes[..], ending) == heard, "the target heard {} bytes and {ending:?}", bytes.len());
            daemon.wait_ended(1, end)?;
            stop(daemon)
        };
        one().with_context(|| format!("datapath {datapath}"))?;
    }
    Ok(())
}

fn start<T: Send + 'static>(net: &Net, target: &Scripted<T>, datapath: &str, more: &str) -> Result<Daemon> {
    let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}")).listener(more);
    Daemon::start(&net.proxy, &config)
}

/// Stops the daemon, which must not have doubted a single stream.
fn stop(mut daemon: Daemon) -> Result<()> {
    let doubts = daemon.metrics()?.value("landbridge_integrity_resets_total", &[]);
    ensure!(doubts == 0.0, "{doubts} sessions were reset because their bytes did not agree");
    daemon.stop().map(drop)
}

/// Asks and waits for each answer, at first as slowly as tokens come: in quick succession messages stay in user space.
fn ask(stream: &mut TcpStream, rounds: u64) -> Result<()> {
    for round in 0..rounds {
        if round < SLOW_ROUNDS {
            thread::sleep(Duration::from_millis(12));
        }
        stream.write_all(&MESSAGE)?;
        stream.expect(&MESSAGE)?;
    }
    Ok(())
}

/// Answers each message.
fn answer(stream: &mut TcpStream, rounds: u64) -> Result<()> {
    // Else a reset could discard the words before it, which wait for an acknowledgement of the last answer.
    stream.set_nodelay(true)?;
    let mut message = MESSAGE;
    for _ in 0..rounds {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
    Ok(())
}
