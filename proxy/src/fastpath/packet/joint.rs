//! One joint in the mapped array: its phase, what the daemon tells the programs, and what they have counted.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use landbridge_common::packet::{AHEAD, Joint, KNOWN, Leg, Origin, PHASE, SEALED, TIMESTAMPS, Tuple, phase};
use nix::time::{ClockId, clock_gettime};

use crate::fastpath::mapped::{Mapped, field};

/// The part of [`Joint::state`] that tells one use of a joint from the next.
const GENERATION: u64 = !0 << 32;
const NEXT_GENERATION: u64 = 1 << 32;

/// The largest window that this host's sockets may have announced before the joint, in bytes: the kernel's default
/// limit of receive buffers (`net.ipv4.tcp_rmem`) is 6 MiB. It is only what is plausible.
const ANNOUNCED: u64 = 16 << 20;

/// A joint of the mapping.
#[derive(Clone, Copy)]
pub(super) struct JointCell<'a> {
    joint: NonNull<Joint>,
    _joints: &'a Mapped<Joint>,
}

/// What a leg's packets become: see the fields of the same names in [`Leg`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) out: Tuple,
    pub(super) received: u32,
    pub(super) sent: u32,
    pub(super) sequence_delta: u32,
    pub(super) acknowledgement_delta: u32,
    pub(super) window_scales: (u8, u8),
    pub(super) is_ipv6: bool,
    pub(super) clock: u32,
    /// The device that leads to the other peer, and whether packets have to leave through it.
    pub(super) device: u32,
    pub(super) is_bound: bool,
}

/// What the programs know of a leg's peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Payload bytes sent on, each counted once.
    pub bytes: u64,
    /// Packets sent on; several that the kernel has put together count as one.
    pub packets: u64,
    /// Packets that the peer repeated.
    pub retransmitted: u64,
    /// When the last packet came, since the machine started.
    pub last_seen: Duration,
    /// The time from this host to the peer and back; zero while it is not known.
    pub round_trip: Duration,
    /// Bytes sent on to the peer that it has not acknowledged.
    pub unacknowledged: u32,
    /// Whether the window that it announced last has no room for a segment: it does not read.
    pub is_shut: bool,
    /// Whether it has sent something that did not arrive.
    pub is_ahead: bool,
    /// Whether it has ended its direction.
    pub has_ended: bool,
}

/// A window smaller than this has no room for a segment, in bytes: the least that every host takes (RFC 9293, 3.7.1).
const SMALLEST_SEGMENT: u64 = 536;

impl<'a> JointCell<'a> {
    /// # Panics
    /// There is no such joint.
    pub(super) fn of(joints: &'a Mapped<Joint>, index: u32) -> Self {
        Self { joint: joints.at(index), _joints: joints }
    }

    /// Which use of the joint this is.
    pub(super) fn generation(self) -> u64 {
        self.state().load(Ordering::Relaxed) & GENERATION
    }

    /// Takes the joint for a new session, whose packets are watched from now on. Only before the programs can find it.
    pub(super) fn begin(self, index: u32, idle_limit: Duration, flags: u32) {
        let generation = (self.state().load(Ordering::Relaxed) & GENERATION).wrapping_add(NEXT_GENERATION);
        let idle_limit = nanoseconds(idle_limit);
        let fresh = Joint { state: generation | phase::WATCHED, idle_limit, flags, index, ..Joint::default() };
        // SAFETY: in the mapping, and nobody else looks at it: no key leads to it yet, and it has rested.
        unsafe { self.joint.write_volatile(fresh) };
        self.state().store(fresh.state, Ordering::SeqCst);
    }

    /// The phase and its flags.
    pub(super) fn phase(self) -> u64 {
        self.state().load(Ordering::SeqCst) & !GENERATION
    }

    /// Changes the phase, if phase and flags still are `from`; else says what they are. A full barrier.
    pub(super) fn change(self, from: u64, to: u64) -> Result<(), u64> {
        let generation = self.state().load(Ordering::Relaxed) & GENERATION;
        let changed =
            self.state().compare_exchange(generation | from, generation | to, Ordering::SeqCst, Ordering::SeqCst);
        changed.map(drop).map_err(|found| found & !GENERATION)
    }

    /// Leaves every phase before [`phase::LIVE`] for [`phase::WATCHED`]; false if it is live or later.
    pub(super) fn back_to_watched(self) -> bool {
        let mut found = self.phase();
        while found & PHASE < phase::LIVE {
            match self.change(found, phase::WATCHED) {
                Ok(()) => return true,
                Err(other) => found = other,
            }
        }
        false
    }

    /// From now on the packets of both legs are dropped.
    pub(super) fn kill(self) {
        let mut found = self.phase();
        while let Err(other) = self.change(found, phase::DEAD) {
            found = other;
        }
    }

    /// Tells the next daemon whose session this is, and the programs how long they may keep it without one.
    pub(super) fn sign(self, origin: Origin, limits: Lifetime) {
        // SAFETY: in the mapping; this process alone has the joint, and the programs do not look at this field.
        unsafe { (&raw mut (*self.joint.as_ptr()).origin).write_volatile(origin) };
        self.limit(origin.began, limits);
        field!(self.joint, flags, AtomicU32).fetch_or(SEALED, Ordering::Release);
    }

    /// Tells the programs how long they may keep a session that began then, by their clock.
    pub(super) fn limit(self, began: u64, limits: Lifetime) {
        let deadline = limits.age.map_or(0, |age| began.saturating_add(nanoseconds(age)));
        field!(self.joint, idle_limit, AtomicU64).store(nanoseconds(limits.idle), Ordering::Relaxed);
        field!(self.joint, deadline, AtomicU64).store(deadline, Ordering::Relaxed);
    }

    /// Whose session this is; `None` if its sockets had not stood aside yet when the former process ended.
    pub(super) fn origin(self) -> Option<Origin> {
        let flags = field!(self.joint, flags, AtomicU32).load(Ordering::Acquire);
        // SAFETY: in the mapping; it was written before the flag was set, and nobody changes it any more.
        let origin = unsafe { (&raw const (*self.joint.as_ptr()).origin).read_volatile() };
        (flags & SEALED != 0).then_some(origin)
    }

    /// The device that a leg's socket is bound to, and whether it is, or else the one that leads to its peer.
    pub(super) fn device_of(self, side: usize) -> (u32, bool) {
        // SAFETY: in the mapping; the daemon wrote these before the joint was armed, and nobody changes them any more.
        let leg = unsafe { &raw const (*self.joint.as_ptr()).legs[1 - side] };
        // SAFETY: as before.
        unsafe { ((&raw const (*leg).device).read_volatile(), (&raw const (*leg).is_bound).read_volatile() != 0) }
    }

    /// Whether a packet of a leg was seen since it is watched.
    pub(super) fn has_seen(self, side: usize) -> bool {
        field!(self.joint, legs[side].last_seen, AtomicU64).load(Ordering::SeqCst) != 0
    }

    /// The end of the newest payload of a leg that went to its socket; `None`: there was none since it is watched.
    pub(super) fn passed(self, side: usize) -> Option<u32> {
        let passed = field!(self.joint, legs[side].passed, AtomicU64).load(Ordering::SeqCst);
        (passed & KNOWN != 0).then_some(passed as u32)
    }

    /// Tells the programs what to do with the packets of a leg. Only while it is watched or prepared.
    pub(super) fn describe(self, side: usize, plan: &Plan) {
        // SAFETY: in the mapping; the programs read these fields only after the joint is armed, which is a barrier.
        unsafe {
            let leg: *mut Leg = &raw mut (*self.joint.as_ptr()).legs[side];
            (&raw mut (*leg).out).write_volatile(plan.out);
            (&raw mut (*leg).received).write_volatile(plan.received);
            (&raw mut (*leg).sent).write_volatile(plan.sent);
            (&raw mut (*leg).sequence_delta).write_volatile(plan.sequence_delta);
            (&raw mut (*leg).acknowledgement_delta).write_volatile(plan.acknowledgement_delta);
            (&raw mut (*leg).window_scale_in).write_volatile(plan.window_scales.0);
            (&raw mut (*leg).window_scale_out).write_volatile(plan.window_scales.1);
            (&raw mut (*leg).is_ipv6).write_volatile(u8::from(plan.is_ipv6));
            (&raw mut (*leg).clock).write_volatile(plan.clock);
            (&raw mut (*leg).device).write_volatile(plan.device);
            (&raw mut (*leg).is_bound).write_volatile(u8::from(plan.is_bound));
            (&raw mut (*leg).window).write_volatile(ANNOUNCED);
        }
    }

    /// When the clocks of the legs were read.
    pub(super) fn set_clocks_read_at(self, at: Duration) {
        field!(self.joint, clocks_read_at, AtomicU64).store(nanoseconds(at), Ordering::Relaxed);
    }

    /// The daemon itself has made the joint live.
    pub(super) fn set_live_at(self, at: Duration) {
        field!(self.joint, live_at, AtomicU64).store(nanoseconds(at), Ordering::Relaxed);
    }

    /// Whether the client was the first to end its direction, or to reset.
    pub(super) fn is_clients_end(self) -> bool {
        let [client, target] =
            [0, 1].map(|side| field!(self.joint, legs[side].ended_at, AtomicU64).load(Ordering::Acquire));
        client != 0 && (target == 0 || client <= target)
    }

    /// Whether the programs would drop the next packet, for none came for too long or the session is too old. Only of
    /// one that is live.
    pub(super) fn has_expired(self) -> bool {
        let load = |field: &AtomicU64| field.load(Ordering::Relaxed);
        let seen = [0, 1].map(|side| load(field!(self.joint, legs[side].last_seen, AtomicU64)));
        let last = seen.into_iter().fold(load(field!(self.joint, live_at, AtomicU64)), u64::max);
        let silent = nanoseconds(now()).saturating_sub(last);
        self.is_too_old() || silent > load(field!(self.joint, idle_limit, AtomicU64))
    }

    /// Whether the session has lived longer than it may.
    pub(super) fn is_too_old(self) -> bool {
        let deadline = field!(self.joint, deadline, AtomicU64).load(Ordering::Relaxed);
        deadline != 0 && nanoseconds(now()) > deadline
    }

    /// Packets dropped because they cannot be translated.
    pub(super) fn untranslatable(self) -> u64 {
        field!(self.joint, untranslatable, AtomicU64).load(Ordering::Relaxed)
    }

    /// What is known of a leg's peer.
    pub(super) fn seen(self, side: usize) -> Seen {
        let load = |field: &AtomicU64| field.load(Ordering::Acquire);
        let to_peer = self.sent_to(side);
        let acknowledged = load(field!(self.joint, legs[side].acknowledged, AtomicU64));
        let acknowledged = if acknowledged & KNOWN == 0 { self.sent(side) } else { acknowledged as u32 };
        Seen {
            bytes: load(field!(self.joint, legs[side].bytes, AtomicU64)),
            packets: load(field!(self.joint, legs[side].packets, AtomicU64)),
            retransmitted: load(field!(self.joint, legs[side].retransmitted, AtomicU64)),
            last_seen: Duration::from_nanos(load(field!(self.joint, legs[side].last_seen, AtomicU64))),
            round_trip: Duration::from_nanos(load(field!(self.joint, legs[side].round_trip, AtomicU64))),
            // Both move while they are read: what is acknowledged can then be ahead of what was sent.
            unacknowledged: u32::try_from(to_peer.wrapping_sub(acknowledged) as i32).unwrap_or(0),
            is_shut: self.is_shut(side),
            is_ahead: load(field!(self.joint, legs[side].announced, AtomicU64)) & AHEAD != 0,
            has_ended: load(field!(self.joint, legs[side].fin, AtomicU64)) & KNOWN != 0,
        }
    }

    fn is_shut(self, side: usize) -> bool {
        let announced = field!(self.joint, legs[side].announced, AtomicU64).load(Ordering::Acquire);
        let scale = field!(self.joint, legs[side].window_scale_in, AtomicU8).load(Ordering::Relaxed);
        announced & KNOWN != 0 && u64::from(announced as u32) << (scale & 31) < SMALLEST_SEGMENT
    }

    /// The sequence number after everything that a leg's peer was sent, as that counts.
    pub(super) fn sent_to(self, side: usize) -> u32 {
        let other = 1 - side;
        let newest = field!(self.joint, legs[other].newest, AtomicU64).load(Ordering::Acquire);
        if newest & KNOWN == 0 {
            return self.sent(side);
        }
        let delta = field!(self.joint, legs[other].sequence_delta, AtomicU32).load(Ordering::Relaxed);
        (newest as u32).wrapping_add(delta)
    }

    /// The sequence number after everything that a leg's peer has sent.
    pub(super) fn received_from(self, side: usize) -> u32 {
        let newest = field!(self.joint, legs[side].newest, AtomicU64).load(Ordering::Acquire);
        if newest & KNOWN != 0 {
            return newest as u32;
        }
        field!(self.joint, legs[side].received, AtomicU32).load(Ordering::Relaxed)
    }

    /// The sequence number after everything that a leg's peer has sent and the other peer has acknowledged.
    pub(super) fn acknowledged_to(self, side: usize) -> u32 {
        let acknowledged = field!(self.joint, legs[1 - side].acknowledged, AtomicU64).load(Ordering::Acquire);
        if acknowledged & KNOWN == 0 {
            return field!(self.joint, legs[side].received, AtomicU32).load(Ordering::Relaxed);
        }
        let delta = field!(self.joint, legs[side].sequence_delta, AtomicU32).load(Ordering::Relaxed);
        (acknowledged as u32).wrapping_sub(delta)
    }

    /// The clock of the timestamps that a leg's peer is sent, if the legs have any, about as it is now.
    pub(super) fn clock_towards(self, side: usize) -> Option<u32> {
        let flags = field!(self.joint, flags, AtomicU32).load(Ordering::Relaxed);
        let clock = field!(self.joint, legs[1 - side].clock, AtomicU32).load(Ordering::Relaxed);
        let read_at = Duration::from_nanos(field!(self.joint, clocks_read_at, AtomicU64).load(Ordering::Relaxed));
        let passed = now().saturating_sub(read_at).as_millis();
        (flags & TIMESTAMPS != 0).then_some(clock.wrapping_add(passed as u32))
    }

    /// When the first payload of a leg's peer was sent on, in nanoseconds; 0: not yet.
    pub(super) fn first_payload(self, side: usize) -> &'a AtomicU64 {
        field!(self.joint, legs[side].first_payload, AtomicU64)
    }

    fn sent(self, side: usize) -> u32 {
        field!(self.joint, legs[side].sent, AtomicU32).load(Ordering::Relaxed)
    }

    fn state(self) -> &'a AtomicU64 {
        field!(self.joint, state, AtomicU64)
    }
}

/// How long the programs keep a joint by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Without a packet.
    pub idle: Duration,
    /// Since the session began; `None`: as long as its peers talk.
    pub age: Option<Duration>,
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock that the programs read (`CLOCK_MONOTONIC`): the time since the machine started, sleep left out.
pub(super) fn now() -> Duration {
    // The clock exists on every Linux.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}
