//! A target whose every session runs a piece of the test.
//!
//! One thread accepts, and each session has its own, which ends with its script.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::socket::{Shutdown, shutdown};

use crate::{Host, PATIENCE};

/// A target that runs a script on each session and keeps what the scripts return.
#[derive(Debug)]
pub struct Scripted<T> {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    accepted: Arc<AtomicU32>,
    outcomes: Receiver<Result<T>>,
}

impl<T: Send + 'static> Scripted<T> {
    /// Listens on `port` of `host`, for IPv4 and IPv6.
    pub fn start<S>(host: &Host, port: u16, script: S) -> Result<Self>
    where
        S: Fn(TcpStream) -> Result<T> + Send + Sync + 'static,
    {
        let listener = Arc::new(host.listen(SocketAddr::new([0u16; 8].into(), port))?);
        let accepted = Arc::new(AtomicU32::new(0));
        let (sender, outcomes) = channel();
        let (ear, count) = (Arc::clone(&listener), Arc::clone(&accepted));
        thread::spawn(move || accept(&ear, &count, &Arc::new(script), &sender));
        Ok(Self { listener, address: host.v4(port), accepted, outcomes })
    }

    /// Its IPv4 address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many sessions it has accepted.
    pub fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits for the next session to end: what its script returned.
    pub fn outcome(&self) -> Result<T> {
        self.outcomes.recv_timeout(PATIENCE).context("no session of the target has ended")?
    }
}

impl Scripted<()> {
    /// A target that closes every session at once.
    pub fn closing(host: &Host, port: u16) -> Result<Self> {
        Self::start(host, port, |_stream| Ok(()))
    }

    /// A target that says its name and then waits for the client to close.
    pub fn named(host: &Host, port: u16, name: &'static str) -> Result<Self> {
        Self::start(host, port, move |mut stream| {
            io::Write::write_all(&mut stream, name.as_bytes())?;
            io::copy(&mut stream, &mut io::sink())?;
            Ok(())
        })
    }
}

impl<T> Drop for Scripted<T> {
    fn drop(&mut self) {
        // Wakes the thread that accepts, and refuses further sessions. Sessions end with their clients.
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).ok();
    }
}

fn accept<T, S>(listener: &TcpListener, accepted: &AtomicU32, script: &Arc<S>, outcomes: &Sender<Result<T>>)
where
    T: Send + 'static,
    S: Fn(TcpStream) -> Result<T> + Send + Sync + 'static,
{
    while let Ok((stream, _)) = listener.accept() {
        accepted.fetch_add(1, Ordering::SeqCst);
        let (script, outcomes) = (Arc::clone(script), outcomes.clone());
        // Nobody may be waiting for the outcome any more.
        thread::spawn(move || outcomes.send(script(stream)).ok());
    }
}
