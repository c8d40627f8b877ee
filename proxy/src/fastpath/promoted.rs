//! One direction while the kernel forwards it, and the way back.
//!
//! ```text
//! promote ──> kernel forwards ──stop──> stopped ──is_delivered──> finish ──> user space, or promote again
//!                   └───────────────────────┴── drop: the session is reset
//! ```

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use landbridge_common::{ALARM_BEHIND, ALARM_BROKEN, ALARM_BULK};

use super::engine::{Engine, Entry};
use super::flows::Redirected;
use super::maps::MapError;
use super::{Limits, PromoteError, tcp};
use crate::tcp::TcpInfo;

/// How long [`Promoted::stop`] waits for packets on their way from the gate to TCP. That takes a microsecond, but another CPU can
/// be held up in it: by an interrupt, and on a virtual machine by another guest, for milliseconds.
const SETTLE: Duration = Duration::from_millis(50);

/// Something the session should know about a direction that the kernel forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// The sink's peer falls behind: more than the soft limit is on its way. Above the hard limit the gate is shut until
    /// the direction is stopped.
    Behind,
    /// More than the limit for bulk arrived within 8.4 ms: user space moves such streams for less.
    Bulk,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Whether no packet was on its way to a verdict any more; else `stop` waited for 50 ms, and one may be lost.
    pub settled: bool,
    /// Packets that the gate dropped since the promotion; their sender repeats them.
    pub gate_dropped: u64,
}

/// A direction in the kernel.
///
/// It borrows both sockets, so that neither can be closed before its entries are gone. From the promotion until
/// [`finish`](Self::finish) nobody else may read the source or write to the sink, save that the source may be read (not
/// forwarded) after [`stop`](Self::stop). Dropping it earlier gives up the stream: bytes may be lost, and the session has
/// to be reset.
pub struct Promoted<'s> {
    engine: Arc<Engine>,
    source: BorrowedFd<'s>,
    sink: BorrowedFd<'s>,
    entry: Entry,
    ignore_bulk: AtomicBool,
    delivered: AtomicBool,
    verdict: bool,
    entered: bool,
}

impl<'s> Promoted<'s> {
    pub(super) fn new(
        engine: Arc<Engine>,
        source: BorrowedFd<'s>,
        sink: BorrowedFd<'s>,
        given: u64,
        limits: &Limits,
    ) -> Result<Self, PromoteError> {
        let entry = engine.insert(source, sink, given, limits)?;
        let [ignore_bulk, delivered] = [AtomicBool::new(false), AtomicBool::new(false)];
        let promoted = Self { engine, source, sink, entry, ignore_bulk, delivered, verdict: true, entered: true };
        // What arrived between the last read of the source and the insert has had no verdict.
        tcp::kick(source).map_err(|source| PromoteError::Socket { what: "the queue of the source", source })?;
        Ok(promoted)
    }

    /// Ready while there is an alarm, [`Alarm::Behind`] before [`Alarm::Bulk`]; each stays until the direction is stopped.
    /// Needs [`FastPath::run_alarms`](super::FastPath::run_alarms) to run. Only the last waker is woken.
    pub fn poll_alarm(&self, cx: &mut Context<'_>) -> Poll<Alarm> {
        if let Some(alarm) = self.alarm() {
            return Poll::Ready(alarm);
        }
        self.entry.taken.waker.register(cx.waker());
        // An alarm that came before the waker was there has woken nobody.
        self.alarm().map_or(Poll::Pending, Poll::Ready)
    }

    /// From now on [`Alarm::Bulk`] is not reported.
    pub fn ignore_bulk(&self) {
        self.ignore_bulk.store(true, Ordering::Relaxed);
    }

    /// What the kernel has moved since the promotion. Final once stopped. No system call.
    pub fn redirected(&self) -> Redirected {
        self.engine.flow(self.entry.taken.slot).redirected()
    }

    /// Takes the direction out of the kernel: what arrives from now on waits in the source for user space.
    ///
    /// Blocks for some microseconds. Packets that arrive meanwhile are dropped before TCP acknowledges them, and repeated
    /// by their sender. What the kernel had already taken is still on its way to the sink afterwards: write to the sink
    /// only when [`is_delivered`](Self::is_delivered) says so. Stopping twice does nothing.
    ///
    /// # Errors
    /// The kernel did not do it. Reset the session.
    pub fn stop(&mut self) -> io::Result<Stopped> {
        let flow = self.engine.flow(self.entry.taken.slot);
        let mut settled = true;
        if self.verdict {
            flow.shut_gate();
            settled = self.settle()?;
            self.engine.remove_source(self.entry.cookie).map_err(into_io)?;
            self.verdict = false;
            // A verdict that began before the removal has ended when the source's lock was free once.
            TcpInfo::of(self.source)?;
            flow.open_gate();
        }
        Ok(Stopped { settled, gate_dropped: flow.gate_dropped() })
    }

    /// Whether the kernel has lost bytes that it had acknowledged. [`Alarm::Behind`] told that something is wrong, and the sink was
    /// given nothing that came after them. Final once stopped. Reset the session.
    pub fn is_broken(&self) -> bool {
        self.engine.flow(self.entry.taken.slot).alarm() & ALARM_BROKEN != 0
    }

    /// Whether the direction is stopped and the sink's TCP has been given everything that the kernel redirected. Only then
    /// user space may write to the sink.
    ///
    /// It becomes true as the sink's peer reads; if the sink breaks it never does. There is no event for it: ask again
    /// after some hundred microseconds, or when the sink becomes writable.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_delivered(&self) -> io::Result<bool> {
        // Once true it stays so, but asking again could say less: what is acknowledged while it is added up is left out.
        if self.verdict || self.delivered.load(Ordering::Relaxed) {
            return Ok(!self.verdict);
        }
        let delivered = tcp::given_at_least(self.sink)? >= self.entry.given + self.redirected().bytes;
        self.delivered.store(delivered, Ordering::Relaxed);
        Ok(delivered)
    }

    /// Ends a direction that was stopped and delivered, and says what the kernel moved.
    ///
    /// # Errors
    /// It was not stopped or delivered, or the kernel did not remove it. Reset the session.
    pub fn finish(mut self) -> io::Result<Redirected> {
        if !self.is_delivered()? {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "bytes are still on their way in the kernel"));
        }
        // Read while the slot is ours.
        let redirected = self.redirected();
        self.entered = false;
        self.engine.remove(self.entry.cookie, self.entry.taken.slot).map_err(into_io)?;
        Ok(redirected)
    }

    fn alarm(&self) -> Option<Alarm> {
        let bits = self.engine.flow(self.entry.taken.slot).alarm();
        if bits & ALARM_BEHIND != 0 {
            Some(Alarm::Behind)
        } else if bits & ALARM_BULK != 0 && !self.ignore_bulk.load(Ordering::Relaxed) {
            Some(Alarm::Bulk)
        } else {
            None
        }
    }

    /// With the gate shut, waits until no packet is on its way to a verdict; returns whether that is so.
    ///
    /// Deleting a source while a verdict runs on it loses what the verdict has in hand, and all that is queued.
    fn settle(&self) -> io::Result<bool> {
        let flow = self.engine.flow(self.entry.taken.slot);
        let begin = Instant::now();
        loop {
            // Takes the source's lock: what had come to TCP has been processed, and a verdict that ran has ended.
            let segments = TcpInfo::of(self.source)?.segments;
            if flow.is_settled(segments) {
                return Ok(true);
            }
            if begin.elapsed() >= SETTLE {
                return Ok(false);
            }
        }
    }
}

impl Drop for Promoted<'_> {
    fn drop(&mut self) {
        if !self.entered {
            return;
        }
        // The session is reset whatever happens here, and the kernel removes what is left when the sockets are closed.
        let _gone = self.engine.remove_source(self.entry.cookie);
        // After it no verdict runs that could count into the slot.
        let _barrier = TcpInfo::of(self.source);
        let _gone = self.engine.remove(self.entry.cookie, self.entry.taken.slot);
    }
}

fn into_io(error: MapError) -> io::Error {
    io::Error::other(error)
}
