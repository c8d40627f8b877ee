//! The supervisor: binds everything, starts the workers, waits for one event after the other, and ends in order.
//!
//! Tasks: the admin server, the control socket, those that watch the targets, and two that listen to the eBPF programs. Threads: the workers. Signals: SIGTERM and SIGINT drain and then end; a second one ends at once;
//! SIGHUP reloads the configuration, SIGUSR1 opens the session log anew, SIGUSR2 starts a new binary and hands over to it.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
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
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::admin::control::{self, ReloadWish};
use crate::admin::{self, AdminError, Server};
use crate::config::Config;
use crate::fastpath::packet::PacketPath;
use crate::handover::{HandoverError, Inheritance, Kind, Successor};
use crate::listening::{Listening, Order};
use crate::names::Names;
use crate::net::listener::BindError;
use crate::privileges;
use crate::pulse::Pulse;
use crate::reload::{self, Begun, Cause, Prepared, ReloadError, prepare};
use crate::session_log::{SessionLog, SessionLogError};
use crate::shared::{Running, Shared};
use crate::signals::{Event, Signals};
use crate::systemd::activation::{self, ActivationError};
use crate::systemd::{Heart, Service};
use crate::watch::{Watch, first_verdicts, watch_targets};
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
    let session_log = SessionLog::start(&config.session_log)?;
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
            admin::Kernel { sockmap: fastpath.as_ref().map(drop).map_err(|code| *code), packet: packet.clone() };
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
    let mut shadows = Vec::new();
    let (servers, packet) = match &mut inheritance {
        Some(inherited) if inherited.takes_over() => {
            if !verdicts.await {
                return Ok(());
            }
            shadows = inherited.take_over().await?;
            let packet = start_packet(&first.config, &file);
            give_up_privileges(true);
            (admins(&packet).start(&first.config, Some(inherited))?, packet)
        }
        inherited => {
            let packet = start_packet(&first.config, &file);
            give_up_privileges(false);
            let servers = admins(&packet).start(&first.config, inherited.as_mut())?;
            if !verdicts.await {
                return Ok(());
            }
            (servers, packet)
        }
    };
    let packet = packet.ok();
    let ways = Ways { sockmap: fastpath.ok(), packet: packet.clone() };
    let ended = FuturesUnordered::new();
    let mut orders = Vec::new();
    let mut heart = Heart::new();
    for index in 0..workers {
        let (sender, receiver) = unbounded_channel();
        let (running, pulse) = (Arc::clone(&running), heart.pulse());
        ended.push(worker::start(index, receiver, running, ways.clone(), phase_changes.clone(), pulse)?);
        orders.push(sender);
    }
    // Before anybody accepts or dials: the ports of these sessions are taken.
    adopt(packet.as_ref(), shadows, &orders);
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
        orders,
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
    if let Some(log) = &ending.session_log {
        log.close();
    }
    info!("ended");
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
    /// The configuration as the file had it: names are names.
    template: Config,
    running: Arc<Running>,
    phase: watch::Sender<Phase>,
    listening: Listening,
    orders: Vec<UnboundedSender<Order>>,
    servers: Vec<(Kind, Server)>,
    /// What watches the targets of the running configuration.
    watch: Watch,
    /// What follows the names of targets.
    resolving: JoinSet<()>,
    control: UnboundedReceiver<ReloadWish>,
    /// Who waits for the reload that is on its way.
    waiting: Vec<ReloadWish>,
    service: Service,
    packet: Option<Arc<PacketPath>>,
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
        // Some name has another address.
        let mut renamed = false;
        // The process that is to take over, until it serves.
        let mut upgrade = pin!(OptionFuture::default());
        let names = Arc::clone(&self.running.names);
        loop {
            let phase = *self.phase.borrow();
            if wished && reload.is_terminated() && upgrade.is_terminated() && phase == Phase::Serving {
                wished = false;
                let begun = self.begin_reload(std::mem::take(&mut wishes));
                reload.set(begun.map(|begun| prepare(begun).fuse()).into());
            } else if renamed && reload.is_terminated() && upgrade.is_terminated() && phase == Phase::Serving {
                renamed = false;
                reload.set(self.begin_renaming().map(|begun| prepare(begun).fuse()).into());
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
                    (Event::Reopen, _) => self.running.session_log.iter().for_each(SessionLog::reopen),
                    (Event::Upgrade, Phase::Serving) if upgrade.is_terminated() && reload.is_terminated() => {
                        let path = self.packet.clone();
                        let begun = self.begin_upgrade().map(|successor| successor.serves(let_go(path)).fuse());
                        upgrade.set(begun.into());
                    }
                    (Event::Upgrade, _) => warn!("not now: something else is on its way; send SIGUSR2 again"),
                    (signal, Phase::Serving) => {
                        info!(signal = signal.name(), "ending");
                        reload.set(None.into());
                        upgrade.set(None.into());
                        let delay = self.running.load().config.runtime.readiness_delay;
                        let wait = match signal {
                            // The next process is to serve at once.
                            Event::Leave => {
                                self.leave_joined();
                                self.drain()
                            }
                            _ if delay.is_zero() => self.drain(),
                            _ => self.leave(delay),
                        };
                        deadline = Some(Instant::now() + wait);
                    }
                    (signal, phase) => {
                        info!(signal = signal.name(), "ending at once");
                        if phase == Phase::Leaving {
                            self.drain();
                        }
                        self.phase.send_replace(Phase::Ending);
                    }
                },
                () = names.changed() => renamed = true,
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
                    Err(error) => {
                        error!("no upgrade, this process goes on: {error}");
                        if self.packet.as_deref().is_some_and(PacketPath::is_retired) {
                            error!(
                                "the packet datapath was handed over already: nothing is joined any more, and joined \
                                 sessions go on without a daemon until one is started anew and adopts them"
                            );
                        }
                    }
                },
                Some(prepared) = &mut reload, if !reload.is_terminated() => self.finish_reload(prepared),
                () = expired => {
                    if phase == Phase::Leaving {
                        deadline = Some(Instant::now() + self.drain());
                    } else {
                        warn!("the drain timeout is over: resetting the sessions that are left");
                        deadline = None;
                        self.phase.send_replace(Phase::Ending);
                    }
                }
                ended = ended.next() => match ended {
                    None => return Ok(()),
                    Some(result) => result?,
                },
            }
        }
    }

    /// Takes new sessions for the readiness delay, which is returned, and tells whoever asks to send no more.
    fn leave(&mut self, delay: Duration) -> Duration {
        info!(?delay, "leaving: /readyz says no, new sessions are still taken");
        self.phase.send_replace(Phase::Leaving);
        delay
    }

    /// Leaves the joined sessions to the next process.
    fn leave_joined(&self) {
        if let Some(path) = &self.packet
            && !path.retire()
        {
            warn!("joined sessions end with this process: nothing is pinned");
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
        let loaded = Config::load(&self.file).map_err(ReloadError::from);
        let begun = loaded.and_then(|template| self.begin(template, Cause::File));
        match begun {
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

    /// Takes over what names mean now; `None` if that changes nothing.
    fn begin_renaming(&mut self) -> Option<Begun> {
        let names = &self.running.names;
        let resolved = self.template.clone().resolved(|host| names.address(host));
        if resolved == self.running.load().config {
            return None;
        }
        self.begin(self.template.clone(), Cause::Names)
            .inspect_err(|error| error!("the targets keep their addresses: {error}"))
            .ok()
    }

    fn begin(&mut self, template: Config, cause: Cause) -> Result<Begun, ReloadError> {
        reload::begin(template, cause, &self.running, &mut self.listening, self.orders.len())
    }

    /// Puts a configuration in force.
    fn finish_reload(&mut self, Prepared { shared, watch, bound, template, changes, cause }: Prepared) {
        let former = self.running.load();
        self.running.replace(Arc::clone(&shared));
        self.watch = watch;
        if template.names() != self.template.names() || template.dns != self.template.dns {
            self.resolving = self.running.names.follow(&template);
        }
        self.template = template;
        self.listening.apply(&shared.config, bound, &self.orders);
        // What was ordered while this was prepared.
        shared.follow_orders();
        former.end_removed(&shared);
        match cause {
            Cause::File => {
                self.service.reloaded();
                self.running.note_reload(true);
                info!(generation = shared.generation, "reloaded");
            }
            Cause::Names => info!(generation = shared.generation, "names have other addresses"),
        }
        tell(std::mem::take(&mut self.waiting), &Ok(changes));
    }
}

/// So long a relay needs at most to notice that it is to join no more: it looks at least once a second.
const SETTLE: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// Leaves the joined sessions to another process while this one goes on; returns the sockets that hold their ports.
/// Cancelling it leaves them all the same.
async fn let_go(path: Option<Arc<PacketPath>>) -> Vec<OwnedFd> {
    let Some(path) = path.filter(|path| path.retire()) else { return Vec::new() };
    let until = Instant::now() + SETTLE;
    while path.sessions() > 0 && Instant::now() < until {
        sleep(SETTLE_POLL).await;
    }
    path.let_go()
}

fn tell(wishes: Vec<ReloadWish>, outcome: &Result<Vec<String>, String>) {
    // Who does not wait any more need not know.
    wishes.into_iter().for_each(|wish| drop(wish.send(outcome.clone())));
}

/// A session needs two descriptors and the usual soft limit is 1024; the hard limit is the operator's word.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!("cannot raise the limit of open files: {error}");
    }
}
