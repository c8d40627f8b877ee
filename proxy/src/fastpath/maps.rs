//! Typed handles of the maps that the programs use.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Ebpf;
use aya::maps::sock::SockMapFd;
use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf, SockHash};
use landbridge_common::{Cookie, Counter, Flow, Slot};
use nix::errno::Errno;
use serde::Serialize;

use super::mapped::Mapped;

/// What all programs together did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Packets handed to the other leg.
    pub redirected_packets: u64,
    /// Payload bytes handed to the other leg.
    pub redirected_bytes: u64,
    /// FINs without payload, dropped after TCP had processed them.
    pub empty_dropped: u64,
    /// Packets dropped because their leg had no flow: only of sessions that are being reset.
    pub no_flow: u64,
    /// Packets dropped because the other leg was gone: only of sessions that are broken.
    pub no_peer: u64,
    /// Packets that a shut gate dropped before TCP saw them; their senders repeated them.
    pub gate_dropped: u64,
    /// Alarms that found the ring buffer full; the daemon then looked at every flow.
    pub alarm_lost: u64,
    /// Packets that repeated bytes before new ones; what they repeated was cut off.
    pub overlapping: u64,
}

impl Counters {
    /// What was counted after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            redirected_packets: self.redirected_packets - earlier.redirected_packets,
            redirected_bytes: self.redirected_bytes - earlier.redirected_bytes,
            empty_dropped: self.empty_dropped - earlier.empty_dropped,
            no_flow: self.no_flow - earlier.no_flow,
            no_peer: self.no_peer - earlier.no_peer,
            gate_dropped: self.gate_dropped - earlier.gate_dropped,
            alarm_lost: self.alarm_lost - earlier.alarm_lost,
            overlapping: self.overlapping - earlier.overlapping,
        }
    }
}

/// The kernel refused an operation on a map.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The object has no such map.
    #[error("the object has no map {map}")]
    Missing {
        /// Its name.
        map: &'static str,
    },
    /// An operation failed.
    #[error("the kernel refused an operation on the map {map}")]
    Refused {
        /// Its name.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The map cannot be read from memory.
    #[error("cannot map {map} into memory")]
    Mapping {
        /// Its name.
        map: &'static str,
        /// Why.
        source: Errno,
    },
}

impl MapError {
    /// Whether there was no room for one more entry.
    pub(super) fn is_full(&self) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        let error = errno(source);
        [Errno::E2BIG, Errno::ENOSPC, Errno::ENOMEM].iter().any(|full| error == Some(*full))
    }
}

/// The maps about sockets, taken out of the object.
pub(super) struct Maps {
    sources: SockHash<MapData, Cookie>,
    peers: SockHash<MapData, Cookie>,
    slots: HashMap<MapData, Cookie, Slot>,
}

impl Maps {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self { sources: take(programs, SOURCES)?, peers: take(programs, PEERS)?, slots: take(programs, SLOTS)? })
    }

    /// The map that the verdict is attached to.
    pub(super) fn sources(&self) -> &SockMapFd {
        self.sources.fd()
    }

    /// Lets the kernel forward from `source` to `sink`, as the flow in `slot`. All maps or none.
    pub(super) fn insert(
        &mut self,
        cookie: Cookie,
        slot: Slot,
        source: BorrowedFd<'_>,
        sink: BorrowedFd<'_>,
    ) -> Result<(), MapError> {
        let inserted = self
            .slots
            .insert(cookie, slot, 0)
            .map_err(refused(SLOTS))
            .and_then(|()| self.peers.insert(cookie, sink.as_raw_fd(), 0).map_err(refused(PEERS)))
            // The last one: from here on the verdict runs, and everything it looks up is there.
            .and_then(|()| self.sources.insert(cookie, source.as_raw_fd(), 0).map_err(refused(SOURCES)));
        if inserted.is_err() {
            // Whatever was inserted; the error that matters is the one above.
            let _gone = self.remove_source(cookie);
            let _gone = self.remove_rest(cookie);
        }
        inserted
    }

    /// Takes the verdict away from a leg. The kernel may have done it: it removes a connection that is over.
    pub(super) fn remove_source(&mut self, cookie: Cookie) -> Result<(), MapError> {
        gone(self.sources.remove(&cookie)).map_err(refused(SOURCES))
    }

    /// Removes what belongs to a leg without a verdict; its sink loses its backlog if it is in no other entry.
    pub(super) fn remove_rest(&mut self, cookie: Cookie) -> Result<(), MapError> {
        let peer = gone(self.peers.remove(&cookie)).map_err(refused(PEERS));
        let slot = gone(self.slots.remove(&cookie)).map_err(refused(SLOTS));
        peer.and(slot)
    }
}

/// The counters of all flows together.
pub(super) struct CounterMap(PerCpuArray<MapData, u64>);

impl CounterMap {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, MapError> {
        take(programs, COUNTERS).map(Self)
    }

    /// One of them, summed over all CPUs.
    pub(super) fn one(&self, slot: Counter) -> Result<u64, MapError> {
        let values = self.0.get(&(slot as u32), 0).map_err(refused(COUNTERS))?;
        Ok(values.iter().sum())
    }

    pub(super) fn all(&self) -> Result<Counters, MapError> {
        Ok(Counters {
            redirected_packets: self.one(Counter::RedirectedPackets)?,
            redirected_bytes: self.one(Counter::RedirectedBytes)?,
            empty_dropped: self.one(Counter::EmptyDropped)?,
            no_flow: self.one(Counter::NoFlow)?,
            no_peer: self.one(Counter::NoPeer)?,
            gate_dropped: self.one(Counter::GateDropped)?,
            alarm_lost: self.one(Counter::AlarmLost)?,
            overlapping: self.one(Counter::Overlapping)?,
        })
    }
}

/// The ring buffer with the alarms.
pub(super) fn alarms(programs: &mut Ebpf) -> Result<RingBuf<MapData>, MapError> {
    take(programs, ALARMS)
}

/// Maps the array of `count` flows. The object keeps its descriptor, which the programs need when they are loaded.
pub(super) fn flows(programs: &Ebpf, count: u32) -> Result<Mapped<Flow>, MapError> {
    let Some(Map::Array(array)) = programs.map(FLOWS) else { return Err(MapError::Missing { map: FLOWS }) };
    Mapped::map(array.fd(), count).map_err(|source| MapError::Mapping { map: FLOWS, source })
}

/// The array whose size the loader chooses.
pub(super) const FLOWS: &str = "FLOWS";
const SOURCES: &str = "SOURCES";
const PEERS: &str = "PEERS";
const SLOTS: &str = "SLOTS";
const ALARMS: &str = "ALARMS";
const COUNTERS: &str = "COUNTERS";

pub(super) fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(
    programs: &mut Ebpf,
    map: &'static str,
) -> Result<T, MapError> {
    let taken = programs.take_map(map).ok_or(MapError::Missing { map })?;
    T::try_from(taken).map_err(refused(map))
}

pub(super) fn refused(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> MapError {
    move |source| MapError::Refused { map, source }
}

/// A removal of something that is not there is one that worked.
fn gone(removed: Result<(), aya::maps::MapError>) -> Result<(), aya::maps::MapError> {
    match removed {
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

fn errno(error: &aya::maps::MapError) -> Option<Errno> {
    match error {
        aya::maps::MapError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}
