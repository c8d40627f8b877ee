//! Watching a session that nobody relays: is it silent for too long, half-closed for too long, is a
//! peer dead, or can what it sends not pass?

use core::time::Duration;

use crate::end::SessionEnd;
use crate::passage::Passage;

/// Probes without an answer after which a peer counts as dead, whoever sends them.
pub const PROBES: u32 = 4;

/// What a session's silence may be; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VigilRules {
    /// No byte in either direction.
    pub idle: Option<Duration>,
    /// The same once a direction has ended.
    pub half_close: Option<Duration>,
    /// Silence of a peer before it is probed, and between probes; the client's and the target's.
    pub keepalive: [Option<Duration>; 2],
    /// Silence of a peer that has not acknowledged what it was sent.
    pub user_timeout: [Option<Duration>; 2],
}

/// What is known of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerSeen {
    /// Payload bytes that came from it.
    pub bytes: u64,
    /// When anything came from it last.
    pub last_seen: Duration,
    /// Bytes that it was sent and has not acknowledged.
    pub unacknowledged: u32,
    /// Whether it has sent something that did not arrive.
    pub is_ahead: bool,
    /// Whether it has ended its direction.
    pub has_ended: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Ask these peers for a sign of life, the client or the target or both.
    Probe([bool; 2]),
    /// End the session.
    End(SessionEnd),
}

/// Watches one session.
#[derive(Debug, Clone, Copy)]
pub struct Vigil {
    moved: u64,
    moved_at: Duration,
    /// When anything had come last from each peer, so that an answer shows.
    heard: [Duration; 2],
    /// Since when each peer was seen to owe an acknowledgement, without a break.
    owes_since: [Option<Duration>; 2],
    /// Probes that were sent to each peer since it was heard.
    probes: [u32; 2],
    /// Silence before this is no answer to them: they could not be sent in time.
    asks_from: [Duration; 2],
    passage: Passage,
}

impl Vigil {
    /// A session that was joined at `now`.
    pub const fn new(now: Duration) -> Self {
        Self {
            moved: 0,
            moved_at: now,
            heard: [now; 2],
            owes_since: [None; 2],
            probes: [0; 2],
            asks_from: [Duration::ZERO; 2],
            passage: Passage::new(),
        }
    }

    /// A session that was joined before this process began, of which this is known already.
    pub fn resumed(signs: [PeerSeen; 2], now: Duration) -> Self {
        let last = signs.map(|sign| sign.last_seen);
        Self { moved: moved(signs), moved_at: last[0].max(last[1]).min(now), ..Self::new(now) }
    }

    /// Judges by what is known of the client and the target at `now`; to be asked about once a second, always by the same
    /// rules.
    pub fn look(&mut self, rules: &VigilRules, signs: [PeerSeen; 2], now: Duration) -> Verdict {
        let moved = moved(signs);
        if moved != self.moved {
            self.moved = moved;
            self.moved_at = now;
        }
        let still = now.saturating_sub(self.moved_at);
        let reached = |limit: Option<Duration>, time: Duration| limit.is_some_and(|limit| time >= limit);
        if (signs[0].has_ended || signs[1].has_ended) && reached(rules.half_close, still) {
            return Verdict::End(SessionEnd::HalfCloseTimeout);
        }
        if reached(rules.idle, still) {
            return Verdict::End(SessionEnd::Idle);
        }
        let mut probe = [false; 2];
        for side in [0, 1] {
            let dead = if side == 0 { SessionEnd::ClientReset } else { SessionEnd::TargetReset };
            if signs[side].last_seen > self.heard[side] {
                self.heard[side] = signs[side].last_seen;
                self.probes[side] = 0;
            }
            self.owes_since[side] = (signs[side].unacknowledged > 0).then(|| self.owes_since[side].unwrap_or(now));
            if let Some(owes_since) = self.owes_since[side] {
                // It may have had nothing to acknowledge for long before.
                let silent = now.saturating_sub(self.heard[side].max(owes_since));
                if reached(rules.user_timeout[side], silent) {
                    return Verdict::End(dead);
                }
            }
            let Some(keepalive) = rules.keepalive[side] else { continue };
            let silent = now.saturating_sub(self.heard[side].max(self.asks_from[side]));
            if silent >= keepalive.saturating_mul(self.probes[side] + 1) {
                if self.probes[side] == PROBES {
                    return Verdict::End(dead);
                }
                self.probes[side] += 1;
                probe[side] = true;
            }
        }
        if probe == [false; 2] { Verdict::Keep } else { Verdict::Probe(probe) }
    }

    /// Whether what a peer sends cannot pass, so that it would repeat itself until it gives up; to be asked about once a
    /// second. `untranslatable`: packets of the session that were dropped because they cannot be translated.
    pub fn is_blocked(&mut self, signs: [PeerSeen; 2], untranslatable: u64, now: Duration) -> bool {
        self.passage.is_blocked(signs, untranslatable, now)
    }

    /// A probe that [`Self::look`] has just asked for could not be sent: it does not count, and is asked for again.
    pub fn not_sent(&mut self, rules: &VigilRules, side: usize, now: Duration) {
        self.probes[side] = self.probes[side].saturating_sub(1);
        // Those that follow it keep their distance, however long it takes.
        let due = rules.keepalive[side].unwrap_or_default().saturating_mul(self.probes[side] + 1);
        self.asks_from[side] = now.saturating_sub(due);
    }
}

/// Grows with whatever ends an idleness: the end of a direction is as good as a byte.
fn moved(signs: [PeerSeen; 2]) -> u64 {
    signs.iter().map(|sign| sign.bytes + u64::from(sign.has_ended)).sum()
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const RULES: VigilRules =
        VigilRules { idle: None, half_close: None, keepalive: [None; 2], user_timeout: [None; 2] };

    #[test]
    fn a_still_session_ends_once_its_limit_is_over_and_every_byte_counts() {
        let mut vigil = Vigil::new(s(100));
        let rules = VigilRules { idle: Some(s(10)), ..RULES };
        let sign = |bytes| [PeerSeen { bytes, ..PeerSeen::default() }, PeerSeen::default()];
        assert_eq!(vigil.look(&rules, sign(1), s(105)), Verdict::Keep);
        assert_eq!(vigil.look(&rules, sign(1), s(114)), Verdict::Keep);
        assert_eq!(vigil.look(&rules, sign(1), s(115)), Verdict::End(SessionEnd::Idle));
    }

    #[test]
    fn the_limit_for_half_closed_sessions_is_their_own() {
        let mut vigil = Vigil::new(s(0));
        let rules = VigilRules { idle: Some(s(100)), half_close: Some(s(5)), ..RULES };
        let sign = |has_ended| [PeerSeen::default(), PeerSeen { has_ended, ..PeerSeen::default() }];
        assert_eq!(vigil.look(&rules, sign(false), s(50)), Verdict::Keep);
        assert_eq!(vigil.look(&rules, sign(true), s(51)), Verdict::Keep, "it has just ended");
        assert_eq!(vigil.look(&rules, sign(true), s(56)), Verdict::End(SessionEnd::HalfCloseTimeout));
    }

    #[test]
    fn a_silent_peer_is_probed_four_times_and_then_dead_unless_it_answers() {
        let rules = VigilRules { keepalive: [Some(s(15)), None], ..RULES };
        for answers in [false, true] {
            let mut vigil = Vigil::new(s(0));
            let mut verdicts = Vec::new();
            for now in (0..=75).step_by(5).map(s) {
                let last_seen = if answers && now > s(30) { s(30) } else { s(0) };
                let signs = [PeerSeen { last_seen, ..PeerSeen::default() }, PeerSeen::default()];
                match vigil.look(&rules, signs, now) {
                    Verdict::Keep => {}
                    other => verdicts.push((now.as_secs(), other)),
                }
            }
            let probe = Verdict::Probe([true, false]);
            let expected = if answers {
                [(15, probe), (30, probe), (45, probe), (60, probe), (75, probe)]
            } else {
                [(15, probe), (30, probe), (45, probe), (60, probe), (75, Verdict::End(SessionEnd::ClientReset))]
            };
            assert_eq!(verdicts, expected, "answers: {answers}");
        }
    }

    #[test]
    fn a_peer_that_owes_an_acknowledgement_is_given_up_earlier() {
        let rules = VigilRules { user_timeout: [None, Some(s(30))], ..RULES };
        for (owes, expected) in [(true, Verdict::End(SessionEnd::TargetReset)), (false, Verdict::Keep)] {
            let mut vigil = Vigil::new(s(0));
            let signs = [PeerSeen::default(), PeerSeen { unacknowledged: u32::from(owes), ..PeerSeen::default() }];
            for now in [0, 29] {
                assert_eq!(vigil.look(&rules, signs, s(now)), Verdict::Keep);
            }
            assert_eq!(vigil.look(&rules, signs, s(30)), expected);
        }
    }

    #[test]
    fn the_silence_of_a_peer_counts_from_when_it_owes() {
        let rules = VigilRules { user_timeout: [None, Some(s(30))], ..RULES };
        let mut vigil = Vigil::new(s(0));
        let mut look = |owes, now| {
            vigil.look(
                &rules,
                [PeerSeen::default(), PeerSeen { unacknowledged: u32::from(owes), ..PeerSeen::default() }],
                s(now),
            )
        };
        for (owes, now) in [(false, 600), (true, 601), (true, 630), (false, 631), (true, 632), (true, 661)] {
            assert_eq!(look(owes, now), Verdict::Keep, "{now}");
        }
        assert_eq!(look(true, 662), Verdict::End(SessionEnd::TargetReset));
    }

    #[test]
    fn a_probe_that_could_not_be_sent_does_not_count() {
        let rules = VigilRules { keepalive: [None, Some(s(15))], ..RULES };
        let mut vigil = Vigil::new(s(0));
        let mut sent = Vec::new();
        let end = (0..1_000).find_map(|now| match vigil.look(&rules, [PeerSeen::default(); 2], s(now)) {
            Verdict::Keep => None,
            Verdict::Probe(sides) => {
                assert_eq!(sides, [false, true]);
                if (20..500).contains(&now) {
                    vigil.not_sent(&rules, 1, s(now));
                } else {
                    sent.push(now);
                }
                None
            }
            Verdict::End(end) => Some((now, end)),
        });
        assert_eq!(sent, [15, 500, 514, 529]);
        assert_eq!(end, Some((544, SessionEnd::TargetReset)));
    }
}
