//! Every byte arrives, once and in order, in both directions, however it is cut and however slowly it is read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Checker, Config, Daemon, Net, SocketExt, Source, pump, random_chunks};

const SESSIONS: u64 = 20;
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

#[test]
fn copy_is_exact() -> Result<()> {
    let daemon_bytes = exchange("copy")?;
    assert_eq!(daemon_bytes.spliced, 0.0);
    Ok(())
}

#[test]
fn splice_is_exact() -> Result<()> {
    let daemon_bytes = exchange("splice")?;
    assert!(daemon_bytes.spliced > daemon_bytes.copied, "large reads are spliced: {daemon_bytes:?}");
    Ok(())
}

#[test]
fn auto_is_exact() -> Result<()> {
    exchange("auto").map(drop)
}

/// What the daemon says it moved, both directions together.
#[derive(Debug)]
struct Moved {
    copied: f64,
    spliced: f64,
}

/// Runs all sessions at once; the daemon's own count of bytes must be exact too.
fn exchange(datapath: &str) -> Result<Moved> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |mut stream| {
        let mut session = [0; 8];
        stream.read_exact(&mut session)?;
        let session = u64::from_be_bytes(session);
        // Sessions in which the target reads slowly are not those in which the client does.
        converse(&stream, Role { session, sends: session + 100, receives: session, slow_reader: session % 4 == 1 })
    })?;
    let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
    let mut daemon = Daemon::start(&net.proxy, &config)?;

    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..SESSIONS)
            .map(|session| {
                let (net, address) = (&net, daemon.v4());
                scope.spawn(move || -> Result<()> {
                    let mut stream = net.client.connect(address)?;
                    stream.write_all(&session.to_be_bytes())?;
                    let slow_reader = session % 4 == 2;
                    converse(&stream, Role { session, sends: session, receives: session + 100, slow_reader })
                })
            })
            .collect();
        for (session, client) in clients.into_iter().enumerate() {
            let outcome = client.join().map_err(|_| anyhow!("the client panicked"))?;
            outcome.map_err(|error| error.context(format!("client of session {session}")))?;
        }
        Ok(())
    })?;
    for _ in 0..SESSIONS {
        target.outcome().map_err(|error| error.context("target"))?;
    }

    let sent: u64 = (0..SESSIONS).map(length).sum();
    let (upload, download) = ((sent + 8 * SESSIONS) as f64, sent as f64);
    daemon.wait_metric("landbridge_bytes_total", &[("direction", "upload")], upload)?;
    daemon.wait_metric("landbridge_bytes_total", &[("direction", "download")], download)?;
    let metrics = daemon.metrics()?;
    let bytes = |datapath| metrics.value("landbridge_bytes_total", &[("datapath", datapath)]);
    let ended = |end| metrics.value("landbridge_sessions_total", &[("end", end)]);
    assert_eq!(ended("client_closed") + ended("target_closed"), SESSIONS as f64);
    daemon.stop()?;
    Ok(Moved { copied: bytes("copy"), spliced: bytes("splice") })
}

/// One end of a session.
#[derive(Debug, Clone, Copy)]
struct Role {
    session: u64,
    sends: u64,
    receives: u64,
    slow_reader: bool,
}

/// Sends and compares at the same time.
fn converse(stream: &TcpStream, role: Role) -> Result<()> {
    let length = length(role.session);
    if has_small_buffers(role.session) {
        stream.shrink_buffers()?;
    }
    thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<()> {
            pump(stream, Source::new(role.sends), length, random_chunks(role.sends, LONGEST_PAUSE))?;
            stream.finish_writing()
        });
        let pause = if role.slow_reader { LONGEST_PAUSE * 5 } else { Duration::ZERO };
        let received = Checker::new(role.receives).drain(stream, length, random_chunks(role.receives + 1, pause));
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        received
    })
}

/// Nothing, single bytes, and up to a few megabytes.
fn length(session: u64) -> u64 {
    match session {
        0 | 1 => session,
        _ if has_small_buffers(session) => 50_000 + session,
        _ => 200_003 * session,
    }
}

fn has_small_buffers(session: u64) -> bool {
    session % 5 == 4
}
