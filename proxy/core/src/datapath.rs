//! How a direction's bytes should move: copied, spliced, or redirected by the kernel.
//!
//! A direction begins in user space and is judged by its reads. Reads that leave nothing behind are *messages* (requests,
//! tokens): they gain from the kernel, where nobody is woken for them. Large reads are *bulk*: it gains from splicing, and
//! loses in the kernel, which queues without backpressure. The numbers were measured (docs/benchmarks.md).

/// A read of at least this many bytes is large: to splice it costs less than to copy it.
pub const LARGE: usize = 32 * 1024;

/// Large reads in a row before a direction is spliced: one alone is often the end of a body.
const LARGE_READS: u8 = 2;

/// Smaller splices in a row before a direction is copied again.
const SMALL_SPLICES: u8 = 8;

/// Messages in a row before a direction is promoted. A promotion costs as much as some ten copied messages, so a
/// connection that asks once or twice stays in user space.
const MESSAGES: u32 = 8;

/// Each demotion for load doubles the messages that the next promotion takes, up to `MESSAGES` times this: traffic that
/// keeps changing its mind stays in user space.
const RELUCTANCE_MAX: u32 = 1 << 10;

/// What a direction may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether large reads may be spliced.
    pub splice: bool,
    /// Whether, and when, the kernel may redirect.
    pub promote: Promote,
}

/// When a direction is promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// Never.
    Never,
    /// Once it behaves like messages.
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

/// Judges one direction by its reads.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    policy: Policy,
    splicing: bool,
    /// Reads in a row that speak for the other method.
    against: u8,
    messages: u32,
    reluctance: u32,
    refused: bool,
}

impl Judge {
    /// A judge of a direction of which nothing is known.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, splicing: false, against: 0, messages: 0, reluctance: 1, refused: false }
    }

    /// How to read next.
    pub const fn method(&self) -> Method {
        if self.splicing { Method::Splice } else { Method::Copy }
    }

    /// Takes note of a read of `bytes` bytes; `drained`: it left nothing behind.
    pub fn read(&mut self, bytes: usize, drained: bool) {
        let large = bytes >= LARGE;
        self.messages = if drained && !large { self.messages.saturating_add(1) } else { 0 };
        if large == self.splicing {
            self.against = 0;
            return;
        }
        self.against += 1;
        let enough = if self.splicing { SMALL_SPLICES } else { LARGE_READS };
        if self.policy.splice && self.against >= enough {
            self.splicing = !self.splicing;
            self.against = 0;
        }
        self.against = self.against.min(enough);
    }

    /// Whether the direction should be promoted at the next moment when nothing is waiting.
    pub const fn wants_kernel(&self) -> bool {
        !self.refused
            && match self.policy.promote {
                Promote::Never => false,
                Promote::Messages => self.messages >= MESSAGES * self.reluctance,
                Promote::AtOnce => true,
            }
    }

    /// The kernel refused the promotion: this direction does not ask again.
    pub fn refused(&mut self) {
        self.refused = true;
    }

    /// The direction came back from the kernel.
    pub fn demoted(&mut self, why: Demotion) {
        self.messages = 0;
        match why {
            Demotion::Behind | Demotion::Bulk => self.reluctance = (self.reluctance * 2).min(RELUCTANCE_MAX),
            Demotion::Ended => {}
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

    const AUTO: Policy = Policy { splice: true, promote: Promote::Messages };

    #[test]
    fn the_method_follows_the_size_of_reads() {
        let mut judge = Judge::new(AUTO);
        let mut spliced = Vec::new();
        for bytes in [64, 40_000, 64, 40_000, 40_000, 1, 40_000, 1, 1, 1, 1, 1, 1, 1, 1, 40_000] {
            spliced.push(judge.method() == Method::Splice);
            judge.read(bytes, false);
        }
        let expected = [[false; 5].as_slice(), &[true; 10], &[false]].concat();
        assert_eq!(spliced, expected);
    }

    #[test]
    fn messages_are_promoted_and_every_demotion_for_load_doubles_the_threshold() {
        let mut judge = Judge::new(AUTO);
        for reluctance in [1, 2, 4, 8] {
            for _ in 0..MESSAGES * reluctance {
                assert!(!judge.wants_kernel());
                judge.read(100, true);
            }
            assert!(judge.wants_kernel());
            judge.demoted(Demotion::Behind);
        }
    }

    #[test]
    fn bulk_is_spliced_at_once_after_its_demotion() {
        let mut judge = Judge::new(AUTO);
        judge.demoted(Demotion::Bulk);
        assert_eq!(judge.method(), Method::Splice);
        assert!(!judge.wants_kernel());
    }

    #[test]
    fn a_backlog_or_a_large_read_starts_the_count_again() {
        for (bytes, drained) in [(100, false), (LARGE, true)] {
            let mut judge = Judge::new(AUTO);
            for _ in 1..MESSAGES {
                judge.read(100, true);
            }
            judge.read(bytes, drained);
            judge.read(100, true);
            assert!(!judge.wants_kernel());
        }
    }

    #[test]
    fn a_refusal_is_final() {
        let mut judge = Judge::new(Policy { splice: false, promote: Promote::AtOnce });
        assert!(judge.wants_kernel());
        judge.refused();
        assert!(!judge.wants_kernel());
    }

    proptest! {
        #[test]
        fn what_the_policy_excludes_never_happens(
            splice in any::<bool>(),
            reads in prop::collection::vec((0_usize..200_000, any::<bool>()), 0..200),
        ) {
            let mut judge = Judge::new(Policy { splice, promote: Promote::Never });
            for (bytes, drained) in reads {
                judge.read(bytes, drained);
                prop_assert!(splice || judge.method() == Method::Copy);
                prop_assert!(!judge.wants_kernel());
            }
        }
    }
}
