//! A joined session: its packets go from device to device, and its two sockets are shadows that hold the ports.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use landbridge_common::packet::{BY_TARGET, CLIENT, Origin, PHASE, Tuple, WAS_RESET, phase};
use tokio::sync::mpsc::UnboundedSender;
use tracing::debug;

use super::joint::{JointCell, Lifetime, Seen, now};
use super::{PacketPath, adopt, repair};
use crate::tcp::{TcpInfo, outstanding};

/// How a joined session is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is not.
    No,
    /// Both directions have ended and that was acknowledged; repetitions are still forwarded.
    Closed {
        /// Whether the client ended its direction first.
        client_first: bool,
    },
    /// A peer has reset, and the other one was told.
    Reset {
        /// Whether it was the client.
        by_client: bool,
    },
    /// The programs have given it up: no packet came for as long as its [`Lifetime`] says, or it is too old.
    Dead,
}

impl Ending {
    /// Whether both peers know.
    pub fn is_told(self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Reset { .. })
    }
}

/// A joined session. Dropped before it has ended, it is reset, by an RST to each peer, unless the path is retired.
pub struct Joined {
    path: Arc<PacketPath>,
    index: u32,
    keys: [Tuple; 2],
    /// `None`: closed after the end, or it could not be replaced when its peer was probed last.
    shadows: [Option<OwnedFd>; 2],
    /// Whether the sockets are known to have nothing left to say.
    sealed: bool,
}

impl Joined {
    pub(super) fn new(path: Arc<PacketPath>, index: u32, keys: [Tuple; 2], shadows: [OwnedFd; 2]) -> Self {
        Self { path, index, keys, shadows: shadows.map(Some), sealed: false }
    }

    /// A session that a former process has joined.
    pub(super) fn adopted(path: Arc<PacketPath>, index: u32, keys: [Tuple; 2], shadows: [Option<OwnedFd>; 2]) -> Self {
        Self { path, index, keys, shadows, sealed: true }
    }

    /// Tells whose session this is: from now on it outlives this process. Only when it is sealed.
    pub fn sign(&self, origin: Origin, limits: Lifetime) {
        debug_assert!(self.sealed);
        self.joint().sign(origin, limits);
    }

    /// Gives a session that is signed other limits.
    pub fn limit(&self, limits: Lifetime) {
        if let Some(origin) = self.joint().origin() {
            self.joint().limit(origin.began, limits);
        }
    }

    /// Sends `number` to `owner` whenever the session begins to end. Needs [`PacketPath::run_events`] to run.
    pub fn notify(&self, owner: UnboundedSender<u32>, number: u32) {
        self.path.set_owner(self.index, Some((owner, number)));
    }

    /// Turns the sockets into shadows; false while the last acknowledgement is still on its way to one of them, which
    /// takes microseconds.
    ///
    /// # Errors
    /// A socket has received what it should not, or refuses: the stream may not be whole, reset it. `expected`: the
    /// bytes that user space has read from each leg.
    pub fn seal(&mut self, expected: [u64; 2]) -> io::Result<bool> {
        for (shadow, expected) in self.shadows.iter().flatten().zip(expected) {
            if TcpInfo::of(shadow.as_fd())?.received != expected {
                return Err(io::Error::other("a packet reached the socket of a joined session"));
            }
            if outstanding(shadow.as_fd())? > 0 {
                return Ok(false);
            }
        }
        if !self.sealed {
            for shadow in self.shadows.iter().flatten() {
                self.path.deafen(shadow.as_fd())?;
                repair::stand_aside(shadow.as_fd())?;
            }
            self.sealed = true;
        }
        Ok(true)
    }

    /// What is known of the client's and the target's packets.
    pub fn seen(&self) -> [Seen; 2] {
        [self.joint().seen(0), self.joint().seen(1)]
    }

    /// How it is ending.
    pub fn ending(&self) -> Ending {
        let phase = self.joint().phase();
        match phase & PHASE {
            // Another connection has begun with the same addresses and ports since the end.
            phase::FREE if phase & WAS_RESET == 0 => Ending::Closed { client_first: self.joint().is_clients_end() },
            phase::CLOSED => Ending::Closed { client_first: self.joint().is_clients_end() },
            phase::RESET | phase::FREE => Ending::Reset { by_client: phase & BY_TARGET == 0 },
            phase::DEAD => Ending::Dead,
            _ => Ending::No,
        }
    }

    /// Whether a session that has not ended has outlived its limits.
    pub fn has_expired(&self) -> bool {
        self.joint().has_expired()
    }

    /// Whether it is older than they allow.
    pub fn is_too_old(&self) -> bool {
        self.joint().is_too_old()
    }

    /// The time by the clock of [`Seen::last_seen`].
    pub fn now(&self) -> Duration {
        now()
    }

    /// The peers of both legs, the client first.
    pub fn peers(&self) -> [SocketAddr; 2] {
        [0, 1].map(|side| adopt::ends(self.joint(), side, self.keys[side]).0.1)
    }

    /// Packets that were dropped because they cannot be translated.
    pub fn untranslatable(&self) -> u64 {
        self.joint().untranslatable()
    }

    /// Closes the client leg's socket of a session that has ended, in silence: its client may begin another connection
    /// by the same ports. Repetitions are still sent on, and the port towards the target is taken, until this is
    /// dropped.
    pub fn release(&mut self) {
        if let Some(shadow) = self.shadows[CLIENT].take() {
            let _refused = repair::stand_aside(shadow.as_fd());
        }
    }

    /// Asks the peer of a leg (0: the client, 1: the target) for a sign of life.
    ///
    /// The shadow makes way for one that stands where the connection is now: a peer that knows of no connection resets,
    /// and only then by the number that ends the joint. What is acknowledged is what the other peer has, and not more.
    ///
    /// # Errors
    /// Nothing was sent: the way or this host's address is gone. The ports are not held until it succeeds again.
    pub fn probe(&mut self, side: usize) -> io::Result<()> {
        // It leaves in silence. What still reaches this host is answered by the kernel, which knows no such connection.
        self.shadows[side] = None;
        let joint = self.joint();
        let (addresses, device) = adopt::ends(joint, side, self.keys[side]);
        let (sent, received) = (joint.sent_to(side), joint.acknowledged_to(side));
        let clock = joint.clock_towards(side);
        let shadow = repair::stand_in(addresses, device, sent, received)?;
        self.path.deafen(shadow.as_fd())?;
        if let Some(clock) = clock {
            repair::set_clock(shadow.as_fd(), clock)?;
        }
        repair::probe(shadow.as_fd())?;
        self.shadows[side] = Some(shadow.into());
        Ok(())
    }

    pub(super) fn joint(&self) -> JointCell<'_> {
        self.path.joint(self.index)
    }
}

impl Joined {
    /// Leaves the session to the programs and to the process that adopts it.
    fn leave(&mut self) {
        self.path.lock_shadows().extend(self.shadows.iter_mut().filter_map(Option::take));
        self.path.release_joint(self.index);
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let joint = self.joint();
        if self.path.is_retired() && joint.origin().is_some() {
            return self.leave();
        }
        let has_ended = self.ending().is_told();
        // From here on nothing is sent on, so that the numbers below stay true.
        joint.kill();
        let ends = [0, 1].map(|side| {
            let (addresses, device) = adopt::ends(joint, side, self.keys[side]);
            (addresses, device, joint.sent_to(side), joint.received_from(side))
        });
        for (side, key) in self.keys.into_iter().enumerate() {
            self.path.remove_leg(key, self.index << 1 | side as u32);
        }
        self.path.release_joint(self.index);
        for (shadow, (addresses, device, sent, received)) in self.shadows.iter_mut().zip(ends) {
            if let Some(shadow) = shadow.take() {
                // It must leave in silence: it stands where its connection was when it was joined.
                let _refused = repair::stand_aside(shadow.as_fd());
            }
            if has_ended {
                continue;
            }
            let reset = repair::stand_in(addresses, device, sent, received).and_then(repair::reset);
            if let Err(error) = reset {
                debug!(peer = %addresses.1, "a joined leg was not reset: {error}");
            }
        }
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").field("index", &self.index).field("sealed", &self.sealed).finish_non_exhaustive()
    }
}
