//! What is counted and noted of a session that has a target, whoever forwards its bytes.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use landbridge_common::packet::Origin;
use landbridge_core::end::SessionEnd;
use tracing::debug;

use crate::config::{Group, Listener};
use crate::fastpath::packet;
use crate::places::Place;
use crate::running::Running;
use crate::session_log::{Record, Served, SessionLog};
use crate::shared::{Lease, Shared};
use crate::stats::RouteCell;
use crate::tally::Tally;

/// What a session is counted by as long as it lives; its end is counted when this is dropped.
pub(crate) struct Account {
    /// The counters of its route on its worker.
    pub(crate) cell: Arc<RouteCell>,
    /// How it ended, as far as is known.
    pub(crate) end: SessionEnd,
    /// Whether the target sent a byte, as far as is known.
    pub(crate) answered: bool,
    /// Its target; [`Lease::cut`] says when the session has to end for that target's sake.
    pub(crate) lease: Lease,
    /// What is noted of it.
    pub(crate) tally: Tally,
    /// When its target was connected.
    pub(crate) began: Instant,
    shared: Arc<Shared>,
    running: Arc<Running>,
    listener: usize,
    _place: Place,
}

impl Account {
    /// The account of a session of the listener and on the worker of these indices, which has got its target at the `tries`th
    /// attempt: when it was `accepted`, the first target `chosen`, and the last one connected.
    pub(crate) fn new(
        (running, shared): (&Arc<Running>, &Arc<Shared>),
        (listener, worker): (usize, usize),
        (lease, place): (Lease, Place),
        tries: u8,
        [accepted, chosen, connected]: [Instant; 3],
    ) -> Self {
        let is_logged = running.session_log.as_ref().is_some_and(SessionLog::chooses);
        Self {
            cell: Arc::clone(shared.stats.route(listener, lease.id(), worker)),
            end: SessionEnd::Drained,
            answered: false,
            lease,
            tally: Tally::new(is_logged, tries, chosen - accepted, connected - chosen),
            began: connected,
            shared: Arc::clone(shared),
            running: Arc::clone(running),
            listener,
            _place: place,
        }
    }

    /// The account of a session that a former process has joined; what that has counted is to be noted in its tally.
    pub(crate) fn adopted(
        whose: (&Arc<Running>, &Arc<Shared>),
        at: (usize, usize),
        admitted: (Lease, Place),
        began: Instant,
    ) -> Self {
        let mut account = Self::new(whose, at, admitted, 1, [began; 3]);
        account.answered = true;
        account
    }

    /// The session's target acknowledges nothing.
    pub(crate) fn stalled(&self) {
        self.shared.stalled(self.lease.id());
    }

    /// Whose session this is, for a process that comes later.
    pub(crate) fn origin(&self, read: [u64; 2]) -> Origin {
        let names = (&*self.listener().name, &*self.group().name);
        packet::origin(names, (self.began, self.lease.client()), read)
    }

    /// Its listener.
    pub(crate) fn listener(&self) -> &Listener {
        &self.shared.config.listeners[self.listener]
    }

    /// The group of its target.
    pub(crate) fn group(&self) -> &Group {
        self.shared.target(self.lease.id()).0
    }

    /// Takes note of the target's first byte, which was sent on at `answered`; `asked`: when the client's was, if that was not
    /// in user space.
    pub(crate) fn note_first_byte(&self, asked: Option<Instant>, answered: Instant) {
        let asked = self.tally.asked.get().map(|since| self.began + since).or(asked).unwrap_or(self.began);
        let took = answered.saturating_duration_since(asked);
        self.cell.first_byte_times.record(took);
        self.tally.first_byte.set(Some(took));
    }

    fn record(&self) -> Record {
        let Tally { tries, queue, connect, first_byte, round_trips, .. } = &self.tally;
        let served = Served {
            target: self.lease.id(),
            tries: *tries,
            queue: *queue,
            connect: *connect,
            first_byte: first_byte.get(),
            bytes: self.tally.bytes(),
            round_trips: round_trips.each_ref().map(std::cell::Cell::get),
        };
        Record {
            ended: SystemTime::now(),
            shared: Arc::clone(&self.shared),
            listener: self.listener,
            client: self.lease.client(),
            end: self.end,
            total: *queue + *connect + self.began.elapsed(),
            served: Some(served),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        debug!(end = self.end.code(), "session ended");
        self.cell.ends.of(self.end).add(1);
        self.cell.haste.ended(self.began.elapsed());
        self.shared.session_ended(self.lease.id(), self.end, self.answered);
        if let Some(log) = self.running.session_log.as_ref().filter(|_| self.tally.is_logged) {
            log.write(self.record());
        }
    }
}
