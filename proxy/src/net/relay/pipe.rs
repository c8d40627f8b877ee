//! Pipes for `splice`, kept for reuse: making and sizing one costs more than a whole transfer of a few KB.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// What a pipe is asked to hold: the default of 64 KiB would take a call for each packet that GRO has put together. An
/// unprivileged pipe may be as large without being refused (fs.pipe-max-size).
pub(crate) const CAPACITY: i32 = 1 << 20;

/// Pipes kept empty per worker; more are closed when they come back.
const KEPT: usize = 64;

/// A pipe and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused above the user's quota (fs.pipe-user-pages-soft): the default size works too.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(CAPACITY));
        Ok(Self { read, write, held: 0 })
    }

    /// Bytes that went in and did not come out yet.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves what a socket has received into the empty pipe. `Ok(0)`: end of stream, or so it seems.
    ///
    /// Only into an empty pipe: then EAGAIN can only mean that the socket has nothing.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "EAGAIN would have two meanings");
        let moved = transfer(socket, &self.write, CAPACITY as usize)?;
        self.held = moved;
        Ok(moved)
    }

    /// Moves what the pipe holds into a socket, as far as that takes it.
    pub(super) fn empty(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let moved = transfer(&self.read, socket, self.held)?;
        self.held -= moved;
        Ok(moved)
    }
}

fn transfer(from: impl AsFd, to: impl AsFd, length: usize) -> io::Result<usize> {
    loop {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        match splice(&from, None, &to, None, length, flags) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// The empty pipes of one worker.
#[derive(Debug, Default)]
pub(super) struct PipePool(RefCell<Vec<Pipe>>);

impl PipePool {
    /// An empty pipe. Fails when descriptors run out: copy instead.
    pub(super) fn take(&self) -> io::Result<Pipe> {
        self.0.borrow_mut().pop().map_or_else(Pipe::new, Ok)
    }

    /// Takes a pipe back; one that still holds bytes is closed with them.
    pub(super) fn put(&self, pipe: Pipe) {
        let mut kept = self.0.borrow_mut();
        if pipe.held == 0 && kept.len() < KEPT {
            kept.push(pipe);
        }
    }
}
