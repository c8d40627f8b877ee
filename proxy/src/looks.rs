//! Looks at the legs of some sessions each second, for round-trip times and for whoever is slow.
//!
//! A worker keeps the sessions that user space relays in a [`Looks`], and one task of it asks the kernel about a few of
//! them each second, and has those found that do not answer any more ([`Liveness`]); joined sessions are looked at by
//! `joined.rs`. Cancelling the task stops that and nothing else.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use landbridge_core::slow::{LegLook, SessionLook, Sign, Slow, sign};
use slab::Slab;
use socket2::SockRef;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use crate::net::options::Liveness;
use crate::stats::{Counter, RouteCell};
use crate::tally::Tally;
use crate::tcp::{TcpInfo, outstanding};

/// The time between two rounds of looks: a person who watches wants no more, and a scrape comes less often.
const ROUND: Duration = Duration::from_secs(1);

/// Sessions that one worker looks at in a round. A look is four system calls of less than a microsecond each: some hundred
/// microseconds a second, however many sessions there are.
const MOST_LOOKS: usize = 64;

/// What looks have found about the sessions of one target under one listener on one worker.
#[derive(Debug, Default)]
pub struct Looked {
    /// The client leg and the target leg.
    pub(crate) legs: [LegLooked; 2],
    /// Sessions that moved as they should.
    pub(crate) fine: Counter,
    /// Sessions that waited, in the order of [`Slow::ALL`].
    pub(crate) slow: [Counter; Slow::ALL.len()],
}

/// Sums over the looks at one kind of leg.
#[derive(Debug, Default)]
pub(crate) struct LegLooked {
    /// How many there were.
    pub(crate) looks: Counter,
    /// Those that knew a round-trip time, and the sum of these, in microseconds.
    pub(crate) trips: Counter,
    pub(crate) trip_micros: Counter,
    /// Segments that were sent again.
    pub(crate) retransmitted: Counter,
    /// Bytes that waited to be sent, and those sent and not acknowledged.
    pub(crate) unsent: Counter,
    pub(crate) unacknowledged: Counter,
}

impl Looked {
    /// Takes in a look; `retransmitted`: segments that were sent again on each leg since the last one.
    pub(crate) fn take(&self, look: &SessionLook, retransmitted: [u64; 2]) {
        for ((leg, looked), retransmitted) in [look.client, look.target].iter().zip(&self.legs).zip(retransmitted) {
            looked.looks.add(1);
            if !leg.round_trip.is_zero() {
                looked.trips.add(1);
                looked.trip_micros.add(u64::try_from(leg.round_trip.as_micros()).unwrap_or(u64::MAX));
            }
            looked.retransmitted.add(retransmitted);
            looked.unsent.add(leg.unsent.unwrap_or(0));
            looked.unacknowledged.add(leg.unacknowledged);
        }
        match sign(look) {
            Sign::Idle => {}
            Sign::Fine => self.fine.add(1),
            Sign::Slow(slow) => self.slow[slow as usize].add(1),
        }
    }
}

/// The sessions of one worker that can be looked at.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    members: RefCell<Slab<Member>>,
    /// Those that have begun since the last round.
    young: RefCell<Vec<usize>>,
    /// Where the next round begins.
    next: Cell<usize>,
}

/// A session, and what the last look found.
#[derive(Debug)]
struct Member {
    sockets: [RawFd; 2],
    cell: Arc<RouteCell>,
    /// What the target leg is to have when it has lasted until the next round.
    liveness: Option<Liveness>,
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Instant,
    acknowledged: [u64; 2],
    retransmitted: [u32; 2],
}

/// A session's place among those that are looked at, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watched<'a> {
    looks: Rc<Looks>,
    key: usize,
    tally: &'a Tally,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let Some(member) = self.looks.members.borrow_mut().try_remove(self.key) else { return };
        if self.tally.is_logged {
            for (trip, socket) in self.tally.round_trips.iter().zip(member.sockets()) {
                trip.set(TcpInfo::of(socket).ok().map(|info| info.round_trip));
            }
        }
    }
}

impl Looks {
    /// From now on the session with these sockets, the client's and the target's, may be looked at, and the target's gets its
    /// `liveness` within a second. They must stay open until what is returned is dropped.
    pub(crate) fn watch<'a>(
        self: &Rc<Self>,
        sockets: [RawFd; 2],
        liveness: Liveness,
        (cell, tally): (Arc<RouteCell>, &'a Tally),
    ) -> Watched<'a> {
        let member = Member { sockets, cell, liveness: Some(liveness), last: None };
        let key = self.members.borrow_mut().insert(member);
        self.young.borrow_mut().push(key);
        Watched { looks: Rc::clone(self), key, tally }
    }

    /// Looks at some sessions each second, for ever.
    pub(crate) async fn run(&self) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.enliven();
            self.round();
        }
    }

    /// Whoever has another one's key by now gets it a little earlier.
    fn enliven(&self) {
        let mut members = self.members.borrow_mut();
        for key in self.young.borrow_mut().drain(..) {
            let Some(member) = members.get_mut(key) else { continue };
            if let Some(liveness) = member.liveness.take()
                && let Err(error) = liveness.apply(SockRef::from(&member.sockets()[1]))
            {
                debug!("whether a target still answers is known by its traffic only: {error}");
            }
        }
    }

    fn round(&self) {
        let mut members = self.members.borrow_mut();
        let end = members.iter().next_back().map_or(0, |(key, _)| key + 1);
        let first = if self.next.get() < end { self.next.get() } else { 0 };
        let now = Instant::now();
        let mut looks = 0;
        let mut next = first;
        for key in (first..end).chain(0..first) {
            next = key + 1;
            let Some(member) = members.get_mut(key) else { continue };
            // A leg that has just been reset is not asked again before its session ends.
            let _gone = member.look(now);
            looks += 1;
            if looks == MOST_LOOKS {
                break;
            }
        }
        self.next.set(next);
    }
}

impl Member {
    fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        // SAFETY: whoever watches a session keeps its sockets open, see `Looks::watch`.
        self.sockets.map(|socket| unsafe { BorrowedFd::borrow_raw(socket) })
    }

    fn look(&mut self, now: Instant) -> io::Result<()> {
        let sockets = self.sockets();
        let infos = [TcpInfo::of(sockets[0])?, TcpInfo::of(sockets[1])?];
        let outstanding = [outstanding(sockets[0])?, outstanding(sockets[1])?];
        let found = Last {
            at: now,
            acknowledged: infos.map(|of| of.acknowledged),
            retransmitted: infos.map(|of| of.retransmitted),
        };
        // One look alone tells no pace.
        let Some(last) = self.last.replace(found) else { return Ok(()) };
        let passed = now.saturating_duration_since(last.at).as_secs_f64().max(f64::EPSILON);
        let leg = |side: usize| {
            let info = &infos[side];
            let acknowledged = info.acknowledged.saturating_sub(last.acknowledged[side]);
            let unacknowledged = outstanding[side].saturating_sub(info.unsent.into());
            LegLook {
                round_trip: info.round_trip,
                unsent: Some(info.unsent.into()),
                unacknowledged,
                pace: (acknowledged as f64 / passed) as u64,
                is_shut: u64::from(info.window) < unacknowledged + u64::from(info.segment),
                is_repeating: info.timeouts > 0,
            }
        };
        let look = SessionLook {
            client: leg(0),
            target: leg(1),
            waiting: infos[1].waiting(),
            is_moving: found.acknowledged != last.acknowledged,
        };
        let again = [0, 1].map(|side| infos[side].retransmitted.saturating_sub(last.retransmitted[side]).into());
        self.cell.looked.take(&look, again);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::config;

    fn pair() -> TcpStream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    fn liveness(options: &str) -> Liveness {
        Liveness::of(&config::example("", &format!("[group.tcp]\n{options}"), "").groups[0].tcp)
    }

    #[test]
    fn a_target_leg_that_lasts_is_told_when_its_peer_is_gone() {
        let (looks, tally) = (Rc::new(Looks::default()), Tally::default());
        let [client, target] = [pair(), pair()];
        let sockets = [client.as_raw_fd(), target.as_raw_fd()];
        let rules = liveness("keepalive = \"7s\"\nuser_timeout = \"9s\"");
        // One that has ended before the round.
        drop(looks.watch(sockets, rules, (Arc::default(), &tally)));
        looks.enliven();
        assert!(!SockRef::from(&target).keepalive().unwrap());
        let _watched = looks.watch(sockets, rules, (Arc::default(), &tally));
        looks.enliven();
        let set = SockRef::from(&target);
        assert!(set.keepalive().unwrap() && !SockRef::from(&client).keepalive().unwrap());
        assert_eq!(set.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(set.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(set.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_round_looks_at_the_next_sessions_and_never_at_more_than_its_share() {
        let stream = pair();
        let looks = Rc::new(Looks::default());
        let tally = Tally::default();
        let cells: Vec<_> = (0..100).map(|_| Arc::new(RouteCell::default())).collect();
        let sockets = [stream.as_raw_fd(); 2];
        let mut watched: Vec<_> =
            cells.iter().map(|cell| looks.watch(sockets, liveness(""), (Arc::clone(cell), &tally))).collect();
        let seen = || cells.iter().filter(|cell| cell.looked.legs[0].looks.get() > 0).count();
        // The first look at a session tells nothing yet: 64, 36 + 28 again, 36 + 28.
        for expected in [0, 28, 92, 100] {
            looks.round();
            tokio::time::advance(ROUND).await;
            assert_eq!(seen(), expected);
        }
        watched.clear();
        looks.round();
        assert_eq!(looks.members.borrow().len(), 0);
    }
}
