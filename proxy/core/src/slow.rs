//! Which leg is slow: the client, the network to the targets, or the target itself.
//!
//! Workers look at some sessions each second. A look at both legs of one session becomes a [`Sign`]; the signs of a group's
//! sessions become its verdict, which changes only when most of them agree.

use core::time::Duration;

/// What a session waits for, if it waits for longer than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slow {
    /// The client, or the network to it.
    Client,
    /// The network to the target.
    Network,
    /// The target itself.
    Target,
}

impl Slow {
    /// Every one, in a fixed order.
    pub const ALL: [Self; 3] = [Self::Client, Self::Network, Self::Target];

    /// The value of the metric label `leg`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Network => "network",
            Self::Target => "target",
        }
    }
}

/// What is known of one leg at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LegLook {
    /// The smoothed round-trip time to the peer; zero: not measured.
    pub round_trip: Duration,
    /// Bytes that wait to be sent to the peer; `None`: they wait at the other peer, where nobody here sees them.
    pub unsent: Option<u64>,
    /// Bytes that were sent and that the peer has not acknowledged.
    pub unacknowledged: u64,
    /// Bytes per second that the peer has acknowledged since the last look.
    pub pace: u64,
    /// The peer's window has no room for another segment: it does not read.
    pub is_shut: bool,
    /// What was sent last is being repeated because no acknowledgement came.
    pub is_repeating: bool,
}

/// What is known of a session at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionLook {
    /// The client leg.
    pub client: LegLook,
    /// The target leg.
    pub target: LegLook,
    /// How long ago the target was sent something that it has not answered yet; `None`: it owes no answer.
    pub waiting: Option<Duration>,
    /// Whether bytes moved since the last look.
    pub is_moving: bool,
}

/// What one look at a session says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Nobody waits for anything.
    Idle,
    /// It moves as it should.
    Fine,
    /// It waits.
    Slow(Slow),
}

/// A round trip inside a region or through a VPN to a place nearby is a tenth of it; people notice twice as much.
const LONG_TRIP: Duration = Duration::from_millis(200);
/// What waits to be sent at a leg's present pace. Full socket buffers (4 MiB) on a link of 1 Gbit/s are 34 ms.
const LONG_BACKLOG: Duration = Duration::from_millis(500);
/// People wait for a first token for a second without asking whether something is wrong.
const LONG_ANSWER: Duration = Duration::from_secs(1);

/// What a look at a session says. A backlog comes first: who does not take bytes holds up everybody behind.
pub fn sign(look: &SessionLook) -> Sign {
    let SessionLook { client, target, waiting, is_moving } = look;
    if client.has_backlog() {
        return Sign::Slow(Slow::Client);
    }
    if target.has_backlog() {
        let reads = !target.is_shut || target.round_trip >= LONG_TRIP;
        return Sign::Slow(if reads { Slow::Network } else { Slow::Target });
    }
    let is_active = *is_moving || waiting.is_some();
    if !is_active {
        return Sign::Idle;
    }
    if target.is_repeating || target.round_trip >= LONG_TRIP {
        return Sign::Slow(Slow::Network);
    }
    if waiting.is_some_and(|waiting| waiting >= LONG_ANSWER) {
        return Sign::Slow(if target.unacknowledged > 0 { Slow::Network } else { Slow::Target });
    }
    if client.is_repeating || client.round_trip >= LONG_TRIP {
        return Sign::Slow(Slow::Client);
    }
    Sign::Fine
}

impl LegLook {
    fn has_backlog(&self) -> bool {
        let allowed = u128::from(self.pace) * LONG_BACKLOG.as_millis() / 1_000;
        match self.unsent {
            Some(unsent) => unsent > 0 && u128::from(unsent) >= allowed,
            // Only one that was sent more than it reads has a window without room.
            None => self.is_shut,
        }
    }
}

/// How many looks said what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    /// Sessions that moved as they should.
    pub fine: u64,
    /// Sessions that waited, in the order of [`Slow::ALL`].
    pub slow: [u64; Slow::ALL.len()],
}

/// The verdict on one group.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SlowJudge {
    /// Of the last looks, the shares that waited for each.
    shares: [f64; Slow::ALL.len()],
    verdict: Option<Slow>,
    /// Rounds without a look at a session that did anything.
    silent: u32,
}

/// What a round of looks weighs against all before it: after five rounds they are a third.
const WEIGHT: f64 = 0.2;
/// A leg is slow when half of the active sessions wait for it, and no longer when a quarter does.
const ENTER: f64 = 0.5;
const LEAVE: f64 = 0.25;
/// Rounds without traffic after which nothing is known any more.
const FORGET: u32 = 60;

impl SlowJudge {
    /// Takes the signs of a round, a second long, and returns which leg is slow, if one is.
    pub fn round(&mut self, signs: &Signs) -> Option<Slow> {
        let active = signs.fine + signs.slow.iter().sum::<u64>();
        if active == 0 {
            self.silent = self.silent.saturating_add(1);
            if self.silent >= FORGET {
                *self = Self { silent: self.silent, ..Self::default() };
            }
            return self.verdict;
        }
        self.silent = 0;
        for (share, slow) in self.shares.iter_mut().zip(signs.slow) {
            *share += WEIGHT * (slow as f64 / active as f64 - *share);
        }
        let of = |slow: Slow| self.shares[slow as usize];
        self.verdict = self.verdict.filter(|verdict| of(*verdict) >= LEAVE);
        if self.verdict.is_none() {
            self.verdict = Slow::ALL.into_iter().find(|slow| of(*slow) >= ENTER);
        }
        self.verdict
    }

    /// Which leg is slow, if one is.
    pub const fn verdict(&self) -> Option<Slow> {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const MOVING: SessionLook = SessionLook {
        client: LegLook { round_trip: ms(1), pace: 10_000_000, ..QUIET },
        target: LegLook { round_trip: ms(20), pace: 1_000, ..QUIET },
        waiting: None,
        is_moving: true,
    };
    const QUIET: LegLook = LegLook {
        round_trip: Duration::ZERO,
        unsent: Some(0),
        unacknowledged: 0,
        pace: 0,
        is_shut: false,
        is_repeating: false,
    };

    #[test]
    fn a_look_blames_whoever_is_waited_for() {
        let SessionLook { client, target, .. } = MOVING;
        for (what, look, expected) in [
            ("it moves", MOVING, Sign::Fine),
            ("nothing is to do", SessionLook { is_moving: false, ..MOVING }, Sign::Idle),
            (
                "an idle connection over a long way",
                SessionLook { is_moving: false, target: LegLook { round_trip: ms(900), ..target }, ..MOVING },
                Sign::Idle,
            ),
            (
                "a full buffer that drains in 400 ms",
                SessionLook { client: LegLook { unsent: Some(4_000_000), ..client }, ..MOVING },
                Sign::Fine,
            ),
            (
                "one that drains in 500 ms",
                SessionLook { client: LegLook { unsent: Some(5_000_000), ..client }, ..MOVING },
                Sign::Slow(Slow::Client),
            ),
            (
                "a client that takes nothing",
                SessionLook {
                    client: LegLook { unsent: Some(1), pace: 0, is_shut: true, ..client },
                    is_moving: false,
                    ..MOVING
                },
                Sign::Slow(Slow::Client),
            ),
            (
                "a target that does not read",
                SessionLook { target: LegLook { unsent: Some(1_000), is_shut: true, ..target }, ..MOVING },
                Sign::Slow(Slow::Target),
            ),
            (
                "a network that does not carry",
                SessionLook { target: LegLook { unsent: Some(1_000), ..target }, ..MOVING },
                Sign::Slow(Slow::Network),
            ),
            (
                "a window that a long way has used up",
                SessionLook {
                    target: LegLook { unsent: Some(1_000), is_shut: true, round_trip: ms(300), ..target },
                    ..MOVING
                },
                Sign::Slow(Slow::Network),
            ),
            (
                "a joined client that does not read",
                SessionLook { client: LegLook { unsent: None, is_shut: true, ..client }, is_moving: false, ..MOVING },
                Sign::Slow(Slow::Client),
            ),
            (
                "a joined target that does not read",
                SessionLook { target: LegLook { unsent: None, is_shut: true, ..target }, ..MOVING },
                Sign::Slow(Slow::Target),
            ),
            (
                "a joined one that does",
                SessionLook { client: LegLook { unsent: None, ..client }, ..MOVING },
                Sign::Fine,
            ),
            ("a short thought", SessionLook { waiting: Some(ms(999)), ..MOVING }, Sign::Fine),
            (
                "a long thought",
                SessionLook { waiting: Some(ms(1_000)), is_moving: false, ..MOVING },
                Sign::Slow(Slow::Target),
            ),
            (
                "a question that did not arrive",
                SessionLook { waiting: Some(ms(1_000)), target: LegLook { unacknowledged: 10, ..target }, ..MOVING },
                Sign::Slow(Slow::Network),
            ),
            (
                "a question that is repeated",
                SessionLook { waiting: Some(ms(300)), target: LegLook { is_repeating: true, ..target }, ..MOVING },
                Sign::Slow(Slow::Network),
            ),
            (
                "a long way to the target",
                SessionLook { target: LegLook { round_trip: ms(200), ..target }, ..MOVING },
                Sign::Slow(Slow::Network),
            ),
            (
                "a long way to the client",
                SessionLook { client: LegLook { round_trip: ms(200), ..client }, ..MOVING },
                Sign::Slow(Slow::Client),
            ),
        ] {
            assert_eq!(sign(&look), expected, "{what}");
        }
    }

    fn signs(fine: u64, slow: [u64; 3]) -> Signs {
        Signs { fine, slow }
    }

    #[test]
    fn a_verdict_needs_most_sessions_and_some_rounds() {
        let mut judge = SlowJudge::default();
        let verdicts: [_; 5] = core::array::from_fn(|_| judge.round(&signs(0, [0, 0, 3])));
        assert_eq!(verdicts, [None, None, None, Some(Slow::Target), Some(Slow::Target)]);
        let mut judge = SlowJudge::default();
        assert!((0..100).all(|_| judge.round(&signs(6, [0, 0, 4])).is_none()), "two fifths are not most");
    }

    #[test]
    fn a_verdict_stays_until_few_wait_and_does_not_flap() {
        let mut judge = SlowJudge::default();
        for _ in 0..20 {
            judge.round(&signs(0, [1, 0, 0]));
        }
        assert!((0..100).all(|_| judge.round(&signs(6, [4, 0, 0])) == Some(Slow::Client)));
        let rounds = (1..).find(|_| judge.round(&signs(1, [0, 0, 0])).is_none());
        assert_eq!(rounds, Some(3), "0.4 falls below a quarter");
    }

    #[test]
    fn the_cause_changes_when_the_old_one_has_gone() {
        let mut judge = SlowJudge::default();
        for _ in 0..20 {
            judge.round(&signs(0, [0, 1, 0]));
        }
        assert_eq!(judge.verdict(), Some(Slow::Network));
        let seen: std::vec::Vec<_> = (0..10).map(|_| judge.round(&signs(0, [0, 0, 1]))).collect();
        assert_eq!(seen[..6], [Some(Slow::Network); 6]);
        assert_eq!(seen[6..], [Some(Slow::Target); 4]);
    }

    #[test]
    fn silence_changes_nothing_for_a_minute_and_then_nothing_is_known() {
        let mut judge = SlowJudge::default();
        for _ in 0..20 {
            judge.round(&signs(0, [0, 0, 1]));
        }
        for second in 1..FORGET {
            assert_eq!(judge.round(&Signs::default()), Some(Slow::Target), "{second}");
        }
        assert_eq!(judge.round(&Signs::default()), None);
        assert_eq!(judge.round(&signs(0, [0, 0, 1])), None, "and it begins anew");
    }
}
