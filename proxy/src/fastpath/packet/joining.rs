//! A session on its way to being joined: watched, and armed whenever it rests.
//!
//! The daemon must not read from or write to either socket while the joint is armed: it calls [`Joining::disarm`]
//! first, and that may find that the joint has become live.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use landbridge_common::packet::{self, CLIENT_ACKED, DIRTY, LegRef, PHASE, TARGET_ACKED, Tuple, phase};
use landbridge_core::join::{self, LegFacts, NotJoined, eligible};

use super::joined::Joined;
use super::joint::{JointCell, Plan, now};
use super::repair::{self, Sequences};
use super::{IDLE_LIMIT, PacketPath, addresses, tuple};
use crate::fastpath::slots::Taken;
use crate::fastpath::tcp::held;
use crate::tcp::{TcpInfo, outstanding};

/// What user space did with a leg since it was connected or accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    /// Bytes read from it.
    pub read: u64,
    /// Bytes written to it.
    pub given: u64,
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It does not rest after all, or it cannot be told yet. Nothing has changed: relay on.
    Restless,
    /// The next packet that leaves nothing unacknowledged joins it.
    Armed,
    /// It is joined.
    Live,
    /// Something else arrived: [`Joining::disarm`], and relay on.
    Spoiled,
}

/// Both sides, in the order of the joint's legs.
const SIDES: [usize; 2] = [packet::CLIENT, packet::TARGET];
const ACKED: [u64; 2] = [CLIENT_ACKED, TARGET_ACKED];

/// A watched session. Dropping it ends the watch.
pub struct Joining {
    path: Arc<PacketPath>,
    taken: Taken,
    keys: [Tuple; 2],
    facts: [LegFacts; 2],
    /// What each leg's sequence numbers are before its first byte: the peer's and this side's.
    origins: [(u32, u32); 2],
    /// The device that leads to each leg's peer, and whether the leg is bound to it.
    devices: [(u32, bool); 2],
    /// The legs' clocks, read at this time.
    clocks: [u32; 2],
    clocks_read_at: Duration,
    /// Which use of the joint this is.
    generation: u64,
    is_over: bool,
}

impl PacketPath {
    /// Watches the packets of a session from now on, if it can be joined at all. `ask`: both peers are asked for one. `None`:
    /// not while a leg has something left to send; nothing has changed.
    ///
    /// # Errors
    /// It cannot; nothing has changed.
    pub fn watch(
        self: &Arc<Self>,
        legs: [BorrowedFd<'_>; 2],
        books: [Books; 2],
        ask: bool,
    ) -> Result<Option<Joining>, NotJoined> {
        let kernel = |_error: io::Error| NotJoined::Kernel;
        let mut addresses_of = [None; 2];
        let mut facts = [None; 2];
        let mut unsent = 0;
        for side in SIDES {
            let (local, peer) = addresses(legs[side]).map_err(kernel)?;
            let info = TcpInfo::of(legs[side]).map_err(kernel)?;
            let TcpInfo { options, window_scales, announced_mss, path_mtu, .. } = info;
            unsent += info.unsent;
            addresses_of[side] = Some((local, peer));
            facts[side] = Some(LegFacts {
                options,
                window_scale_in: window_scales.0,
                window_scale_out: window_scales.1,
                announced_mss,
                path_mtu,
                is_ipv6: local.is_ipv6(),
                is_local: self.is_local(peer.ip()),
            });
        }
        let ([Some(client), Some(target)], [Some(client_facts), Some(target_facts)]) = (addresses_of, facts) else {
            return Err(NotJoined::Kernel);
        };
        eligible(&client_facts, &target_facts)?;
        // An acknowledgement that comes while a socket is asked for its numbers would mark all of it as sent, and nothing would
        // be sent until a timeout.
        if unsent > 0 {
            return Ok(None);
        }

        let device = |leg, (local, peer): (SocketAddr, SocketAddr)| match repair::bound_device(leg).map_err(kernel)? {
            Some(device) => Ok((device, true)),
            None => Ok((self.device_for(local.ip(), peer.ip())?, false)),
        };
        let devices = [device(legs[0], client)?, device(legs[1], target)?];
        let flags = if client_facts.options & join::TIMESTAMPS != 0 { packet::TIMESTAMPS } else { 0 };
        let taken = self.take_joint().ok_or(NotJoined::Full)?;
        self.joint(taken.slot).begin(taken.slot, IDLE_LIMIT, flags);
        // What is inserted is removed again when this is dropped.
        let mut joining = Joining {
            path: Arc::clone(self),
            keys: [client, target].map(|(local, peer)| tuple(peer, local)),
            facts: [client_facts, target_facts],
            origins: [(0, 0); 2],
            devices,
            clocks: [0; 2],
            clocks_read_at: now(),
            generation: self.joint(taken.slot).generation(),
            taken,
            is_over: false,
        };
        for side in SIDES {
            let inserted = self.insert_leg(joining.keys[side], joining.reference(side));
            inserted.map_err(|error| if error.is_full() { NotJoined::Full } else { NotJoined::Kernel })?;
        }
        for side in SIDES {
            let FirstNumbers { origins, clock } = origin(legs[side], books[side], ask).map_err(kernel)?;
            joining.origins[side] = origins;
            joining.clocks[side] = clock;
        }
        Ok(Some(joining))
    }
}

struct FirstNumbers {
    origins: (u32, u32),
    clock: u32,
}

/// What a leg's sequence numbers were before its first byte, from where they are now.
fn origin(leg: BorrowedFd<'_>, books: Books, probe: bool) -> io::Result<FirstNumbers> {
    /// Packets that arrive in between make the two numbers disagree; they do not arrive that often.
    const ATTEMPTS: usize = 8;
    for _ in 0..ATTEMPTS {
        let before = TcpInfo::of(leg)?.received;
        let Sequences { received, sent, clock } = repair::sequences(leg, probe)?;
        if TcpInfo::of(leg)?.received == before {
            let origins = (received.wrapping_sub(before as u32), sent.wrapping_sub(books.given as u32));
            return Ok(FirstNumbers { origins, clock });
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

impl Joining {
    /// Arms the joint if the session rests. `unseen`: a leg of which no payload was seen since it is watched rests too.
    ///
    /// # Errors
    /// A socket does not tell what is needed. Nothing has changed.
    pub fn arm(&mut self, legs: [BorrowedFd<'_>; 2], books: [Books; 2], unseen: bool) -> io::Result<Stand> {
        let joint = self.joint();
        if joint.change(phase::WATCHED, phase::PREPARED).is_err() {
            // A packet came of which the programs cannot say how far it reaches. By the next time it has been received.
            joint.back_to_watched();
            return Ok(Stand::Restless);
        }
        // From here on whatever a socket takes in is either seen in `passed` or makes the joint dirty.
        let armed = self.arm_prepared(joint, legs, books, unseen);
        if !matches!(armed, Ok(Stand::Armed | Stand::Live)) && !joint.back_to_watched() {
            return Ok(Stand::Live);
        }
        armed
    }

    fn arm_prepared(
        &self,
        joint: JointCell<'_>,
        legs: [BorrowedFd<'_>; 2],
        books: [Books; 2],
        unseen: bool,
    ) -> io::Result<Stand> {
        let mut ends = [(0, 0); 2];
        let mut acked = 0;
        for side in SIDES {
            let (peers, ours) = self.origins[side];
            let Books { read, given } = books[side];
            let (received, sent) = (peers.wrapping_add(read as u32), ours.wrapping_add(given as u32));
            // Else they may come another way, on which nobody would join them.
            if !joint.has_seen(side) {
                return Ok(Stand::Restless);
            }
            // The socket's lock: what had passed before is in `bytes_received` or on its way, and then in `passed`.
            // What came out of order is in neither, and must not stay behind.
            let TcpInfo { received: taken_in, is_established, .. } = TcpInfo::of(legs[side])?;
            // A peer that has reset has told the socket only.
            if !is_established || taken_in != read || held(legs[side])? != 0 {
                return Ok(Stand::Restless);
            }
            match joint.passed(side) {
                Some(passed) if passed == received => {}
                None if unseen => {}
                Some(_) | None => return Ok(Stand::Restless),
            }
            if outstanding(legs[side])? == 0 {
                acked |= ACKED[side];
            }
            ends[side] = (received, sent);
        }
        for side in SIDES {
            let ((received, sent), (other_received, other_sent)) = (ends[side], ends[1 - side]);
            joint.describe(
                side,
                &Plan {
                    out: reverse(self.keys[1 - side]),
                    received,
                    sent,
                    sequence_delta: other_sent.wrapping_sub(received),
                    acknowledgement_delta: other_received.wrapping_sub(sent),
                    window_scales: (self.facts[side].window_scale_in, self.facts[1 - side].window_scale_out),
                    is_ipv6: self.facts[side].is_ipv6,
                    clock: self.clocks[1 - side],
                    device: self.devices[1 - side].0,
                    is_bound: self.devices[1 - side].1,
                },
            );
        }
        joint.set_clocks_read_at(self.clocks_read_at);
        if joint.change(phase::PREPARED, phase::ARMED | acked).is_err() {
            return Ok(Stand::Restless);
        }
        // An acknowledgement that came before the joint was armed has shown itself to no program.
        let mut now_acked = acked;
        for side in SIDES {
            if acked & ACKED[side] == 0 && outstanding(legs[side])? == 0 {
                now_acked |= ACKED[side];
            }
        }
        if now_acked == CLIENT_ACKED | TARGET_ACKED {
            joint.set_live_at(now());
            // If it fails a packet has decided otherwise.
            let _decided = joint.change(phase::ARMED | acked, phase::LIVE);
        }
        Ok(self.stand())
    }

    /// Ready when packets of both legs have been seen. Needs [`PacketPath::run_events`] to run. Only the last waker is
    /// woken.
    pub fn poll_seen(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.taken.waker.register(cx.waker());
        let joint = self.joint();
        if SIDES.iter().all(|side| joint.has_seen(*side)) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when the joint is live or spoiled. Needs [`PacketPath::run_events`] to run. Only the last waker is woken.
    /// A spoiled joint wakes nobody: what spoiled it has reached a socket.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Stand> {
        self.taken.waker.register(cx.waker());
        match self.stand() {
            Stand::Armed => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    /// How far it has come.
    fn stand(&self) -> Stand {
        let found = self.joint().phase();
        match found & PHASE {
            phase::LIVE.. => Stand::Live,
            phase::ARMED if found & DIRTY == 0 => Stand::Armed,
            _ => Stand::Spoiled,
        }
    }

    /// Back to being watched, so that user space may read and write again; false if the joint is live.
    pub fn disarm(&mut self) -> bool {
        self.joint().back_to_watched()
    }

    /// Takes over the sockets of a session that is live.
    pub fn into_joined(mut self, legs: [OwnedFd; 2]) -> Joined {
        self.is_over = true;
        Joined::new(Arc::clone(&self.path), self.taken.slot, self.keys, legs)
    }

    fn joint(&self) -> JointCell<'_> {
        self.path.joint(self.taken.slot)
    }

    fn reference(&self, side: usize) -> LegRef {
        self.taken.slot << 1 | side as u32
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // A joint that became live in the last moment ends with its session, which resets its legs. If this process has
        // left the joints to another one, it may have given this one to another session.
        if self.joint().generation() == self.generation {
            self.joint().kill();
        }
        for side in SIDES {
            self.path.remove_leg(self.keys[side], self.reference(side));
        }
        self.path.release_joint(self.taken.slot);
    }
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining").field("index", &self.taken.slot).finish_non_exhaustive()
    }
}

/// The tuple of the packets the other way.
fn reverse(tuple: Tuple) -> Tuple {
    Tuple {
        source: tuple.destination,
        destination: tuple.source,
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
    }
}
