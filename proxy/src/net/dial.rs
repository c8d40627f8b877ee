//! Connecting to a target.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::options::{self, OptionError};
use super::path;
use crate::config::{Dial, TcpOptions};

/// A target leg that could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// This host could not prepare the socket.
    #[error("cannot prepare a connection to {target}: {source}")]
    Socket {
        /// Where to.
        target: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket option was refused.
    #[error("cannot prepare a connection to {target}: {source}")]
    Option {
        /// Where to.
        target: SocketAddr,
        /// Which option.
        source: OptionError,
    },
    /// The target or the network said no.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Where to.
        target: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("cannot connect to {target}: no answer within {limit:?}")]
    Timeout {
        /// Where to.
        target: SocketAddr,
        /// `connect_timeout`
        limit: Duration,
    },
}

/// Why a connect failed, as the metric label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// The target's host answered that nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// No route, or a router said so.
    Unreachable,
    /// This host lacks a resource: descriptors, memory, ports, the interface or the source address.
    Local,
    /// Anything else.
    Other,
}

impl FailureReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Refused, Self::Timeout, Self::Unreachable, Self::Local, Self::Other];

    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

impl DialError {
    /// The class of this error.
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Socket { .. } | Self::Option { .. } => FailureReason::Local,
            Self::Timeout { .. } => FailureReason::Timeout,
            Self::Connect { source, .. } => match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
                Errno::ECONNREFUSED => FailureReason::Refused,
                Errno::ETIMEDOUT => FailureReason::Timeout,
                Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN => {
                    FailureReason::Unreachable
                }
                Errno::EADDRNOTAVAIL
                | Errno::EADDRINUSE
                | Errno::EACCES
                | Errno::EPERM
                | Errno::ENODEV
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EAGAIN => FailureReason::Local,
                _ => FailureReason::Other,
            },
        }
    }
}

/// What a connection to a target is for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Opening {
    /// The largest segment that the target may send, in bytes.
    pub(crate) segment: Option<u32>,
    /// Whether there are bytes to send as soon as it stands.
    pub(crate) speaks_first: bool,
}

/// Connects to `target`. Cancelling closes the attempt.
pub(crate) async fn dial(
    target: SocketAddr,
    dial: &Dial,
    tcp: &TcpOptions,
    opening: Opening,
) -> Result<TcpStream, DialError> {
    let socket = prepare(target, dial, tcp, opening)?;
    let limit = dial.connect_timeout;
    match timeout(limit, TcpSocket::from_std_stream(socket.into()).connect(target)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(DialError::Connect { target, source }),
        Err(_elapsed) => Err(DialError::Timeout { target, limit }),
    }
}

fn prepare(target: SocketAddr, dial: &Dial, tcp: &TcpOptions, opening: Opening) -> Result<Socket, DialError> {
    let failed = |source| DialError::Socket { target, source };
    let refused = |source| DialError::Option { target, source };
    let socket = options::tcp_socket(target).map_err(failed)?;
    options::apply(&socket, tcp).map_err(refused)?;
    if let Some(segment) = opening.segment {
        path::clamp(&socket, segment).map_err(refused)?;
    }
    if opening.speaks_first {
        options::answer_with_data(&socket).map_err(refused)?;
    }
    if let Some(source) = dial.source {
        options::bind_address_no_port(&socket).map_err(refused)?;
        let bound = socket.bind(&SocketAddr::new(source, 0).into());
        options::check("source", source, bound).map_err(refused)?;
    }
    Ok(socket)
}
