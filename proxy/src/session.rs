//! One session from accept to close: PROXY header, target, relay, end.
//!
//! A session is one task of one worker. Cancelling it resets both legs and counts the session as drained.

use std::net::SocketAddr;
use std::ops::Deref;

use bytes::Bytes;
use landbridge_core::end::SessionEnd;
use landbridge_core::select::TargetId;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use crate::net::dial::{DialError, dial};
use crate::net::options::reset_on_close;
use crate::net::proxy_protocol::{self, Origin};
use crate::net::relay::{Relay, Settings};
use crate::shared::Lease;
use crate::stats::{Carrier, Direction, RouteCell};
use crate::worker::Worker;

/// Serves the connection `client` from `peer`, which `listener` accepted on `worker`.
pub(crate) async fn serve(worker: &Worker, listener: usize, client: TcpStream, peer: SocketAddr) {
    let mut session = Session { worker, listener, target: None, end: SessionEnd::Drained };
    session.end = session.run(Leg::new(client), peer).await;
    debug!(%peer, end = session.end.code(), "session ended");
}

/// A session; counted by how it ended when it is dropped.
struct Session<'a> {
    worker: &'a Worker,
    listener: usize,
    target: Option<TargetId>,
    end: SessionEnd,
}

impl<'a> Session<'a> {
    async fn run(&mut self, mut client: Leg, peer: SocketAddr) -> SessionEnd {
        let end = match self.begin(&client, peer).await {
            Ok((mut target, head, lease)) => {
                let end = self.relay(&client, &target, head, lease.id()).await;
                target.orderly = end.is_orderly();
                end
            }
            Err(end) => end,
        };
        client.orderly = end.is_orderly();
        end
    }

    /// Everything before bytes are forwarded. Returns the target leg and what goes to it first.
    async fn begin(&mut self, client: &TcpStream, peer: SocketAddr) -> Result<(Leg, Bytes, Lease<'a>), SessionEnd> {
        let shared = &*self.worker.shared;
        let listener = &shared.config.listeners[self.listener];
        let accepted = proxy_protocol::accept(client, listener.accept_proxy).await.map_err(|error| {
            debug!(%peer, listener = listener.name, "{error}");
            SessionEnd::BadProxyHeader
        })?;
        let origin = match accepted.origin {
            Some(origin) => origin,
            None => Origin {
                source: peer,
                destination: client.local_addr().map_err(|_not_connected| SessionEnd::ClientGone)?,
            },
        };
        let (target, lease) = tokio::select! {
            biased;
            connected = self.connect(origin) => connected?,
            _ = client.ready(Interest::ERROR) => return Err(SessionEnd::ClientGone),
        };
        self.target = Some(lease.id());

        let mut head = match shared.target(lease.id()).0.send_proxy {
            Some(version) => proxy_protocol::encode(version, origin),
            None => Vec::new(),
        };
        head.extend_from_slice(&accepted.rest);
        self.route(lease.id()).bytes(Direction::Upload, Carrier::Copy).add(accepted.rest.len() as u64);
        Ok((target, head.into(), lease))
    }

    /// Connects to a target; after a failure to another that was not tried yet, up to the `connect_retries` of the
    /// group that failed last.
    async fn connect(&self, origin: Origin) -> Result<(Leg, Lease<'a>), SessionEnd> {
        let shared = &*self.worker.shared;
        let mut tried = Vec::new();
        loop {
            let selected = shared.select(self.listener, origin.source.ip(), &tried);
            self.log_refusal(selected.is_err() && tried.is_empty());
            let Ok(lease) = selected else {
                return Err(if tried.is_empty() { SessionEnd::NoTarget } else { SessionEnd::ConnectFailed });
            };
            let (group, target) = shared.target(lease.id());
            let route = self.route(lease.id());
            route.connects.add(1);
            match dial(target.address, &group.dial, &group.tcp).await {
                Ok(stream) => {
                    self.log_connect(lease.id(), None);
                    return Ok((Leg::new(stream), lease));
                }
                Err(error) => {
                    route.failures(error.reason()).add(1);
                    self.log_connect(lease.id(), Some(&error));
                    tried.push(lease.id());
                    if tried.len() > group.dial.connect_retries as usize {
                        return Err(SessionEnd::ConnectFailed);
                    }
                }
            }
        }
    }

    async fn relay(&self, client: &TcpStream, target: &TcpStream, head: Bytes, id: TargetId) -> SessionEnd {
        let settings = Settings::from(&self.worker.shared.config.listeners[self.listener]);
        Relay::new(client, target, head, settings, &self.worker.buffers, self.route(id)).run().await
    }

    fn route(&self, id: TargetId) -> &'a RouteCell {
        self.worker.shared.stats.route(self.listener, id, self.worker.index)
    }

    /// Logs that the listener refuses sessions, or no longer does, once per change.
    fn log_refusal(&self, refusing: bool) {
        let shared = &self.worker.shared;
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
        let shared = &self.worker.shared;
        if shared.failing(id).set(error.is_some()) {
            let (group, target) = shared.target(id);
            match error {
                Some(error) => warn!(group = group.name, target_name = target.name, "{error}"),
                None => info!(group = group.name, target_name = target.name, "connects again"),
            }
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let ends = match self.target {
            Some(id) => &self.route(id).ends,
            None => &self.worker.shared.stats.listener(self.listener, self.worker.index).ends,
        };
        ends.of(self.end).add(1);
    }
}

/// A connection that ends by RST unless its session ended in order: a peer must never take a stream that was cut
/// for a whole one.
struct Leg {
    stream: TcpStream,
    orderly: bool,
}

impl Leg {
    fn new(stream: TcpStream) -> Self {
        Self { stream, orderly: false }
    }
}

impl Deref for Leg {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.orderly {
            reset_on_close(&self.stream);
        }
    }
}
