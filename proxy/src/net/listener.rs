//! Listening sockets: one per address and worker, joined by SO_REUSEPORT.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};

use super::options::{self, Liveness, OptionError};
use super::path;
use crate::config::TcpOptions;

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn` (4096 by default).
pub(crate) const BACKLOG: i32 = 4096;

/// The first wait after an accept that failed for want of a resource; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Short enough that service resumes at once for a person, long enough not to burn a CPU.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket could not be made, bound or put to listening.
    #[error("cannot listen on {address}: {source}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket option was refused.
    #[error("cannot listen on {address}: {source}")]
    Option {
        /// The address.
        address: SocketAddr,
        /// Which option.
        source: OptionError,
    },
}

/// `count` sockets that listen on `address` together, one for each worker. Clients are told to send no larger segments than
/// `segment` bytes. `beside`: this process listens there already.
pub(crate) fn bind(
    address: SocketAddr,
    tcp: &TcpOptions,
    segment: Option<u32>,
    count: usize,
    beside: bool,
) -> Result<Vec<Socket>, BindError> {
    if !beside {
        refuse_if_taken(address)?;
    }
    (0..count).map(|_| bind_one(address, tcp, segment)).collect()
}

/// SO_REUSEPORT would let a second daemon of the same user share the port silently: clients of one would reach the
/// other. A bind without the option tells.
fn refuse_if_taken(address: SocketAddr) -> Result<(), BindError> {
    let probe = || {
        let socket = options::tcp_socket(address)?;
        prepare(&socket, address)?;
        socket.bind(&address.into())
    };
    probe().map_err(|source| BindError::Socket { address, source })
}

fn bind_one(address: SocketAddr, tcp: &TcpOptions, segment: Option<u32>) -> Result<Socket, BindError> {
    let failed = |source| BindError::Socket { address, source };
    let socket = options::tcp_socket(address).map_err(failed)?;
    prepare(&socket, address).map_err(failed)?;
    socket.set_reuse_port(true).map_err(failed)?;
    configure(&socket, address, tcp)?;
    if let Some(segment) = segment {
        path::clamp(&socket, segment).map_err(|source| BindError::Option { address, source })?;
    }
    socket.bind(&address.into()).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    Ok(socket)
}

/// Gives a socket, which another process may have bound, the options of this configuration. Those that it accepts inherit them.
pub(crate) fn configure(socket: &Socket, address: SocketAddr, tcp: &TcpOptions) -> Result<(), BindError> {
    let set = options::apply(socket, tcp).and_then(|()| Liveness::of(tcp).apply(SockRef::from(socket)));
    set.map_err(|source| BindError::Option { address, source })
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // A restart must not wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // 0.0.0.0 and :: are two addresses of the configuration, not one.
        socket.set_only_v6(true)?;
    }
    Ok(())
}

/// Accepts connections and never gives up: an error is the peer's (the connection is gone already) or a want of
/// resources (it waits and tries again).
pub(crate) struct Acceptor {
    listener: TcpListener,
    backoff: Duration,
}

/// An accept that failed for want of a resource; the next [`Acceptor::accept`] waits first.
#[derive(Debug, thiserror::Error)]
#[error("cannot accept a connection: {source}; trying again in {wait:?}")]
pub(crate) struct AcceptError {
    source: io::Error,
    wait: Duration,
}

impl Acceptor {
    /// Takes over a listening socket; must be called on the runtime that will accept.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(socket.into())?, backoff: Duration::ZERO })
    }

    /// The next connection. Cancelling loses none.
    pub(crate) async fn accept(&mut self) -> Result<(TcpStream, SocketAddr), AcceptError> {
        if !self.backoff.is_zero() {
            tokio::time::sleep(self.backoff).await;
        }
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.backoff = Duration::ZERO;
                    return Ok(accepted);
                }
                Err(error) if is_peers(&error) => {}
                Err(source) => {
                    self.backoff = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
                    return Err(AcceptError { source, wait: self.backoff });
                }
            }
        }
    }

    /// The next connection that is waiting already, if any.
    pub(crate) fn accept_waiting(&self) -> Option<(TcpStream, SocketAddr)> {
        use std::task::{Context, Poll, Waker};
        match self.listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(accepted)) => Some(accepted),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }
}

/// Linux passes pending network errors of the new connection on to accept (accept(2), "Error handling").
fn is_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable
    )
}
