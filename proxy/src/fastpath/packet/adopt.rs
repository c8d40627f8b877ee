//! The joined sessions that a former process has left: found by what is pinned, and taken over.

use std::collections::HashMap as Found;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use landbridge_common::packet::{CLIENT, LegRef, Origin, PHASE, TARGET, Tuple, phase};
use tracing::debug;

use super::joined::Joined;
use super::joint::{JointCell, nanoseconds, now};
use super::pins::{Pins, hash};
use super::{Key, LEGS, PacketPath, addresses, repair, tuple};

/// A session that a former process has joined.
#[derive(Debug)]
pub struct Adopted {
    /// The session. If both peers know that it has ended, only repetitions are to come.
    pub joined: Joined,
    /// When it began.
    pub began: Instant,
    /// The client, as a PROXY header may have told it.
    pub client: SocketAddr,
    /// Where the target leg leads.
    pub target: SocketAddr,
    origin: Origin,
}

impl Adopted {
    /// Whether it came by the listener of this name.
    pub fn is_of_listener(&self, name: &str) -> bool {
        self.origin.listener == hash(name.as_bytes())
    }

    /// Whether its target is one of the group of this name.
    pub fn is_of_group(&self, name: &str) -> bool {
        self.origin.group == hash(name.as_bytes())
    }

    /// Bytes that user space had read from the client and from the target before the session was joined.
    pub fn read(&self) -> [u64; 2] {
        self.origin.read
    }
}

/// What a later process has to know of a session of a listener and a group with these names, which began then for this
/// client, after user space had `read` so many bytes from each leg.
pub(crate) fn origin(
    (listener, group): (&str, &str),
    (began, client): (Instant, SocketAddr),
    read: [u64; 2],
) -> Origin {
    let Tuple { source, source_port, .. } = tuple(client, client);
    Origin {
        listener: hash(listener.as_bytes()),
        group: hash(group.as_bytes()),
        began: nanoseconds(now().saturating_sub(began.elapsed())),
        read,
        client: source,
        client_port: source_port,
        reserved: [0; 3],
    }
}

/// The legs of a joint, the client's first.
type Legs = [Option<Tuple>; 2];

/// Sockets by their own address and their peer's.
type Shadows = Found<(SocketAddr, SocketAddr), OwnedFd>;

/// The joints that some leg leads to.
pub(super) fn left(legs: &HashMap<MapData, Key, LegRef>, capacity: u32) -> Found<u32, Legs> {
    let mut found = Found::<u32, Legs>::new();
    // Nobody else changes the map.
    for (Key(tuple), leg) in legs.iter().flatten() {
        if leg >> 1 < capacity {
            found.entry(leg >> 1).or_default()[(leg & 1) as usize] = Some(tuple);
        }
    }
    found
}

/// Whether a pinned map of legs has any.
pub(super) fn has_sessions(pins: &Pins) -> bool {
    let legs = MapData::from_pin(pins.path(LEGS)).map(Map::HashMap);
    let legs = legs.ok().and_then(|map| HashMap::<MapData, Key, LegRef>::try_from(map).ok());
    legs.is_some_and(|legs| legs.keys().flatten().next().is_some())
}

impl PacketPath {
    /// Sockets that hold the ports of the sessions that a former process has left, for [`Self::adopt`]. Until then a dial
    /// could get such a port, and its packets would be taken for the session's. Dropping them leaves the sessions as they are.
    pub fn hold_ports(&self) -> Vec<OwnedFd> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = left.iter().filter_map(|(index, legs)| Some((*index, self.whose(*index, *legs)?.1)));
        sessions.flat_map(|(index, keys)| self.shadows(index, keys, &mut Shadows::default())).flatten().collect()
    }

    /// The sessions that a former process has left, those that linger after their end included. Their ports are taken: by
    /// the `shadows` that hold them already, or by new ones. What cannot be adopted is removed; its peers are answered as by
    /// a host that knows no connection.
    pub fn adopt(self: &Arc<Self>, shadows: Vec<OwnedFd>) -> Vec<Adopted> {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let addressed = |shadow: OwnedFd| addresses(shadow.as_fd()).ok().map(|of| (of, shadow));
        let mut shadows = shadows.into_iter().filter_map(addressed).collect();
        left.into_iter().filter_map(|(index, legs)| self.adopt_one(index, legs, &mut shadows)).collect()
    }

    fn adopt_one(self: &Arc<Self>, index: u32, legs: Legs, held: &mut Shadows) -> Option<Adopted> {
        let joint = self.joint(index);
        let Some((origin, keys)) = self.whose(index, legs) else {
            for (side, tuple) in (0..).zip(legs) {
                tuple.into_iter().for_each(|tuple| self.remove_leg(tuple, index << 1 | side));
            }
            joint.kill();
            self.release_joint(index);
            return None;
        };
        let [_, target] = keys;
        let shadows = self.shadows(index, keys, held);
        let device = joint.device_of(1).0;
        Some(Adopted {
            joined: Joined::adopted(Arc::clone(self), index, keys, shadows),
            began: Instant::now() - now().saturating_sub(Duration::from_nanos(origin.began)),
            client: address(origin.client, origin.client_port, 0),
            target: address(target.source, target.source_port, device),
            origin,
        })
    }

    /// Whose a session is and where its legs lead; `None`: it cannot be adopted.
    fn whose(&self, index: u32, legs: Legs) -> Option<(Origin, [Tuple; 2])> {
        let joint = self.joint(index);
        let is_left = matches!(joint.phase() & PHASE, phase::LIVE..phase::DEAD);
        let [client, target] = legs;
        joint.origin().filter(|_| is_left).and_then(|origin| Some((origin, [client?, target?])))
    }

    /// Sockets that hold the ports of a session from now on.
    fn shadows(&self, index: u32, keys: [Tuple; 2], held: &mut Shadows) -> [Option<OwnedFd>; 2] {
        let is_live = self.joint(index).phase() & PHASE == phase::LIVE;
        // Of one that lingers the client may use the ports again.
        let holds = |side| is_live || side == TARGET;
        [CLIENT, TARGET].map(|side| holds(side).then(|| self.shadow(index, side, keys[side], held)).flatten())
    }

    fn shadow(&self, index: u32, side: usize, key: Tuple, held: &mut Shadows) -> Option<OwnedFd> {
        let joint = self.joint(index);
        let ((local, peer), device) = ends(joint, side, key);
        if let Some(shadow) = held.remove(&(local, peer)) {
            return Some(shadow);
        }
        let shadow = repair::stand_in((local, peer), device, joint.sent_to(side), joint.acknowledged_to(side));
        let shadow = shadow.and_then(|shadow| self.deafen(shadow.as_fd()).map(|()| shadow));
        // It goes on without one, for its packets need no socket, and gets one when it can.
        shadow.inspect_err(|error| debug!(%local, %peer, "the ports are not held: {error}")).ok().map(OwnedFd::from)
    }
}

/// A leg's own address and its peer's, and the device that its socket is bound to.
pub(super) fn ends(joint: JointCell<'_>, side: usize, key: Tuple) -> ((SocketAddr, SocketAddr), Option<u32>) {
    let (device, is_bound) = joint.device_of(side);
    let local = address(key.destination, key.destination_port, device);
    let peer = address(key.source, key.source_port, device);
    ((local, peer), is_bound.then_some(device))
}

/// An address as the sockets have it.
fn address(words: [u32; 4], port: u16, device: u32) -> SocketAddr {
    let mut octets = [0; 16];
    for (to, word) in octets.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    let ip = Ipv6Addr::from(octets);
    let port = u16::from_be(port);
    match ip.to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
        // Only addresses of one link say which one.
        None => SocketAddrV6::new(ip, port, 0, if ip.is_unicast_link_local() { device } else { 0 }).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastpath::packet::tuple;

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["192.0.2.7:8000", "[2001:db8::7]:443", "[fe80::1%3]:9"] {
            let there: SocketAddr = text.parse().unwrap();
            let key = tuple(there, there);
            assert_eq!(address(key.source, key.source_port, 3), there);
        }
    }
}
