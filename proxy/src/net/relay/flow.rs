//! One direction of a session: bytes from one leg to the other, copied or spliced, until the end of the stream has
//! been passed on.

use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Buffers;
use super::pipe::Pipe;
use crate::stats::{Carrier, Direction, RouteCell};

/// A read of at least this much is large: splicing it costs less than copying it.
const LARGE: usize = 32 * 1024;

/// Large reads in a row before a direction is spliced: one alone is often the end of a body.
const LARGE_READS: u8 = 2;

/// Smaller splices in a row before a direction is copied again.
const SMALL_SPLICES: u8 = 8;

/// Bytes after which a direction lets the worker's other sessions have a turn.
const TURN: u64 = 4 << 20;

/// The leg with which a direction could not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Source,
    Sink,
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Flow {
    direction: Direction,
    method: Method,
    held: Held,
    end: End,
    moved: u64,
}

/// How the next bytes are read.
#[derive(Debug, Clone, Copy)]
enum Method {
    CopyAlways,
    /// After so many large reads in a row.
    Copy {
        large: u8,
    },
    /// After so many small splices in a row.
    Splice {
        small: u8,
    },
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

impl Flow {
    /// A direction that first sends `head`. `splice`: whether it may splice.
    pub(super) fn new(direction: Direction, head: Bytes, splice: bool) -> Self {
        let method = if splice { Method::Copy { large: 0 } } else { Method::CopyAlways };
        Self { direction, method, held: Held::Bytes(head), end: End::Open, moved: 0 }
    }

    /// Whether the end of the stream was passed on.
    pub(super) fn is_done(&self) -> bool {
        self.end == End::Passed
    }

    /// Bytes read so far; it grows whenever something moves.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Moves what can be moved. Ready once the end of the stream was passed on, or a leg is broken; what had been
    /// received before the source broke has then been given to the sink's kernel.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        buffers: &Buffers,
        cell: &RouteCell,
    ) -> Poll<Result<(), Broken>> {
        let turn = self.moved + TURN;
        loop {
            ready!(self.poll_send_held(cx, sink, buffers)).map_err(|_gone| Broken::Sink)?;
            if self.end == End::Read {
                shutdown(sink.as_raw_fd(), Shutdown::Write).map_err(|_gone| Broken::Sink)?;
                self.end = End::Passed;
            }
            if self.end == End::Passed {
                return Poll::Ready(Ok(()));
            }
            if self.moved >= turn {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(source.poll_read_ready(cx)).map_err(|_gone| Broken::Source)?;
            match self.read(source, sink, buffers, cell) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_gone) => return Poll::Ready(Err(Broken::Source)),
                Ok(0) => self.end = End::Read,
                Ok(read) => self.moved += read as u64,
            }
        }
    }

    fn poll_send_held(&mut self, cx: &mut Context<'_>, sink: &TcpStream, buffers: &Buffers) -> Poll<io::Result<()>> {
        loop {
            match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(bytes) if bytes.is_empty() => self.held = Held::Nothing,
                Held::Bytes(bytes) => {
                    ready!(sink.poll_write_ready(cx))?;
                    bytes.advance(try_send(sink, bytes)?);
                }
                Held::Pipe(pipe) => {
                    ready!(sink.poll_write_ready(cx))?;
                    match sink.try_io(Interest::WRITABLE, || pipe.empty(sink)) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Poll::Ready(Err(error)),
                        Ok(_) if pipe.held() > 0 => {}
                        Ok(_) => {
                            if let Held::Pipe(pipe) = std::mem::replace(&mut self.held, Held::Nothing) {
                                buffers.pipes.put(pipe);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Reads once, by the method of the moment; nothing is held.
    fn read(&mut self, source: &TcpStream, sink: &TcpStream, buffers: &Buffers, cell: &RouteCell) -> io::Result<usize> {
        let (read, carrier) = match self.method {
            Method::CopyAlways | Method::Copy { .. } => (self.copy(source, sink, buffers)?, Carrier::Copy),
            Method::Splice { .. } => match self.splice(source, buffers)? {
                // A closed connection gives splice nothing even when bytes wait in it: only recv knows.
                0 => (self.copy(source, sink, buffers)?, Carrier::Copy),
                moved => (moved, Carrier::Splice),
            },
        };
        self.method = self.method.after(read);
        cell.bytes(self.direction, carrier).add(read as u64);
        Ok(read)
    }

    /// Reads into the worker's buffer and sends it on at once; what the sink does not take is held.
    fn copy(&mut self, source: &TcpStream, sink: &TcpStream, buffers: &Buffers) -> io::Result<usize> {
        let mut buffer = buffers.scratch.borrow_mut();
        let read = try_recv(source, &mut buffer)?;
        // A broken sink shows again, and is reported, when the held rest is sent.
        let sent = try_send(sink, &buffer[..read]).unwrap_or(0);
        if sent < read {
            self.held = Held::Bytes(Bytes::copy_from_slice(&buffer[sent..read]));
        }
        Ok(read)
    }

    /// Fills a pipe, which is then held.
    fn splice(&mut self, source: &TcpStream, buffers: &Buffers) -> io::Result<usize> {
        // Without a descriptor for a pipe: copy.
        let Ok(mut pipe) = buffers.pipes.take() else { return Ok(0) };
        let moved = source.try_io(Interest::READABLE, || pipe.fill(source));
        match moved {
            Ok(1..) => self.held = Held::Pipe(pipe),
            Ok(0) | Err(_) => buffers.pipes.put(pipe),
        }
        moved
    }
}

impl Method {
    /// The method for the bytes after a read of `read` bytes.
    fn after(self, read: usize) -> Self {
        match self {
            Self::CopyAlways => self,
            Self::Copy { .. } if read < LARGE => Self::Copy { large: 0 },
            Self::Copy { large } if large + 1 < LARGE_READS => Self::Copy { large: large + 1 },
            Self::Copy { .. } => Self::Splice { small: 0 },
            Self::Splice { .. } if read >= LARGE => Self::Splice { small: 0 },
            Self::Splice { small } if small + 1 < SMALL_SPLICES => Self::Splice { small: small + 1 },
            Self::Splice { .. } => Self::Copy { large: 0 },
        }
    }
}

/// Receives what is there, at most a buffer full. A short read has emptied the socket: its readiness is cleared without
/// the further call that would only say EAGAIN.
fn try_recv(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut received = 0;
    let result = stream.try_io(Interest::READABLE, || {
        received = recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        let short = 0 < received && received < buffer.len();
        if short { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock || received == 0 => Err(error),
        Ok(()) | Err(_) => Ok(received),
    }
}

/// Sends what the socket takes, 0 if that is nothing.
fn try_send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    let result = stream.try_io(Interest::WRITABLE, || {
        while sent < bytes.len() {
            sent += send(stream.as_raw_fd(), &bytes[sent..], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
        }
        Ok(())
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Ok(sent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_follows_the_size_of_reads() {
        let mut method = Method::Copy { large: 0 };
        let mut spliced = Vec::new();
        for read in [64, 40_000, 64, 40_000, 40_000, 1, 40_000, 1, 1, 1, 1, 1, 1, 1, 1, 40_000] {
            spliced.push(matches!(method, Method::Splice { .. }));
            method = method.after(read);
        }
        let expected = [[false; 5].as_slice(), &[true; 10], &[false]].concat();
        assert_eq!(spliced, expected);
        assert!(matches!(Method::CopyAlways.after(usize::MAX), Method::CopyAlways));
    }
}
