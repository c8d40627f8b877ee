//! Socket options of a leg, and its end by RST.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use landbridge_core::vigil::PROBES;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::TcpOptions;
use crate::config::units::written;
use crate::tcp::set;

/// A socket option that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{option} {value}: {source}")]
pub struct OptionError {
    option: &'static str,
    value: String,
    #[source]
    source: io::Error,
}

/// A non-blocking TCP socket of the family of `address`.
pub(super) fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

/// What finds out that a leg's peer does not answer any more. A target leg has it only when it has lasted for a moment: four
/// system calls and a timer are three hundredths of what a short session costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Liveness {
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
}

impl Liveness {
    /// As the configuration says.
    pub(crate) fn of(options: &TcpOptions) -> Self {
        Self { keepalive: options.keepalive, user_timeout: options.user_timeout }
    }

    /// Sets it.
    pub(crate) fn apply(self, socket: SockRef<'_>) -> Result<(), OptionError> {
        if let Some(idle) = self.keepalive {
            let keepalive = TcpKeepalive::new().with_time(idle).with_interval(idle);
            // With a `user_timeout` that alone says when the leg counts as dead (linux/net/ipv4/tcp_timer.c,
            // tcp_keepalive_timer).
            let keepalive = match self.user_timeout {
                Some(_) => keepalive,
                None => keepalive.with_retries(PROBES),
            };
            check("keepalive", written(idle), socket.set_tcp_keepalive(&keepalive))?;
        }
        if let Some(timeout) = self.user_timeout {
            check("user_timeout", written(timeout), socket.set_tcp_user_timeout(Some(timeout)))?;
        }
        Ok(())
    }
}

/// Sets what `options` says beside [`Liveness`], and TCP_NODELAY: a proxy adds no delay of its own to small writes.
pub(super) fn apply(socket: &Socket, options: &TcpOptions) -> Result<(), OptionError> {
    check("TCP_NODELAY", "on", socket.set_tcp_nodelay(true))?;
    if let Some(name) = &options.congestion {
        let set = socket.set_tcp_congestion(name.as_bytes()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other("the kernel has no such algorithm (sysctl net.ipv4.tcp_available_congestion_control)")
            }
            _ => error,
        });
        check("congestion", name, set)?;
    }
    if let Some(name) = &options.interface {
        check("interface", name, socket.bind_device(Some(name.as_bytes())))?;
    }
    Ok(())
}

/// Lets the kernel choose a source port at connect time, per destination, instead of at bind time for all.
pub(super) fn bind_address_no_port(socket: &Socket) -> Result<(), OptionError> {
    let set = setsockopt(socket, sockopt::IpBindAddressNoPort, &true).map_err(io::Error::from);
    check("IP_BIND_ADDRESS_NO_PORT", "on", set)
}

/// Saves the packet that acknowledges the peer's half of the handshake alone: it goes out with the first bytes sent, or after
/// 200 ms without any (linux/net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process). To be set before it connects.
pub(super) fn answer_with_data(socket: &Socket) -> Result<(), OptionError> {
    // One second is the least; of a socket that connects only whether it is set matters.
    let seconds: libc::c_int = 1;
    check("TCP_DEFER_ACCEPT", seconds, set(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, &[seconds]))
}

/// Makes the kernel end this connection with an RST when the socket is closed, and drop what is unsent.
pub(super) fn reset_on_close(socket: BorrowedFd<'_>) {
    // Fails only on a socket that is closed already, and then there is nothing to reset.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

pub(super) fn check(option: &'static str, value: impl ToString, result: io::Result<()>) -> Result<(), OptionError> {
    result.map_err(|source| OptionError { option, value: value.to_string(), source })
}
