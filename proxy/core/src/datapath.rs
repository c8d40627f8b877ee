//! How a direction's bytes should move: copied, spliced, or redirected by the kernel.
//!
//! A direction begins in user space and is judged by its reads. Small reads that leave nothing behind are *messages*. With
//! gaps between them, as tokens have, they gain from the kernel, where nobody is woken for them. In quick succession, as
//! on a busy keep-alive connection, they gain there only as long as few directions do so at once: an event loop with many
//! of them takes many messages at a wake-up, the kernel schedules its worker for each. Large reads are *bulk*: it gains
//! from splicing, and loses in the kernel, which queues without backpressure.

use core::time::Duration;

/// The numbers that a direction is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// A read of at least this many bytes is large: to splice it costs less than to copy it. Default 32 KiB.
    pub large: u64,
    /// Large reads in a row before a direction is spliced. Default 2: one alone is often the end of a body.
    pub splice_after: u32,
    /// Smaller splices in a row before a direction is copied again. Default 8.
    pub copy_after: u32,
    /// Messages in a row before a direction is promoted. Default 8: a promotion costs as much as some ten copied
    /// messages, so a connection that asks once or twice stays in user space.
    pub promote_after: u32,
    /// The mean gap between the messages of such a row from which the kernel always gains. Default 10 ms: with 1,000 token
    /// streams, 50 ms apart, the kernel halved the p99 delay.
    pub promote_gap: Duration,
    /// Directions with shorter gaps that one worker has in the kernel at once. Default 16: the kernel served 1.5 times the
    /// requests of user space with one connection, 1.2 times with 8, and 0.7 to 1.0 times with 64.
    pub promote_busy: u32,
    /// Each demotion for load doubles the messages that the next promotion takes, up to `promote_after` times this.
    /// Default 1,024: traffic that keeps changing its mind stays in user space.
    pub reluctance: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            large: 32 * 1024,
            splice_after: 2,
            copy_after: 8,
            promote_after: 8,
            promote_gap: Duration::from_millis(10),
            promote_busy: 16,
            reluctance: 1 << 10,
        }
    }
}

/// What the kernel may hold and do before it tells the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one direction on their way (redirected or written, not acknowledged by the sink's peer) from which a
    /// direction is behind and demoted. Default 1 MiB: the product of 1 Gbit/s and 8 ms.
    pub soft: u64,
    /// Bytes of one direction on their way from which no more are taken from its peer. Default 4 MiB.
    pub hard: u64,
    /// Bytes of one direction within 8.4 ms from which it is bulk. Default 512 KiB, 500 Mbit/s.
    pub bulk: u64,
    /// Directions promoted at once. Default: as many as there can be, 65,536. The kernel takes 128 bytes for each at the
    /// start.
    pub budget: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { soft: 1 << 20, hard: 4 << 20, bulk: 512 << 10, budget: 1 << 16 }
    }
}

/// What a direction may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether large reads may be spliced.
    pub splice: bool,
    /// Whether, and when, the kernel may redirect.
    pub promote: Promote,
    /// By which numbers that is decided.
    pub thresholds: Thresholds,
}

/// When a direction is promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// Never.
    Never,
    /// Once it behaves like messages with gaps between them.
    Messages,
    /// As soon as nothing is waiting.
    AtOnce,
}

/// How user space reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `recv` and `send`.
    Copy,
    /// `splice` through a pipe.
    Splice,
}

/// Why a direction went back to user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demotion {
    /// Its sink takes less than arrives.
    Behind,
    /// It turned into bulk.
    Bulk,
    /// Its source has ended: the rest is handed over in user space.
    Ended,
}

impl Demotion {
    /// Every reason, in a fixed order.
    pub const ALL: [Self; 3] = [Self::Behind, Self::Bulk, Self::Ended];

    /// The value of the metric label `reason`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Behind => "behind",
            Self::Bulk => "bulk",
            Self::Ended => "ended",
        }
    }
}

/// How quickly messages follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// With gaps of at least [`Thresholds::promote_gap`].
    Slow,
    /// In quick succession.
    Busy,
}

/// Judges one direction by its reads.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    policy: Policy,
    splicing: bool,
    /// Reads in a row that speak for the other method.
    against: u32,
    /// Messages in a row, and when the first one came.
    messages: u32,
    since: Duration,
    reluctance: u32,
    /// The pace of a row of messages that has just become long enough.
    row: Option<Pace>,
    /// It does not ask for the kernel any more.
    stays: bool,
}

impl Judge {
    /// A judge of a direction of which nothing is known.
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            splicing: false,
            against: 0,
            messages: 0,
            since: Duration::ZERO,
            reluctance: 1,
            row: None,
            stays: false,
        }
    }

    /// How to read next.
    pub const fn method(&self) -> Method {
        if self.splicing { Method::Splice } else { Method::Copy }
    }

    /// Takes note of a read of `bytes` bytes at `now`, a time since any fixed moment; `drained`: it left nothing behind.
    pub fn read(&mut self, bytes: usize, drained: bool, now: Duration) {
        let Thresholds { large, splice_after, copy_after, .. } = self.policy.thresholds;
        let large = bytes as u64 >= large;
        self.count_message(drained && !large, now);
        if large == self.splicing {
            self.against = 0;
            return;
        }
        self.against += 1;
        let enough = if self.splicing { copy_after } else { splice_after };
        if self.policy.splice && self.against >= enough {
            self.splicing = !self.splicing;
            self.against = 0;
        }
        self.against = self.against.min(enough);
    }

    fn count_message(&mut self, is_message: bool, now: Duration) {
        self.row = None;
        if !is_message {
            self.messages = 0;
            return;
        }
        if self.messages == 0 {
            self.since = now;
        }
        self.messages += 1;
        let Thresholds { promote_after, .. } = self.policy.thresholds;
        let enough = promote_after.saturating_mul(self.reluctance);
        if self.messages >= enough {
            self.messages = 0;
            self.row = Some(self.pace(enough - 1, now.saturating_sub(self.since)));
        }
    }

    /// The pace of `gaps` gaps between messages that took `time` in all.
    pub fn pace(&self, gaps: u32, time: Duration) -> Pace {
        if time >= self.policy.thresholds.promote_gap.saturating_mul(gaps) { Pace::Slow } else { Pace::Busy }
    }

    /// Whether, and as what, the direction should be promoted at the next moment when nothing is waiting, while its worker
    /// has `busy` directions in the kernel that are [`Pace::Busy`].
    pub fn wants_kernel(&self, busy: u32) -> Option<Pace> {
        if self.stays {
            return None;
        }
        match (self.policy.promote, self.row) {
            (Promote::Never, _) | (Promote::Messages, None) => None,
            (Promote::Messages, Some(Pace::Busy)) if busy >= self.policy.thresholds.promote_busy => None,
            (Promote::Messages, Some(pace)) => Some(pace),
            // Not counted: this listener's operator has decided.
            (Promote::AtOnce, _) => Some(Pace::Slow),
        }
    }

    /// Whether a direction leaves the kernel again when it behaves otherwise there; if not, only for its safety.
    pub const fn may_demote(&self) -> bool {
        matches!(self.policy.promote, Promote::Messages)
    }

    /// The kernel refused the promotion: this direction does not ask again.
    pub fn refused(&mut self) {
        self.stays = true;
    }

    /// The direction came back from the kernel.
    pub fn demoted(&mut self, why: Demotion) {
        self.messages = 0;
        self.row = None;
        match why {
            Demotion::Behind | Demotion::Bulk => {
                self.reluctance = self.reluctance.saturating_mul(2).min(self.policy.thresholds.reluctance.max(1));
            }
            // Only its rest and its end are left to pass on, and the kernel would refuse it.
            Demotion::Ended => self.stays = true,
        }
        if why == Demotion::Bulk && self.policy.splice {
            self.splicing = true;
            self.against = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const MESSAGES: u32 = 8;
    const GAP: Duration = Duration::from_millis(10);
    const LARGE: usize = 32 * 1024;
    /// As many busy directions in the kernel as there may be.
    const FULL: u32 = 16;

    fn policy(splice: bool, promote: Promote) -> Policy {
        Policy { splice, promote, thresholds: Thresholds::default() }
    }

    fn auto() -> Policy {
        policy(true, Promote::Messages)
    }

    /// Reads `count` messages, one each `gap`, from `now` on; returns when the next one is due.
    fn messages(judge: &mut Judge, count: u32, gap: Duration, mut now: Duration) -> Duration {
        for _ in 0..count {
            judge.read(100, true, now);
            now += gap;
        }
        now
    }

    #[test]
    fn the_method_follows_the_size_of_reads() {
        let mut judge = Judge::new(auto());
        let mut spliced = Vec::new();
        for bytes in [64, 40_000, 64, 40_000, 40_000, 1, 40_000, 1, 1, 1, 1, 1, 1, 1, 1, 40_000] {
            spliced.push(judge.method() == Method::Splice);
            judge.read(bytes, false, Duration::ZERO);
        }
        let expected = [[false; 5].as_slice(), &[true; 10], &[false]].concat();
        assert_eq!(spliced, expected);
    }

    #[test]
    fn messages_are_promoted_and_every_demotion_for_load_doubles_the_threshold() {
        let mut judge = Judge::new(auto());
        let mut now = Duration::ZERO;
        for reluctance in [1, 2, 4, 8] {
            now = messages(&mut judge, MESSAGES * reluctance - 1, GAP, now);
            assert_eq!(judge.wants_kernel(FULL), None);
            now = messages(&mut judge, 1, GAP, now);
            assert_eq!(judge.wants_kernel(FULL), Some(Pace::Slow));
            judge.demoted(Demotion::Behind);
            assert_eq!(judge.wants_kernel(FULL), None);
        }
    }

    #[test]
    fn messages_in_quick_succession_need_room_in_the_kernel_until_they_slow_down() {
        let mut judge = Judge::new(auto());
        let mut now = Duration::ZERO;
        for _ in 0..10 * MESSAGES {
            now = messages(&mut judge, 1, GAP / 2, now);
            assert_eq!(judge.wants_kernel(FULL), None);
        }
        assert_eq!(judge.wants_kernel(FULL - 1), Some(Pace::Busy));
        messages(&mut judge, MESSAGES, GAP, now);
        assert_eq!(judge.wants_kernel(FULL), Some(Pace::Slow));
    }

    #[test]
    fn bulk_is_spliced_at_once_after_its_demotion() {
        let mut judge = Judge::new(auto());
        judge.demoted(Demotion::Bulk);
        assert_eq!(judge.method(), Method::Splice);
        assert_eq!(judge.wants_kernel(FULL), None);
    }

    #[test]
    fn a_backlog_or_a_large_read_starts_the_count_again() {
        for (bytes, drained) in [(100, false), (LARGE, true)] {
            let mut judge = Judge::new(auto());
            let now = messages(&mut judge, MESSAGES - 1, GAP, Duration::ZERO);
            judge.read(bytes, drained, now);
            judge.read(100, true, now + GAP);
            assert_eq!(judge.wants_kernel(FULL), None);
        }
    }

    #[test]
    fn the_pace_is_that_of_the_mean_gap() {
        let judge = Judge::new(auto());
        assert_eq!(judge.pace(10, 10 * GAP), Pace::Slow);
        assert_eq!(judge.pace(10, 9 * GAP), Pace::Busy);
        assert_eq!(judge.pace(0, Duration::ZERO), Pace::Slow);
    }

    #[test]
    fn a_refusal_and_the_end_of_the_source_are_final() {
        for last in [Judge::refused, |judge: &mut Judge| judge.demoted(Demotion::Ended)] {
            let mut judge = Judge::new(policy(false, Promote::AtOnce));
            assert_eq!(judge.wants_kernel(FULL), Some(Pace::Slow));
            judge.demoted(Demotion::Behind);
            assert_eq!(judge.wants_kernel(FULL), Some(Pace::Slow));
            last(&mut judge);
            assert_eq!(judge.wants_kernel(FULL), None);
        }
    }

    proptest! {
        #[test]
        fn what_the_policy_excludes_never_happens(
            splice in any::<bool>(),
            reads in prop::collection::vec((0_usize..200_000, any::<bool>(), 0_u64..1000), 0..200),
        ) {
            let mut judge = Judge::new(policy(splice, Promote::Never));
            let mut now = Duration::ZERO;
            for (bytes, drained, gap) in reads {
                now += Duration::from_millis(gap);
                judge.read(bytes, drained, now);
                prop_assert!(splice || judge.method() == Method::Copy);
                prop_assert_eq!(judge.wants_kernel(FULL), None);
            }
        }
    }
}
