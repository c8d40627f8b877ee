//! Joined sessions that never rest, whatever becomes of the daemon.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};

use crate::targets::Echo;
use crate::{Config, Daemon, Net, SocketExt as _, eventually};

/// Sessions whose clients talk all the time.
#[derive(Debug)]
pub struct Talk {
    go: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    clients: JoinHandle<Result<Vec<TcpStream>>>,
}

impl Talk {
    /// Opens so many sessions, each of which says something and hears it again: once, and round by round when it may go on.
    pub fn start(net: &Net, address: SocketAddr, sessions: usize) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let go = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&go);
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let clients = net.client.spawn(move || {
            let connect = |_| -> Result<_> {
                let mut stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                // One after the other: a target's accept queue is shorter than the crowd.
                stream.expect_echo(b"hello")?;
                Ok(stream)
            };
            let mut streams = (0..sessions).map(connect).collect::<Result<Vec<_>>>()?;
            while !told.load(Ordering::Relaxed) {
                let round = counted.load(Ordering::Relaxed);
                // All are on their way at once.
                for (number, stream) in streams.iter_mut().enumerate() {
                    stream.write_all(message(round, number).as_bytes())?;
                }
                for (number, stream) in streams.iter_mut().enumerate() {
                    stream.expect(message(round, number).as_bytes()).with_context(|| format!("session {number}"))?;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                eventually("the others are ready", || {
                    ensure!(begun.load(Ordering::Relaxed), "not yet");
                    Ok(())
                })?;
            }
            Ok(streams)
        });
        Self { go, stop, rounds, clients }
    }

    /// Waits until everybody was answered a few times more.
    pub fn goes_on(&self) -> Result<()> {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually("everybody is answered", || {
            ensure!(!self.clients.is_finished(), "a client has given up");
            ensure!(self.rounds.load(Ordering::Relaxed) > before + 3, "not yet");
            Ok(())
        })
    }

    /// Ends it: the clients, whose answers were right to the last byte, and what each of them has sent.
    pub fn end(self) -> Result<(Vec<TcpStream>, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let streams = self.clients.join().expect("clients do not panic")?;
        let rounds = self.rounds.load(Ordering::Relaxed);
        let bytes = (0..rounds).map(|round| message(round, 0).len() as u64).sum();
        Ok((streams, bytes))
    }
}

/// What a session says in a round: always as long, whatever the session.
fn message(round: u64, session: usize) -> String {
    format!("round {round} of session {session:06}")
}

/// A network with an echo target and a daemon, which `wrapper` starts if it is not empty, and so many sessions, all of them
/// joined.
pub fn joined_by(
    wrapper: &[&str],
    sessions: usize,
    config: impl FnOnce(SocketAddr) -> Config,
) -> Result<(Net, Echo, Daemon, Talk)> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let daemon = Daemon::start_by(wrapper, &net.proxy, &config(echo.address()))?;
    let talk = Talk::start(&net, daemon.v4(), sessions);
    // Sessions that talk without a pause are joined later.
    daemon.wait_metric("landbridge_datapath_joins_total", &[], sessions as f64)?;
    talk.go.store(true, Ordering::Relaxed);
    Ok((net, echo, daemon, talk))
}

/// The same, with a daemon that nothing else starts.
pub fn joined(sessions: usize, config: impl FnOnce(SocketAddr) -> Config) -> Result<(Net, Echo, Daemon, Talk)> {
    joined_by(&[], sessions, config)
}
