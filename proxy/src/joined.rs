//! The joined sessions of one worker: counted, watched for silence, and ended when it is time.
//!
//! A joined session has no task and no buffers; it is an entry here. One task per worker looks at those that the programs
//! say are ending or that are cut, and at all of them once a second. Cancelling it leaves joined sessions running and uncounted. Whatever
//! drops an entry resets its session, unless that has ended; a process that is killed drops nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use landbridge_common::packet::LINGER;
use landbridge_core::end::SessionEnd;
use landbridge_core::slow::{LegLook, SessionLook};
use landbridge_core::vigil::{PeerSeen, Verdict, Vigil, VigilRules};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use crate::account::Account;
use crate::blocks::Blocks;
use crate::config::{Listener, TcpOptions};
use crate::fastpath::packet::{Ending, IDLE_LIMIT, Joined, Lifetime, PacketPath, Seen};
use crate::stats::{Carrier, Direction, Presence};

use self::adopted::Orphan;

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
    members: RefCell<Blocks<Member>>,
    /// Closed sessions, and since when.
    lingering: RefCell<VecDeque<(Instant, Joined)>>,
    /// Adopted sessions of what is not configured any more.
    orphans: RefCell<Vec<Orphan>>,
    ending: UnboundedSender<u32>,
    ended: RefCell<Option<UnboundedReceiver<u32>>>,
}

struct Member {
    joined: Joined,
    account: Account,
    _presences: [Presence; 2],
    vigil: Vigil,
    looked: JoinedLook,
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

    /// Takes over a session that has just been joined and sealed, after user space had `read` so many bytes from each leg;
    /// `alive` keeps the worker from ending.
    pub(crate) fn add(&self, joined: Joined, read: [u64; 2], mut account: Account, alive: TaskTrackerToken) {
        account.cell.joins.add(1);
        account.answered = read[1] > 0;
        joined.sign(account.origin(read), lifetime(account.listener()));
        if self.path.retired().is_cancelled() {
            account.end = SessionEnd::Left;
            return;
        }
        let vigil = Vigil::new(joined.now());
        // The target may owe an answer to what user space has sent it.
        let asked = (read[1] == 0 && read[0] > 0).then(|| joined.now());
        let moved_at = Some(joined.now());
        self.enter(joined, account, (vigil, JoinedLook { asked, moved_at, ..JoinedLook::default() }), alive);
    }

    fn enter(&self, joined: Joined, account: Account, (vigil, looked): (Vigil, JoinedLook), alive: TaskTrackerToken) {
        let presences =
            Direction::ALL.map(|direction| Presence::new(Arc::clone(&account.cell), direction, Carrier::Packet));
        let member = Member { joined, account, _presences: presences, vigil, looked, _alive: alive };
        let number = self.members.borrow_mut().insert(member);
        if let Some(Member { joined, account, .. }) = self.members.borrow_mut().get_mut(number) {
            joined.notify(self.ending.clone(), number);
            account.lease.tell_cut(self.ending.clone(), number);
        }
        // It may have ended, or been cut, before anybody was told.
        self.look(number, false);
    }

    /// Looks after the sessions until `cut` is cancelled, and then resets them, or until the path is retired, and then
    /// leaves them to the next process.
    pub(crate) async fn run(&self, cut: CancellationToken) {
        let Some(mut ended) = self.ended.borrow_mut().take() else { return };
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(number) = ended.recv() => self.look(number, false),
                _ = rounds.tick() => self.look_at_all(),
                () = cut.cancelled() => break,
                () = self.path.retired().cancelled() => {
                    self.leave();
                    break;
                }
            }
        }
        self.members.take();
        self.orphans.borrow_mut().clear();
    }

    /// Counts what has moved for the last time, and closes the sockets in silence.
    fn leave(&self) {
        for mut member in self.members.take().into_all() {
            member.account.end = member.look(false).unwrap_or(SessionEnd::Left);
        }
        self.lingering.borrow_mut().clear();
    }

    fn look_at_all(&self) {
        let numbers: Vec<u32> = self.members.borrow().iter().map(|(number, _)| number).collect();
        for number in numbers {
            self.look(number, true);
        }
        self.look_at_orphans();
        let mut lingering = self.lingering.borrow_mut();
        let over = |(since, _): &mut (Instant, Joined)| since.elapsed() >= Duration::from_nanos(LINGER);
        while lingering.len() > MOST_LINGERING || lingering.front_mut().is_some_and(over) {
            lingering.pop_front();
        }
    }

    /// The number may be that of another session than the one that told it.
    fn look(&self, number: u32, is_round: bool) {
        let mut members = self.members.borrow_mut();
        let Some(member) = members.get_mut(number) else { return };
        let Some(end) = member.look(is_round) else { return };
        if let Some(Member { joined, mut account, .. }) = members.remove(number) {
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
    /// Takes note, once, of how long a target that has answered was idle when it closed first. At most a round too short, for
    /// bytes are counted when they are seen.
    fn note_close(&mut self) {
        if let Some(at) = self.looked.moved_at.take()
            && self.account.answered
        {
            self.account.cell.idle_close.note(self.joined.now().saturating_sub(at));
        }
    }

    /// Counts what has moved and says how the session has ended, or has to.
    fn look(&mut self, is_round: bool) -> Option<SessionEnd> {
        let seen = self.joined.seen();
        let before = Direction::ALL.map(|direction| self.account.tally.carried(direction, Carrier::Packet));
        for (side, direction) in Direction::ALL.into_iter().enumerate() {
            let new = seen[side].bytes - before[side];
            self.account.cell.bytes(direction, Carrier::Packet).add(new);
            self.account.tally.add(direction, Carrier::Packet, new);
            self.account.answered |= direction == Direction::Download && new > 0;
        }
        if seen.map(|seen| seen.bytes) != before {
            self.looked.moved_at = Some(self.joined.now());
        }
        self.take_samples(&seen, before, is_round);
        if seen[1].has_ended && !seen[0].has_ended {
            self.note_close();
        }
        match self.joined.ending() {
            Ending::No => {}
            Ending::Closed { client_first: true } => return Some(SessionEnd::ClientClosed),
            Ending::Closed { client_first: false } => {
                self.note_close();
                return Some(SessionEnd::TargetClosed);
            }
            Ending::Reset { by_client: true } => return Some(SessionEnd::ClientReset),
            Ending::Reset { by_client: false } => return Some(SessionEnd::TargetReset),
            Ending::Dead if self.joined.is_too_old() => return Some(SessionEnd::MaxAge),
            Ending::Dead => return Some(SessionEnd::Idle),
        }
        if let Some(end) = self.account.lease.is_cut() {
            return Some(end);
        }
        let rules = rules(self.account.listener(), &self.account.group().tcp);
        judge(&mut self.vigil, &rules, &mut self.joined, seen)
    }
}

/// Asks peers that are silent for a sign of life; says how the session has to end.
fn judge(vigil: &mut Vigil, rules: &VigilRules, joined: &mut Joined, seen: [Seen; 2]) -> Option<SessionEnd> {
    let (signs, now) = (seen.map(sign), joined.now());
    if vigil.is_blocked(signs, joined.untranslatable(), now) {
        let [client, target] = joined.peers();
        warn!(
            %client,
            target_address = %target,
            "a joined session is reset, for its packets are fragments, or have options, that cannot be sent on"
        );
        return Some(SessionEnd::IntegrityReset);
    }
    match vigil.look(rules, signs, now) {
        Verdict::Keep => None,
        Verdict::Probe(sides) => {
            for side in (0..2).filter(|side| sides[*side]) {
                if let Err(error) = joined.probe(side) {
                    debug!("a joined leg cannot be probed: {error}");
                    vigil.not_sent(rules, side, now);
                }
            }
            None
        }
        Verdict::End(end) => Some(end),
    }
}

impl Member {
    /// Takes note of how the legs fare, and of the target's first byte; `before`: the bytes that were counted before.
    fn take_samples(&mut self, seen: &[Seen; 2], before: [u64; 2], is_round: bool) {
        let tally = &self.account.tally;
        if tally.is_logged {
            for (trip, seen) in tally.round_trips.iter().zip(seen).filter(|(_, seen)| !seen.round_trip.is_zero()) {
                trip.set(Some(seen.round_trip));
            }
        }
        if seen[1].bytes > 0 && tally.first_byte.get().is_none() {
            let [client, target] = self.joined.samples();
            if let Some(answered) = target.first_byte {
                self.account.note_first_byte(client.first_byte, answered);
            }
        }
        if is_round {
            let moved = [0, 1].map(|side| seen[side].bytes > before[side]);
            let look = self.looked.look(seen, moved, self.joined.now());
            self.account.cell.looked.take(&look.0, look.1);
            if self.looked.begins_to_stall(&seen[1], look.1[1]) {
                self.account.stalled();
            }
        }
    }
}

/// What the rounds have found about a joined session.
#[derive(Default)]
struct JoinedLook {
    /// When the target was asked something that it has not answered.
    asked: Option<Duration>,
    /// When payload was last seen to have moved; `None`: before an adoption.
    moved_at: Option<Duration>,
    /// Packets that each peer had repeated.
    retransmitted: [u64; 2],
    /// When the target was last heard, and what the client has had to repeat since.
    heard: Duration,
    unheard: u64,
}

/// Repetitions that a target does not answer in any way before its session counts as stalled, as many as a socket of user space
/// may have ([`crate::stalls`]). Those in the round in which it was last heard are not counted.
const UNHEARD: u64 = 2;

impl JoinedLook {
    /// Whether the target has been silent for so many repetitions now, and not before. `repeated`: since the last round.
    fn begins_to_stall(&mut self, target: &Seen, repeated: u64) -> bool {
        if target.last_seen != self.heard || target.unacknowledged == 0 {
            self.heard = target.last_seen;
            self.unheard = 0;
            return false;
        }
        let before = self.unheard;
        self.unheard += repeated;
        before < UNHEARD && self.unheard >= UNHEARD
    }

    /// What is known of the legs, and what was repeated on each since the last round. `moved`: which peers sent something
    /// since then.
    fn look(&mut self, seen: &[Seen; 2], moved: [bool; 2], now: Duration) -> (SessionLook, [u64; 2]) {
        match moved {
            [_, true] => self.asked = None,
            [true, false] => self.asked = self.asked.or(Some(seen[0].last_seen)),
            [false, false] => {}
        }
        let before = std::mem::replace(&mut self.retransmitted, seen.map(|of| of.retransmitted));
        // What one peer repeats after this host had it was lost on the way to the other one.
        let repeated = [1, 0].map(|from| seen[from].retransmitted.saturating_sub(before[from]));
        let leg = |side: usize| LegLook {
            round_trip: seen[side].round_trip,
            unacknowledged: seen[side].unacknowledged.into(),
            is_repeating: repeated[side] > 0 && seen[side].unacknowledged > 0,
            // The sockets of a joined session hold nothing.
            unsent: None,
            pace: 0,
            is_shut: seen[side].is_shut,
        };
        let waiting = self.asked.map(|asked| now.saturating_sub(asked));
        (SessionLook { client: leg(0), target: leg(1), waiting, is_moving: moved != [false; 2] }, repeated)
    }
}

/// By which rules the joined sessions of a listener with such target legs are watched.
fn rules(listener: &Listener, target: &TcpOptions) -> VigilRules {
    VigilRules {
        idle: listener.idle_timeout,
        half_close: listener.half_close_timeout,
        keepalive: [listener.tcp.keepalive, target.keepalive],
        user_timeout: [listener.tcp.user_timeout, target.user_timeout],
    }
}

/// The daemon ends sessions by RSTs to both peers, and looks once a second: the programs, which only drop, come later.
const GRACE: Duration = Duration::from_secs(10);

/// How long the programs keep the sessions of a listener, even without a daemon.
fn lifetime(listener: &Listener) -> Lifetime {
    let silence = listener.idle_timeout.zip(listener.half_close_timeout).map(|(idle, half)| idle.max(half));
    Lifetime {
        idle: silence.map_or(IDLE_LIMIT, |silence| silence + GRACE),
        // The daemon's own limit differs from session to session.
        age: listener.max_session_age.map(|age| age + age / 8 + GRACE),
    }
}

fn sign(seen: Seen) -> PeerSeen {
    let Seen { bytes, last_seen, unacknowledged, is_ahead, has_ended, .. } = seen;
    PeerSeen { bytes, last_seen, unacknowledged, is_ahead, has_ended }
}

/// Turns the sockets of a session that has just been joined into shadows, after user space had `read` so many bytes from each.
///
/// # Errors
/// The stream may not be whole: the session has to be reset.
pub(crate) async fn seal(joined: &mut Joined, read: [u64; 2]) -> io::Result<()> {
    for _ in 0..SEAL_ATTEMPTS {
        if joined.seal(read)? {
            return Ok(());
        }
        sleep(SEAL_POLL).await;
    }
    Err(io::Error::other("the last acknowledgement did not reach the socket"))
}
