//! What the daemon shares with the packet datapath: the keys and values of its maps.
//!
//! A *joined* session is two connections whose packets are rewritten into each other at the ingress of the devices. Its
//! two legs have a key each, and both lead to the same [`Joint`], which is mapped into the daemon.
//!
//! ```text
//!            daemon                 daemon: both sockets received        the packet that leaves nothing
//!            watches                all that passed; nothing unread      unacknowledged on either leg
//! FREE ───────────────► WATCHED ─────────► PREPARED ─────────► ARMED ─────────────────────────► LIVE ──► CLOSED, RESET
//!                          ▲                  │                  │
//!                          └──────────────────┴── anything else ─┘  (DIRTY: the daemon relays, and tries again later)
//! ```
//!
//! No packet is dropped on the way: until the joint is live, every packet goes to its socket.

use core::mem::{align_of, offset_of, size_of};

/// Changes whenever a value of the pinned maps does, or what it means: state of another layout is not read.
pub const LAYOUT: u32 = 3;

/// Joined sessions, and those about to be, at most. The daemon makes the maps as large as its limits of connections.
pub const MAX_JOINTS: u32 = 65_536;

/// The side of a session that a leg is: the index in [`Joint::legs`].
pub const CLIENT: usize = 0;
/// See [`CLIENT`].
pub const TARGET: usize = 1;

/// A leg as its packets arrive: from the peer to this host. Addresses and ports are in network byte order; an IPv4
/// address is mapped into IPv6 (`::ffff:a.b.c.d`), so that both families share one map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tuple {
    /// The peer's address.
    pub source: [u32; 4],
    /// This host's address.
    pub destination: [u32; 4],
    /// The peer's port.
    pub source_port: u16,
    /// This host's port.
    pub destination_port: u16,
}

/// The value under a [`Tuple`]: the index of the joint, doubled, plus the side.
pub type LegRef = u32;

/// Which phase a joint is in: the lower byte of [`Joint::state`].
pub mod phase {
    /// Nobody's.
    pub const FREE: u64 = 0;
    /// Packets go to their sockets, and how far they reach is noted.
    pub const WATCHED: u64 = 1;
    /// As watched, and whatever a socket would take in makes the joint dirty.
    pub const PREPARED: u64 = 2;
    /// As prepared, and the packet that leaves nothing unacknowledged makes the joint live.
    pub const ARMED: u64 = 3;
    /// Packets are rewritten and sent on; no socket sees them.
    pub const LIVE: u64 = 4;
    /// As live, but both directions have ended and were acknowledged: only repetitions are to come. A SYN begins
    /// another connection with the same addresses and ports, for which the joint is [`FREE`].
    pub const CLOSED: u64 = 5;
    /// As closed, but a peer has reset its connection, and that was sent on.
    pub const RESET: u64 = 6;
    /// Packets are dropped: the joint is too old, or the daemon is about to take it away.
    pub const DEAD: u64 = 7;
}

/// The part of [`Joint::state`] that is the phase.
pub const PHASE: u64 = 0xff;
/// The client leg's peer has acknowledged everything that its socket sent ([`phase::ARMED`] only).
pub const CLIENT_ACKED: u64 = 1 << 8;
/// The same for the target leg.
pub const TARGET_ACKED: u64 = 1 << 9;
/// Something arrived while the joint was prepared or armed: it does not become live, and the daemon has to relay on.
/// Set even while watched by a packet whose end cannot be told, such as a fragment.
pub const DIRTY: u64 = 1 << 10;

/// The target has reset, not the client ([`phase::RESET`] or [`WAS_RESET`] only).
pub const BY_TARGET: u64 = 1 << 11;
/// A SYN has come after the reset, and not after both ends ([`phase::FREE`] only): the daemon may not have seen the
/// reset.
pub const WAS_RESET: u64 = 1 << 12;

/// What [`Leg::clock`] is set ahead of the clock that the socket tells. The kernel clears the lowest bit of what it tells
/// (it marks clocks of microseconds), and whoever continues the clock with another one's steps loses up to two more to
/// rounding. A receiver takes a timestamp that is one step back and drops the packet if it is two (PAWS, RFC 7323).
pub const CLOCK_AHEAD: u32 = 3;

/// Set in fields whose lower half is a number once they hold one.
pub const KNOWN: u64 = 1 << 32;

/// Set in [`Leg::announced`] if that packet began behind everything that was sent on: something of the peer's is
/// missing.
pub const AHEAD: u64 = 1 << 33;

/// Both legs agreed on timestamps (RFC 7323): they are rewritten, else there are none.
pub const TIMESTAMPS: u32 = 1;
/// The sockets of the session stand aside, and [`Joint::origin`] tells whose it is: it can outlive the daemon. The
/// programs do not look at it.
pub const SEALED: u32 = 2;

/// What is known about the packets that arrive on one leg, and what becomes of them.
///
/// The first part is written by the daemon before the joint is armed; the second one by the programs, apart from
/// [`Leg::window`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Leg {
    /// The other leg's tuple as packets *leave*: from this host to the other peer. IPv4 when the address is mapped.
    pub out: Tuple,
    /// `rcv_nxt` of this leg's socket when the joint was prepared: where the peer's next byte is.
    pub received: u32,
    /// `write_seq` of this leg's socket then: what the peer acknowledges when nothing is unacknowledged.
    pub sent: u32,
    /// Added to sequence numbers: the other leg's `sent` minus this leg's `received`.
    pub sequence_delta: u32,
    /// Added to acknowledgements and SACK blocks: the other leg's `received` minus this leg's `sent`.
    pub acknowledgement_delta: u32,
    /// The window scale that this leg's peer announced: what its windows are to be shifted by.
    pub window_scale_in: u8,
    /// The window scale that the other leg's socket announced.
    pub window_scale_out: u8,
    /// This host's address on this leg is IPv6.
    pub is_ipv6: u8,
    /// Packets of this leg leave through `device` whatever the routes say, because the other leg's socket is bound to
    /// it.
    pub is_bound: u8,
    /// The other leg's timestamp clock (`TCP_TIMESTAMP`, one step a millisecond) at [`Joint::clocks_read_at`], set ahead
    /// by [`CLOCK_AHEAD`].
    pub clock: u32,
    /// The index of the device that leads to the other peer. Unless bound, it is used only where the kernel does not
    /// tell the program its routes: before Linux 6.4, or without forwarding on the loopback device.
    pub device: u32,

    /// The end of the newest payload or FIN that went to the socket, as a sequence number, with [`KNOWN`].
    pub passed: u64,
    /// Added to TSval on the way to the other leg, with [`KNOWN`] since the first packet that was sent on: such that
    /// this one continues the other leg's clock. TSecr on the way back is lowered by it.
    pub timestamp_delta: u64,
    /// Payload bytes sent on, each counted once.
    pub bytes: u64,
    /// Packets sent on (a packet that the kernel has put together counts as one).
    pub packets: u64,
    /// Packets with payload that had been sent on before: the peer repeated them.
    pub retransmitted: u64,
    /// When the last packet was sent on, or, before the joint is live, when the first one came since it is watched; by
    /// the kernel's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds.
    pub last_seen: u64,
    /// When the first payload was sent on.
    pub first_payload: u64,
    /// The end of the newest payload or FIN that was sent on, as this leg's peer counts, with [`KNOWN`].
    pub newest: u64,
    /// The newest acknowledgement of this leg's peer, as it counts, with [`KNOWN`].
    pub acknowledged: u64,
    /// The sequence number after the peer's FIN, with [`KNOWN`].
    pub fin: u64,
    /// The smoothed round-trip time between this host and this leg's peer, in nanoseconds; 0: not measured yet.
    pub round_trip: u64,
    /// The measurement under way: the end of what was sent to this leg's peer, as that counts, with [`KNOWN`].
    pub probe: u64,
    /// When that was sent.
    pub probe_sent: u64,
    /// The largest window that this leg's peer announced, in bytes. What the daemon writes here before it arms is taken
    /// as a lower limit: its own socket may have announced more to the other peer.
    pub window: u64,
    /// When this leg's peer ended its direction, or reset its connection; 0: not yet. By the same clock.
    pub ended_at: u64,
    /// The window field of the last packet that was sent on and not a RST, with [`KNOWN`], and with [`AHEAD`] where it
    /// is so.
    pub announced: u64,
}

/// Two legs that are, or are about to be, joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Joint {
    /// [`phase`] and flags, and in its upper half a generation that the daemon raises whenever it takes the joint for
    /// another session. Once a key leads to the joint it is changed by compare and exchange alone.
    pub state: u64,
    /// When the daemon read the clocks of the legs, by the kernel's monotonic clock.
    pub clocks_read_at: u64,
    /// When it became live.
    pub live_at: u64,
    /// The joint is dead when no packet came for so long, in nanoseconds; a closed one after [`LINGER`]. The program
    /// sees to it by itself, for there may be no daemon.
    pub idle_limit: u64,
    /// Flags: [`TIMESTAMPS`], [`SEALED`].
    pub flags: u32,
    /// The joint's own index, so that an event can name it.
    pub index: u32,
    /// Packets dropped because they cannot be translated: fragments, options, URG. Only its growth means something.
    pub untranslatable: u64,
    /// The joint is dead after this time of the kernel's monotonic clock, in nanoseconds; 0: never.
    pub deadline: u64,
    /// When a program last answered a packet itself, by the kernel's monotonic clock, in nanoseconds; 0: not yet.
    pub answered_at: u64,
    /// The client leg and the target leg.
    pub legs: [Leg; 2],
    /// What the next daemon has to know.
    pub origin: Origin,
}

/// Whose session a joint is. Written before [`SEALED`] is set; the programs do not look at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Origin {
    /// The name of the listener, hashed.
    pub listener: u64,
    /// The name of the group, hashed. The target's address is the peer's of the target leg.
    pub group: u64,
    /// When the session began, by the kernel's monotonic clock, in nanoseconds.
    pub began: u64,
    /// Bytes that user space read from the client and from the target before the session was joined.
    pub read: [u64; 2],
    /// The client's address, as a PROXY header may have told it; IPv4 is mapped into IPv6.
    pub client: [u32; 4],
    /// The client's port, in network byte order.
    pub client_port: u16,
    /// The rest of the line.
    pub reserved: [u16; 3],
}

/// How long a joint that is closed or reset still forwards repetitions, in nanoseconds: as long as Linux keeps
/// TIME_WAIT.
pub const LINGER: u64 = 60_000_000_000;

/// A joint's SYNs are answered at most once in this time, in nanoseconds. As long as the kernel's
/// `net.ipv4.tcp_invalid_ratelimit`: a peer that has started again repeats its SYN after a second.
pub const CHALLENGE_INTERVAL: u64 = 500_000_000;

/// The senders of packets that are longer than their way are told so at most once in this time for each joint, in
/// nanoseconds. A window of such packets comes within less, and needs one answer; the repetition of a packet whose
/// answer was lost comes later.
pub const TOO_LONG_INTERVAL: u64 = 10_000_000;

/// What the programs tell the daemon: the kind in the upper half of a 64-bit number, the joint's index in the lower
/// one.
pub mod event {
    /// The joint is live.
    pub const LIVE: u64 = 1 << 32;
    /// Both directions have ended.
    pub const CLOSED: u64 = 2 << 32;
    /// A peer has reset.
    pub const RESET: u64 = 3 << 32;
    /// A watched joint has seen a packet of the second leg too.
    pub const SEEN: u64 = 4 << 32;
}

/// The slots of the per-CPU array `PACKET_COUNTERS`. Sum a slot over all CPUs to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PacketCounter {
    /// Packets rewritten and sent on.
    Forwarded = 0,
    /// Packets that went to their sockets because their joint is not live.
    Passed = 1,
    /// Packets outside the window of their connection.
    OutOfWindow = 2,
    /// Fragments, IP options, extension headers, URG, or a header that does not parse.
    Untranslatable = 3,
    /// The way to the other peer is not known to the kernel, or longer than the packet's hop limit.
    NoRoute = 4,
    /// The joint was dead.
    Dead = 5,
    /// ICMP errors translated for the other peer.
    IcmpTranslated = 6,
    /// Events that found the ring buffer full.
    EventLost = 7,
    /// Packets that the kernel could not change: for want of memory, or too long for another header.
    Failed = 8,
    /// SYNs that were answered with an acknowledgement.
    Challenged = 9,
    /// Longer than the way to the other peer takes, or than another header can be put before: dropped, and the sender
    /// is told.
    TooLong = 10,
}

impl PacketCounter {
    /// Every slot, in the order of the array.
    pub const ALL: [Self; 11] = [
        Self::Forwarded,
        Self::Passed,
        Self::OutOfWindow,
        Self::Untranslatable,
        Self::NoRoute,
        Self::Dead,
        Self::IcmpTranslated,
        Self::EventLost,
        Self::Failed,
        Self::Challenged,
        Self::TooLong,
    ];

    /// What happened to the packet, as a stable word.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Passed => "passed",
            Self::OutOfWindow => "out_of_window",
            Self::Untranslatable => "untranslatable",
            Self::NoRoute => "no_route",
            Self::Dead => "dead",
            Self::IcmpTranslated => "icmp_translated",
            Self::EventLost => "event_lost",
            Self::Failed => "failed",
            Self::Challenged => "challenged",
            Self::TooLong => "too_long",
        }
    }

    /// The slots of the array.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

const _: () = {
    assert!(size_of::<Tuple>() == 36 && align_of::<Tuple>() == 4);
    assert!(size_of::<Leg>() == 192 && align_of::<Leg>() == 64);
    assert!(offset_of!(Leg, device) == 60 && offset_of!(Leg, passed) == 64);
    assert!(size_of::<Joint>() == 512 && offset_of!(Joint, legs) == 64);
    assert!(size_of::<Origin>() == 64 && offset_of!(Joint, origin) == 448);
    let mut slot = 0;
    while slot < PacketCounter::ALL.len() {
        assert!(PacketCounter::ALL[slot] as usize == slot);
        slot += 1;
    }
};
