//! A worker: one thread with a runtime of its own that accepts sessions and keeps each from accept to close.
//!
//! Every worker has a listening socket for each address, over which the kernel spreads connections (SO_REUSEPORT); one
//! that systemd opened they share. Which sockets these are the supervisor says ([`Command`]).
//!
//! Tasks: one acceptor per socket, one per session until it is joined, one for all that are joined, one that looks at
//! legs, one that watches promoted directions, one that shows that the worker turns. On [`Phase::Draining`] the
//! acceptors take what is already waiting and close; on [`Phase::Ending`] the sessions are cancelled, which resets
//! them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use landbridge_core::end::SessionEnd;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::fastpath::FastPath;
use crate::fastpath::packet::{Adopted, PacketPath};
use crate::joined::JoinedSessions;
use crate::listening::Command;
use crate::net::hangup::Hangups;
use crate::net::listener::Acceptor;
use crate::net::path::ClientWays;
use crate::net::relay::{Buffers, Sockmap};
use crate::running::Running;
use crate::session;
use crate::shared::Shared;
use crate::systemd::Heartbeat;

/// What the daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Sessions come and go.
    Serving,
    /// As before, but whoever asks is told to send no more clients.
    Leaving,
    /// No new sessions; those that run may finish.
    Draining,
    /// The sessions that still run are reset.
    Ending,
}

/// What the sessions of one worker share.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) running: Arc<Running>,
    pub(crate) buffers: Buffers,
    /// How large segments may be on the way to clients.
    pub(crate) clients: ClientWays,
    /// The way into the kernel, if there is one.
    pub(crate) kernel: Option<Sockmap>,
    /// The sessions that left for the packet datapath, if there is one.
    pub(crate) joined: Option<Rc<JoinedSessions>>,
}

/// The ways through the kernel that this machine offers.
#[derive(Clone, Default)]
pub(crate) struct Ways {
    pub(crate) sockmap: Option<Arc<FastPath>>,
    pub(crate) packet: Option<Arc<PacketPath>>,
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its thread, runtime or sockets could not be set up.
    #[error("cannot set up worker {index}")]
    Start {
        /// Which worker.
        index: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its thread panicked.
    #[error("worker {index} panicked")]
    Panicked {
        /// Which worker.
        index: usize,
    },
}

/// Starts worker `index`, which listens as it is told by `commands`. The future ends with the worker, which is when it
/// has no session left after it was told to drain or end.
pub(crate) fn start(
    index: usize,
    commands: UnboundedReceiver<Command>,
    running: Arc<Running>,
    ways: Ways,
    phase: watch::Receiver<Phase>,
    heartbeat: Heartbeat,
) -> Result<impl Future<Output = Result<(), WorkerError>> + use<>, WorkerError> {
    let (done, ended) = oneshot::channel();
    let body = move || {
        let result = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .and_then(|runtime| runtime.block_on(run(index, commands, running, ways, phase, heartbeat)));
        // Nobody listens any more only when the daemon is exiting.
        let _ = done.send(result);
    };
    let started = thread::Builder::new().name(format!("worker-{index}")).spawn(body);
    started.map_err(|source| WorkerError::Start { index, source })?;
    Ok(async move {
        match ended.await {
            Ok(result) => result.map_err(|source| WorkerError::Start { index, source }),
            Err(_dropped) => Err(WorkerError::Panicked { index }),
        }
    })
}

async fn run(
    index: usize,
    mut commands: UnboundedReceiver<Command>,
    running: Arc<Running>,
    ways: Ways,
    mut phase: watch::Receiver<Phase>,
    heartbeat: Heartbeat,
) -> io::Result<()> {
    spawn_local(heartbeat.answer());
    let kernel = ways.sockmap.map(kernel).transpose()?;
    let tasks = TaskTracker::new();
    let ending = CancellationToken::new();
    let joined = ways.packet.map(|path| Rc::new(JoinedSessions::new(path)));
    if let Some(joined) = joined.clone() {
        let ending = ending.clone();
        spawn_local(async move { joined.run(ending).await });
    }
    let worker =
        Rc::new(Worker { index, running, buffers: Buffers::new(), clients: ClientWays::default(), kernel, joined });
    let looks = Rc::clone(&worker.buffers.looks);
    spawn_local(async move { looks.run().await });
    let adopt = |sessions: Vec<Adopted>| {
        let shared = worker.running.load();
        if let Some(joined) = &worker.joined {
            let whose = (&worker.running, &shared);
            sessions.into_iter().for_each(|session| joined.adopt(index, whose, session, tasks.token()));
        }
    };
    let mut closing = HashMap::new();
    loop {
        let command = tokio::select! {
            biased;
            () = reach(&mut phase, Phase::Draining) => break,
            command = commands.recv() => command,
        };
        match command {
            Some(Command::Listen { number, address, socket }) => {
                let close = CancellationToken::new();
                let accept = Accept {
                    worker: Rc::clone(&worker),
                    address,
                    close: close.clone(),
                    tasks: tasks.clone(),
                    ending: ending.clone(),
                    acceptor: Acceptor::new(socket)?,
                };
                closing.insert(number, close);
                spawn_local(tasks.track_future(accept.run(phase.clone())));
            }
            Some(Command::Adopt(sessions)) => adopt(sessions),
            Some(Command::Close { number }) => {
                if let Some(close) = closing.remove(&number) {
                    close.cancel();
                }
            }
            // Nobody gives commands any more: the supervisor is gone.
            None => break,
        }
    }
    // A stop that comes at once finds them waiting: they are drained like those that were adopted before.
    while let Ok(command) = commands.try_recv() {
        if let Command::Adopt(sessions) = command {
            adopt(sessions);
        }
    }
    tasks.close();
    tokio::select! {
        () = tasks.wait() => {}
        () = reach(&mut phase, Phase::Ending) => {
            ending.cancel();
            tasks.wait().await;
        }
    }
    Ok(())
}

/// Starts what watches the directions that are in the kernel.
fn kernel(fastpath: Arc<FastPath>) -> io::Result<Sockmap> {
    let hangups = Rc::new(Hangups::new()?);
    let watching = Rc::clone(&hangups);
    spawn_local(async move {
        if let Err(error) = watching.run().await {
            error!("promoted sessions are no longer watched: {error}");
        }
    });
    Ok(Sockmap { fastpath, hangups })
}

/// Waits for `wanted` or a later phase. Cancelling loses nothing.
async fn reach(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // An error means that the supervisor is gone; then nobody is left to wait for either.
    let _ = phase.wait_for(|&phase| phase >= wanted).await;
}

/// Accepts the sessions of one socket.
struct Accept {
    worker: Rc<Worker>,
    address: SocketAddr,
    close: CancellationToken,
    tasks: TaskTracker,
    ending: CancellationToken,
    acceptor: Acceptor,
}

impl Accept {
    async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        let mut known = None;
        loop {
            tokio::select! {
                biased;
                () = reach(&mut phase, Phase::Draining) => break,
                () = self.close.cancelled() => break,
                accepted = self.acceptor.accept() => {
                    self.find(&mut known);
                    match (accepted, &known) {
                        (Ok((client, peer)), Some(known)) => self.serve(known, client, peer),
                        (Err(error), Some((shared, listener))) => {
                            shared.stats.listener(*listener, self.worker.index).accept_failures.add(1);
                            warn!(listener = shared.config.listeners[*listener].name, "{error}");
                        }
                        // A socket is opened only for an address of a configuration.
                        (_, None) => {}
                    }
                },
            }
        }
        self.find(&mut known);
        // The kernel has completed these handshakes: to close the socket now would reset them.
        while let (Some((client, peer)), Some(known)) = (self.acceptor.accept_waiting(), &known) {
            self.serve(known, client, peer);
        }
    }

    /// The configuration for a session that begins now, and this socket's listener in it; the last one that had this
    /// address if the newest does not any more.
    fn find(&self, known: &mut Option<(Arc<Shared>, usize)>) {
        let shared = self.worker.running.load();
        if let Some(listener) = shared.listener_at(self.address) {
            *known = Some((shared, listener));
        }
    }

    fn serve(&self, (shared, listener): &(Arc<Shared>, usize), client: TcpStream, peer: SocketAddr) {
        let Some(place) = shared.admit(*listener) else {
            shared.stats.listener(*listener, self.worker.index).ends.of(SessionEnd::ListenerFull).add(1);
            return;
        };
        let (worker, begun_with) = (Rc::clone(&self.worker), (Arc::clone(shared), *listener));
        let (ending, alive) = (self.ending.clone(), self.tasks.token());
        spawn_local(async move {
            // Pinned here, because a future that is passed by value is stored twice.
            let session = pin!(session::serve(&worker, begun_with, (client, peer), place, alive));
            ending.run_until_cancelled(session).await;
        });
    }
}
