//! Typed handles of the maps that the programs use.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use aya::maps::sock::SockMapFd;
use aya::maps::{HashMap, Map, MapData, PerCpuArray, SockHash};
use aya::{Ebpf, Pod};
use landbridge_common::{Cookie, Counter, Flow};
use serde::Serialize;
use socket2::SockRef;

/// What all verdicts together did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Packets handed to the other leg.
    pub redirected_packets: u64,
    /// Payload bytes handed to the other leg.
    pub redirected_bytes: u64,
    /// FINs without payload, dropped after TCP had processed them.
    pub empty_dropped: u64,
    /// Packets left to user space because their leg had no flow.
    pub no_flow: u64,
    /// Packets dropped because the other leg was gone.
    pub no_peer: u64,
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
    #[error("the map {map}")]
    Refused {
        /// Its name.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The socket has no cookie.
    #[error("the cookie of a socket")]
    Cookie {
        /// Why.
        source: std::io::Error,
    },
}

/// The maps, taken out of the object.
pub(super) struct Maps {
    sources: SockHash<MapData, Cookie>,
    peers: SockHash<MapData, Cookie>,
    flows: HashMap<MapData, Cookie, FlowValue>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    pub(super) fn take(programs: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            sources: take(programs, SOURCES)?,
            peers: take(programs, PEERS)?,
            flows: take(programs, FLOWS)?,
            counters: take(programs, COUNTERS)?,
        })
    }

    /// The map that the verdict is attached to.
    pub(super) fn sources(&self) -> &SockMapFd {
        self.sources.fd()
    }

    /// Lets the kernel send what arrives on `from` out of `to`, and returns the name of the direction. All maps or none.
    ///
    /// Bytes that `from` has received but nobody has read stay where they are until the next packet arrives.
    pub(super) fn promote(&mut self, from: &TcpStream, to: &TcpStream) -> Result<Cookie, MapError> {
        let cookie = SockRef::from(from).cookie().map_err(|source| MapError::Cookie { source })?;
        let inserted = self
            .flows
            .insert(cookie, FlowValue(Flow::default()), 0)
            .map_err(refused(FLOWS))
            .and_then(|()| self.peers.insert(cookie, to.as_raw_fd(), 0).map_err(refused(PEERS)))
            // The last one: from here on the verdict runs, and everything it looks up is there.
            .and_then(|()| self.sources.insert(cookie, from.as_raw_fd(), 0).map_err(refused(SOURCES)));
        match inserted {
            Ok(()) => Ok(cookie),
            Err(error) => {
                self.forget(cookie);
                Err(error)
            }
        }
    }

    /// What the kernel has counted for a direction.
    pub(super) fn flow(&self, cookie: Cookie) -> Result<Flow, MapError> {
        self.flows.get(&cookie, 0).map(|FlowValue(flow)| flow).map_err(refused(FLOWS))
    }

    /// Removes a direction from all maps. Only for legs on which nothing arrives any more: see `PEERS` about the others.
    pub(super) fn forget(&mut self, cookie: Cookie) {
        // The kernel removes a socket from its maps when it is closed, so that an entry may be gone already.
        let _gone = self.sources.remove(&cookie);
        let _gone = self.peers.remove(&cookie);
        let _gone = self.flows.remove(&cookie);
    }

    pub(super) fn counters(&self) -> Result<Counters, MapError> {
        let sum = |slot: Counter| -> Result<u64, MapError> {
            let values = self.counters.get(&(slot as u32), 0).map_err(refused(COUNTERS))?;
            Ok(values.iter().sum())
        };
        Ok(Counters {
            redirected_packets: sum(Counter::RedirectedPackets)?,
            redirected_bytes: sum(Counter::RedirectedBytes)?,
            empty_dropped: sum(Counter::EmptyDropped)?,
            no_flow: sum(Counter::NoFlow)?,
            no_peer: sum(Counter::NoPeer)?,
        })
    }
}

const SOURCES: &str = "SOURCES";
const PEERS: &str = "PEERS";
const FLOWS: &str = "FLOWS";
const COUNTERS: &str = "COUNTERS";

/// [`Flow`] as a map value: the crate that defines it knows nothing of aya.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct FlowValue(Flow);

// SAFETY: `Flow` is `repr(C)`, holds two `u64`, has no padding (asserted next to it), and any bits are a valid value.
unsafe impl Pod for FlowValue {}

fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(programs: &mut Ebpf, map: &'static str) -> Result<T, MapError> {
    let taken = programs.take_map(map).ok_or(MapError::Missing { map })?;
    T::try_from(taken).map_err(refused(map))
}

fn refused(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> MapError {
    move |source| MapError::Refused { map, source }
}
