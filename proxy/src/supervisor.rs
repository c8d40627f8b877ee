//! The supervisor: binds everything, starts the workers, waits for one event after the other, and ends in order.
//!
//! Tasks: the admin server, the control socket, those that watch the targets, and two that listen to the eBPF programs. Threads: the workers. Signals: SIGTERM and SIGINT drain and then end; a second one ends at once;
//! SIGHUP reloads the configuration, SIGUSR2 starts a new binary and hands over to it.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use futures_util::future::{FusedFuture, FutureExt, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::admin::control::{self, ReloadWish};
use crate::admin::{self, AdminError, Server};
use crate::config::{Config, Datapath, Listener};
use crate::fastpath::packet::PacketPath;
use crate::fastpath::{FastPath, Limits};
use crate::handover::{HandoverError, Inheritance, Kind, Successor};
use crate::listening::{Listening, Order};
use crate::net::listener::BindError;
use crate::privileges;
use crate::reload::{self, Begun, Prepared, prepare};
use crate::shared::{Running, Shared};
use crate::signals::{Event, Signals};
use crate::systemd::activation::{self, ActivationError};
use crate::systemd::{Heart, Service};
use crate::watch::{Watch, first_verdicts, watch_targets};
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
    let first = Arc::new(Shared::new(config, workers));
    let running = Arc::new(Running::new(Arc::clone(&first)));
    let (phase, phase_changes) = watch::channel(Phase::Serving);
    let fastpath = start_fastpath(first.config.datapath.limits);
    let packet = start_packet(&first.config);
    // From here on everything that is started has as little.
    if let Err(error) = privileges::give_up(inheritance.as_ref().is_some_and(Inheritance::takes_over)) {
        warn!("{error}");
    }
    let kernel = admin::Kernel { sockmap: fastpath.as_ref().map(drop).map_err(|code| *code), packet: packet.clone() };
    let (reload_wishes, control) = unbounded_channel();
    let watch = watch_targets(&first);
    let admins = Admins { running: &running, phase: &phase_changes, kernel, reload_wishes };
    let verdicts = async {
        tokio::select! {
            () = first_verdicts(&first) => true,
            signal = signals.ending() => {
                info!(signal = signal.name(), "ended before it was ready");
                false
            }
        }
    };
    // Who takes over answers only when it can: until then the former process does.
    let (servers, good) = match &mut inheritance {
        Some(inherited) if inherited.takes_over() => {
            let good = verdicts.await;
            (admins.start(&first.config, Some(inherited))?, good)
        }
        inherited => (admins.start(&first.config, inherited.as_mut())?, verdicts.await),
    };
    if !good {
        return Ok(());
    }
    let ways = Ways { sockmap: fastpath.ok(), packet: packet.ok() };
    let ended = FuturesUnordered::new();
    let mut orders = Vec::new();
    let mut heart = Heart::new();
    for index in 0..workers {
        let (sender, receiver) = unbounded_channel();
        let (running, pulse) = (Arc::clone(&running), heart.pulse());
        ended.push(worker::start(index, receiver, running, ways.clone(), phase_changes.clone(), pulse)?);
        orders.push(sender);
    }
    listening.apply(&first.config, bound, &orders);
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
        inheritance.say_ready().map_err(HandoverError::from)?;
    }
    let waiting = Vec::new();
    Supervisor { program, file, running, phase, listening, orders, servers, watch, control, waiting, service }
        .serve(signals, ended)
        .await?;
    info!("ended");
    Ok(())
}

/// What the servers for operators need.
struct Admins<'a> {
    running: &'a Arc<Running>,
    phase: &'a watch::Receiver<Phase>,
    kernel: admin::Kernel,
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

/// What the supervisor has while it waits for events.
struct Supervisor {
    /// What an upgrade starts.
    program: PathBuf,
    file: PathBuf,
    running: Arc<Running>,
    phase: watch::Sender<Phase>,
    listening: Listening,
    orders: Vec<UnboundedSender<Order>>,
    servers: Vec<(Kind, Server)>,
    /// What watches the targets of the running configuration.
    watch: Watch,
    control: UnboundedReceiver<ReloadWish>,
    /// Who waits for the reload that is on its way.
    waiting: Vec<ReloadWish>,
    service: Service,
}

impl Supervisor {
    /// Serves until the last worker has ended.
    async fn serve(
        mut self,
        mut signals: Signals,
        mut ended: FuturesUnordered<impl Future<Output = Result<(), WorkerError>>>,
    ) -> Result<(), RunError> {
        let mut deadline = None;
        // One reload at a time. A wish that comes meanwhile is carried out after it, with the file as it is then.
        let mut reload = pin!(OptionFuture::default());
        let mut wishes = Vec::new();
        let mut wished = false;
        // The process that is to take over, until it serves.
        let mut upgrade = pin!(OptionFuture::default());
        loop {
            let phase = *self.phase.borrow();
            if wished && reload.is_terminated() && upgrade.is_terminated() && phase == Phase::Serving {
                wished = false;
                let begun = self.begin_reload(std::mem::take(&mut wishes));
                reload.set(begun.map(|begun| prepare(begun).fuse()).into());
            }
            let expired = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = signals.recv() => match (signal, phase) {
                    (Event::Reload, _) => wished = true,
                    (Event::Upgrade, Phase::Serving) if upgrade.is_terminated() && reload.is_terminated() => {
                        upgrade.set(self.begin_upgrade().map(|successor| successor.serves().fuse()).into());
                    }
                    (Event::Upgrade, _) => warn!("not now: something else is on its way; send SIGUSR2 again"),
                    (signal, Phase::Serving) => {
                        info!(signal = signal.name(), "ending");
                        reload.set(None.into());
                        upgrade.set(None.into());
                        deadline = Some(Instant::now() + self.drain());
                    }
                    (signal, Phase::Draining | Phase::Ending) => {
                        info!(signal = signal.name(), "ending at once");
                        self.phase.send_replace(Phase::Ending);
                    }
                },
                // Whoever wishes for a reload of a daemon that is ending learns it by the loss of the answer.
                Some(wish) = self.control.recv(), if phase == Phase::Serving => {
                    wishes.push(wish);
                    wished = true;
                }
                Some(outcome) = &mut upgrade, if !upgrade.is_terminated() => match outcome {
                    Ok(successor) => {
                        info!(successor, "the new process serves");
                        self.service.hand_over();
                        self.servers.drain(..).for_each(|(_, server)| server.stop());
                        deadline = Some(Instant::now() + self.drain());
                    }
                    Err(error) => error!("no upgrade, this process goes on: {error}"),
                },
                Some(prepared) = &mut reload, if !reload.is_terminated() => self.finish_reload(prepared),
                () = expired => {
                    warn!("the drain timeout is over: resetting the sessions that are left");
                    deadline = None;
                    self.phase.send_replace(Phase::Ending);
                }
                ended = ended.next() => match ended {
                    None => return Ok(()),
                    Some(result) => result?,
                },
            }
        }
    }

    /// Takes no new sessions from now on; returns how long the old ones have.
    fn drain(&mut self) -> Duration {
        let timeout = self.running.load().config.runtime.drain_timeout;
        info!(?timeout, "draining: no new sessions");
        self.service.stopping(timeout);
        self.waiting.clear();
        self.control.close();
        while self.control.try_recv().is_ok() {}
        // Before the workers close their sockets: see `Listening`.
        self.listening.close(&[]);
        self.phase.send_replace(Phase::Draining);
        timeout
    }

    /// Starts the binary that is now where this one was, with all sockets.
    fn begin_upgrade(&self) -> Option<Successor> {
        let listeners = self.listening.descriptors().map(|(address, sockets)| (Kind::Listener(address), sockets));
        let servers = self.servers.iter().map(|(kind, server)| (*kind, vec![server.socket.as_fd()]));
        let descriptors: Vec<_> = listeners.chain(servers).collect();
        match Successor::start(&self.program, &self.file, &descriptors) {
            Ok(successor) => {
                info!(program = %self.program.display(), successor = successor.id(), "handing over");
                Some(successor)
            }
            Err(error) => {
                error!("no upgrade, this process goes on: {error}");
                None
            }
        }
    }

    /// Reads the file anew and binds; `None`, with the reasons in the log, if everything has to stay as it is. `wishes`
    /// learn the outcome.
    fn begin_reload(&mut self, wishes: Vec<ReloadWish>) -> Option<Begun> {
        info!(file = %self.file.display(), "reloading");
        self.service.reloading();
        let current = self.running.load();
        match reload::begin(&self.file, &current, &mut self.listening, self.orders.len()) {
            Ok(begun) => {
                self.waiting = wishes;
                Some(begun)
            }
            Err(error) => {
                self.running.note_reload(false);
                error!("the configuration stays as it is: {error}");
                self.service.reloaded();
                tell(wishes, &Err(error.to_string()));
                None
            }
        }
    }

    /// Puts a configuration in force.
    fn finish_reload(&mut self, Prepared { shared, watch, bound, changes }: Prepared) {
        let former = self.running.load();
        self.running.replace(Arc::clone(&shared));
        self.watch = watch;
        self.listening.apply(&shared.config, bound, &self.orders);
        // What was ordered while this was prepared.
        shared.follow_orders();
        former.end_removed(&shared);
        info!(generation = shared.generation, "reloaded");
        self.service.reloaded();
        tell(std::mem::take(&mut self.waiting), &Ok(changes));
    }
}

fn tell(wishes: Vec<ReloadWish>, outcome: &Result<Vec<String>, String>) {
    // Who does not wait any more need not know.
    wishes.into_iter().for_each(|wish| drop(wish.send(outcome.clone())));
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

/// The packet datapath with what follows its events and this host's devices, if a listener may use it and it can be had;
/// else the code of the reason.
fn start_packet(config: &Config) -> Result<Arc<PacketPath>, &'static str> {
    let wanted = |listener: &&Listener| matches!(listener.datapath, Datapath::Auto | Datapath::Packet);
    let sessions: u32 = config.listeners.iter().filter(wanted).map(|listener| listener.max_connections).sum();
    if sessions == 0 {
        return Err("not_wanted");
    }
    let path = match PacketPath::start(sessions) {
        Ok(path) => path,
        Err(reason) => {
            let code = reason.reason();
            warn!(code, "packet datapath: not available ({})", reason.chain());
            return Err(code);
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
    Ok(path)
}

/// A session needs two descriptors and the usual soft limit is 1024; the hard limit is the operator's word.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!("cannot raise the limit of open files: {error}");
    }
}
