//! The supervisor: binds everything, starts the workers, waits for one event after the other, and ends in order.
//!
//! Tasks: the admin server, those that watch the targets, and two that listen to the eBPF programs. Threads: the workers. Signals: SIGTERM and SIGINT drain and then end; a second one ends at once.

use std::io;
use std::sync::Arc;
use std::thread::available_parallelism;

use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::Socket;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::admin::{self, AdminError};
use crate::config::{Config, Datapath, Listener, Target};
use crate::fastpath::packet::PacketPath;
use crate::fastpath::{FastPath, Limits};
use crate::net::listener::{self, BindError};
use crate::net::path;
use crate::shared::Shared;
use crate::watch::{first_verdicts, watch_targets};
use crate::worker::{self, Phase, Ways, WorkerError};

/// Why the daemon could not run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin server could not be started.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A worker could not be started or ended on its own.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Signals cannot be received.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] io::Error),
}

/// Runs the daemon until a signal ends it.
pub async fn run(config: Config) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    raise_descriptor_limit();
    let workers = config.runtime.workers.or_else(|| available_parallelism().ok()).map_or(1, usize::from);
    let sockets = bind(&config, workers)?;
    let drain_timeout = config.runtime.drain_timeout;
    let admin_address = config.admin.listen;
    let shared = Arc::new(Shared::new(config, workers));
    let (phase, phase_changes) = watch::channel(Phase::Serving);
    let fastpath = start_fastpath(shared.config.datapath.limits);
    let unavailable = fastpath.as_ref().err().copied();
    if let Some(address) = admin_address {
        admin::start(address, Arc::clone(&shared), phase_changes.clone(), unavailable).await?;
    }

    let _watch = watch_targets(&shared);
    tokio::select! {
        () = first_verdicts(&shared) => {}
        name = signals.recv() => {
            info!(signal = name, "ended before it was ready");
            return Ok(());
        }
    }
    let ways = Ways { sockmap: fastpath.ok(), packet: start_packet(&shared.config) };
    let mut running = FuturesUnordered::new();
    for (index, sockets) in sockets.into_iter().enumerate() {
        running.push(worker::start(index, sockets, Arc::clone(&shared), ways.clone(), phase_changes.clone())?);
    }
    for listener in &shared.config.listeners {
        info!(listener = listener.name, addresses = ?listener.bind, "listening");
    }
    info!(workers, "ready");

    let mut deadline = None;
    loop {
        let expired = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            name = signals.recv() => {
                let serving = *phase.borrow() == Phase::Serving;
                if serving {
                    info!(signal = name, timeout = ?drain_timeout, "draining: no new sessions");
                    phase.send_replace(Phase::Draining);
                    deadline = Some(Instant::now() + drain_timeout);
                } else {
                    info!(signal = name, "ending at once");
                    phase.send_replace(Phase::Ending);
                }
            }
            () = expired => {
                warn!("the drain timeout is over: resetting the sessions that are left");
                deadline = None;
                phase.send_replace(Phase::Ending);
            }
            ended = running.next() => match ended {
                None => break,
                Some(result) => result?,
            },
        }
    }
    info!("ended");
    Ok(())
}

/// The sockets of each worker, with the indexes of their listeners; all bound, or none stays so.
fn bind(config: &Config, workers: usize) -> Result<Vec<Vec<(usize, Socket)>>, BindError> {
    let mut sockets: Vec<Vec<(usize, Socket)>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, listener) in config.listeners.iter().enumerate() {
        let segment = segment(config, listener);
        for &address in &listener.bind {
            for (socket, of_worker) in
                listener::bind(address, &listener.tcp, segment, workers)?.into_iter().zip(&mut sockets)
            {
                of_worker.push((index, socket));
            }
        }
    }
    Ok(sockets)
}

/// The largest segment that fits on the way to every target of a listener whose sessions may be joined.
fn segment(config: &Config, listener: &Listener) -> Option<u32> {
    if !matches!(listener.datapath, Datapath::Auto | Datapath::Packet) {
        return None;
    }
    let groups = listener.groups.iter().map(|&group| &config.groups[group]);
    let segments = groups.flat_map(|group| {
        let towards = |target: &Target| path::segment_towards(target.address, &group.dial, &group.tcp);
        // A target without a route now has no say; its sessions are relayed if they turn out not to fit.
        group.targets.iter().filter_map(move |target| towards(target).ok())
    });
    segments.min()
}

/// The fast path with what listens to its programs, or the code of the reason why there is none.
fn start_fastpath(limits: Limits) -> Result<Arc<FastPath>, &'static str> {
    match FastPath::start(limits) {
        Ok(fastpath) => {
            info!("kernel fast path: loaded and tested");
            let alarms = Arc::clone(&fastpath).run_alarms();
            tokio::spawn(async move {
                if let Err(error) = alarms.await {
                    error!("the kernel's alarms are no longer heard: {error}");
                }
            });
            if let Some(log) = fastpath.take_log() {
                tokio::spawn(async move {
                    if let Err(error) = log.forward().await {
                        warn!("what the eBPF programs log is no longer shown: {error}");
                    }
                });
            }
            Ok(fastpath)
        }
        Err(reason) => {
            let code = reason.reason();
            warn!(code, "kernel fast path: not available ({}); sessions are forwarded in user space", reason.chain());
            Err(code)
        }
    }
}

/// The packet datapath with what follows its events and this host's devices, if a listener may use it and it can be had.
fn start_packet(config: &Config) -> Option<Arc<PacketPath>> {
    let wanted = |listener: &&Listener| matches!(listener.datapath, Datapath::Auto | Datapath::Packet);
    let sessions: u32 = config.listeners.iter().filter(wanted).map(|listener| listener.max_connections).sum();
    if sessions == 0 {
        return None;
    }
    let path = match PacketPath::start(sessions) {
        Ok(path) => path,
        Err(reason) => {
            warn!(code = reason.reason(), "packet datapath: not available ({})", reason.chain());
            return None;
        }
    };
    info!("packet datapath: loaded");
    let (events, devices) = (Arc::clone(&path).run_events(), Arc::clone(&path).follow_devices());
    tokio::spawn(async move {
        if let Err(error) = events.await {
            error!("the packet datapath's events are no longer heard: {error}");
        }
    });
    tokio::spawn(async move {
        if let Err(error) = devices.await {
            error!("new network devices are no longer seen: {error}");
        }
    });
    Some(path)
}

/// A session needs two descriptors and the usual soft limit is 1024; the hard limit is the operator's word.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!("cannot raise the limit of open files: {error}");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next signal.
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
