//! One direction of a session: bytes from one leg to the other, until the end of the stream has been passed on.
//!
//! ```text
//!            wants_kernel, nothing waiting                 alarm, or the source has ended
//! User ────────────────────────────────────► Kernel ─────────────────────────────────────► Delivering
//!   ▲ copies or splices       (refused: stays) │ the kernel forwards, nobody is woken           │ waits until the sink has
//!   └──────────────────────────────────────────┴────────────────────────────────────────────────┘ all that was redirected
//! ```

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use landbridge_core::datapath::{Demotion, Judge, Method, Policy, Promote};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use tokio::io::Interest;
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::pipe::Pipe;
use super::{Buffers, Kernel};
use crate::fastpath::{Alarm, FastPath, Promoted};
use crate::net::hangup::Watch;
use crate::net::leg::Leg;
use crate::stats::{Carrier, Direction, RouteCell};

/// Bytes after which a direction lets the worker's other sessions have a turn.
const TURN: u64 = 4 << 20;

/// How often the kernel is asked whether the sink was given everything. There is no event for it.
const DELIVERY_POLL: Duration = Duration::from_millis(1);

/// What a direction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The end of the stream was passed on.
    Ended,
    /// The source should become quiet, and [`Flow::promote`] be called.
    WantsKernel,
    /// The source should be read again.
    LeftKernel,
}

/// Why a direction could not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Source,
    Sink,
    /// What the source received is not what was read and redirected.
    Integrity,
}

/// The state of one direction.
pub(super) struct Flow {
    direction: Direction,
    judge: Judge,
    promote: Promote,
    stage: Stage,
    held: Held,
    end: End,
    /// The source has broken: its stream is cut wherever it seems to end.
    cut: bool,
    /// Whether the source held nothing after the last read: only whole packets can be in it since.
    drained: bool,
    /// Bytes that user space read from the source since it was connected.
    read: u64,
    /// Bytes that the kernel has redirected, over all promotions that are over.
    redirected: u64,
    /// Bytes that the sink's kernel was given since it was connected, redirected ones included.
    given: u64,
    /// Bytes that moved; it grows whenever something is seen to move.
    moved: u64,
    began: Instant,
}

/// Who moves the bytes.
enum Stage {
    User,
    Kernel { promoted: Promoted<'static>, watch: Watch, counted: u64 },
    Delivering { promoted: Promoted<'static>, counted: u64, pause: Pin<Box<Sleep>> },
}

/// What was read and the sink has not taken yet.
#[derive(Debug)]
enum Held {
    Nothing,
    Bytes(Bytes),
    Pipe(Pipe),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The source has ended; what is held has still to be sent.
    Read,
    /// The sink has been told.
    Passed,
}

/// What a direction works with.
#[derive(Clone, Copy)]
pub(super) struct Between<'a> {
    pub(super) source: &'a Leg,
    pub(super) sink: &'a Leg,
    pub(super) buffers: &'a Buffers,
    pub(super) cell: &'a RouteCell,
}

impl Flow {
    /// A direction that first sends `head`. `read`: bytes that were read from the source before.
    pub(super) fn new(direction: Direction, policy: Policy, head: Bytes, read: u64) -> Self {
        Self {
            direction,
            judge: Judge::new(policy),
            promote: policy.promote,
            stage: Stage::User,
            held: Held::Bytes(head),
            end: End::Open,
            cut: false,
            drained: read == 0,
            read,
            redirected: 0,
            given: 0,
            moved: 0,
            began: Instant::now(),
        }
    }

    /// Whether the end of the stream was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.end == End::Passed
    }

    /// Bytes that moved so far; what the kernel moves is seen every two seconds.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// From now on an end of the stream is not passed on. The socket tells of its failure once only: after that it
    /// seems to have ended in order.
    pub(super) fn cut(&mut self) {
        self.cut = true;
        self.judge.refused();
    }

    /// Moves what can be moved. Ready when there is a [`Step`] to take, or a leg is broken; what had been received before
    /// the source broke has then been given to the sink's kernel.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<Result<Step, Broken>> {
        loop {
            match &self.stage {
                Stage::User => return self.poll_user(cx, between),
                Stage::Kernel { .. } => ready!(self.poll_kernel(cx, between))?,
                Stage::Delivering { .. } => {
                    ready!(self.poll_delivering(cx, between))?;
                    return Poll::Ready(Ok(Step::LeftKernel));
                }
            }
        }
    }

    /// Hands the direction to the kernel, or stays in user space if that refuses. Returns whether it did.
    ///
    /// `source` and `sink` must stay open until this flow is dropped.
    pub(super) fn promote(
        &mut self,
        source: BorrowedFd<'static>,
        sink: BorrowedFd<'static>,
        kernel: &Kernel,
        cell: &RouteCell,
    ) -> bool {
        debug_assert!(self.drained && matches!(self.held, Held::Nothing), "bytes would be overtaken");
        let promoted = kernel.hangups.watch(source).map_err(|error| ("watch", error.to_string())).and_then(|watch| {
            let promoted = kernel.fastpath.promote(source, sink, self.given);
            promoted.map(|promoted| (promoted, watch)).map_err(|error| (error.reason(), error.to_string()))
        });
        match promoted {
            Ok((promoted, watch)) => {
                if self.promote == Promote::AtOnce {
                    promoted.ignore_bulk();
                }
                cell.promotions.add(1);
                self.stage = Stage::Kernel { promoted, watch, counted: 0 };
                true
            }
            Err((reason, error)) => {
                debug!(reason, "a direction stays in user space: {error}");
                cell.promotion_failures.add(1);
                self.judge.refused();
                false
            }
        }
    }

    fn poll_user(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<Result<Step, Broken>> {
        let turn = self.moved + TURN;
        loop {
            ready!(self.poll_send_held(cx, between)).map_err(|_gone| Broken::Sink)?;
            match self.end {
                End::Open => {}
                End::Read if self.cut => return Poll::Ready(Err(Broken::Source)),
                End::Read => {
                    self.pass_end(between)?;
                    self.end = End::Passed;
                    return Poll::Ready(Ok(Step::Ended));
                }
                End::Passed => return Poll::Ready(Ok(Step::Ended)),
            }
            if self.drained && self.judge.wants_kernel() {
                return Poll::Ready(Ok(Step::WantsKernel));
            }
            if self.moved >= turn {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(between.source.poll_readable(cx)).map_err(|_gone| Broken::Source)?;
            match self.read(between) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                Err(_gone) => return Poll::Ready(Err(Broken::Source)),
                Ok(0) => self.end = End::Read,
                Ok(read) => {
                    self.read += read as u64;
                    self.moved += read as u64;
                }
            }
        }
    }

    /// Ready when the direction has been taken out of the kernel.
    fn poll_kernel(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<Result<(), Broken>> {
        self.count_redirected(between.cell);
        let Stage::Kernel { promoted, watch, .. } = &mut self.stage else { return Poll::Ready(Ok(())) };
        let why = match (watch.poll(cx), promoted.poll_alarm(cx)) {
            (Poll::Ready(()), _) => Demotion::Ended,
            (_, Poll::Ready(Alarm::Behind)) => Demotion::Behind,
            (_, Poll::Ready(Alarm::Bulk)) => Demotion::Bulk,
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
        };
        promoted.stop().map_err(|_gone| Broken::Source)?;
        between.cell.demotions(why).add(1);
        self.judge.demoted(why);
        self.count_redirected(between.cell);
        let stage = std::mem::replace(&mut self.stage, Stage::User);
        if let Stage::Kernel { promoted, counted, .. } = stage {
            self.stage = Stage::Delivering { promoted, counted, pause: Box::pin(sleep(Duration::ZERO)) };
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the sink's kernel has been given everything that was redirected.
    fn poll_delivering(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<Result<(), Broken>> {
        let Stage::Delivering { promoted, pause, .. } = &mut self.stage else { return Poll::Ready(Ok(())) };
        while !promoted.is_delivered().map_err(|_gone| Broken::Sink)? {
            ready!(pause.as_mut().poll(cx));
            pause.as_mut().reset(Instant::now() + DELIVERY_POLL);
        }
        self.count_redirected(between.cell);
        if let Stage::Delivering { promoted, .. } = std::mem::replace(&mut self.stage, Stage::User) {
            let redirected = promoted.finish().map_err(|_gone| Broken::Sink)?.bytes;
            self.redirected += redirected;
            self.given += redirected;
        }
        // The kernel took whole packets only.
        self.drained = true;
        Poll::Ready(Ok(()))
    }

    /// Adds what the kernel has moved since the last time.
    fn count_redirected(&mut self, cell: &RouteCell) {
        let (promoted, counted) = match &mut self.stage {
            Stage::User => return,
            Stage::Kernel { promoted, counted, .. } | Stage::Delivering { promoted, counted, .. } => {
                (promoted, counted)
            }
        };
        let redirected = promoted.redirected().bytes;
        let new = redirected - *counted;
        *counted = redirected;
        self.moved += new;
        cell.bytes(self.direction, Carrier::Sockmap).add(new);
    }

    /// Tells the sink that the stream has ended, if it is whole.
    fn pass_end(&self, between: Between<'_>) -> Result<(), Broken> {
        if self.redirected > 0 {
            let source = between.source.socket().map_err(|_gone| Broken::Source)?;
            let received = FastPath::received(source).map_err(|_gone| Broken::Source)?;
            // The kernel counts the FIN as a byte.
            if received != self.read + self.redirected + 1 {
                return Err(Broken::Integrity);
            }
        }
        let sink = between.sink.socket().map_err(|_gone| Broken::Sink)?;
        shutdown(sink.as_raw_fd(), Shutdown::Write).map_err(|_gone| Broken::Sink)
    }

    fn poll_send_held(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<io::Result<()>> {
        let Between { sink, buffers, .. } = between;
        loop {
            match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(bytes) if bytes.is_empty() => self.held = Held::Nothing,
                Held::Bytes(bytes) => {
                    ready!(sink.poll_writable(cx))?;
                    let sent = try_send(sink, bytes)?;
                    self.given += sent as u64;
                    bytes.advance(sent);
                }
                Held::Pipe(pipe) => {
                    ready!(sink.poll_writable(cx))?;
                    match sink.try_io(Interest::WRITABLE, |socket| pipe.empty(socket)) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Poll::Ready(Err(error)),
                        Ok(moved) => self.given += moved as u64,
                    }
                    if pipe.held() == 0
                        && let Held::Pipe(pipe) = std::mem::replace(&mut self.held, Held::Nothing)
                    {
                        buffers.pipes.put(pipe);
                    }
                }
            }
        }
    }

    /// Reads once, by the method of the moment; nothing is held.
    fn read(&mut self, between: Between<'_>) -> io::Result<usize> {
        let (read, carrier) = match self.judge.method() {
            Method::Copy => (self.copy(between)?, Carrier::Copy),
            Method::Splice => match self.splice(between)? {
                // A closed connection gives splice nothing even when bytes wait in it: only recv knows.
                0 => (self.copy(between)?, Carrier::Copy),
                moved => (moved, Carrier::Splice),
            },
        };
        self.judge.read(read, self.drained, self.began.elapsed());
        between.cell.bytes(self.direction, carrier).add(read as u64);
        Ok(read)
    }

    /// Reads into the worker's buffer and sends it on at once; what the sink does not take is held.
    fn copy(&mut self, between: Between<'_>) -> io::Result<usize> {
        let mut buffer = between.buffers.scratch.borrow_mut();
        let read = try_recv(between.source, &mut buffer)?;
        self.drained = read < buffer.len();
        // A broken sink shows again, and is reported, when the held rest is sent.
        let sent = try_send(between.sink, &buffer[..read]).unwrap_or(0);
        self.given += sent as u64;
        if sent < read {
            self.held = Held::Bytes(Bytes::copy_from_slice(&buffer[sent..read]));
        }
        Ok(read)
    }

    /// Fills a pipe, which is then held.
    fn splice(&mut self, between: Between<'_>) -> io::Result<usize> {
        let Between { source, buffers, .. } = between;
        // Without a descriptor for a pipe: copy.
        let Ok(mut pipe) = buffers.pipes.take() else { return Ok(0) };
        let moved = source.try_io(Interest::READABLE, |socket| pipe.fill(socket));
        match moved {
            Ok(1..) => {
                self.drained = false;
                self.held = Held::Pipe(pipe);
            }
            Ok(0) | Err(_) => buffers.pipes.put(pipe),
        }
        moved
    }
}

/// Receives what is there, at most a buffer full. A short read has emptied the socket: its readiness is cleared without
/// the further call that would only say EAGAIN.
fn try_recv(leg: &Leg, buffer: &mut [u8]) -> io::Result<usize> {
    let mut received = 0;
    let result = leg.try_io(Interest::READABLE, |socket| {
        received = recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        let short = 0 < received && received < buffer.len();
        if short { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock || received == 0 => Err(error),
        Ok(()) | Err(_) => Ok(received),
    }
}

/// Sends what the socket takes, 0 if that is nothing.
fn try_send(leg: &Leg, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    let result = leg.try_io(Interest::WRITABLE, |socket| {
        while sent < bytes.len() {
            sent += send(socket.as_raw_fd(), &bytes[sent..], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
        }
        Ok(())
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Ok(sent),
    }
}
