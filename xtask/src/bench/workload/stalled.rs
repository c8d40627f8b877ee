//! Clients that stop reading while their targets send on: what the sessions pile up, wherever it is.
//!
//! Some of that memory is in no account, so the whole machine's is taken: of the contender's minus the same without a
//! proxy remains what the proxy holds.

use std::io::{ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::bench::contender::{Running, Service};
use crate::bench::host::TARGET;
use crate::bench::lab::{CALM, Lab};
use crate::bench::machine::Memory;
use crate::bench::metric::{Metric, Sample};

/// How many clients stop reading.
pub(super) const SESSIONS: usize = 50;

/// How often senders look whether they shall end.
const POLL: Duration = Duration::from_millis(100);

pub(super) fn run(lab: &Lab, running: &Running, window: Duration) -> Result<Vec<Sample>> {
    let address = running.address(Service::Flood);
    let ended = Arc::new(AtomicBool::new(false));
    let listener = lab.net.targets.enter(|| TcpListener::bind((TARGET, Service::Flood.port())))??;
    let flood = Arc::clone(&ended);
    let senders = lab.net.targets.spawn(move || send(&listener, &flood));

    thread::sleep(CALM);
    let before = Memory::read()?;
    let connect = || (0..SESSIONS).map(|_| TcpStream::connect(address)).collect::<Result<Vec<_>, _>>();
    let sessions = lab.net.client.enter(connect)?.with_context(|| format!("cannot connect to {address}"))?;
    thread::sleep(window);
    let after = Memory::read()?;

    ended.store(true, Ordering::Relaxed);
    // First the senders: one that still sends would take the end of the clients for a broken session.
    senders.join().map_err(|_| anyhow!("the thread that sends panicked"))??;
    drop(sessions);
    let grown = after.used_kib() as f64 - before.used_kib() as f64;
    Ok(vec![Sample::new(Metric::StalledMemory, grown / SESSIONS as f64)])
}

/// Sends on every connection as much as it takes.
fn send(listener: &TcpListener, ended: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut streams: Vec<TcpStream> = Vec::new();
    let bytes = vec![b'x'; 64 << 10];
    while !ended.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        let mut sent = false;
        for stream in &mut streams {
            match stream.write(&bytes) {
                Ok(_) => sent = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("a session broke while its client did not read"),
            }
        }
        if !sent {
            thread::sleep(POLL);
        }
    }
    Ok(())
}
