//! Many sessions at once through a proxy, each with random sizes, chunks, pauses, readers and ends, every byte compared.
//!
//! Two threads: one is all clients, the other one all targets. What an end does is a function of the seed and the
//! session's number, which the client sends first.

mod end;
mod plan;
mod side;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Socket, Type};

pub use end::Outcome;
pub use plan::{Habits, Reset, Role};

use crate::Host;
use plan::Plan;
use side::{Side, Signals};

/// How long all sessions together may take. The longest plan takes some seconds; a lossy link adds timeouts of TCP.
const PATIENCE: Duration = Duration::from_secs(100);

/// A listener's queue: all clients connect at once.
const BACKLOG: i32 = 4096;

/// Sessions that all begin at once.
#[derive(Debug)]
pub struct Crowd {
    habits: Habits,
    sessions: u64,
    listener: TcpListener,
}

/// What became of the sessions.
#[derive(Debug)]
pub struct Outcomes {
    /// One for each session.
    pub clients: Vec<Outcome>,
    /// Those of the sessions that reached a target.
    pub targets: Vec<Outcome>,
}

impl Crowd {
    /// Lets the targets of so many sessions listen on `port` of `host`, for IPv4 and IPv6.
    pub fn new(host: &Host, port: u16, habits: Habits, sessions: u64) -> Result<Self> {
        let listen = || -> std::io::Result<TcpListener> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new([0_u16; 8].into(), port).into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        };
        let listener = host.enter(listen).with_context(|| format!("{} cannot listen on {port}", host.name()))?;
        Ok(Self { habits, sessions, listener })
    }

    /// Sessions that somebody resets, by whom and when.
    pub fn resets(&self) -> impl Iterator<Item = (u64, Role, Reset)> {
        let plans = (0..self.sessions).map(|session| (session, Plan::of(self.habits, session)));
        plans.filter_map(|(session, plan)| plan.reset().map(|(role, reset)| (session, role, reset)))
    }

    /// Runs all sessions from `host`, connecting to these addresses in turn; an error as soon as one went wrong.
    ///
    /// A stream that differs, ends in order too early, or is reset although nobody did is wrong; so is silence.
    pub fn run(&self, host: &Host, addresses: &[SocketAddr]) -> Result<Outcomes> {
        let deadline = Instant::now() + PATIENCE;
        let signals = Signals::default();
        let failed = |outcomes: &Result<_>| signals.failed.fetch_or(outcomes.is_err(), Ordering::Relaxed);
        thread::scope(|scope| {
            let targets = scope.spawn(|| {
                let outcomes = Side::new().and_then(|mut side| {
                    side.accept_from(&self.listener, self.habits)?;
                    side.run(deadline, &signals)
                });
                failed(&outcomes);
                outcomes
            });
            let clients = host.enter(|| {
                let mut side = Side::new()?;
                for (session, address) in (0..self.sessions).zip(addresses.iter().cycle()) {
                    side.connect(*address, self.habits, session)?;
                }
                side.run(deadline, &signals)
            });
            failed(&clients);
            signals.clients_over.store(true, Ordering::Relaxed);
            let targets = targets.join().map_err(|_| anyhow!("the targets panicked"))?;
            match (clients, targets) {
                (Ok(clients), Ok(targets)) => Ok(Outcomes { clients, targets }),
                (Err(error), Ok(_)) => Err(error.context("clients")),
                (Ok(_), Err(error)) => Err(error.context("targets")),
                (Err(client), Err(target)) => Err(anyhow!("clients: {client:#}\ntargets: {target:#}")),
            }
        })
    }
}
