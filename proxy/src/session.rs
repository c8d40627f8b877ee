//! One session from accept to close: PROXY header, target, relay, end.
//!
//! A session is one task of one worker. Cancelling it resets both legs and counts the session as drained.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use landbridge_core::end::SessionEnd;
use landbridge_core::select::TargetId;
use tokio::net::TcpStream;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, info, warn};

use crate::account::Account;
use crate::chain::chain;
use crate::joined;
use crate::net::dial::{DialError, Opening, dial};
use crate::net::leg::Leg;
use crate::net::proxy_protocol::{self, Endpoints, HeaderError};
use crate::net::relay::{Head, Relay, Relayed, Settings};
use crate::places::Place;
use crate::session_log::Record;
use crate::shared::{Lease, Shared};
use crate::stats::{Carrier, Direction, RouteCell};
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
    let session = Session { worker, shared, listener, peer, accepted: Instant::now() };
    session.run(Leg::new(client), place, alive).await;
}

struct Session<'a> {
    worker: &'a Worker,
    /// The configuration that it began with.
    shared: Arc<Shared>,
    listener: usize,
    peer: SocketAddr,
    accepted: Instant,
}

/// A session whose target is connected.
struct Begun {
    /// What goes to the target first.
    head: Head,
    /// Bytes of it that are the client's.
    rest: u64,
    connected: Connected,
}

/// A connection to a target, and how it came about.
struct Connected {
    leg: Leg,
    lease: Lease,
    tries: u8,
    /// When the first target was chosen, and when the last one was connected.
    chosen: Instant,
    at: Instant,
}

/// A session that has no target yet; its end is counted when this is dropped.
struct Beginning<'a> {
    session: &'a Session<'a>,
    end: Option<SessionEnd>,
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            let Session { worker, shared, listener, peer, accepted } = self.session;
            shared.stats.listener(*listener, worker.index).ends.of(end).add(1);
            if let Some(log) = worker.running.session_log.as_ref().filter(|log| log.chooses()) {
                log.write(Record {
                    ended: SystemTime::now(),
                    shared: Arc::clone(shared),
                    listener: *listener,
                    client: *peer,
                    end,
                    total: accepted.elapsed(),
                    served: None,
                });
            }
        }
    }
}

impl Session<'_> {
    async fn run(&self, mut client: Leg, place: Place, alive: TaskTrackerToken) {
        // Until it is known better: cancelled.
        let mut beginning = Beginning { session: self, end: Some(SessionEnd::Drained) };
        let (head, target, mut account) = match Box::pin(self.begin(&client)).await {
            Ok(begun) => self.account(begun, place),
            Err(end) => {
                beginning.end = Some(end);
                if end.is_orderly() {
                    client.close_in_order();
                }
                return;
            }
        };
        beginning.end = None;
        let listener = &self.shared.config.listeners[self.listener];
        let kernel = self.worker.kernel.as_ref();
        let joined = self.worker.joined.as_deref();
        let ways = (kernel, joined.map(|joined| &joined.path));
        let target_options = &account.group().tcp;
        let settings = Settings::new(listener, target_options, &self.shared.config.datapath, kernel.is_some());
        let relayed = {
            let (cell, tally) = (Arc::clone(&account.cell), &account.tally);
            let relay = Relay::new((client, target), head, settings, &self.worker.buffers, ways, (&cell, tally));
            let relay = Box::new(relay);
            // Pinned here, because a future that is passed by value is stored twice.
            let run = pin!(relay.run());
            tokio::select! {
                biased;
                end = account.lease.cut() => Err(end),
                relayed = run => Ok(relayed),
            }
        };
        match (relayed, joined) {
            (Ok(Relayed::Joined(mut session, read)), Some(joined)) => match joined::seal(&mut session, read).await {
                Ok(()) => joined.add(session, read, account, alive),
                Err(error) => {
                    warn!("a joined session is reset, for its stream may not be whole: {}", chain(&error));
                    account.end = SessionEnd::IntegrityReset;
                }
            },
            (Ok(Relayed::Ended(end, answered)), _) => (account.end, account.answered) = (end, answered),
            // Only a packet datapath joins; without one the session is reset where it stands.
            (Ok(Relayed::Joined(..)), None) => account.end = SessionEnd::IntegrityReset,
            (Err(end), _) => account.end = end,
        }
    }

    /// What goes to the target first, the target's leg, and by what the session is counted. A function of its own, because a
    /// future keeps room for whatever passes through it.
    fn account(&self, begun: Begun, place: Place) -> (Head, Leg, Account) {
        let Begun { head, rest, connected: Connected { leg, lease, tries, chosen, at } } = begun;
        let (whose, indices) = ((&self.worker.running, &self.shared), (self.listener, self.worker.index));
        let account = Account::new(whose, indices, (lease, place), tries, [self.accepted, chosen, at]);
        account.tally.add(Direction::Upload, Carrier::Copy, rest);
        (head, leg, account)
    }

    /// Everything before bytes are forwarded.
    async fn begin(&self, client: &Leg) -> Result<Begun, SessionEnd> {
        let (shared, peer) = (&*self.shared, self.peer);
        let listener = &shared.config.listeners[self.listener];
        let stream = client.stream().map_err(|_not_connected| SessionEnd::ClientGone)?;
        let accepted = proxy_protocol::accept(stream, listener.accept_proxy).await.map_err(|error| {
            let listener = &listener.name;
            if let HeaderError::Silent = error {
                // As balancers check whether somebody listens.
                debug!(%peer, listener, "{error}");
                return SessionEnd::ClientGone;
            }
            warn!(%peer, listener, "refused: {error}");
            SessionEnd::BadProxyHeader
        })?;
        let mut head = Head { bytes: accepted.rest.into(), read: accepted.read, more: false };
        // Most clients speak first: what is here already goes out with the handshake's last packet.
        self.worker.buffers.read_early(client, &mut head).map_err(|_gone| SessionEnd::ClientGone)?;
        // What the target sends has to fit on the way to the client, or the two cannot be joined.
        let segment = match self.worker.joined {
            Some(_) => self.worker.clients.segment(stream.as_fd(), peer.ip(), self.accepted),
            None => None,
        };
        let source = accepted.endpoints.map_or(peer, |endpoints| endpoints.source);
        let connected = tokio::select! {
            biased;
            connected = self.connect(source, segment, !head.bytes.is_empty()) => connected?,
            () = client.failed() => return Err(SessionEnd::ClientGone),
        };

        let rest = head.bytes.len() as u64;
        let id = connected.lease.id();
        self.route(id).bytes(Direction::Upload, Carrier::Copy).add(rest);
        if let Some(version) = shared.target(id).0.send_proxy {
            let endpoints = match accepted.endpoints {
                Some(endpoints) => endpoints,
                None => Endpoints {
                    source: peer,
                    destination: stream.local_addr().map_err(|_not_connected| SessionEnd::ClientGone)?,
                },
            };
            head.bytes = [proxy_protocol::encode(version, endpoints).as_slice(), &head.bytes].concat().into();
        }
        Ok(Begun { head, rest, connected })
    }

    /// Connects to a target for the client at `source`; after a failure to another that was not tried yet, up to the
    /// `connect_retries` of the group that failed last.
    async fn connect(
        &self,
        source: SocketAddr,
        segment: Option<u32>,
        speaks_first: bool,
    ) -> Result<Connected, SessionEnd> {
        let shared = &self.shared;
        let mut tried = Vec::new();
        let mut first = None;
        loop {
            let selected = shared.select_in_turn(self.listener, source, &tried).await;
            self.log_refusal(selected.as_ref().is_err_and(|end| *end == SessionEnd::NoTarget));
            let lease = selected?;
            let (group, target) = shared.target(lease.id());
            let route = self.route(lease.id());
            route.connects.add(1);
            let began = Instant::now();
            let chosen = *first.get_or_insert(began);
            // Unless the route to the target says so already.
            let known = shared.state(lease.id()).segment();
            let segment = segment.filter(|&segment| known.is_none_or(|known| known > segment));
            let opening = Opening { segment, speaks_first: speaks_first || group.send_proxy.is_some() };
            match dial(target.address, &group.dial, &group.tcp, opening).await {
                Ok(stream) => {
                    let at = Instant::now();
                    route.connect_times.record(at - began);
                    self.log_connect(lease.id(), None);
                    let tries = u8::try_from(tried.len() + 1).unwrap_or(u8::MAX);
                    return Ok(Connected { leg: Leg::new(stream), lease, tries, chosen, at });
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
