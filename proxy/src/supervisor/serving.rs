//! What the supervisor does while the daemon serves: one event after the other, reloads and upgrades on the way, until
//! the last worker has ended.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FusedFuture, FutureExt, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::libc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::RunError;
use crate::admin::Server;
use crate::admin::control::{NotReloaded, ReloadWish};
use crate::chain::chain;
use crate::config::Config;
use crate::doorbell::Doorbell;
use crate::fastpath::packet::PacketPath;
use crate::handover::{Kind, Left, Successor};
use crate::listening::{Command, Listening};
use crate::reload::{self, Begun, Cause, Prepared, ReloadError, prepare};
use crate::running::Running;
use crate::session_log::SessionLog;
use crate::signals::{Event, Signals};
use crate::systemd::Service;
use crate::watch::Watch;
use crate::worker::{Phase, WorkerError};

/// Links and routes of both families (linux/rtnetlink.h).
const ROUTES: u32 = (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE) as u32;

/// What the supervisor has while it waits for events.
pub(super) struct Supervisor {
    /// What an upgrade starts.
    pub(super) program: PathBuf,
    pub(super) file: PathBuf,
    /// The configuration as the file had it, but for what needs a restart: names are names.
    pub(super) template: Config,
    pub(super) running: Arc<Running>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) listening: Listening,
    pub(super) commands: Vec<UnboundedSender<Command>>,
    pub(super) servers: Vec<(Kind, Server)>,
    /// What watches the targets of the running configuration.
    pub(super) watch: Watch,
    /// What follows the names of targets.
    pub(super) resolving: JoinSet<()>,
    pub(super) control: UnboundedReceiver<ReloadWish>,
    /// Who waits for the reload that is on its way.
    pub(super) waiting: Vec<ReloadWish>,
    pub(super) service: Service,
    pub(super) packet: Option<Arc<PacketPath>>,
}

impl Supervisor {
    /// Serves until the last worker has ended.
    pub(super) async fn serve(
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
        let mut routes = Doorbell::new(ROUTES)
            .inspect_err(|error| {
                warn!("new clients are told the packet sizes of now, whatever becomes of the routes: {error}");
            })
            .ok();
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
                        let left = let_go(self.packet.clone(), Arc::clone(&self.running));
                        let begun = self.begin_upgrade().map(|successor| successor.serves(left).fuse());
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
                        deadline = Some(self.until(wait));
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
                Some(rung) = OptionFuture::from(routes.as_mut().map(Doorbell::rung)) => match rung {
                    Ok(()) => self.listening.clamp(&self.running.load()),
                    Err(error) => {
                        warn!("routes are no longer followed: {error}");
                        routes = None;
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
                        let wait = self.drain();
                        deadline = Some(self.until(wait));
                    }
                    Err(error) => {
                        error!("no upgrade, this process goes on: {error}");
                        self.running.set_handing_over(false);
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
                        let wait = self.drain();
                        deadline = Some(self.until(wait));
                    } else {
                        let shared = self.running.load();
                        let sessions: u32 = (0..shared.config.listeners.len()).map(|of| shared.taken(of)).sum();
                        warn!(sessions, "the drain timeout is over: resetting the sessions that are left");
                        deadline = None;
                        self.phase.send_replace(Phase::Ending);
                    }
                }
                ended = ended.next() => match ended {
                    None => {
                        self.servers.drain(..).for_each(|(_, server)| server.end());
                        return Ok(());
                    }
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

    /// When the phase that lasts so long from now is over.
    fn until(&self, wait: Duration) -> Instant {
        let at = Instant::now() + wait;
        self.running.set_phase_end(at);
        at
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
        let servers = self.servers.iter().map(|(kind, server)| (kind.clone(), vec![server.socket.as_fd()]));
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
                error!("the configuration stays as it is: {}", chain(&error));
                self.service.reloaded();
                tell(wishes, &Err(NotReloaded { why: chain(&error), invalid: error.is_invalid() }));
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
            .inspect_err(|error| error!("the targets keep their addresses: {}", chain(error)))
            .ok()
    }

    fn begin(&mut self, template: Config, cause: Cause) -> Result<Begun, ReloadError> {
        reload::begin(template, cause, &self.running, &mut self.listening, self.commands.len())
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
        self.listening.apply(&shared, bound, &self.commands);
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
/// A look is one lock, and nobody watches the joined sessions meanwhile.
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// Leaves the joined sessions, and what the operator has ordered, to another process while this one goes on. Cancelling it
/// leaves the sessions all the same.
async fn let_go(path: Option<Arc<PacketPath>>, running: Arc<Running>) -> Left {
    let shadows = let_sessions_go(path).await;
    running.set_handing_over(true);
    Left { shadows, orders: running.load().ordered() }
}

async fn let_sessions_go(path: Option<Arc<PacketPath>>) -> Vec<OwnedFd> {
    let Some(path) = path.filter(|path| path.retire()) else { return Vec::new() };
    let until = Instant::now() + SETTLE;
    while path.sessions() > 0 && Instant::now() < until {
        sleep(SETTLE_POLL).await;
    }
    path.let_go()
}

fn tell(wishes: Vec<ReloadWish>, outcome: &Result<Vec<String>, NotReloaded>) {
    // Who does not wait any more need not know.
    wishes.into_iter().for_each(|wish| drop(wish.send(outcome.clone())));
}
