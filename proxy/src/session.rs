//! One session from accept to close: PROXY header, target, relay, end.
//!
//! A session is one task of one worker. Cancelling it resets both legs and counts the session as drained.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use landbridge_common::packet::Origin as JointOrigin;
use landbridge_core::end::SessionEnd;
use landbridge_core::select::TargetId;
use tokio::net::TcpStream;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, info, warn};

use crate::fastpath::packet;
use crate::joined;
use crate::net::dial::{DialError, Opening, dial};
use crate::net::leg::Leg;
use crate::net::path;
use crate::net::proxy_protocol::{self, Origin};
use crate::net::relay::{Head, Relay, Relayed, Settings};
use crate::places::Place;
use crate::shared::{Lease, Shared};
use crate::stats::{Carrier, Direction, RouteCell};
use crate::tally::Tally;
use crate::worker::Worker;

/// Serves the connection `client` from `peer`, which the listener of that index accepted on `worker`; `place` is its one
/// there.
/// `alive` keeps the worker from ending.
pub(crate) async fn serve(
    worker: &Worker,
    (shared, listener): (Arc<Shared>, usize),
    (client, peer): (TcpStream, SocketAddr),
    place: Place,
    alive: TaskTrackerToken,
) {
    Session { worker, shared, listener }.run(Leg::new(client), peer, place, alive).await;
}

struct Session<'a> {
    worker: &'a Worker,
    /// The configuration that it began with.
    shared: Arc<Shared>,
    listener: usize,
}

/// A session whose target is connected.
struct Begun {
    target: Leg,
    /// What goes to the target first.
    head: Head,
    /// Bytes of it that are the client's.
    rest: u64,
    lease: Lease,
}

/// What a session is counted by as long as it lives; its end is counted when this is dropped.
pub(crate) struct Account {
    /// The counters of its route on its worker.
    pub(crate) cell: Arc<RouteCell>,
    /// How it ended, as far as is known.
    pub(crate) end: SessionEnd,
    /// Whether the target sent a byte, as far as is known.
    pub(crate) answered: bool,
    /// Its target; [`Lease::cut`] says when the session has to end for that target's sake.
    pub(crate) lease: Lease,
    /// What is noted of it.
    pub(crate) tally: Tally,
    began: Instant,
    shared: Arc<Shared>,
    _place: Place,
}

impl Account {
    /// The account of a session that a former process has joined.
    pub(crate) fn adopted(
        shared: &Arc<Shared>,
        (listener, worker): (usize, usize),
        lease: Lease,
        place: Place,
        began: Instant,
    ) -> Self {
        let cell = Arc::clone(shared.stats.route(listener, lease.id(), worker));
        let shared = Arc::clone(shared);
        let tally = Tally::default();
        Self { cell, end: SessionEnd::Drained, answered: true, lease, tally, began, shared, _place: place }
    }

    /// Whose session this is, for a process that comes later.
    pub(crate) fn origin(&self, listener: &str, read: [u64; 2]) -> JointOrigin {
        let group = &self.shared.target(self.lease.id()).0.name;
        packet::origin((listener, group), (self.began, self.lease.client()), read)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        debug!(end = self.end.code(), "session ended");
        self.cell.ends.of(self.end).add(1);
        self.cell.haste.ended(self.began.elapsed());
        self.shared.session_ended(self.lease.id(), self.end, self.answered);
    }
}

/// A session that has no target yet; its end is counted when this is dropped.
struct Beginning<'a> {
    session: &'a Session<'a>,
    end: Option<SessionEnd>,
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            let Session { worker, shared, listener } = self.session;
            shared.stats.listener(*listener, worker.index).ends.of(end).add(1);
        }
    }
}

impl Session<'_> {
    async fn run(&self, mut client: Leg, peer: SocketAddr, place: Place, alive: TaskTrackerToken) {
        // Until it is known better: cancelled.
        let mut beginning = Beginning { session: self, end: Some(SessionEnd::Drained) };
        let Begun { target, head, rest, lease } = match Box::pin(self.begin(&client, peer)).await {
            Ok(begun) => begun,
            Err(end) => {
                beginning.end = Some(end);
                if end.is_orderly() {
                    client.close_in_order();
                }
                return;
            }
        };
        beginning.end = None;
        let tally = Tally::default();
        tally.add(Direction::Upload, Carrier::Copy, rest);
        let id = lease.id();
        let cell = Arc::clone(self.route(id));
        let shared = Arc::clone(&self.shared);
        let mut account = Account {
            cell,
            end: SessionEnd::Drained,
            answered: false,
            lease,
            tally,
            began: Instant::now(),
            shared,
            _place: place,
        };
        let listener = &self.shared.config.listeners[self.listener];
        let kernel = self.worker.kernel.as_ref();
        let joined = self.worker.joined.as_deref();
        let ways = (kernel, joined.map(|joined| &joined.path));
        let settings = Settings::new(listener, &self.shared.config.datapath, kernel.is_some());
        let relayed = {
            let (cell, tally) = (Arc::clone(&account.cell), &account.tally);
            let relay = Relay::new((client, target), head, settings, &self.worker.buffers, ways, (&cell, tally));
            // Pinned here, because a future that is passed by value is stored twice.
            let run = pin!(relay.run());
            account.lease.cut().run_until_cancelled(run).await
        };
        match (relayed, joined) {
            (Some(Relayed::Joined(session, read)), Some(joined)) => {
                let rules = joined::rules(listener, &self.shared.target(id).0.tcp);
                joined.add(session, read, account, (rules, listener), alive).await;
            }
            (Some(Relayed::Ended(end, answered)), _) => (account.end, account.answered) = (end, answered),
            // Only a packet datapath joins; without one the session is reset where it stands.
            (Some(Relayed::Joined(..)), None) => account.end = SessionEnd::IntegrityReset,
            (None, _) => account.end = account.lease.cut_end(),
        }
    }

    /// Everything before bytes are forwarded.
    async fn begin(&self, client: &Leg, peer: SocketAddr) -> Result<Begun, SessionEnd> {
        let shared = &*self.shared;
        let listener = &shared.config.listeners[self.listener];
        let stream = client.stream().map_err(|_not_connected| SessionEnd::ClientGone)?;
        let accepted = proxy_protocol::accept(stream, listener.accept_proxy).await.map_err(|error| {
            debug!(%peer, listener = listener.name, "{error}");
            SessionEnd::BadProxyHeader
        })?;
        let mut head = Head { bytes: accepted.rest.into(), read: accepted.read, more: false };
        // Most clients speak first: what is here already goes out with the handshake's last packet.
        self.worker.buffers.read_early(stream.as_fd(), &mut head).map_err(|_gone| SessionEnd::ClientGone)?;
        // What the target sends has to fit on the way to the client, or the two cannot be joined.
        let segment = match self.worker.joined {
            Some(_) => path::segment_of(stream.as_fd(), peer.is_ipv6()).ok(),
            None => None,
        };
        let source = accepted.origin.map_or(peer, |origin| origin.source);
        let (target, lease) = tokio::select! {
            biased;
            connected = self.connect(source, segment, !head.bytes.is_empty()) => connected?,
            () = client.failed() => return Err(SessionEnd::ClientGone),
        };

        let rest = head.bytes.len() as u64;
        self.route(lease.id()).bytes(Direction::Upload, Carrier::Copy).add(rest);
        if let Some(version) = shared.target(lease.id()).0.send_proxy {
            let origin = match accepted.origin {
                Some(origin) => origin,
                None => Origin {
                    source: peer,
                    destination: stream.local_addr().map_err(|_not_connected| SessionEnd::ClientGone)?,
                },
            };
            head.bytes = [proxy_protocol::encode(version, origin).as_slice(), &head.bytes].concat().into();
        }
        Ok(Begun { target, head, rest, lease })
    }

    /// Connects to a target for the client at `source`; after a failure to another that was not tried yet, up to the
    /// `connect_retries` of the group that failed last.
    async fn connect(
        &self,
        source: SocketAddr,
        segment: Option<u32>,
        speaks_first: bool,
    ) -> Result<(Leg, Lease), SessionEnd> {
        let shared = &self.shared;
        let mut tried = Vec::new();
        loop {
            let selected = shared.select_in_turn(self.listener, source, &tried).await;
            self.log_refusal(selected.as_ref().is_err_and(|end| *end == SessionEnd::NoTarget));
            let lease = selected?;
            let (group, target) = shared.target(lease.id());
            let route = self.route(lease.id());
            route.connects.add(1);
            let began = Instant::now();
            let opening = Opening { segment, speaks_first: speaks_first || group.send_proxy.is_some() };
            match dial(target.address, &group.dial, &group.tcp, opening).await {
                Ok(stream) => {
                    route.connect_times.record(began.elapsed());
                    self.log_connect(lease.id(), None);
                    return Ok((Leg::new(stream), lease));
                }
                Err(error) => {
                    route.failures(error.reason()).add(1);
                    self.log_connect(lease.id(), Some(&error));
                    shared.connect_failed(lease.id(), error.reason());
                    tried.push(lease.id());
                    if tried.len() > group.dial.connect_retries as usize {
                        return Err(SessionEnd::ConnectFailed);
                    }
                }
            }
        }
    }

    fn route(&self, id: TargetId) -> &Arc<RouteCell> {
        self.shared.stats.route(self.listener, id, self.worker.index)
    }

    /// Logs that the listener refuses sessions, or no longer does, once per change.
    fn log_refusal(&self, refusing: bool) {
        let shared = &self.shared;
        if shared.refusing(self.listener).set(refusing) {
            let listener = &shared.config.listeners[self.listener].name;
            match refusing {
                true => warn!(listener, "no group can take a session: refusing clients"),
                false => info!(listener, "a group can take sessions again"),
            }
        }
    }

    /// Logs that connects to a target fail, or no longer do, once per change.
    fn log_connect(&self, id: TargetId, error: Option<&DialError>) {
        let shared = &self.shared;
        if shared.state(id).failing.set(error.is_some()) {
            let (group, target) = shared.target(id);
            match error {
                Some(error) => warn!(group = group.name, target_name = target.name, "{error}"),
                None => info!(group = group.name, target_name = target.name, "connects again"),
            }
        }
    }
}
