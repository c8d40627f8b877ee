//! All clients or all targets of a crowd, on one thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, TcpKeepalive, Type};

use super::end::{End, Outcome, Step};
use super::plan::Habits;
use crate::pattern::LONGEST_CHUNK;

/// How long it sleeps at most, so that it sees when everything is over.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// Events taken at once; more only wait for the next call.
const EVENTS: usize = 256;

/// The event of the listener; the others have the number of an end.
const LISTENER: u64 = u64::MAX;

/// How many ends an error about silence describes.
const DESCRIBED: usize = 10;

/// A lost RST would leave its receiver waiting for ever. As quick as the kernel can.
const KEEPALIVE: Duration = Duration::from_secs(1);

pub(super) struct Side<'a> {
    epoll: Epoll,
    seats: Vec<Seat>,
    listener: Option<(&'a TcpListener, Habits)>,
    /// Ends that have a turn.
    ready: VecDeque<usize>,
    /// Ends that get one later.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    outcomes: Vec<Outcome>,
}

struct Seat {
    end: Option<End>,
    /// Whether it has a turn.
    ready: bool,
    /// When it gets one at the latest.
    due: Option<Instant>,
}

/// What the two sides of a crowd tell each other.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// No client is left.
    pub(super) clients_over: AtomicBool,
    /// One of the sides has failed.
    pub(super) failed: AtomicBool,
}

impl<'a> Side<'a> {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            seats: Vec::new(),
            listener: None,
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            outcomes: Vec::new(),
        })
    }

    /// Accepts targets of the crowd with these habits.
    pub(super) fn accept_from(&mut self, listener: &'a TcpListener, habits: Habits) -> Result<()> {
        self.epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        self.listener = Some((listener, habits));
        Ok(())
    }

    /// Connects the client of a session.
    pub(super) fn connect(&mut self, address: SocketAddr, habits: Habits, session: u64) -> Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => bail!("{address}: {error}"),
            _ => self.add(&socket)?,
        }
        self.sit(End::client(socket.into(), habits, session));
        Ok(())
    }

    fn sit(&mut self, end: End) {
        self.seats.push(Seat { end: Some(end), ready: false, due: None });
    }

    /// Runs until all ends are over and there will be no more, or the other side has failed.
    pub(super) fn run(mut self, deadline: Instant, signals: &Signals) -> Result<Vec<Outcome>> {
        let mut buffer = vec![0; LONGEST_CHUNK];
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.is_over(signals) {
            let now = Instant::now();
            while self.timers.peek().is_some_and(|Reverse((due, _))| *due <= now)
                && let Some(Reverse((due, number))) = self.timers.pop()
            {
                // Others are left over from times that were put forward.
                if self.seats[number].due == Some(due) {
                    self.seats[number].due = None;
                    self.wake(number);
                }
            }
            for _ in 0..self.ready.len() {
                let Some(number) = self.ready.pop_front() else { break };
                self.seats[number].ready = false;
                self.step(number, now, &mut buffer)?;
            }
            if now > deadline {
                // If all of these are over, the other side says what is not.
                ensure!(self.all_ended(), "silence: {}", self.describe());
                break;
            }
            let count = match self.epoll.wait(&mut events, self.sleep(now)) {
                Err(Errno::EINTR) => 0,
                count => count?,
            };
            for event in &events[..count] {
                self.note(*event)?;
            }
        }
        Ok(self.outcomes)
    }

    fn is_over(&self, signals: &Signals) -> bool {
        let no_more = self.listener.is_none() || signals.clients_over.load(Ordering::Relaxed);
        no_more && self.all_ended() || signals.failed.load(Ordering::Relaxed)
    }

    fn all_ended(&self) -> bool {
        self.seats.iter().all(|seat| seat.end.is_none())
    }

    fn sleep(&self, now: Instant) -> EpollTimeout {
        if !self.ready.is_empty() {
            return EpollTimeout::ZERO;
        }
        let due = self.timers.peek().map_or(LONGEST_SLEEP, |Reverse((due, _))| due.saturating_duration_since(now));
        // Rounded up, because a millisecond too early would spin.
        let millis = due.min(LONGEST_SLEEP).as_micros().div_ceil(1000);
        u16::try_from(millis).unwrap_or(u16::MAX).into()
    }

    fn wake(&mut self, number: usize) {
        if !self.seats[number].ready {
            self.seats[number].ready = true;
            self.ready.push_back(number);
        }
    }

    fn step(&mut self, number: usize, now: Instant, buffer: &mut [u8]) -> Result<()> {
        let seat = &mut self.seats[number];
        let Some(end) = &mut seat.end else { return Ok(()) };
        match end.step(now, buffer)? {
            Step::Again => self.wake(number),
            Step::Wait(None) => {}
            Step::Wait(Some(due)) => {
                if seat.due.is_none_or(|earlier| due < earlier) {
                    seat.due = Some(due);
                    self.timers.push(Reverse((due, number)));
                }
            }
            Step::Over(outcome) => {
                self.outcomes.push(outcome);
                seat.end = None;
            }
        }
        Ok(())
    }

    fn note(&mut self, event: EpollEvent) -> Result<()> {
        if event.data() == LISTENER {
            return self.accept();
        }
        let number = event.data() as usize;
        if let Some(end) = &mut self.seats[number].end {
            let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
            let is = |flags| event.events().intersects(broken | flags);
            end.awake(is(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP), is(EpollFlags::EPOLLOUT));
            self.wake(number);
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        let Some((listener, habits)) = self.listener else { return Ok(()) };
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    let socket = Socket::from(stream);
                    self.add(&socket)?;
                    self.sit(End::target(socket.into(), habits));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // A client that was reset while it waited.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Watches the socket of the next end.
    fn add(&mut self, socket: &Socket) -> Result<()> {
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        socket.set_tcp_keepalive(&keepalive)?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(socket, EpollEvent::new(flags, self.seats.len() as u64))?;
        Ok(())
    }

    fn describe(&self) -> String {
        let waiting: Vec<String> = self.seats.iter().flat_map(|seat| &seat.end).map(End::describe).collect();
        let shown = waiting.iter().take(DESCRIBED).map(String::as_str).collect::<Vec<_>>().join("\n");
        format!("{} ends are not over\n{shown}", waiting.len())
    }
}
