//! A binary upgrade: the running daemon starts the new binary and hands its listening sockets over.
//!
//! The sockets go over a pair of Unix sockets, whose far end is the new process's standard input. That process says when
//! it is ready; then the old one lets go of its joined sessions, and the new one adopts them and says when it serves. Until
//! then the old one goes on. If the new one ends before, nothing has changed, except that the old one joins no more if it
//! had let go. A word in the environment says what else the old one can hand over: what the operator has ordered. Both
//! accept from the same sockets in between, so no client is refused.

mod inheritance;
mod link;
mod successor;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub(crate) use self::inheritance::Inheritance;
pub(crate) use self::link::Kind;
pub(crate) use self::successor::Successor;
use crate::orders::Ordered;

/// Tells the new process what its standard input is.
const VARIABLE: &str = "LANDBRIDGE_HANDOVER";

/// The value of [`VARIABLE`] where the former process can hand over orders; it was another one before.
const WITH_ORDERS: &str = "stdin, orders";

/// What the new process says when it could serve.
const READY: &[u8] = b"ready";
/// The same, said to a former process that can hand over orders: they are wanted.
const READY_FOR_ORDERS: &[u8] = b"ready for orders";
/// What it says when it serves.
const SERVING: &[u8] = b"serving";

/// The new process waits for its first probes, a minute at most, and needs some seconds to load its eBPF programs.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why sockets were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The new process could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The binary.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The sockets could not be sent or received.
    #[error("cannot hand over the sockets: {0}")]
    Transfer(#[from] io::Error),
    /// The other process ended, or did not do its part in time.
    #[error("the other process does not serve: {0}")]
    NotReady(String),
}

/// What is left to a process that takes over.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The sockets that hold the ports of the joined sessions.
    pub(crate) shadows: Vec<OwnedFd>,
    /// What the operator has ordered.
    pub(crate) orders: Vec<Ordered>,
}
