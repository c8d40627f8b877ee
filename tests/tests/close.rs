//! How a session ends: each leg sees what the other end did.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Config, Daemon, Ending, Net, SocketExt};

const DATAPATHS: [&str; 4] = ["copy", "splice", "sockmap", "auto"];

/// Long enough for the daemon to make a mistake in.
const MOMENT: Duration = Duration::from_millis(100);

const HALF_CLOSE_TIMEOUT: Duration = Duration::from_millis(700);

#[test]
fn a_client_that_finishes_first_still_receives() -> Result<()> {
    on_each_datapath(
        |mut stream| {
            let heard = stream.read_to_ending()?;
            std::thread::sleep(MOMENT);
            stream.write_all(b"answer")?;
            Ok(heard)
        },
        |mut client| {
            client.write_all(b"question")?;
            client.finish_writing()?;
            ensure!(client.read_to_ending()? == (b"answer".to_vec(), Ending::Closed));
            Ok(())
        },
        (b"question", Ending::Closed),
        "client_closed",
    )
}

#[test]
fn a_target_that_finishes_first_still_receives() -> Result<()> {
    on_each_datapath(
        |mut stream| {
            stream.write_all(b"that is all")?;
            stream.finish_writing()?;
            stream.read_to_ending()
        },
        |mut client| {
            ensure!(client.read_to_ending()? == (b"that is all".to_vec(), Ending::Closed));
            std::thread::sleep(MOMENT);
            client.write_all(b"but I go on")?;
            Ok(())
        },
        (b"but I go on", Ending::Closed),
        "target_closed",
    )
}

#[test]
fn a_reset_by_the_client_reaches_the_target() -> Result<()> {
    on_each_datapath(
        |mut stream| {
            stream.write_all(b"ready")?;
            stream.read_to_ending()
        },
        |mut client| {
            client.expect(b"ready")?;
            client.write_all(b"last words")?;
            client.reset()
        },
        (b"last words", Ending::Reset),
        "client_reset",
    )
}

#[test]
fn a_reset_by_the_target_reaches_the_client() -> Result<()> {
    on_each_datapath(
        |mut stream| {
            stream.expect(b"ready")?;
            stream.write_all(b"last words")?;
            stream.reset()?;
            Ok((Vec::new(), Ending::Reset))
        },
        |mut client| {
            client.write_all(b"ready")?;
            ensure!(client.read_to_ending()? == (b"last words".to_vec(), Ending::Reset));
            Ok(())
        },
        (b"", Ending::Reset),
        "target_reset",
    )
}

/// A reset after the stream of the other direction has ended is still a reset.
#[test]
fn a_reset_by_the_target_reaches_a_client_that_finished() -> Result<()> {
    on_each_datapath(
        |mut stream| {
            let heard = stream.read_to_ending()?;
            stream.reset()?;
            Ok(heard)
        },
        |mut client| {
            client.write_all(b"question")?;
            client.finish_writing()?;
            client.expect_ending(Ending::Reset)
        },
        (b"question", Ending::Closed),
        "target_reset",
    )
}

/// The daemon waits for room towards the client when the reset comes; it must notice all the same.
#[test]
fn a_reset_by_the_target_reaches_a_client_that_does_not_read() -> Result<()> {
    /// More than all buffers on the way can hold.
    const TOO_MUCH: u64 = 512 << 20;
    let net = Net::new(1)?;
    for datapath in DATAPATHS {
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            stream.set_write_timeout(Some(MOMENT * 3))?;
            let stuck = io::copy(&mut io::repeat(b'x').take(TOO_MUCH), &mut stream);
            ensure!(stuck.is_err(), "somebody reads");
            stream.reset()
        })?;
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut client = net.client.connect(daemon.v4())?;
        target.outcome()?;
        daemon.wait_ended(1, "target_reset").with_context(|| format!("datapath {datapath}"))?;
        let (received, ending) = client.read_to_ending()?;
        ensure!(ending == Ending::Reset && received.iter().all(|byte| *byte == b'x'), "datapath {datapath}");
        daemon.stop()?;
    }
    Ok(())
}

/// What the kernel forwards wakes nobody in the daemon but for its end, and that at once.
#[test]
fn who_goes_away_is_missed_at_once_when_the_kernel_forwards() -> Result<()> {
    const SESSIONS: u32 = 8;
    let kernel =
        [("sockmap", "landbridge_datapath_promotions_total", 2.0), ("packet", "landbridge_datapath_joins_total", 1.0)];
    let net = Net::new(1)?;
    for (datapath, counter, each) in kernel {
        // It echoes, goes away at the word, and tells when the session ended for it.
        let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
            let mut message = [0; 8];
            loop {
                match stream.read(&mut message) {
                    Ok(0) | Err(_) => return Ok(Instant::now()),
                    Ok(_) if message[0] == b'!' => return Ok(Instant::now()),
                    Ok(length) => stream.write_all(&message[..length])?,
                }
            }
        })?;
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        let mut latest = Duration::ZERO;
        for session in 1..=SESSIONS {
            let mut client = net.client.connect(daemon.v4())?;
            for _ in 0..10 {
                client.expect_echo(b"message")?;
                // As slowly as tokens come, or it is not promoted.
                std::thread::sleep(Duration::from_millis(12));
            }
            daemon.wait_metric(counter, &[], each * f64::from(session))?;
            let missed = if session % 2 == 0 {
                client.write_all(b"!")?;
                client.read_to_ending()?;
                Instant::now().saturating_duration_since(target.outcome()?)
            } else {
                let gone = Instant::now();
                match session % 4 {
                    1 => client.reset()?,
                    _ => drop(client),
                }
                target.outcome()?.saturating_duration_since(gone)
            };
            latest = latest.max(missed);
        }
        // If only the rounds of every second or two told, one of so many would have had to wait for longer.
        ensure!(latest < Duration::from_millis(700), "datapath {datapath}: {latest:?}");
        daemon.stop_at_once()?;
    }
    Ok(())
}

#[test]
fn a_half_closed_session_without_bytes_is_reset() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        let heard = stream.read_to_ending()?;
        std::thread::sleep(HALF_CLOSE_TIMEOUT * 3);
        ensure!(stream.take_error()?.is_some(), "the target was not reset");
        Ok(heard)
    })?;
    let mut daemon = Daemon::start(&net.proxy, &with_half_close_timeout(&target))?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_quiet(HALF_CLOSE_TIMEOUT * 2).context("an open session has no such limit")?;
    client.finish_writing()?;
    let since = Instant::now();
    client.expect_ending(Ending::Reset)?;
    ensure!(since.elapsed() >= HALF_CLOSE_TIMEOUT, "it was reset after {:?}", since.elapsed());
    ensure!(target.outcome()? == (Vec::new(), Ending::Closed));
    daemon.wait_ended(1, "half_close_timeout")?;
    daemon.stop().map(drop)
}

#[test]
fn bytes_keep_a_half_closed_session_alive() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        stream.read_to_ending()?;
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(MOMENT);
        }
        Ok(())
    })?;
    let mut daemon = Daemon::start(&net.proxy, &with_half_close_timeout(&target))?;
    let mut client = net.client.connect(daemon.v4())?;
    client.finish_writing()?;
    let since = Instant::now();
    while since.elapsed() < HALF_CLOSE_TIMEOUT * 3 {
        client.expect(b"x")?;
    }
    client.reset()?;
    target.outcome()?;
    daemon.wait_ended(1, "client_reset")?;
    daemon.stop().map(drop)
}

fn with_half_close_timeout<T: Send + 'static>(target: &Scripted<T>) -> Config {
    let line = format!("half_close_timeout = \"{}ms\"", HALF_CLOSE_TIMEOUT.as_millis());
    Config::single(target.address()).listener(&line)
}

/// Runs one session through each datapath: `script` at the target must return `heard`, and the daemon must count `end`.
fn on_each_datapath(
    script: impl Fn(TcpStream) -> Result<(Vec<u8>, Ending)> + Copy + Send + Sync + 'static,
    client: impl Fn(TcpStream) -> Result<()>,
    heard: (&[u8], Ending),
    end: &str,
) -> Result<()> {
    let net = Net::new(1)?;
    for datapath in DATAPATHS {
        let one = || -> Result<()> {
            let target = Scripted::start(&net.targets[0], 9000, script)?;
            let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
            let mut daemon = Daemon::start(&net.proxy, &config)?;
            client(net.client.connect(daemon.v4())?).context("client")?;
            let (bytes, ending) = target.outcome().context("target")?;
            ensure!((&bytes[..], ending) == heard, "the target heard {} bytes and {ending:?}", bytes.len());
            daemon.wait_ended(1, end)?;
            daemon.stop().map(drop)
        };
        one().with_context(|| format!("datapath {datapath}"))?;
    }
    Ok(())
}
