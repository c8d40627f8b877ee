//! The joined sessions of one worker: counted, watched for silence, and ended when it is time.
//!
//! A joined session has no task and no buffers; it is an entry here. One task per worker looks at those that the programs
//! say are ending or that are cut, and at all of them once a second. Cancelling it leaves joined sessions running and uncounted. Whatever
//! drops an entry resets its session, unless that has ended; a process that is killed drops nothing.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use landbridge_common::packet::LINGER;
use landbridge_core::end::SessionEnd;
use landbridge_core::vigil::{Sign, Verdict, Vigil, VigilRules};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use crate::config::{Listener, TcpOptions};
use crate::fastpath::packet::{Ending, Joined, Lifetime, PacketPath, Seen};
use crate::session::Account;
use crate::stats::{Carrier, Direction, Presence};

mod adopted;

/// How often every joined session is counted and judged. Metrics lag by as much; timeouts are seconds and more.
const ROUND: Duration = Duration::from_secs(1);

/// The last acknowledgement reaches the socket in microseconds; the sender would repeat after 200 ms at the earliest.
const SEAL_POLL: Duration = Duration::from_millis(1);
const SEAL_ATTEMPTS: u32 = 150;

/// Closed sessions that one worker keeps for repetitions; beyond it the oldest leave early, as TIME_WAIT sockets do when
/// the kernel has too many.
const MOST_LINGERING: usize = 8192;

/// The joined sessions of a worker.
pub(crate) struct JoinedSessions {
    pub(crate) path: Arc<PacketPath>,
    members: RefCell<HashMap<u32, Member>>,
    /// Closed sessions, and since when.
    lingering: RefCell<VecDeque<(Instant, Joined)>>,
    /// Adopted sessions of targets that are not configured any more, and when they have to end.
    orphans: RefCell<Vec<(Option<Instant>, Joined)>>,
    ending: UnboundedSender<u32>,
    ended: RefCell<Option<UnboundedReceiver<u32>>>,
}

struct Member {
    joined: Joined,
    account: Account,
    _presences: [Presence; 2],
    vigil: Vigil,
    /// Bytes that were counted, from the client and from the target.
    counted: [u64; 2],
    _alive: TaskTrackerToken,
}

impl JoinedSessions {
    pub(crate) fn new(path: Arc<PacketPath>) -> Self {
        let (ending, ended) = unbounded_channel();
        Self {
            path,
            members: RefCell::default(),
            lingering: RefCell::default(),
            orphans: RefCell::default(),
            ending,
            ended: RefCell::new(Some(ended)),
        }
    }

    /// Takes over a session that has just been joined, after user space had `read` so many bytes from each leg; `alive`
    /// keeps the worker from ending. Cancelling it resets the session.
    pub(crate) async fn add(
        &self,
        mut joined: Joined,
        read: [u64; 2],
        mut account: Account,
        (rules, listener): (VigilRules, &Listener),
        alive: TaskTrackerToken,
    ) {
        if let Err(error) = seal(&mut joined, read).await {
            warn!("a joined session is reset, for its stream may not be whole: {error}");
            account.end = SessionEnd::IntegrityReset;
            return;
        }
        account.cell.joins.add(1);
        account.answered = read[1] > 0;
        joined.sign(account.origin(&listener.name, read), lifetime(listener));
        if self.path.retired().is_cancelled() {
            account.end = SessionEnd::Left;
            return;
        }
        let vigil = Vigil::new(rules, joined.now());
        self.enter(joined, account, vigil, [0; 2], alive);
    }

    /// `counted`: bytes that were counted before, from the client and from the target.
    fn enter(&self, joined: Joined, account: Account, vigil: Vigil, counted: [u64; 2], alive: TaskTrackerToken) {
        let presences =
            Direction::ALL.map(|direction| Presence::new(Arc::clone(&account.cell), direction, Carrier::Packet));
        joined.notify(self.ending.clone());
        let index = joined.index();
        account.lease.tell_cut(self.ending.clone(), index);
        let member = Member { joined, account, _presences: presences, vigil, counted, _alive: alive };
        self.members.borrow_mut().insert(index, member);
        // It may have ended, or been cut, before anybody was told.
        self.look(index);
    }

    /// Looks after the sessions until `cut` is cancelled, and then resets them, or until the path is retired, and then
    /// leaves them to the next process.
    pub(crate) async fn run(&self, cut: CancellationToken) {
        let Some(mut ended) = self.ended.borrow_mut().take() else { return };
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(index) = ended.recv() => self.look(index),
                _ = rounds.tick() => self.look_at_all(),
                () = cut.cancelled() => break,
                () = self.path.retired().cancelled() => {
                    self.leave();
                    break;
                }
            }
        }
        self.members.borrow_mut().clear();
        self.orphans.borrow_mut().clear();
    }

    /// Counts what has moved for the last time, and closes the sockets in silence.
    fn leave(&self) {
        for (_, mut member) in self.members.borrow_mut().drain() {
            member.account.end = member.look().unwrap_or(SessionEnd::Left);
        }
        self.lingering.borrow_mut().clear();
    }

    fn look_at_all(&self) {
        let indexes: Vec<u32> = self.members.borrow().keys().copied().collect();
        for index in indexes {
            self.look(index);
        }
        self.look_at_orphans();
        let mut lingering = self.lingering.borrow_mut();
        let over = |(since, _): &mut (Instant, Joined)| since.elapsed() >= Duration::from_nanos(LINGER);
        while lingering.len() > MOST_LINGERING || lingering.front_mut().is_some_and(over) {
            lingering.pop_front();
        }
    }

    fn look(&self, index: u32) {
        let mut members = self.members.borrow_mut();
        let Some(member) = members.get_mut(&index) else { return };
        let Some(end) = member.look() else { return };
        if let Some(Member { joined, mut account, .. }) = members.remove(&index) {
            account.end = end;
            debug!(end = end.code(), "joined session ended");
            if joined.ending().is_told() {
                self.linger(joined);
            }
        }
    }

    fn linger(&self, mut joined: Joined) {
        joined.release();
        self.lingering.borrow_mut().push_back((Instant::now(), joined));
    }
}

impl Member {
    /// Counts what has moved and says how the session has ended, or has to.
    fn look(&mut self) -> Option<SessionEnd> {
        let seen = self.joined.seen();
        for (side, direction) in Direction::ALL.into_iter().enumerate() {
            let new = seen[side].bytes - self.counted[side];
            self.counted[side] = seen[side].bytes;
            self.account.cell.bytes(direction, Carrier::Packet).add(new);
            self.account.tally.add(direction, Carrier::Packet, new);
            self.account.answered |= direction == Direction::Download && new > 0;
        }
        match self.joined.ending() {
            Ending::No => {}
            Ending::Closed { client_first: true } => return Some(SessionEnd::ClientClosed),
            Ending::Closed { client_first: false } => return Some(SessionEnd::TargetClosed),
            Ending::Reset { by_client: true } => return Some(SessionEnd::ClientReset),
            Ending::Reset { by_client: false } => return Some(SessionEnd::TargetReset),
            Ending::Dead => return Some(SessionEnd::Idle),
        }
        if self.account.lease.cut().is_cancelled() {
            return Some(self.account.lease.cut_end());
        }
        match self.vigil.look(seen.map(sign), self.joined.now()) {
            Verdict::Keep => None,
            Verdict::Probe(sides) => {
                for side in (0..2).filter(|side| sides[*side]) {
                    if let Err(error) = self.joined.probe(side) {
                        debug!("a joined leg cannot be probed: {error}");
                    }
                }
                None
            }
            Verdict::End(end) => Some(end),
        }
    }
}

/// By which rules the joined sessions of a listener with such target legs are watched.
pub(crate) fn rules(listener: &Listener, target: &TcpOptions) -> VigilRules {
    VigilRules {
        idle: listener.idle_timeout,
        half_close: listener.half_close_timeout,
        keepalive: [listener.tcp.keepalive, target.keepalive],
        user_timeout: [listener.tcp.user_timeout, target.user_timeout],
    }
}

/// The daemon ends sessions by RSTs to both peers, and looks once a second: the programs, which only drop, come later.
const GRACE: Duration = Duration::from_secs(10);

/// How long a peer may be silent before the programs give its joint up, when no other limit is set. A day: the daemon, as
/// long as it lives, finds dead peers much earlier.
const LONGEST_SILENCE: Duration = Duration::from_hours(24);

/// How long the programs keep the sessions of a listener, even without a daemon.
fn lifetime(listener: &Listener) -> Lifetime {
    let silence = listener.idle_timeout.zip(listener.half_close_timeout).map(|(idle, half)| idle.max(half));
    Lifetime {
        idle: silence.map_or(LONGEST_SILENCE, |silence| silence + GRACE),
        // The daemon's own limit differs from session to session.
        age: listener.max_session_age.map(|age| age + age / 8 + GRACE),
    }
}

fn sign(seen: Seen) -> Sign {
    let Seen { bytes, last_seen, unacknowledged, has_ended, .. } = seen;
    Sign { bytes, last_seen, owes: unacknowledged > 0, has_ended }
}

async fn seal(joined: &mut Joined, read: [u64; 2]) -> io::Result<()> {
    for _ in 0..SEAL_ATTEMPTS {
        if joined.seal(read)? {
            return Ok(());
        }
        sleep(SEAL_POLL).await;
    }
    Err(io::Error::other("the last acknowledgement did not reach the socket"))
}
