//! The kernel fast path: the eBPF programs, their maps, and whether this machine can use them.
//!
//! The only module that knows aya. Everything in here may say no ([`Unavailable`] for the process, [`PromoteError`] for
//! one direction, both with stable reasons); the daemon then moves the bytes in user space. Nothing of sockmap's is
//! pinned: when a [`FastPath`] and all its [`Promoted`] are dropped, or the process ends in any way, the kernel
//! detaches the programs and frees the maps. The programs of the packet path, and what outlives the process, are in
//! [`packet`].
//!
//! | program | type | attached to | minimum kernel | capabilities |
//! |---|---|---|---|---|
//! | `verdict` | `sk_skb/stream_verdict` | the sockhash `SOURCES` | 5.11 | `CAP_BPF`, `CAP_NET_ADMIN`, `CAP_PERFMON` |
//! | `gate` | `socket_filter` | each leg that was promoted | 5.12 | `CAP_BPF` |
//!
//! Both work there; [`Version::is_good`](version::Version::is_good) says which kernels have no known bugs.

mod alarms;
mod btf;
mod engine;
mod fallback;
mod flows;
pub mod kernel;
mod log;
mod mapped;
mod maps;
pub mod packet;
mod promoted;
mod ring;
mod self_test;
mod slots;
mod tcp;
mod unavailable;
pub mod version;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{MapData, RingBuf};

pub use landbridge_core::datapath::Limits;

pub use self::btf::BtfError;
use self::engine::{Engine, Loaded};
pub use self::fallback::Fallback;
pub use self::flows::Redirected;
use self::kernel::Kernel;
pub use self::log::KernelLog;
pub use self::maps::{Counters, MapError};
pub use self::promoted::{Alarm, Promoted, Stopped};
pub use self::self_test::{Failure, SelfTest};
pub use self::unavailable::{LoadError, Unavailable};
use self::version::Version;
use crate::tcp::TcpInfo;

/// The eBPF object in this binary; `None` when it was built without `cargo xtask build`.
pub static OBJECT: Option<&'static [u8]> = include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// The same for the programs of the packet datapath.
pub static PACKET_OBJECT: Option<&'static [u8]> = include!(concat!(env!("OUT_DIR"), "/packet_object.rs"));

/// The loaded and tested fast path.
pub struct FastPath {
    engine: Arc<Engine>,
    self_test: SelfTest,
    log: Mutex<Option<KernelLog>>,
    alarms: Mutex<Option<RingBuf<MapData>>>,
}

impl FastPath {
    /// Loads the programs, attaches them and proves on loopback connections that they forward bytes unchanged.
    ///
    /// Blocks for some tens of milliseconds, at most [`self_test::LIMIT`] in the self-test. Call it after the logger is
    /// set up, else what the programs log is lost.
    ///
    /// # Errors
    /// The first reason why this process cannot use the fast path.
    pub fn start(limits: Limits) -> Result<Arc<Self>, Unavailable> {
        let object = OBJECT.ok_or(Unavailable::NotBuilt)?;
        let kernel = Kernel::observe();
        if !kernel.version().is_some_and(Version::is_good) {
            return Err(Unavailable::KernelTooOld { release: kernel.release });
        }
        let missing = kernel.missing();
        if !missing.is_empty() {
            return Err(Unavailable::NoCapability { missing });
        }
        if !kernel.btf {
            return Err(Unavailable::NoBtf);
        }

        let Loaded { engine, log, alarms } =
            Engine::load(object, limits).map_err(|source| Unavailable::LoadFailed { source })?;
        let engine = Arc::new(engine);
        let self_test = self_test::run(&engine).map_err(|source| Unavailable::SelfTestFailed { source })?;
        Ok(Arc::new(Self { engine, self_test, log: Mutex::new(Some(log)), alarms: Mutex::new(Some(alarms)) }))
    }

    /// Lets the kernel forward what arrives on `source` out of `sink`, beginning with what is queued on `source` now.
    ///
    /// `given` is how many bytes were written to `sink` since it was connected or accepted, those of earlier promotions
    /// included; all of them must have been taken by `sink` itself (nothing may wait in a buffer or pipe). It is
    /// compared with what the kernel counted. Blocks for some tens of microseconds. The first promotion of a leg as a
    /// source puts a socket filter on it, which stays and replaces any other.
    ///
    /// # Errors
    /// Nothing was changed that user space would notice: go on as before. Only after [`PromoteError::OutOfStep`] and
    /// [`PromoteError::Socket`] something is wrong with the session itself.
    pub fn promote<'s>(
        &self,
        source: BorrowedFd<'s>,
        sink: BorrowedFd<'s>,
        given: u64,
    ) -> Result<Promoted<'s>, PromoteError> {
        Promoted::new(Arc::clone(&self.engine), source, sink, given, self.engine.limits())
    }

    /// Bytes that `source` has received since it was connected or accepted; its peer's FIN counts as one.
    ///
    /// # Errors
    /// It is not a TCP socket.
    pub fn received(source: BorrowedFd<'_>) -> io::Result<u64> {
        Ok(TcpInfo::of(source)?.received)
    }

    /// Wakes sessions whose directions raise alarms, for ever. One task does it for all; a second call returns at once.
    ///
    /// While it does not run, [`Promoted::poll_alarm`] shows alarms only when it is polled for another reason.
    /// Cancelling it ends the alarms for good. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for, or the counters not be read.
    pub async fn run_alarms(self: Arc<Self>) -> io::Result<()> {
        let ring = self.alarms.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ring {
            Some(ring) => ring::forward(ring, &*self.engine).await,
            None => Ok(()),
        }
    }

    /// Directions that are promoted now.
    pub fn promoted(&self) -> u32 {
        self.engine.promoted()
    }

    /// What the programs have counted since the start, all CPUs together.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn counters(&self) -> Result<Counters, MapError> {
        self.engine.counters().all()
    }

    /// What the self-test at the start saw.
    pub fn self_test(&self) -> &SelfTest {
        &self.self_test
    }

    /// What the programs log; `None` when it was taken before.
    pub fn take_log(&self) -> Option<KernelLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why a direction stays in user space.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// As many are promoted as may be.
    #[error("{budget} directions are promoted, which is the limit")]
    Budget {
        /// The limit.
        budget: u32,
    },
    /// There is no room in a map, or every free slot still rests from its last use.
    #[error("the maps are full")]
    MapFull {
        /// Which one, if it was the kernel that said so.
        source: Option<MapError>,
    },
    /// The kernel does not take one of the sockets: a leg that is half-closed or not connected.
    #[error("the kernel does not forward between these sockets")]
    InsertRefused {
        /// What it refused.
        source: MapError,
    },
    /// The gate could not be attached to the source.
    #[error("the kernel does not take the gate")]
    GateRefused {
        /// Why, if it was the kernel that said so.
        source: Option<aya::programs::ProgramError>,
    },
    /// The sink's peer acknowledges so fast that its books could not be read in one piece; another time it works.
    #[error("the sink is too busy to tell what it was given")]
    Busy,
    /// A socket does not tell what is needed.
    #[error("a socket does not tell {what}")]
    Socket {
        /// What it should have told.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// User space and the kernel disagree about what the sink was given.
    #[error("the sink was given {given} bytes, and the kernel counted {counted}")]
    OutOfStep {
        /// What user space says.
        given: u64,
        /// What the kernel says; the SYN of an active open counts as one.
        counted: u64,
    },
}

impl PromoteError {
    /// Why the sink did not tell what it was given.
    fn of_books(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ResourceBusy => Self::Busy,
            _ => Self::Socket { what: "what the sink was given", source },
        }
    }

    /// What it is counted as.
    pub fn fallback(&self) -> Fallback {
        match self {
            Self::Budget { .. } => Fallback::Budget,
            Self::MapFull { .. } => Fallback::MapFull,
            Self::InsertRefused { .. } => Fallback::InsertRefused,
            Self::GateRefused { .. } => Fallback::GateRefused,
            Self::Busy => Fallback::Busy,
            Self::Socket { .. } => Fallback::Socket,
            Self::OutOfStep { .. } => Fallback::OutOfStep,
        }
    }
}
