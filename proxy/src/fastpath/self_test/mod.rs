//! Proves at the start, on loopback connections, that this kernel forwards bytes whole, in order and unchanged, and that
//! its counters agree with what was sent.
//!
//! Two sessions at the same time, each both ways: one exchanges messages and is half-closed (`messages`); one has slow
//! readers behind small buffers and goes in and out of the kernel under load (`slow`). These are the situations in which
//! kernels were seen to lose or repeat bytes.

mod messages;
mod session;
mod slow;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use self::session::Deadline;
use super::PromoteError;
use super::engine::Engine;
use super::maps::{Counters, MapError};

/// The most time that the test may take; it needs some tens of milliseconds, and a few hundred if the end of a stream
/// meets a shut gate and has to be sent again. Past it the kernel loses or delays bytes. A machine whose CPUs are wanted by
/// many takes seconds, and a daemon that starts there should not be without its fast path until it ends.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// What a passed test saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    /// Bytes sent, all directions together.
    pub sent_bytes: u64,
    /// Those of them that user space copied while a direction was not in the kernel.
    pub copied_bytes: u64,
    /// How often a direction was promoted.
    pub promotions: u64,
    /// What the kernel counted while the test ran.
    pub kernel: Counters,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// What a failed test saw.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A connection failed, or bytes did not arrive in time.
    #[error("{step}")]
    Socket {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The maps could not be used.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A direction was not taken into the kernel.
    #[error(transparent)]
    Promote(#[from] PromoteError),
    /// Other bytes arrived than were sent.
    #[error("{test}: byte {offset} arrived changed")]
    Bytes {
        /// The part of the test.
        test: &'static str,
        /// The first byte that differs.
        offset: usize,
    },
    /// Something else was counted than was sent.
    #[error("{what}: {expected} sent, {counted} counted")]
    Counter {
        /// What was counted.
        what: &'static str,
        /// The right number.
        expected: u64,
        /// The number that was counted.
        counted: u64,
    },
    /// A part of the test ended without a result.
    #[error("{test} ended early")]
    Panicked {
        /// The part of the test.
        test: &'static str,
    },
}

/// Runs the test and leaves no entry behind, whatever comes out.
pub(super) fn run(engine: &Arc<Engine>) -> Result<SelfTest, Failure> {
    let deadline = Deadline::after(LIMIT);
    let before = engine.counters().all()?;
    let (messages, slow) = thread::scope(|scope| {
        let messages = scope.spawn(|| messages::run(engine, &deadline));
        let slow = slow::run(engine, &deadline);
        (messages.join().unwrap_or(Err(Failure::Panicked { test: messages::NAME })), slow)
    });
    let moved = messages? + slow?;
    let kernel = engine.counters().all()?.since(&before);
    agree("bytes redirected", moved.redirected, kernel.redirected_bytes)?;
    agree("bytes moved", moved.sent, moved.redirected + moved.copied)?;
    agree("packets without a flow", 0, kernel.no_flow)?;
    agree("packets without a peer", 0, kernel.no_peer)?;
    Ok(SelfTest {
        sent_bytes: moved.sent,
        copied_bytes: moved.copied,
        promotions: moved.promotions,
        kernel,
        took_us: deadline.spent().as_micros() as u64,
    })
}

/// Bytes that are not at the right place; both streams are those of [`session::pattern`] from `offset` on.
fn same(test: &'static str, offset: usize, received: &[u8]) -> Result<(), Failure> {
    match received.iter().enumerate().find(|(at, byte)| **byte != session::pattern(offset + at)) {
        None => Ok(()),
        Some((at, _)) => Err(Failure::Bytes { test, offset: offset + at }),
    }
}

fn agree(what: &'static str, expected: u64, counted: u64) -> Result<(), Failure> {
    if expected == counted { Ok(()) } else { Err(Failure::Counter { what, expected, counted }) }
}

fn at(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::Socket { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_bytes_and_wrong_counts_are_failures() {
        let stream: Vec<u8> = (5..9).map(session::pattern).collect();
        assert!(same("messages", 5, &stream).is_ok());
        assert!(matches!(same("messages", 4, &stream), Err(Failure::Bytes { offset: 4, .. })));
        assert!(agree("bytes", 7, 7).is_ok());
        assert_eq!(agree("bytes", 7, 6).unwrap_err().to_string(), "bytes: 7 sent, 6 counted");
    }
}
