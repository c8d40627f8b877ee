//! The supervisor: binds everything, starts the workers, waits for one event after the other, and ends in order.
//!
//! Tasks: the admin server, the control socket, those that watch the targets, and two that listen to the eBPF programs. Threads: the workers. Signals: SIGTERM and SIGINT drain and then end; a second one ends at once;
//! SIGHUP reloads the configuration.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;

use futures_util::future::{FusedFuture, FutureExt, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::admin::control::{self, ReloadWish};
use crate::admin::{self, AdminError};
use crate::config::{Config, Datapath, Listener};
use crate::fastpath::packet::PacketPath;
use crate::fastpath::{FastPath, Limits};
use crate::listening::{Listening, Order};
use crate::net::listener::BindError;
use crate::reload::{self, Begun, Prepared, prepare};
use crate::shared::{Running, Shared};
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
    let bound = listening.bind_new(&config, workers)?;
    let first = Arc::new(Shared::new(config, workers));
    let running = Arc::new(Running::new(Arc::clone(&first)));
    let (phase, phase_changes) = watch::channel(Phase::Serving);
    let fastpath = start_fastpath(first.config.datapath.limits);
    let packet = start_packet(&first.config);
    if let Some(address) = first.config.admin.listen {
        let kernel =
            admin::Kernel { sockmap: fastpath.as_ref().map(drop).map_err(|code| *code), packet: packet.clone() };
        admin::start(address, Arc::clone(&running), phase_changes.clone(), kernel).await?;
    }

    let (reload_wishes, control) = unbounded_channel();
    if let Some(path) = &first.config.admin.socket
        && let Err(error) = control::start(path, Arc::clone(&running), phase_changes.clone(), reload_wishes)
    {
        // Sessions are worth more than the comfort of the operator.
        error!("there is no control socket: {error}");
    }

    let watch = watch_targets(&first);
    tokio::select! {
        () = first_verdicts(&first) => {}
        signal = signals.ending() => {
            info!(signal = signal.name(), "ended before it was ready");
            return Ok(());
        }
    }
    let ways = Ways { sockmap: fastpath.ok(), packet: packet.ok() };
    let ended = FuturesUnordered::new();
    let mut orders = Vec::new();
    for index in 0..workers {
        let (sender, receiver) = unbounded_channel();
        ended.push(worker::start(index, receiver, Arc::clone(&running), ways.clone(), phase_changes.clone())?);
        orders.push(sender);
    }
    listening.apply(&first.config, bound, &orders);
    for listener in &first.config.listeners {
        info!(listener = listener.name, addresses = ?listener.bind, "listening");
    }
    info!(workers, "ready");
    drop(first);
    Supervisor { file, running, phase, listening, orders, watch, control, waiting: Vec::new() }
        .serve(signals, ended)
        .await?;
    info!("ended");
    Ok(())
}

/// What the supervisor has while it waits for events.
struct Supervisor {
    file: PathBuf,
    running: Arc<Running>,
    phase: watch::Sender<Phase>,
    listening: Listening,
    orders: Vec<UnboundedSender<Order>>,
    /// What watches the targets of the running configuration.
    watch: Watch,
    control: UnboundedReceiver<ReloadWish>,
    /// Who waits for the reload that is on its way.
    waiting: Vec<ReloadWish>,
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
        loop {
            let phase = *self.phase.borrow();
            if wished && reload.is_terminated() && phase == Phase::Serving {
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
                    (signal, Phase::Serving) => {
                        let timeout = self.running.load().config.runtime.drain_timeout;
                        info!(signal = signal.name(), ?timeout, "draining: no new sessions");
                        reload.set(None.into());
                        self.drain();
                        deadline = Some(Instant::now() + timeout);
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

    fn drain(&mut self) {
        self.waiting.clear();
        self.control.close();
        while self.control.try_recv().is_ok() {}
        // Before the workers close their sockets: see `Listening`.
        self.listening.close(&[]);
        self.phase.send_replace(Phase::Draining);
    }

    /// Reads the file anew and binds; `None`, with the reasons in the log, if everything has to stay as it is. `wishes`
    /// learn the outcome.
    fn begin_reload(&mut self, wishes: Vec<ReloadWish>) -> Option<Begun> {
        info!(file = %self.file.display(), "reloading");
        let current = self.running.load();
        match reload::begin(&self.file, &current, &mut self.listening, self.orders.len()) {
            Ok(begun) => {
                self.waiting = wishes;
                Some(begun)
            }
            Err(error) => {
                self.running.note_reload(false);
                error!("the configuration stays as it is: {error}");
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

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// SIGHUP
    Reload,
    /// SIGTERM
    Terminate,
    /// SIGINT
    Interrupt,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Reload => "SIGHUP",
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancelling loses none.
    async fn recv(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate,
            _ = self.interrupt.recv() => Event::Interrupt,
            _ = self.hangup.recv() => Event::Reload,
        }
    }

    /// The next signal that ends the daemon; others are kept.
    async fn ending(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate,
            _ = self.interrupt.recv() => Event::Interrupt,
        }
    }
}
