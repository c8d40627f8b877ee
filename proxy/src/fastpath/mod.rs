//! The kernel fast path: the eBPF programs, their maps, and whether this machine can use them.
//!
//! The only module that knows aya. Everything in here may say no ([`Unavailable`], with a stable reason); the daemon then
//! moves all bytes in user space. Nothing is pinned: when a [`FastPath`] is dropped, or the process ends in any way, the
//! kernel detaches the programs and frees the maps.
//!
//! | program | type | attached to | minimum kernel | capabilities |
//! |---|---|---|---|---|
//! | `verdict` | `sk_skb/stream_verdict` | the sockhash `SOURCES` | 5.10 | `CAP_BPF`, `CAP_NET_ADMIN`, `CAP_PERFMON` |

pub mod kernel;
mod log;
mod maps;
mod self_test;

use std::error::Error;

use aya::Ebpf;
use aya::programs::{Program, SkSkb};

use self::kernel::{Capability, Kernel};
pub use self::log::KernelLog;
use self::maps::Maps;
pub use self::maps::{Counters, MapError};
pub use self::self_test::{Failure, SelfTest};

/// The eBPF object in this binary; `None` when it was built without `cargo xtask build`.
pub static OBJECT: Option<&'static [u8]> = include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// The name of the program in the object.
const VERDICT: &str = "verdict";

/// The loaded and tested fast path.
pub struct FastPath {
    maps: Maps,
    self_test: SelfTest,
    log: Option<KernelLog>,
    // Owns the program and its attachment: dropping it detaches.
    _programs: Ebpf,
}

impl FastPath {
    /// Loads the programs, attaches them and proves on loopback connections that they forward bytes unchanged.
    ///
    /// Blocks for a few milliseconds, at most [`self_test::LIMIT`] in the self-test. Call it after the logger is set up,
    /// else what the programs log is lost.
    ///
    /// # Errors
    /// The first reason why this process cannot use the fast path.
    pub fn start() -> Result<Self, Unavailable> {
        let object = OBJECT.ok_or(Unavailable::NotBuilt)?;
        let kernel = Kernel::observe();
        let missing = kernel.missing();
        if !missing.is_empty() {
            return Err(Unavailable::NoCapability { missing });
        }
        if !kernel.btf {
            return Err(Unavailable::NoBtf);
        }

        let (mut maps, log, programs) = load(object).map_err(|source| Unavailable::LoadFailed { source })?;
        let self_test = self_test::run(&mut maps).map_err(|source| Unavailable::SelfTestFailed { source })?;
        Ok(Self { maps, self_test, log: Some(log), _programs: programs })
    }

    /// What the programs have counted since the start, all CPUs together.
    ///
    /// # Errors
    /// The kernel refused to read the map.
    pub fn counters(&self) -> Result<Counters, MapError> {
        self.maps.counters()
    }

    /// What the self-test at the start saw.
    pub fn self_test(&self) -> &SelfTest {
        &self.self_test
    }

    /// What the programs log; `None` when it was taken before.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }
}

/// Why this process has no fast path.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The binary holds no eBPF object.
    #[error("the daemon was built without the eBPF object")]
    NotBuilt,
    /// The process may not load programs.
    #[error("the process lacks {}", kernel::list(missing))]
    NoCapability {
        /// What it would need in addition.
        missing: Vec<Capability>,
    },
    /// The kernel does not describe its types.
    #[error("the kernel has no type information in {}", kernel::BTF)]
    NoBtf,
    /// The kernel or the loader rejected the object.
    #[error("the kernel did not take the eBPF programs")]
    LoadFailed {
        /// What was rejected.
        source: LoadError,
    },
    /// Loaded, but bytes did not come through as they should.
    #[error("the self-test of the fast path failed")]
    SelfTestFailed {
        /// What went wrong.
        source: Failure,
    },
}

impl Unavailable {
    /// A stable name of the reason, for metrics and scripts.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotBuilt => "not_built",
            Self::NoCapability { .. } => "no_capability",
            Self::NoBtf => "no_btf",
            Self::LoadFailed { .. } => "load_failed",
            Self::SelfTestFailed { .. } => "self_test_failed",
        }
    }

    /// What an operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotBuilt => "build with `cargo xtask build`",
            Self::NoCapability { .. } => "run as root, or give the service the capabilities (AmbientCapabilities=)",
            Self::NoBtf => "use a kernel with CONFIG_DEBUG_INFO_BTF",
            Self::LoadFailed { .. } => {
                "use a kernel of at least 5.10 with CONFIG_BPF_SYSCALL and CONFIG_BPF_STREAM_PARSER"
            }
            Self::SelfTestFailed { .. } => "use another kernel; this one does not forward correctly",
        }
    }

    /// The error with all its sources, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            // Some sources repeat what is below them; the same words need no second reading.
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            source = error.source();
        }
        text
    }
}

/// What of the object was rejected.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object, or one of its maps.
    #[error("the object")]
    Object(#[from] aya::EbpfError),
    /// The verifier or the attachment refused.
    #[error("the program {VERDICT}")]
    Program(#[from] aya::programs::ProgramError),
    /// The object has no such program.
    #[error("the object has no program {VERDICT}")]
    NoProgram,
    /// A map that is missing or of another type.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The programs' log.
    #[error("the programs' log")]
    Log(#[from] aya_log::Error),
}

fn load(object: &[u8]) -> Result<(Maps, KernelLog, Ebpf), LoadError> {
    let mut programs = Ebpf::load(object)?;
    let log = KernelLog::of(&mut programs)?;
    let maps = Maps::take(&mut programs)?;
    let Some(Program::SkSkb(verdict)) = programs.program_mut(VERDICT) else {
        return Err(LoadError::NoProgram);
    };
    SkSkb::load(verdict)?;
    verdict.attach(maps.sources())?;
    Ok((maps, log, programs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_stable_and_chains_name_every_source() {
        let io = std::io::Error::other("wire cut");
        let failed = Unavailable::SelfTestFailed { source: Failure::Socket { step: "connect", source: io } };
        assert_eq!(failed.reason(), "self_test_failed");
        assert_eq!(failed.chain(), "the self-test of the fast path failed: connect: wire cut");

        let missing = Unavailable::NoCapability { missing: vec![Capability::Bpf, Capability::Perfmon] };
        assert_eq!(missing.chain(), "the process lacks CAP_BPF, CAP_PERFMON");
        assert_eq!(Unavailable::NotBuilt.reason(), "not_built");
    }

    #[test]
    fn a_broken_object_is_an_error() {
        let error = load(b"not an ELF file").map(drop).unwrap_err();
        assert!(matches!(error, LoadError::Object(_)), "{error:?}");
    }
}
