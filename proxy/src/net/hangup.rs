//! Tells when the peer of a quiet leg has closed, and lets all of them look around now and then.
//!
//! A quiet leg is not registered for reading, so that packets which the kernel forwards wake nobody; only its end does
//! (EPOLLRDHUP, which tokio does not offer on its own). One task per worker; cancelling it leaves quiet legs unwatched.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{MissedTickBehavior, interval};

/// How often every quiet direction counts what the kernel has moved. Metrics and idle timeouts lag by as much.
const ROUND: Duration = Duration::from_secs(2);

/// Ends taken from the kernel at once.
const BATCH: usize = 64;

/// The watched legs of one worker.
#[derive(Debug)]
pub(crate) struct Hangups {
    epoll: Epoll,
    watched: RefCell<Slab<Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    hung_up: bool,
    waker: Option<Waker>,
}

/// A leg that is being watched until this is dropped.
#[derive(Debug)]
pub(crate) struct Hangup {
    hangups: Rc<Hangups>,
    socket: BorrowedFd<'static>,
    key: usize,
}

impl Hangups {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, watched: RefCell::default() })
    }

    /// Watches `socket`, which has to stay open until the [`Hangup`] is dropped. A peer that has closed already is told at
    /// once.
    pub(crate) fn watch(self: &Rc<Self>, socket: BorrowedFd<'static>) -> io::Result<Hangup> {
        let key = self.watched.borrow_mut().insert(Entry::default());
        let watch = Hangup { hangups: Rc::clone(self), socket, key };
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(socket, EpollEvent::new(flags, key as u64))?;
        Ok(watch)
    }

    /// Wakes whom it concerns, for ever.
    pub(crate) async fn run(&self) -> io::Result<()> {
        let descriptor = Descriptor(self.epoll.0.as_raw_fd());
        // SAFETY: `self` keeps the descriptor open for longer than this future borrows it.
        let epoll = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ready = epoll.readable() => {
                    let mut ready = ready?;
                    if self.take_ends()? < BATCH {
                        ready.clear_ready();
                    }
                }
                _ = rounds.tick() => self.watched.borrow_mut().iter_mut().for_each(|(_, watched)| watched.wake()),
            }
        }
    }

    /// Notes the ends that the kernel has to tell; returns how many there were.
    fn take_ends(&self) -> io::Result<usize> {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        let mut watched = self.watched.borrow_mut();
        for event in &events[..count] {
            // A leg that is watched no more can still have an event under way.
            if let Some(watched) = watched.get_mut(event.data() as usize) {
                watched.hung_up = true;
                watched.wake();
            }
        }
        Ok(count)
    }
}

impl Entry {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Hangup {
    /// Ready once the peer has closed its direction, or the connection is gone.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut watched = self.hangups.watched.borrow_mut();
        let watched = &mut watched[self.key];
        if watched.hung_up {
            return Poll::Ready(());
        }
        match &mut watched.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Hangup {
    fn drop(&mut self) {
        // Fails if it was never added; then there is nothing to delete.
        let _ = self.hangups.epoll.delete(self.socket.as_fd());
        self.hangups.watched.borrow_mut().remove(self.key);
    }
}

/// A descriptor that somebody else closes.
struct Descriptor(RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}
