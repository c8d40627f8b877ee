//! Socket activation: systemd listens, and hands its sockets to the daemon that it starts (sd_listen_fds(3)).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Socket, Type};

/// Why the sockets of systemd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// What systemd says about them makes no sense.
    #[error("cannot take systemd's sockets (LISTEN_FDS): {0}")]
    Environment(#[source] io::Error),
    /// One of them is of another kind.
    #[error("socket {number} of systemd does not listen for streams; use ListenStream= with Accept=no")]
    Kind {
        /// Counts from 0, in the order of the socket units.
        number: usize,
    },
    /// The kernel refuses to tell about one of them.
    #[error("socket {number} of systemd: {source}")]
    Socket {
        /// Counts from 0, in the order of the socket units.
        number: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The sockets that systemd has handed over.
#[derive(Debug, Default)]
pub(crate) struct Activated {
    /// By the address that they are bound to.
    pub(crate) internet: Vec<(SocketAddr, Socket)>,
    /// Of which the control socket is one.
    pub(crate) unix: Vec<Socket>,
}

/// Takes over what systemd hands to this process; must be called once.
pub(crate) fn receive() -> Result<Activated, ActivationError> {
    let mut activated = Activated::default();
    for (number, raw) in sd_notify::listen_fds().map_err(ActivationError::Environment)?.enumerate() {
        // SAFETY: systemd opened this descriptor for this process, and nothing else here has taken it: this runs once, and
        // `listen_fds` has just found it open.
        let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(raw) });
        let failed = |source| ActivationError::Socket { number, source };
        let listens = getsockopt(&socket, sockopt::AcceptConn).map_err(|errno| failed(errno.into()))?;
        if !listens || socket.r#type().map_err(failed)? != Type::STREAM {
            return Err(ActivationError::Kind { number });
        }
        socket.set_nonblocking(true).map_err(failed)?;
        match socket.local_addr().map_err(failed)?.as_socket() {
            Some(address) => activated.internet.push((address, socket)),
            None => activated.unix.push(socket),
        }
    }
    Ok(activated)
}
