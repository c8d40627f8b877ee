//! The packet datapath: established sessions whose packets are rewritten into each other at the ingress of the devices.
//!
//! A session that may be joined is a [`Joining`]: watched, then armed, and at last live by a packet that leaves nothing
//! unacknowledged. From then on it is a [`Joined`], and its two sockets are silent *shadows* that hold the ports.
//! Nothing here drops a packet before a joint is live; an attempt that something spoils costs nobody a retransmission.
//!
//! | program | type | attached to |
//! |---|---|---|
//! | `packet_ethernet` | `tc` classifier | ingress of every device with a hardware address (TCX, before 6.6 clsact) |
//! | `packet_raw` | the same | ingress of every device without: TUN, WireGuard |
//! | `deaf` | socket filter | the shadows |
//!
//! Linux 6.1 is the oldest that is supported. What the programs use is older, and listed where they are.

mod adopt;
mod attach;
mod detach;
mod devices;
mod events;
mod joined;
mod joining;
mod joint;
mod links;
mod pins;
mod policies;
mod prospect;
mod repair;
mod sample;

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{Program, tc::SchedClassifierLink};
use aya::{Ebpf, EbpfLoader};
use landbridge_common::packet::{Joint, LegRef, PacketCounter, Tuple};
use landbridge_core::join::NotJoined;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

pub use self::adopt::Adopted;
pub(crate) use self::adopt::origin;
pub use self::attach::Hook;
pub use self::detach::{Detached, detach};
pub use self::joined::{Ending, Joined};
pub use self::joining::{Books, Joining, Stand};
use self::joint::JointCell;
pub use self::joint::{Lifetime, Seen};
pub use self::pins::{PinError, Pins};
pub use self::prospect::{Ground, Hindrance, Way, prospect};
pub use self::sample::LegSample;
use super::kernel::Kernel;
use super::mapped::Mapped;
use super::maps::{MapError, refused, take};
use super::slots::{self, Slots, Taken};
use super::unavailable::{LoadError, Unavailable};

/// The eBPF object of the packet datapath in this binary; `None` when it was built without `cargo xtask build`.
pub use super::PACKET_OBJECT as OBJECT;

/// What outlives the process.
const PINNED: [&str; 3] = [JOINTS, LEGS, COUNTERS];

const DEAF: &str = "deaf";

/// The index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

const LEGS: &str = "LEGS";
const JOINTS: &str = "JOINTS";
const EVENTS: &str = "PACKET_EVENTS";
const COUNTERS: &str = "PACKET_COUNTERS";

/// A leg's name in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Key(Tuple);

// SAFETY: a tuple is plain integers without padding.
unsafe impl aya::Pod for Key {}

/// Whom to tell that a session ends, and by which number.
type Owner = (UnboundedSender<u32>, u32);

/// The loaded packet datapath.
pub struct PacketPath {
    joints: Mapped<Joint>,
    legs: Mutex<HashMap<MapData, Key, LegRef>>,
    slots: Mutex<Slots>,
    /// Who is told about the joint with this index.
    owners: Mutex<Vec<Option<Owner>>>,
    /// This host's own addresses, which cross no device among themselves, with the index of the device that has them.
    locals: RwLock<std::collections::HashMap<IpAddr, u32>>,
    events: Mutex<Option<RingBuf<MapData>>>,
    counters: PerCpuArray<MapData, u64>,
    hook: Hook,
    /// Whether the programs are told routes.
    tells_routes: bool,
    /// Whether there are IPsec policies.
    has_policies: AtomicBool,
    /// The devices that have a program, by index, with the attachments that are not pinned.
    attached: Mutex<std::collections::HashMap<u32, Option<SchedClassifierLink>>>,
    programs: Mutex<Ebpf>,
    /// Where the state outlives this process; `None`: it does not.
    pins: Mutex<Option<Pins>>,
    /// Cancelled when this process leaves its joined sessions to another one.
    retired: CancellationToken,
    /// The sockets of sessions that are left to another process: they hold the ports until that does.
    shadows: Mutex<Vec<OwnedFd>>,
    /// What a former process has left, until it is adopted.
    left: Mutex<std::collections::HashMap<u32, [Option<Tuple>; 2]>>,
}

impl PacketPath {
    /// Loads the programs for up to `sessions` joined sessions and attaches them to every device there is, by this
    /// `hook`. With `pins` the sessions outlive this process, and [`Self::adopt`] gives those that a former one has
    /// left.
    ///
    /// # Errors
    /// The first reason why this process cannot use it.
    pub fn start(sessions: u32, pins: Option<Pins>, hook: Hook) -> Result<Arc<Self>, Unavailable> {
        let mut path = Self::loaded(sessions, pins, hook)?;
        path.tells_routes = devices::let_routes_be_asked();
        path.look_at_policies();
        path.attach_devices();
        Ok(Arc::new(path))
    }

    /// Loads the programs, attaches them to nothing, and says what they would find.
    ///
    /// # Errors
    /// The first reason why this process cannot use the packet datapath.
    pub fn examine() -> Result<Ground, Unavailable> {
        let _loaded = Self::loaded(0, None, Hook::of_this_kernel())?;
        let devices =
            devices::names().map_err(|source| Unavailable::LoadFailed { source: LoadError::Devices(source) })?;
        // If it cannot be told nothing is joined.
        Ok(Ground { devices, has_policies: policies::exist().unwrap_or(true) })
    }

    fn loaded(sessions: u32, pins: Option<Pins>, hook: Hook) -> Result<Self, Unavailable> {
        let object = OBJECT.ok_or(Unavailable::NotBuilt)?;
        let missing = Kernel::observe().missing();
        if !missing.is_empty() {
            return Err(Unavailable::NoCapability { missing });
        }
        Self::load(object, sessions, pins, hook).map_err(|source| Unavailable::LoadFailed { source })
    }

    fn load(object: &[u8], sessions: u32, pins: Option<Pins>, hook: Hook) -> Result<Self, LoadError> {
        let mut capacity = sessions.saturating_add(slots::RESERVE).min(landbridge_common::packet::MAX_JOINTS);
        let mut loader = EbpfLoader::new();
        if let Some(pins) = &pins {
            // Maps keep their size for life, which is as long as there are sessions.
            match pins.capacity(JOINTS, &PINNED).filter(|_| adopt::has_sessions(pins)) {
                Some(former) => capacity = former,
                None => pins.clear(),
            }
            for map in PINNED {
                loader.map_pin_path(map, pins.path(map));
            }
        }
        let mut programs = loader.map_max_entries(JOINTS, capacity).map_max_entries(LEGS, 2 * capacity).load(object)?;
        let joints = match programs.map(JOINTS) {
            Some(aya::maps::Map::Array(array)) => {
                Mapped::map(array.fd(), capacity).map_err(|source| MapError::Mapping { map: JOINTS, source })?
            }
            _ => return Err(MapError::Missing { map: JOINTS }.into()),
        };
        devices::load(&mut programs)?;
        let Some(Program::SocketFilter(deaf)) = programs.program_mut(DEAF) else {
            return Err(LoadError::NoProgram { program: DEAF });
        };
        deaf.load().map_err(|source| LoadError::Program { program: DEAF, source })?;
        let legs = take(&mut programs, LEGS)?;
        let left = adopt::left(&legs, capacity);
        Ok(Self {
            joints,
            legs: Mutex::new(legs),
            slots: Mutex::new(Slots::with_taken(capacity, &left.keys().copied().collect(), Instant::now())),
            owners: Mutex::new(Vec::new()),
            locals: RwLock::default(),
            events: Mutex::new(Some(take(&mut programs, EVENTS)?)),
            counters: take(&mut programs, COUNTERS)?,
            hook,
            tells_routes: true,
            has_policies: AtomicBool::new(false),
            attached: Mutex::default(),
            programs: Mutex::new(programs),
            pins: Mutex::new(pins),
            retired: CancellationToken::new(),
            shadows: Mutex::default(),
            left: Mutex::new(left),
        })
    }

    /// From now on nothing is joined any more, and dropping a joined session leaves it to the next process: the
    /// programs and the maps stay where they are pinned. False, and nothing has changed, if they are not.
    pub fn retire(&self) -> bool {
        if self.lock_pins().is_none() {
            return false;
        }
        self.retired.cancel();
        // Those that are armed have to be told.
        self.wake_all();
        true
    }

    /// Has every session look at its joint.
    fn wake_all(&self) {
        self.lock_slots().wakers().iter().for_each(|waker| waker.wake());
    }

    /// Lets another process have what is pinned; returns the sockets that hold the ports of the joined sessions. To be
    /// called after [`Self::retire`], when no session is left here.
    pub fn let_go(&self) -> Vec<OwnedFd> {
        // The lock goes with it.
        self.lock_pins().take();
        std::mem::take(&mut *self.lock_shadows())
    }

    fn lock_shadows(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.shadows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled by [`Self::retire`].
    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// Whether [`Self::retire`] has been called.
    pub fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }

    /// Nothing here is to outlive this process, unless it was left to another one.
    pub fn unpin(&self) {
        if let Some(pins) = self.lock_pins().as_ref().filter(|_| !self.is_retired()) {
            attach::remove(pins, self.hook);
        }
    }

    fn lock_pins(&self) -> MutexGuard<'_, Option<Pins>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions that are watched, armed, joined or lingering now.
    pub fn sessions(&self) -> u32 {
        self.lock_slots().taken()
    }

    /// What the programs have done with packets of watched and joined sessions since the start, all CPUs together.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn count(&self, what: PacketCounter) -> Result<u64, MapError> {
        let values = self.counters.get(&(what as u32), 0).map_err(refused(COUNTERS))?;
        Ok(values.iter().sum())
    }

    /// From now on nothing that arrives reaches the socket. All sockets share one program: a filter of their own would
    /// cost each a page.
    fn deafen(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Program::SocketFilter(deaf)) = programs.program(DEAF) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        deaf.attach(socket).map(drop).map_err(io::Error::other)
    }

    fn joint(&self, index: u32) -> JointCell<'_> {
        JointCell::of(&self.joints, index)
    }

    fn take_joint(&self) -> Option<Taken> {
        self.lock_slots().take(Instant::now())
    }

    fn release_joint(&self, index: u32) {
        self.set_owner(index, None);
        self.lock_slots().release(index, Instant::now());
    }

    fn insert_leg(&self, key: Tuple, leg: LegRef) -> Result<(), MapError> {
        self.lock_legs().insert(Key(key), leg, 0).map_err(refused(LEGS))
    }

    /// Removes a leg, unless another connection with the same addresses and ports has taken its place.
    fn remove_leg(&self, key: Tuple, leg: LegRef) {
        let mut legs = self.lock_legs();
        if legs.get(&Key(key), 0).is_ok_and(|found| found == leg) {
            // Only this process removes them.
            let _gone = legs.remove(&Key(key));
        }
    }

    fn set_owner(&self, index: u32, owner: Option<Owner>) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let index = index as usize;
        if owners.len() <= index {
            owners.resize(index + 1, None);
        }
        owners[index] = owner;
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.device_of(address).is_some()
    }

    /// The index of the device that has this address of this host's.
    fn device_of(&self, address: IpAddr) -> Option<u32> {
        self.locals.read().unwrap_or_else(PoisonError::into_inner).get(&address).copied()
    }

    /// The device by which packets leave for `peer` where the programs are told no routes; 0: they are, and it is not known.
    fn device_for(&self, local: IpAddr, peer: IpAddr) -> Result<u32, NotJoined> {
        if self.tells_routes {
            return Ok(self.device_of(local).filter(|device| *device != LOOPBACK).unwrap_or(0));
        }
        match links::way(local, peer) {
            Ok(Some(device)) if self.lock_attached().contains_key(&device) => Ok(device),
            _ => Err(NotJoined::Device),
        }
    }

    fn lock_attached(&self) -> MutexGuard<'_, std::collections::HashMap<u32, Option<SchedClassifierLink>>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_legs(&self) -> MutexGuard<'_, HashMap<MapData, Key, LegRef>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_slots(&self) -> MutexGuard<'_, Slots> {
        // Every operation leaves the list whole, so that a panic elsewhere does not matter.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a peer may be silent before the programs give its joint up by themselves, when nobody set another limit. A
/// day: the daemon, as long as it lives, finds dead peers much earlier.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_hours(24);

/// A socket's two addresses: its own and its peer's.
fn addresses(socket: BorrowedFd<'_>) -> io::Result<(std::net::SocketAddr, std::net::SocketAddr)> {
    let socket = socket2::SockRef::from(&socket);
    let address = |address: socket2::SockAddr| address.as_socket().ok_or(io::Error::from(io::ErrorKind::Unsupported));
    Ok((address(socket.local_addr()?)?, address(socket.peer_addr()?)?))
}

/// An address as the maps have it.
fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// A tuple of packets from `source` to `destination`.
fn tuple(source: std::net::SocketAddr, destination: std::net::SocketAddr) -> Tuple {
    Tuple {
        source: words(source.ip()),
        destination: words(destination.ip()),
        source_port: source.port().to_be(),
        destination_port: destination.port().to_be(),
    }
}
