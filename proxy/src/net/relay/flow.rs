//! One direction of a session: bytes from one leg to the other, until the end of the stream has been passed on.
//!
//! Where it stands, and what may happen next, is decided by `core`'s [`Life`]; here it is done. In user space a direction
//! copies or splices; in the kernel nobody is woken until an alarm or the end of the source; on the way back it waits until
//! the sink has been given all that was redirected.

mod kernel;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use landbridge_core::datapath::{Judge, Method, Pace, Policy};
use landbridge_core::life::{Broken, Event, Life, State};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::time::Instant;

use self::kernel::Entered;
use super::Buffers;
use super::pipe::Pipe;
use super::socket::{try_recv, try_send};
use crate::fastpath::FastPath;
use crate::net::leg::Leg;
use crate::stats::{Carrier, Direction, Presence, RouteCell};
use crate::tally::Tally;

/// Bytes after which a direction lets the worker's other sessions have a turn.
const TURN: u64 = 4 << 20;

/// What a direction needs from its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing more: the end of the stream was passed on.
    Ended,
    /// The source should become quiet, and [`Flow::promote`] be called.
    WantsKernel,
    /// The source should be read again.
    LeftKernel,
}

/// One direction.
pub(super) struct Flow<'a> {
    direction: Direction,
    cell: Arc<RouteCell>,
    tally: &'a Tally,
    judge: Judge,
    life: Life,
    /// The pace at which it wanted to be promoted.
    pace: Pace,
    /// What the kernel has of it, while it is promoted or on its way back.
    entered: Option<Box<Entered<'a>>>,
    held: Held,
    /// Whether the source held nothing after the last read: only whole packets can be in it since.
    drained: bool,
    /// Bytes that moved; it grows whenever something is seen to move.
    moved: u64,
    began: Instant,
    /// When the first byte was read, since it began.
    first_read: Option<Duration>,
    /// What carries it, for whoever asks how many directions each datapath has.
    presence: Presence,
}

/// What was read and the sink has not taken yet.
#[derive(Debug)]
enum Held {
    Nothing,
    Bytes(Bytes),
    Pipe(Pipe),
}

/// What a direction works with.
#[derive(Clone, Copy)]
pub(super) struct Between<'a> {
    pub(super) source: &'a Leg,
    pub(super) sink: &'a Leg,
    pub(super) buffers: &'a Buffers,
    /// Whether the direction may enter the kernel on its own now.
    pub(super) promote: bool,
    /// Whether the other direction has ended, so that the session ends with this one.
    pub(super) last: bool,
}

/// What was done of a direction before its session's legs were joined by a relay.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// What is sent first.
    pub(crate) bytes: Bytes,
    /// Bytes that were read from the source.
    pub(crate) read: u64,
    /// Whether more may wait in the source.
    pub(crate) more: bool,
}

impl<'a> Flow<'a> {
    pub(super) fn new(
        direction: Direction,
        policy: Policy,
        head: Head,
        (cell, tally): (Arc<RouteCell>, &'a Tally),
    ) -> Self {
        let presence = Presence::new(Arc::clone(&cell), direction, Carrier::Copy);
        Self {
            direction,
            cell,
            tally,
            judge: Judge::new(policy),
            life: Life::new(head.bytes.len() as u64, head.read),
            pace: Pace::Slow,
            entered: None,
            drained: !head.more,
            moved: head.bytes.len() as u64,
            first_read: (!head.bytes.is_empty()).then_some(Duration::ZERO),
            held: Held::Bytes(head.bytes),
            began: Instant::now(),
            presence,
        }
    }

    /// Whether the end of the stream was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.life.state() == State::Closed
    }

    /// Whether everything that was read has been given on, and nothing waits anywhere.
    pub(super) fn is_resting(&self) -> bool {
        self.drained && matches!(self.held, Held::Nothing) && self.life.state() == State::User
    }

    /// Bytes taken from the source and given to the sink so far; those in the kernel count once they are delivered.
    pub(super) fn books(&self) -> (u64, u64) {
        (self.life.taken(), self.life.given())
    }

    /// Bytes that moved so far; what the kernel moves is seen every two seconds.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// When the first byte was read, since it began.
    pub(super) fn first_read(&self) -> Option<Duration> {
        self.first_read
    }

    /// How long ago it began.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// From now on an end of the stream is not passed on.
    pub(super) fn cut(&mut self) {
        self.life.cut();
    }

    /// Moves what can be moved. Ready when there is a [`Step`] to take, or the stream is broken; what had been received
    /// before its source broke has then been given to the sink's kernel.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<Result<Step, Broken>> {
        let turn = self.moved + TURN;
        loop {
            let done = match self.life.state() {
                State::User if self.moved >= turn => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::User => ready!(self.poll_user(cx, between)),
                State::Promoting => return Poll::Ready(Ok(Step::WantsKernel)),
                State::Kernel => ready!(self.poll_kernel(cx)),
                State::Demoting => match ready!(self.poll_demoting(cx)) {
                    Ok(()) => return Poll::Ready(Ok(Step::LeftKernel)),
                    broken => broken,
                },
                State::HalfClosed => match ready!(self.poll_send_held(cx, between)) {
                    // Nothing is held any more: the books have to say so too.
                    Ok(()) if self.life.state() == State::HalfClosed => Err(Broken::Integrity),
                    Ok(()) => Ok(()),
                    Err(_gone) => Err(Broken::Sink),
                },
                State::Drained => self.pass_end(between),
                State::Closed => return Poll::Ready(Ok(Step::Ended)),
                State::Broken(broken) => return Poll::Ready(Err(broken)),
            };
            if let Err(broken) = done {
                self.life.on(Event::Failed(broken));
            }
        }
    }

    /// Sends what is held and reads once more. Ready when something has changed.
    fn poll_user(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<Result<(), Broken>> {
        ready!(self.poll_send_held(cx, between)).map_err(|_gone| Broken::Sink)?;
        if self.drained
            && between.promote
            && let Some(pace) = self.judge.wants_kernel(between.buffers.busy.get())
            && self.life.on(Event::Wants) == State::Promoting
        {
            self.pace = pace;
            return Poll::Ready(Ok(()));
        }
        ready!(between.source.poll_readable(cx)).map_err(|_gone| Broken::Source)?;
        match self.read(between) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
            Err(_gone) => return Poll::Ready(Err(Broken::Source)),
            Ok(0) => {
                self.life.on(Event::Ended);
            }
            Ok(_) => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the sink that the stream has ended, if it is whole.
    fn pass_end(&mut self, between: Between<'_>) -> Result<(), Broken> {
        let received = if self.life.was_in_kernel() {
            let source = between.source.socket().map_err(|_gone| Broken::Source)?;
            // The kernel counts the FIN as a byte.
            Some(FastPath::received(source).map_err(|_gone| Broken::Source)?.saturating_sub(1))
        } else {
            None
        };
        // When the other direction has ended too both legs are closed next, which says the same.
        if self.life.on(Event::Counted(received)) == State::Closed && !between.last {
            let sink = between.sink.socket().map_err(|_gone| Broken::Sink)?;
            shutdown(sink.as_raw_fd(), Shutdown::Write).map_err(|_gone| Broken::Sink)?;
        }
        Ok(())
    }

    fn poll_send_held(&mut self, cx: &mut Context<'_>, between: Between<'_>) -> Poll<io::Result<()>> {
        let Between { sink, buffers, .. } = between;
        loop {
            match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(bytes) if bytes.is_empty() => self.held = Held::Nothing,
                Held::Bytes(bytes) => {
                    ready!(sink.poll_writable(cx))?;
                    let sent = try_send(sink, bytes, false)?;
                    self.life.on(Event::Sent(sent as u64));
                    bytes.advance(sent);
                }
                Held::Pipe(pipe) => {
                    ready!(sink.poll_writable(cx))?;
                    match sink.try_io(Interest::WRITABLE, |socket| pipe.empty(socket)) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) => return Poll::Ready(Err(error)),
                        Ok(moved) => self.life.on(Event::Sent(moved as u64)),
                    };
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
        let now = self.age();
        if read > 0 && self.first_read.is_none() {
            self.first_read = Some(now);
        }
        self.judge.read(read, self.drained, now);
        self.presence.change(carrier);
        self.moved += read as u64;
        self.cell.bytes(self.direction, carrier).add(read as u64);
        self.tally.add(self.direction, carrier, read as u64);
        Ok(read)
    }

    /// Reads into the worker's buffer and sends it on at once; what the sink does not take is held.
    fn copy(&mut self, between: Between<'_>) -> io::Result<usize> {
        let Between { source, sink, buffers, .. } = between;
        let mut buffer = buffers.scratch.borrow_mut();
        let ending = source.is_ending();
        let mut read = try_recv(source, &mut buffer)?;
        // If the end is there too it goes out with the bytes before it.
        let mut after = None;
        if ending && 0 < read && read < buffer.len() {
            match try_recv(source, &mut buffer[read..]) {
                Ok(0) => after = Some(Event::Ended),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It is told once only.
                Err(_gone) => after = Some(Event::Failed(Broken::Source)),
            }
        }
        self.drained = read < buffer.len();
        self.life.on(Event::Read(read as u64));
        let last = after == Some(Event::Ended) && !self.life.is_cut();
        // A broken sink shows again, and is reported, when the held rest is sent.
        let sent = try_send(sink, &buffer[..read], last).unwrap_or(0);
        self.life.on(Event::Sent(sent as u64));
        if sent < read {
            self.held = Held::Bytes(Bytes::copy_from_slice(&buffer[sent..read]));
        }
        if let Some(event) = after {
            self.life.on(event);
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
                self.life.on(Event::Read(pipe.held() as u64));
                self.held = Held::Pipe(pipe);
            }
            Ok(0) | Err(_) => buffers.pipes.put(pipe),
        }
        moved
    }
}
