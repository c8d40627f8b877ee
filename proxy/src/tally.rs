//! What is noted of one session while it lives, for metrics and for the session log.
//!
//! It belongs to the session's worker, so plain cells do.

use std::cell::Cell;
use std::time::Duration;

use crate::stats::{Carrier, Direction};

/// Times and bytes of one session.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// From the first byte that was sent on to the target, or from the connect if the target speaks first, to its first
    /// byte; `None`: not seen.
    pub(crate) first_byte: Cell<Option<Duration>>,
    bytes: [[Cell<u64>; Carrier::ALL.len()]; Direction::ALL.len()],
}

impl Tally {
    /// `carrier` moved `new` more bytes.
    pub(crate) fn add(&self, direction: Direction, carrier: Carrier, new: u64) {
        let bytes = &self.bytes[direction as usize][carrier as usize];
        bytes.set(bytes.get() + new);
    }
}
