//! When two legs should be joined at packet level, and whether they can be.
//!
//! A session begins in user space. It *rests* when everything that was read has been given on and nothing waits. After some
//! rests, or when it is quiet, its packets are watched; at a later rest the joint is armed, and becomes live with the next
//! packet that leaves nothing unacknowledged. If something else arrives first the attempt was spoiled, which costs nobody
//! anything but the attempt, and the session relays on.

use core::time::Duration;

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

    /// The session rests after something moved.
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

/// What has to be known of a leg to say whether it can be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegFacts {
    /// Timestamps, SACK, window scaling and ECN, as bits of `tcpi_options`.
    pub options: u8,
    /// The scale of the windows that the peer announces.
    pub window_scale_in: u8,
    /// The scale of the windows that this side announces.
    pub window_scale_out: u8,
    /// The largest segment that this side told its peer to send, without options, in bytes.
    pub announced_mss: u32,
    /// The largest packet on the way to the peer, in bytes.
    pub path_mtu: u32,
    /// Whether the addresses are IPv6.
    pub is_ipv6: bool,
    /// Whether the peer is this host.
    pub is_local: bool,
}

/// `TCPI_OPT_TIMESTAMPS`
pub const TIMESTAMPS: u8 = 1;
/// `TCPI_OPT_USEC_TS`: the clock of the timestamps counts microseconds.
pub const MICROSECONDS: u8 = 1 << 6;
/// What both legs have to agree on alike: `TCPI_OPT_TIMESTAMPS`, `_SACK`, `_WSCALE` and `_ECN` (linux/tcp.h), and their names.
pub const ALIKE: [(u8, &str); 4] = [(TIMESTAMPS, "timestamps"), (2, "SACK"), (4, "window scaling"), (8, "ECN")];
const ALIKE_BITS: u8 = ALIKE[0].0 | ALIKE[1].0 | ALIKE[2].0 | ALIKE[3].0;

/// Why two legs are not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJoined {
    /// A peer is on this host: its packets do not cross a device that could rewrite them.
    LocalPeer,
    /// The legs did not agree on the same TCP options.
    Options,
    /// A leg counts its timestamps in microseconds.
    Clock,
    /// The client may send segments that do not fit on the way to the target.
    ClientSegments,
    /// The target may send segments that do not fit on the way to the client.
    TargetSegments,
    /// As many sessions are joined as may be.
    Full,
    /// There are IPsec policies, which joined packets are not held against.
    Ipsec,
    /// It is not known by which device packets would leave, or it has no program.
    Device,
    /// A socket or a map of the kernel did not do what was asked.
    Kernel,
    /// The process leaves its joined sessions to another one, and joins no more.
    Retired,
    /// Until the session ended something was on its way.
    NeverQuiet,
}

impl NotJoined {
    /// Every reason, in a fixed order.
    pub const ALL: [Self; 11] = [
        Self::LocalPeer,
        Self::Options,
        Self::Clock,
        Self::ClientSegments,
        Self::TargetSegments,
        Self::Full,
        Self::Ipsec,
        Self::Device,
        Self::Kernel,
        Self::Retired,
        Self::NeverQuiet,
    ];

    /// The value of the metric label `reason`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::LocalPeer => "local_peer",
            Self::Options => "tcp_options",
            Self::Clock => "timestamp_clock",
            Self::ClientSegments => "client_mss",
            Self::TargetSegments => "target_mss",
            Self::Full => "joints_full",
            Self::Ipsec => "ipsec",
            Self::Device => "device",
            Self::Kernel => "join_refused",
            Self::Retired => "retired",
            Self::NeverQuiet => "never_quiet",
        }
    }
}

/// Whether two legs can be joined.
///
/// # Errors
/// The first reason why not.
pub const fn eligible(client: &LegFacts, target: &LegFacts) -> Result<(), NotJoined> {
    if client.is_local || target.is_local {
        return Err(NotJoined::LocalPeer);
    }
    if (client.options ^ target.options) & ALIKE_BITS != 0 {
        return Err(NotJoined::Options);
    }
    if (client.options | target.options) & MICROSECONDS != 0 {
        return Err(NotJoined::Clock);
    }
    if client.announced_mss + headers(target.is_ipv6) > target.path_mtu {
        return Err(NotJoined::ClientSegments);
    }
    if target.announced_mss + headers(client.is_ipv6) > client.path_mtu {
        return Err(NotJoined::TargetSegments);
    }
    Ok(())
}

/// The IP and TCP headers of a segment without options, which are what an MSS leaves out (RFC 9293, 3.7.1).
pub const fn headers(is_ipv6: bool) -> u32 {
    if is_ipv6 { 60 } else { 40 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: LegFacts = LegFacts {
        options: 0b111,
        window_scale_in: 7,
        window_scale_out: 7,
        announced_mss: 1460,
        path_mtu: 1500,
        is_ipv6: false,
        is_local: false,
    };

    #[test]
    fn a_session_is_watched_after_some_rests_and_then_armed_at_each() {
        let mut judge = JoinJudge::new(JoinRules::default(), false);
        for _ in 0..3 {
            assert_eq!(judge.rested(), JoinStep::Nothing);
        }
        assert_eq!(judge.rested(), JoinStep::Watch { ask: false });
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

    #[test]
    fn legs_are_joined_only_if_every_packet_of_one_fits_the_other() {
        assert_eq!(eligible(&PLAIN, &PLAIN), Ok(()));
        for (client, target, expected) in [
            (LegFacts { is_local: true, ..PLAIN }, PLAIN, NotJoined::LocalPeer),
            (LegFacts { options: 0b110, ..PLAIN }, PLAIN, NotJoined::Options),
            (PLAIN, LegFacts { options: 0b1111, ..PLAIN }, NotJoined::Options),
            (LegFacts { options: 0b100_0111, ..PLAIN }, LegFacts { options: 0b100_0111, ..PLAIN }, NotJoined::Clock),
            (PLAIN, LegFacts { path_mtu: 1420, announced_mss: 1380, ..PLAIN }, NotJoined::ClientSegments),
            (PLAIN, LegFacts { announced_mss: 8960, path_mtu: 9000, ..PLAIN }, NotJoined::TargetSegments),
            // Twenty bytes more of header on the other side.
            (PLAIN, LegFacts { is_ipv6: true, announced_mss: 1440, ..PLAIN }, NotJoined::ClientSegments),
        ] {
            assert_eq!(eligible(&client, &target), Err(expected));
        }
        // ECN was seen, and scales that differ: both are translated.
        let other = LegFacts { options: 0b1_0111, window_scale_in: 2, window_scale_out: 14, ..PLAIN };
        assert_eq!(eligible(&PLAIN, &other), Ok(()));
    }
}
