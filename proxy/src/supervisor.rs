//! The supervisor: binds everything, starts the workers, serves ([`serving`]), and ends in order.
//!
//! Tasks: the admin server, the control socket, the pulse, those that watch the targets and follow their names, those
//! that listen to the eBPF programs and to this host's devices (`ways`), those that talk to systemd. Threads: the
//! workers, and one that writes the session log. Signals: SIGTERM and SIGINT drain and then end; SIGQUIT too, but it
//! leaves the joined sessions to the next process; a second one ends at once; SIGHUP reloads the configuration, SIGUSR1
//! opens the session log anew, SIGUSR2 starts a new binary and hands over to it.

mod serving;

use std::env;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use futures_util::stream::FuturesUnordered;
use landbridge_core::end::SessionEnd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tracing::{error, info, warn};

use self::serving::Supervisor;
use crate::admin::control::{self, ReloadWish};
use crate::admin::{self, AdminError, Server};
use crate::config::Config;
use crate::handover::{HandoverError, Inheritance, Kind};
use crate::listening::Listening;
use crate::memory;
use crate::names::Names;
use crate::net::listener::BindError;
use crate::privileges;
use crate::pulse::Pulse;
use crate::running::Running;
use crate::session_log::{self, SessionLogError, Writer};
use crate::shared::Shared;
use crate::signals::Signals;
use crate::systemd::activation::{self, ActivationError};
use crate::systemd::{Heart, Service};
use crate::watch::{first_verdicts, watch_targets};
use crate::ways::{adopt, start_fastpath, start_packet};
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
    /// A former process started this one, and its sockets did not arrive.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// systemd's sockets cannot be used.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// It is not known what to start at an upgrade.
    #[error("cannot tell where this program is: {0}")]
    Program(#[source] io::Error),
    /// Sessions cannot be logged.
    #[error(transparent)]
    SessionLog(#[from] SessionLogError),
    /// Signals cannot be received.
    #[error("cannot handle signals: {0}")]
    Signals(#[source] io::Error),
}

/// Runs the daemon with `config`, which was read from `file`, until a signal ends it.
pub async fn run(config: Config, file: PathBuf) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    raise_descriptor_limit();
    let workers = config.runtime.workers.or_else(|| available_parallelism().ok()).map_or(1, usize::from);
    let mut listening = Listening::default();
    let program = env::current_exe().map_err(RunError::Program)?;
    let mut inheritance = match Inheritance::receive()? {
        Some(inheritance) => Some(inheritance),
        None => Inheritance::activated(activation::receive()?),
    };
    let bound = listening.bind_new(&config, workers, inheritance.as_mut())?;
    let (session_log, log_writer) = session_log::open(&config.session_log)?.unzip();
    let names = Arc::new(Names::default());
    tokio::select! {
        () = names.learn(&config) => {}
        signal = signals.ending() => {
            info!(signal = signal.name(), "ended before it was ready");
            return Ok(());
        }
    }
    let resolved = config.clone().resolved(|host| names.address(host));
    let first = Arc::new(Shared::new(resolved, workers, Arc::clone(&names)));
    let resolving = names.follow(&config);
    let running = Arc::new(Running::new(Arc::clone(&first), session_log));
    tokio::spawn(Pulse::run(Arc::clone(&running)));
    let (phase, phase_changes) = watch::channel(Phase::Serving);
    let fastpath = start_fastpath(first.config.datapath.limits);
    let (reload_wishes, control) = unbounded_channel();
    let watch = watch_targets(&first);
    let admins = |packet: &Result<_, _>| {
        let kernel =
            admin::Datapaths { sockmap: fastpath.as_ref().map(drop).map_err(|code| *code), packet: packet.clone() };
        Admins { running: &running, phase: &phase_changes, kernel, reload_wishes }
    };
    let verdicts = async {
        tokio::select! {
            () = first_verdicts(&first) => true,
            signal = signals.ending() => {
                info!(signal = signal.name(), "ended before it was ready");
                false
            }
        }
    };
    // Who takes over answers, and adopts what is joined, only when it can: until then the former process does.
    let (servers, packet, shadows) = match &mut inheritance {
        Some(inherited) if inherited.takes_over() => {
            if !verdicts.await {
                return Ok(());
            }
            let left = inherited.take_over().await?;
            first.inherit_orders(left.orders);
            let packet = start_packet(&first.config, &file);
            give_up_privileges(true);
            (admins(&packet).start(&first.config, Some(inherited))?, packet, left.shadows)
        }
        inherited => {
            let packet = start_packet(&first.config, &file);
            // Before the first probe dials, which could get one of their ports.
            let shadows = packet.as_ref().map(|path| path.hold_ports()).unwrap_or_default();
            give_up_privileges(false);
            let servers = admins(&packet).start(&first.config, inherited.as_mut())?;
            if !verdicts.await {
                servers.into_iter().for_each(|(_, server)| server.end());
                return Ok(());
            }
            (servers, packet, shadows)
        }
    };
    let log_writer = log_writer.map(Writer::start).transpose()?;
    memory::give_back();
    let packet = packet.ok();
    let ways = Ways { sockmap: fastpath.ok(), packet: packet.clone() };
    let ended = FuturesUnordered::new();
    let mut commands = Vec::new();
    let mut heart = Heart::new();
    for index in 0..workers {
        let (sender, receiver) = unbounded_channel();
        let (running, heartbeat) = (Arc::clone(&running), heart.heartbeat());
        ended.push(worker::start(index, receiver, running, ways.clone(), phase_changes.clone(), heartbeat)?);
        commands.push(sender);
    }
    // Before anybody accepts: these sessions have their places.
    adopt(packet.as_ref(), shadows, &commands);
    listening.apply(&first, bound, &commands);
    for listener in &first.config.listeners {
        info!(listener = listener.name, addresses = ?listener.bind, "listening");
    }
    info!(workers, "ready");
    drop(first);
    let service = Service::ready(&running, &phase_changes, heart);
    if let Some(inheritance) = inheritance {
        if !inheritance.takes_over() {
            let unclaimed = inheritance.unclaimed();
            unclaimed
                .for_each(|address| warn!(%address, "systemd listens here for nobody: no listener has this address"));
        }
        inheritance.say_serving().map_err(HandoverError::from)?;
    }
    let waiting = Vec::new();
    let ending = Arc::clone(&running);
    let unpinned = packet.clone();
    Supervisor {
        program,
        file,
        template: config,
        running,
        phase,
        listening,
        commands,
        servers,
        watch,
        resolving,
        control,
        waiting,
        packet,
        service,
    }
    .serve(signals, ended)
    .await?;
    if let Some(packet) = unpinned {
        packet.unpin();
    }
    if let Some((log, writer)) = ending.session_log.as_ref().zip(log_writer) {
        log.close(writer);
    }
    let shared = ending.load();
    let left: u64 = shared.stats.cells_of(|_| true).map(|cell| cell.ends.of(SessionEnd::Left).get()).sum();
    info!(sessions_left = left, "ended");
    Ok(())
}

/// From here on everything that is started may do as little. `filtered`: the former process has seen to a part of it.
fn give_up_privileges(filtered: bool) {
    // Sessions are worth more than what it protects from.
    if let Err(error) = privileges::give_up(filtered) {
        error!("the daemon goes on with more rights than it needs: {error}");
    }
}

/// What the servers for operators need.
struct Admins<'a> {
    running: &'a Arc<Running>,
    phase: &'a watch::Receiver<Phase>,
    kernel: admin::Datapaths,
    reload_wishes: UnboundedSender<ReloadWish>,
}

impl Admins<'_> {
    /// Starts the admin address and the control socket, on what was handed over if it was.
    fn start(
        self,
        config: &Config,
        mut inheritance: Option<&mut Inheritance>,
    ) -> Result<Vec<(Kind, Server)>, AdminError> {
        let mut servers = Vec::new();
        if let Some(address) = config.admin.listen {
            let inherited = inheritance.as_mut().and_then(|of| of.admin(address));
            let server = admin::start(address, inherited, Arc::clone(self.running), self.phase.clone(), self.kernel)?;
            servers.push((Kind::Admin(address), server));
        }
        if let Some(path) = &config.admin.socket {
            let inherited = inheritance.as_mut().and_then(|of| of.control());
            match control::start(path, inherited, Arc::clone(self.running), self.phase.clone(), self.reload_wishes) {
                Ok(server) => servers.push((Kind::Control, server)),
                // Sessions are worth more than the comfort of the operator.
                Err(error) => error!("there is no control socket: {error}"),
            }
        }
        Ok(servers)
    }
}

/// A session needs two descriptors at least, its pipes need more, and the usual soft limit is 1024; the hard limit is
/// the operator's word.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!("cannot raise the limit of open files: {error}");
    }
}
