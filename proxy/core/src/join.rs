//! When two legs should be joined at packet level.
//!
//! A session begins in user space. It *rests* when everything that was read has been given on and nothing waits. After some
//! rests, or when it is quiet, its packets are watched; at a later rest the joint is armed, and becomes live with the next
//! packet that leaves nothing unacknowledged. If something else arrives first the attempt was spoiled, which costs nobody
//! anything but the attempt, and the session relays on.

mod eligible;

use core::time::Duration;

pub use self::eligible::{ALIKE, LegFacts, MICROSECONDS, NotJoined, TIMESTAMPS, eligible, headers};

/// When a session is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinRules {
    /// Rests before the packets are watched where sessions have been short ([`Haste`]); elsewhere it is the first rest.
    /// Default 4: two requests and their answers. To join costs about as much as forwarding ten messages, so a connection
    /// that asks once should not.
    pub after: u32,
    /// Or so long without a byte. Default 2 ms: longer than a target in the same place needs to answer, shorter than
    /// anything that computes. Where sessions have been short, 100 ms at least.
    pub quiet: Duration,
}

impl Default for JoinRules {
    fn default() -> Self {
        Self { after: 4, quiet: Duration::from_millis(2) }
    }
}

/// Spoiled attempts in a row after which other datapaths get their chance.
const PATIENCE: u32 = 8;

/// Rests between two attempts are doubled up to this.
const LONGEST_PAUSE: u32 = 256;

/// What to do about joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinStep {
    /// Relay on.
    Nothing,
    /// Note how far arriving packets reach from now on.
    Watch {
        /// Ask both peers for a packet, and do not wait until some come of their own accord.
        ask: bool,
    },
    /// Arm the joint.
    Arm {
        /// Legs of which no packet was seen since they are watched count as resting too: nothing came for a while.
        unseen: bool,
    },
}

/// Decides for one session.
#[derive(Debug, Clone, Copy)]
pub struct JoinJudge {
    rules: JoinRules,
    eager: bool,
    state: State,
    /// Rests until the next step.
    pause: u32,
    spoiled: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unwatched,
    Watched,
    /// Joined, or refused.
    Decided,
}

impl JoinJudge {
    /// A session that has just begun.
    pub const fn new(rules: JoinRules, eager: bool) -> Self {
        Self { rules, eager, state: State::Unwatched, pause: if eager { 1 } else { rules.after }, spoiled: 0 }
    }

    /// The session rests after something moved. A step that cannot be taken yet comes again at the next rest.
    pub const fn rested(&mut self) -> JoinStep {
        self.pause = self.pause.saturating_sub(1);
        match self.state {
            State::Unwatched if self.pause == 0 => JoinStep::Watch { ask: self.eager },
            State::Watched if self.pause == 0 => JoinStep::Arm { unseen: false },
            _ => JoinStep::Nothing,
        }
    }

    /// Packets of both legs have been seen since they are watched.
    pub const fn seen(&self) -> JoinStep {
        match self.state {
            State::Watched => JoinStep::Arm { unseen: true },
            State::Unwatched | State::Decided => JoinStep::Nothing,
        }
    }

    /// Nothing moved for [`JoinRules::quiet`].
    pub const fn quiet(&self) -> JoinStep {
        match self.state {
            State::Unwatched => JoinStep::Watch { ask: true },
            State::Watched => JoinStep::Arm { unseen: true },
            State::Decided => JoinStep::Nothing,
        }
    }

    /// The packets are watched.
    pub const fn watched(&mut self) {
        self.state = State::Watched;
        self.pause = 1;
    }

    /// An attempt was spoiled by something that arrived.
    pub const fn spoiled(&mut self) {
        self.spoiled = self.spoiled.saturating_add(1);
        let doublings = if self.spoiled < 8 { self.spoiled } else { 8 };
        self.pause = 1 << doublings;
        if self.pause > LONGEST_PAUSE {
            self.pause = LONGEST_PAUSE;
        }
    }

    /// The session is joined, or cannot be.
    pub const fn decided(&mut self) {
        self.state = State::Decided;
    }

    /// Why a session that ends now was not joined, after it `lived` for so long. One that was short, or about which is
    /// decided already, has no reason to tell.
    pub const fn ended(&self, lived: Duration) -> Option<NotJoined> {
        if self.is_open() && lived.as_nanos() >= SHORT.as_nanos() { Some(NotJoined::NeverQuiet) } else { None }
    }

    /// Whether joining may still be tried: timers for it make sense.
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Decided)
    }

    /// Whether other ways into the kernel should wait for this one.
    pub const fn is_preferred(&self) -> bool {
        self.is_open() && self.spoiled < PATIENCE
    }

    /// For how long nothing has to move before [`Self::quiet`]. Where sessions are short, a pause in which they could have
    /// ended: that a busy target takes longer than [`JoinRules::quiet`] to answer does not make a session worth joining.
    pub const fn quiet_time(&self) -> Duration {
        if self.eager || self.rules.quiet.as_nanos() > SHORT.as_nanos() { self.rules.quiet } else { SHORT }
    }
}

/// How long the sessions of a route live, as far as joining cares: those that end soon are not worth it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Haste {
    /// Of the last sessions, how many were short more than were long.
    pub short: u8,
}

/// A session that ends before is short: at a rate of ten connections a second, joining costs less than a thousandth of a CPU.
const SHORT: Duration = Duration::from_millis(100);

/// From so many on sessions are not joined at once.
const LAZY: u8 = 4;

/// A route that had short sessions for hours becomes eager again after some long ones.
const MOST: u8 = 2 * LAZY;

impl Haste {
    /// A session has ended that lived for so long.
    pub const fn ended(self, lived: Duration) -> Self {
        let short = if lived.as_nanos() < SHORT.as_nanos() { self.short + 1 } else { self.short.saturating_sub(LAZY) };
        Self { short: if short > MOST { MOST } else { short } }
    }

    /// Whether the next session should be joined as soon as it rests.
    pub const fn is_eager(self) -> bool {
        self.short < LAZY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_watched_after_some_rests_and_then_armed_at_each() {
        let mut judge = JoinJudge::new(JoinRules::default(), false);
        for _ in 0..3 {
            assert_eq!(judge.rested(), JoinStep::Nothing);
        }
        assert_eq!(judge.rested(), JoinStep::Watch { ask: false });
        assert_eq!(judge.rested(), JoinStep::Watch { ask: false }, "until they could be watched");
        judge.watched();
        assert_eq!(judge.rested(), JoinStep::Arm { unseen: false });
        assert_eq!(judge.rested(), JoinStep::Arm { unseen: false }, "until it worked or was spoiled");
    }

    #[test]
    fn a_quiet_session_needs_no_rests() {
        let mut judge = JoinJudge::new(JoinRules::default(), false);
        assert_eq!(judge.quiet(), JoinStep::Watch { ask: true });
        judge.watched();
        assert_eq!(judge.quiet(), JoinStep::Arm { unseen: true });
    }

    #[test]
    fn an_eager_session_asks_for_packets_and_is_armed_when_they_came() {
        let mut judge = JoinJudge::new(JoinRules::default(), true);
        assert_eq!(judge.seen(), JoinStep::Nothing);
        assert_eq!(judge.rested(), JoinStep::Watch { ask: true });
        judge.watched();
        assert_eq!(judge.seen(), JoinStep::Arm { unseen: true });
    }

    #[test]
    fn where_sessions_are_short_quiet_takes_longer_than_they_live() {
        let judge = |quiet, eager| JoinJudge::new(JoinRules { quiet, ..JoinRules::default() }, eager);
        for quiet in [2, 99, 101].map(Duration::from_millis) {
            assert_eq!(judge(quiet, true).quiet_time(), quiet);
            assert_eq!(judge(quiet, false).quiet_time(), quiet.max(SHORT));
        }
    }

    #[test]
    fn short_sessions_make_a_route_lazy_and_long_ones_eager_again() {
        let mut haste = Haste::default();
        for _ in 0..4 {
            assert!(haste.is_eager());
            haste = haste.ended(Duration::from_millis(99));
        }
        for _ in 0..1000 {
            assert!(!haste.is_eager());
            haste = haste.ended(Duration::ZERO);
        }
        haste = haste.ended(Duration::from_millis(100));
        assert!(!haste.is_eager());
        assert!(haste.ended(Duration::from_mins(1)).is_eager());
    }

    #[test]
    fn spoiled_attempts_become_rare_and_let_others_have_their_chance() {
        let mut judge = JoinJudge::new(JoinRules::default(), false);
        judge.watched();
        let mut pauses = [0_u32; 10];
        for pause in &mut pauses {
            while judge.rested() == JoinStep::Nothing {
                *pause += 1;
            }
            judge.spoiled();
        }
        assert_eq!(pauses, [0, 1, 3, 7, 15, 31, 63, 127, 255, 255]);
        assert!(!judge.is_preferred() && judge.is_open());
    }

    #[test]
    fn a_decision_is_final() {
        let mut judge = JoinJudge::new(JoinRules { after: 1, quiet: Duration::ZERO }, false);
        judge.decided();
        assert_eq!((judge.rested(), judge.quiet()), (JoinStep::Nothing, JoinStep::Nothing));
        assert!(!judge.is_open() && !judge.is_preferred());
    }

    #[test]
    fn a_session_that_could_have_been_joined_was_never_quiet_unless_it_was_short() {
        let mut judge = JoinJudge::new(JoinRules::default(), true);
        for long in [SHORT, Duration::MAX] {
            assert_eq!(judge.ended(long), Some(NotJoined::NeverQuiet));
            judge.watched();
            judge.spoiled();
        }
        assert_eq!(judge.ended(SHORT - Duration::from_nanos(1)), None);
        judge.decided();
        assert_eq!(judge.ended(Duration::MAX), None);
    }
}
