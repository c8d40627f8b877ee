//! The sockets that the daemon listens on: bound all together or not at all, and given to the workers.
//!
//! The supervisor keeps a handle to each socket beside the worker's. A socket closes only when both are gone, so a
//! handle is dropped before its worker is told to close: what the worker then still finds waiting is all that will ever
//! come.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use landbridge_core::select::TargetId;
use socket2::Socket;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, info};

use crate::config::{Config, Listener, TcpOptions, overlap};
use crate::fastpath::packet::Adopted;
use crate::handover::Inheritance;
use crate::net::listener::{self, BindError};
use crate::net::path;
use crate::shared::Shared;

/// What a worker is told: about its sockets, and the sessions that it takes over.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept from this socket.
    Listen {
        /// Names the socket in [`Command::Close`].
        number: u64,
        /// What it is bound to.
        address: SocketAddr,
        /// The socket.
        socket: Socket,
    },
    /// Take over what a former process has joined.
    Adopt(Vec<Adopted>),
    /// Take what is waiting and close.
    Close {
        /// Which socket.
        number: u64,
    },
}

/// Everything that is listened on.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    bound: Vec<Bound>,
    next_number: u64,
}

/// One address with the sockets of all workers.
#[derive(Debug)]
pub(crate) struct Bound {
    number: u64,
    address: SocketAddr,
    tcp: TcpOptions,
    sockets: Vec<Socket>,
}

impl Listening {
    /// Binds what `config` has and this does not, for so many workers. Nothing stays bound after an error.
    /// What a former process or systemd has handed over is used rather than bound.
    pub(crate) fn bind_new(
        &mut self,
        config: &Config,
        workers: usize,
        mut inheritance: Option<&mut Inheritance>,
    ) -> Result<Vec<Bound>, BindError> {
        let mut new = Vec::new();
        for (listener, address) in addresses(config) {
            if self.bound.iter().any(|bound| bound.is(address, &listener.tcp)) {
                continue;
            }
            let inherited = inheritance.as_mut().map_or(Ok(Vec::new()), |of| of.listeners(address, workers));
            let mut sockets = inherited.map_err(|source| BindError::Socket { address, source })?;
            for socket in &sockets {
                listener::configure(socket, address, &listener.tcp)?;
            }
            let ours = self.bound.iter().any(|bound| overlap(bound.address, address));
            let beside = ours || !sockets.is_empty() || inheritance.as_ref().is_some_and(|of| of.overlaps(address));
            let missing = workers - sockets.len();
            let segment = segment(config, listener, |id| towards(config, id));
            sockets.extend(listener::bind(address, &listener.tcp, segment, missing, beside)?);
            self.next_number += 1;
            new.push(Bound { number: self.next_number, address, tcp: listener.tcp.clone(), sockets });
        }
        Ok(new)
    }

    /// Has the workers accept from what was bound for the configuration, and close what it does not have.
    pub(crate) fn apply(&mut self, shared: &Shared, new: Vec<Bound>, workers: &[UnboundedSender<Command>]) {
        for bound in new {
            for (worker, socket) in workers.iter().zip(&bound.sockets) {
                match socket.try_clone() {
                    Ok(socket) => {
                        send(worker, Command::Listen { number: bound.number, address: bound.address, socket });
                    }
                    // For want of descriptors; the other workers accept.
                    Err(error) => debug!(address = %bound.address, "a worker does not listen: {error}"),
                }
            }
            self.bound.push(bound);
        }
        let wanted: Vec<_> = addresses(&shared.config).collect();
        let unwanted = |bound: &mut Bound| !wanted.iter().any(|(listener, at)| bound.is(*at, &listener.tcp));
        for closed in self.bound.extract_if(.., unwanted) {
            info!(address = %closed.address, "closing");
            close(closed, workers);
        }
        self.clamp(shared);
    }

    /// Every socket with what it is bound to, to be handed over.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (SocketAddr, Vec<BorrowedFd<'_>>)> {
        self.bound.iter().map(|bound| (bound.address, bound.sockets.iter().map(AsFd::as_fd).collect()))
    }

    /// Closes everything.
    pub(crate) fn close(&mut self, workers: &[UnboundedSender<Command>]) {
        self.bound.drain(..).for_each(|bound| close(bound, workers));
    }

    /// Tells new clients how large a segment may be on the way to the targets of now, by the routes of now, and notes for each
    /// target how large it may be.
    pub(crate) fn clamp(&self, shared: &Shared) {
        let config = &shared.config;
        for id in config.target_ids() {
            shared.state(id).set_segment(towards(config, id));
        }
        let known = |id| shared.state(id).segment();
        for bound in &self.bound {
            let listener = config.listeners.iter().find(|listener| listener.bind.contains(&bound.address));
            if let Some(segment) = listener.and_then(|listener| segment(config, listener, known)) {
                for socket in &bound.sockets {
                    if let Err(error) = path::clamp(socket, segment) {
                        debug!(address = %bound.address, "sessions may be relayed that could be joined: {error}");
                    }
                }
            }
        }
    }
}

impl Bound {
    fn is(&self, address: SocketAddr, tcp: &TcpOptions) -> bool {
        self.address == address && self.tcp == *tcp
    }
}

fn close(bound: Bound, workers: &[UnboundedSender<Command>]) {
    let number = bound.number;
    drop(bound);
    workers.iter().for_each(|worker| send(worker, Command::Close { number }));
}

fn send(worker: &UnboundedSender<Command>, command: Command) {
    // A worker that has ended listens no more.
    let _ = worker.send(command);
}

/// Each address once, with its listener.
fn addresses(config: &Config) -> impl Iterator<Item = (&Listener, SocketAddr)> {
    let mut seen = BTreeSet::new();
    let all = config.listeners.iter().flat_map(|listener| listener.bind.iter().map(move |at| (listener, *at)));
    all.filter(move |(_, address)| seen.insert(*address))
}

/// The largest segment that fits on the way to every target of a listener whose sessions may be joined, if that is what fits
/// `towards` each. A target without a route now has no say; its sessions are relayed if they turn out not to fit.
fn segment(config: &Config, listener: &Listener, towards: impl Fn(TargetId) -> Option<u32>) -> Option<u32> {
    let ids = config.target_ids().filter(|id| listener.groups.contains(&id.group));
    if listener.datapath.joins() { ids.filter_map(towards).min() } else { None }
}

/// The largest segment that fits on the way to a target; `None`: it has no address or no route now.
fn towards(config: &Config, id: TargetId) -> Option<u32> {
    let group = &config.groups[id.group];
    let target = Some(&group.targets[id.target]).filter(|target| target.is_resolved())?;
    path::segment_towards(target.address, &group.dial, &group.tcp).ok()
}
