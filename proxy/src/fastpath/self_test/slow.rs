//! Slow readers behind small buffers, so that the kernel sends in parts and has a backlog; in and out of the kernel while
//! bytes arrive; the end of the stream right behind the last byte.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};

use super::session::{Deadline, Moved, Session, pattern, receive, send};
use super::{Failure, agree, at, same};
use crate::fastpath::engine::Engine;
use crate::fastpath::promoted::Promoted;
use crate::fastpath::{Fallback, Limits};
use crate::tcp::TcpInfo;

const NAME: &str = "slow readers";

/// Bytes each way, many times what the buffers hold.
const LEN: usize = 12 * BURST;

/// Bytes sent at once, more than may be on their way.
const BURST: usize = 48 << 10;

/// The pause behind each burst, in which user space finds nothing to read and can promote the direction again.
const PAUSE: Duration = Duration::from_millis(4);

/// The kernel doubles it. Some segments, so that bytes wait in every queue there is.
const BUFFER: usize = 16 << 10;

/// Crossed at once with such readers, so that the alarm is tested too; the hard limit never, since a packet that a shut
/// gate drops costs its sender a retransmission timeout.
const LIMITS: Limits = Limits { soft: 32 << 10, hard: u64::MAX, bulk: u64::MAX, budget: u32::MAX };

/// How often a direction is promoted. The last time it stays until its sender is done, so that the FIN arrives while the
/// kernel has a backlog.
const PROMOTIONS: u64 = 3;

/// How long a direction stays in the kernel without an alarm.
const STAY: Duration = Duration::from_millis(5);

pub(super) fn run(engine: &Arc<Engine>, deadline: &Deadline) -> Result<Moved, Failure> {
    let session = Session::open(Some(BUFFER), deadline)?;
    let Session { client, client_leg, target_leg, target } = &session;
    thread::scope(|scope| {
        let ways = [(client, client_leg, target_leg, target), (target, target_leg, client_leg, client)];
        let running = ways.map(|(from, source, sink, to)| {
            let writer = scope.spawn(|| write(from, deadline));
            let reader = scope.spawn(|| read(to, deadline));
            let mover = scope.spawn(|| Mover { engine, source, sink, moved: Moved::default() }.run(deadline));
            (writer, reader, mover)
        });
        let early = || Failure::Panicked { test: NAME };
        let mut total = Moved::default();
        for (writer, reader, mover) in running {
            let moved = mover.join().map_err(|_| early())?;
            let read = reader.join().map_err(|_| early())?;
            writer.join().map_err(|_| early())??;
            agree(NAME, LEN as u64, read? as u64)?;
            total = total + Moved { sent: LEN as u64, ..moved? };
        }
        Ok(total)
    })
}

/// Sends the whole stream in bursts, and its end right behind the last one.
fn write(to: &TcpStream, deadline: &Deadline) -> Result<(), Failure> {
    let bytes: Vec<u8> = (0..LEN).map(pattern).collect();
    let (most, last) = bytes.split_at(LEN - BURST);
    for burst in most.chunks(BURST) {
        send(to, burst, deadline).map_err(at("sending to a slow reader"))?;
        thread::sleep(PAUSE);
    }
    send(to, last, deadline).map_err(at("sending to a slow reader"))?;
    to.shutdown(Shutdown::Write).map_err(at("closing the sender of a slow reader"))
}

/// Reads the whole stream, a few kilobytes at a time with pauses, and compares it.
fn read(from: &TcpStream, deadline: &Deadline) -> Result<usize, Failure> {
    let mut block = [0; 3001];
    let mut offset = 0;
    loop {
        let len = receive(from, &mut block, deadline).map_err(at("waiting for bytes for a slow reader"))?;
        if len == 0 {
            return Ok(offset);
        }
        same(NAME, offset, &block[..len])?;
        offset += len;
        thread::sleep(Duration::from_micros(100));
    }
}

/// The daemon's part, one direction.
struct Mover<'s> {
    engine: &'s Arc<Engine>,
    source: &'s TcpStream,
    sink: &'s TcpStream,
    moved: Moved,
}

impl Mover<'_> {
    fn run(mut self, deadline: &Deadline) -> Result<Moved, Failure> {
        while !self.copy_queued(deadline)? {
            if self.moved.promotions < PROMOTIONS && !self.forward(deadline)? {
                self.moved.promotions = PROMOTIONS;
            }
            thread::sleep(Duration::from_micros(100));
            deadline.remaining().map_err(at("waiting for the end of a stream"))?;
        }
        self.sink.shutdown(Shutdown::Write).map_err(at("closing a stream"))?;
        let received = TcpInfo::of(self.source.as_fd()).map_err(at("counting received bytes"))?.received;
        agree("bytes received, and a FIN", received, self.moved.redirected + self.moved.copied + 1)?;
        Ok(self.moved)
    }

    /// Copies what is queued; returns whether that was the end of the stream.
    fn copy_queued(&mut self, deadline: &Deadline) -> Result<bool, Failure> {
        let mut block = [0; 8192];
        loop {
            // The flag: blocking is right for the other direction, whose sink this is.
            match recv(std::os::fd::AsRawFd::as_raw_fd(self.source), &mut block, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Ok(true),
                Ok(len) => {
                    send(self.sink, &block[..len], deadline).map_err(at("copying to a slow reader"))?;
                    self.moved.copied += len as u64;
                }
                Err(nix::Error::EAGAIN) => return Ok(false),
                Err(error) => return Err(at("reading for a slow reader")(error.into())),
            }
        }
    }

    /// Puts the direction into the kernel, and takes it out when it falls behind; false if its sender is done, which a
    /// kernel may refuse.
    fn forward(&mut self, deadline: &Deadline) -> Result<bool, Failure> {
        let given = self.moved.copied + self.moved.redirected;
        let promoted = Promoted::new(Arc::clone(self.engine), self.source.as_fd(), self.sink.as_fd(), given, &LIMITS);
        let mut promoted = match promoted {
            Ok(promoted) => promoted,
            Err(error) if error.fallback() == Fallback::InsertRefused => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.moved.promotions += 1;
        if self.moved.promotions == PROMOTIONS {
            await_end(self.source, deadline).map_err(at("waiting for the end of a stream in the kernel"))?;
        } else {
            let begin = Instant::now();
            let mut context = Context::from_waker(Waker::noop());
            while begin.elapsed() < STAY && promoted.poll_alarm(&mut context) == Poll::Pending {
                thread::sleep(Duration::from_micros(50));
            }
        }
        promoted.stop().map_err(at("taking a stream out of the kernel"))?;
        while !promoted.is_delivered().map_err(at("asking what was delivered"))? {
            let step = at("waiting for the kernel to deliver its backlog");
            deadline.remaining().map_err(step)?;
            thread::sleep(Duration::from_micros(50));
        }
        self.moved.redirected += promoted.finish().map_err(at("ending a stream in the kernel"))?.bytes;
        Ok(true)
    }
}

/// Waits until the stream and its FIN have been received.
fn await_end(source: &TcpStream, deadline: &Deadline) -> io::Result<()> {
    while TcpInfo::of(source.as_fd())?.received <= LEN as u64 {
        deadline.remaining()?;
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}
