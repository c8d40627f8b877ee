//! One end of a session: sends its part, compares what arrives, and ends as planned.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use socket2::SockRef;

use super::plan::{Habits, Part, Plan, Reset, Rhythm, Role};
use crate::pattern::{Checker, Chunk, LONGEST_CHUNK, Source};
use crate::{Ending, SocketExt};

/// How far an end got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The session's number; `None` at a target that ended before it learned it.
    pub session: Option<u64>,
    /// Bytes that its kernel took, the session's number included.
    pub sent: u64,
    /// Bytes that it received and that were right, the session's number included.
    pub received: u64,
    /// How it ended. [`Ending::Closed`]: everything that there was to send and to receive was.
    pub ending: Ending,
}

/// What an end waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// For nothing but its turn.
    Again,
    /// For an event, or this time.
    Wait(Option<Instant>),
    /// It is over.
    Over(Outcome),
}

/// One end of a session.
#[derive(Debug)]
pub(super) struct End {
    stream: TcpStream,
    role: Role,
    habits: Habits,
    readable: bool,
    writable: bool,
    /// The session's number, as far as it was sent or received.
    number: [u8; NUMBER],
    named: usize,
    conversation: Option<Conversation>,
}

/// The client's first bytes are the number of its session.
const NUMBER: usize = size_of::<u64>();

#[derive(Debug)]
struct Conversation {
    session: u64,
    role: Role,
    part: Part,
    source: Source,
    rhythm: Rhythm,
    sender: Half,
    checker: Checker,
    expected: u64,
    reading: SmallRng,
    stopped: bool,
    receiver: Half,
    reset: Option<Reset>,
    may_be_reset: bool,
    was_reset: bool,
}

/// A sender or a receiver: what it is about to do, and when.
#[derive(Debug)]
struct Half {
    left: usize,
    due: Instant,
    done: bool,
}

impl End {
    /// The client of a session, which is being connected.
    pub(super) fn client(stream: TcpStream, habits: Habits, session: u64) -> Self {
        Self { number: session.to_be_bytes(), ..Self::new(stream, Role::Client, habits) }
    }

    /// The target of a session that has been accepted.
    pub(super) fn target(stream: TcpStream, habits: Habits) -> Self {
        Self::new(stream, Role::Target, habits)
    }

    fn new(stream: TcpStream, role: Role, habits: Habits) -> Self {
        let (number, named) = ([0; NUMBER], 0);
        Self { stream, role, habits, readable: false, writable: false, number, named, conversation: None }
    }

    /// Takes note of what the kernel says about the socket.
    pub(super) fn awake(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Does a little: at most one chunk each way.
    pub(super) fn step(&mut self, now: Instant, buffer: &mut [u8]) -> Result<Step> {
        let session = self.conversation.as_ref().map(|conversation| conversation.session);
        self.try_step(now, buffer).with_context(|| format!("the {:?} of session {session:?}", self.role))
    }

    /// How far it is, for messages.
    pub(super) fn describe(&self) -> String {
        let Some(it) = &self.conversation else { return format!("{:?} without a number", self.role) };
        let done = |half: &Half| if half.done { ", done" } else { "" };
        format!(
            "{:?} of session {}: sent {} of {}{}, received {} of {}{}, reset {:?}, {:?}{}",
            self.role,
            it.session,
            it.source.position(),
            it.part.length,
            done(&it.sender),
            it.checker.position(),
            it.expected,
            done(&it.receiver),
            it.reset,
            it.part.reader,
            if it.part.small_buffers { ", small buffers" } else { "" },
        )
    }

    fn try_step(&mut self, now: Instant, buffer: &mut [u8]) -> Result<Step> {
        let Some(conversation) = &mut self.conversation else { return self.learn_number(now) };
        let stream = &self.stream;
        conversation.send(stream, &mut self.writable, now, buffer).context("sending")?;
        conversation.receive(stream, &mut self.readable, now, buffer).context("receiving")?;
        if conversation.wants_reset() {
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
            return Ok(Step::Over(conversation.outcome(Ending::Reset)));
        }
        if conversation.was_reset && conversation.receiver.done {
            ensure!(conversation.may_be_reset, "it was reset, although the other end did not: {}", self.describe());
            return Ok(Step::Over(conversation.outcome(Ending::Reset)));
        }
        if conversation.sender.done && conversation.receiver.done {
            return Ok(Step::Over(conversation.outcome(Ending::Closed)));
        }
        let ready = [(&conversation.sender, self.writable), (&conversation.receiver, self.readable)];
        let due = ready.into_iter().filter(|(half, ready)| !half.done && *ready).map(|(half, _)| half.due).min();
        Ok(match due {
            Some(due) if due <= now => Step::Again,
            due => Step::Wait(due),
        })
    }

    /// Sends or receives the session's number.
    fn learn_number(&mut self, now: Instant) -> Result<Step> {
        let (ready, moved) = match self.role {
            Role::Client => (&mut self.writable, self.stream.write(&self.number[self.named..])),
            Role::Target => (&mut self.readable, self.stream.read(&mut self.number[self.named..])),
        };
        match moved {
            // Its client was reset while the proxy connected. Nothing is missing in a stream that never began.
            Ok(0) if self.role == Role::Target && self.named == 0 => {
                return Ok(Step::Over(self.nameless(Ending::Closed)));
            }
            Ok(0) => bail!("it ended in order before its number was complete"),
            Ok(moved) => self.named += moved,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                *ready = false;
                return Ok(Step::Wait(None));
            }
            // Its client was to reset it: which one that was nobody knows.
            Err(error) if is_reset(&error) && self.role == Role::Target => {
                return Ok(Step::Over(self.nameless(Ending::Reset)));
            }
            Err(error) => return Err(error).context("its number"),
        }
        if self.named < NUMBER {
            return Ok(Step::Again);
        }
        let session = u64::from_be_bytes(self.number);
        let conversation = Conversation::new(&Plan::of(self.habits, session), session, self.role, now);
        if conversation.part.small_buffers {
            self.stream.shrink_buffers()?;
        }
        self.conversation = Some(conversation);
        Ok(Step::Again)
    }

    /// The outcome of a target that did not learn whose it is.
    fn nameless(&self, ending: Ending) -> Outcome {
        Outcome { session: None, sent: 0, received: self.named as u64, ending }
    }
}

impl Conversation {
    fn new(plan: &Plan, session: u64, role: Role, now: Instant) -> Self {
        let (part, other) = (plan.part(role).clone(), plan.part(role.other()));
        let half = || Half { left: 0, due: now, done: false };
        Self {
            session,
            role,
            source: Source::new(part.stream),
            rhythm: Rhythm::new(part.rhythm),
            sender: half(),
            checker: Checker::new(other.stream),
            expected: other.length,
            // Any other seed: what is read has nothing to do with what is written.
            reading: SmallRng::seed_from_u64(!part.rhythm),
            stopped: false,
            receiver: half(),
            reset: plan.reset().filter(|(who, _)| *who == role).map(|(_, reset)| reset),
            may_be_reset: plan.reset().is_some_and(|(who, _)| who != role),
            was_reset: false,
            part,
        }
    }

    /// Sends at most one chunk, and the end of the stream after the last.
    fn send(&mut self, mut stream: &TcpStream, writable: &mut bool, now: Instant, buffer: &mut [u8]) -> Result<()> {
        if self.sender.done || !*writable || self.sender.due > now || self.was_reset {
            return Ok(());
        }
        let end = match self.reset {
            Some(Reset::AfterSending(end)) => end,
            _ => self.part.length,
        };
        let missing = usize::try_from(end - self.source.position()).unwrap_or(usize::MAX);
        let piece = &mut buffer[..self.sender.left.min(missing)];
        self.source.fill(piece);
        let sent = match stream.write(piece) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                *writable = false;
                0
            }
            Err(error) if is_reset(&error) => {
                self.was_reset = true;
                0
            }
            Err(error) => return Err(error.into()),
        };
        self.source.give_back((piece.len() - sent) as u64);
        self.sender.left -= sent;
        if sent == missing && !self.was_reset {
            // An end that is to reset at this moment does not close in order first.
            if !matches!(self.reset, Some(Reset::AfterSending(_))) {
                match stream.shutdown(Shutdown::Write) {
                    Err(error) if is_reset(&error) || error.kind() == ErrorKind::NotConnected => self.was_reset = true,
                    other => other?,
                }
            }
            self.sender.done = true;
        } else if self.sender.left == 0 {
            let Chunk { length, pause } = self.rhythm.next();
            (self.sender.left, self.sender.due) = (length, now + pause);
        }
        Ok(())
    }

    /// Receives at most one chunk.
    fn receive(&mut self, mut stream: &TcpStream, readable: &mut bool, now: Instant, buffer: &mut [u8]) -> Result<()> {
        if self.receiver.done || !*readable || (self.receiver.due > now && !self.was_reset) {
            return Ok(());
        }
        let length = if self.receiver.left == 0 { LONGEST_CHUNK } else { self.receiver.left };
        match stream.read(&mut buffer[..length]) {
            Ok(0) => {
                self.receiver.done = true;
                let received = self.checker.position();
                // Once a reset was reported, by a write, the end that a read reports is that of the reset.
                ensure!(
                    received == self.expected || self.was_reset,
                    "the stream ended in order after {received} of {} bytes",
                    self.expected
                );
            }
            Ok(read) => {
                self.checker.check(&buffer[..read])?;
                ensure!(self.checker.position() <= self.expected, "more than {} bytes", self.expected);
                let Chunk { length, pause } =
                    self.part.reader.next(self.checker.position(), &mut self.stopped, &mut self.reading);
                (self.receiver.left, self.receiver.due) = (length, now + pause);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => *readable = false,
            Err(error) if is_reset(&error) => {
                self.was_reset = true;
                self.receiver.done = true;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn wants_reset(&self) -> bool {
        match self.reset {
            None => false,
            Some(Reset::AfterSending(after)) => self.source.position() >= after,
            Some(Reset::AfterReceiving(after)) => self.checker.position() >= after,
        }
    }

    fn outcome(&self, ending: Ending) -> Outcome {
        let [sent, received] = match self.role {
            Role::Client => [NUMBER as u64, 0],
            Role::Target => [0, NUMBER as u64],
        };
        Outcome {
            session: Some(self.session),
            sent: sent + self.source.position(),
            received: received + self.checker.position(),
            ending,
        }
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
