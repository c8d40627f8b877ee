//! What is noted of one session while it lives, for metrics and for the session log.
//!
//! It belongs to the session's worker, so plain cells do.

use std::cell::Cell;
use std::time::Duration;

use crate::stats::{Carrier, Direction};

/// Times and bytes of one session.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Whether the session log is to have it.
    pub(crate) is_logged: bool,
    /// Targets that were tried.
    pub(crate) tries: u8,
    /// From the accept until the first target was chosen, and from there until one was connected.
    pub(crate) queue: Duration,
    pub(crate) connect: Duration,
    /// When the first byte for the target was read, since the target is connected; `None`: not seen in user space.
    pub(crate) asked: Cell<Option<Duration>>,
    /// From the first byte that was sent on to the target, or from the connect if the target speaks first, to its first
    /// byte; `None`: not seen.
    pub(crate) first_byte: Cell<Option<Duration>>,
    /// The last round-trip times to the client and to the target, if the session is logged.
    pub(crate) round_trips: [Cell<Option<Duration>>; 2],
    bytes: [[Cell<u64>; Carrier::ALL.len()]; Direction::ALL.len()],
}

impl Tally {
    /// Of a session that has just been connected to a target.
    pub(crate) fn new(is_logged: bool, tries: u8, queue: Duration, connect: Duration) -> Self {
        Self { is_logged, tries, queue, connect, ..Self::default() }
    }

    /// `carrier` moved `new` more bytes.
    pub(crate) fn add(&self, direction: Direction, carrier: Carrier, new: u64) {
        let bytes = &self.bytes[direction as usize][carrier as usize];
        bytes.set(bytes.get() + new);
    }

    /// Bytes that `carrier` moved.
    pub(crate) fn carried(&self, direction: Direction, carrier: Carrier) -> u64 {
        self.bytes[direction as usize][carrier as usize].get()
    }

    /// Bytes in the order of [`Direction::ALL`] and [`Carrier::ALL`].
    pub(crate) fn bytes(&self) -> [[u64; Carrier::ALL.len()]; Direction::ALL.len()] {
        [0, 1].map(|direction: usize| std::array::from_fn(|carrier| self.bytes[direction][carrier].get()))
    }
}
