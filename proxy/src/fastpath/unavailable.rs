//! Why a process has no fast path.

use std::io;

use caps::Capability;

use super::btf::BtfError;
use super::kernel;
use super::maps::MapError;
use super::packet::PinError;
use super::self_test::Failure;
use super::version;

/// The first reason that was found.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The binary holds no eBPF object.
    #[error("the daemon was built without the eBPF object")]
    NotBuilt,
    /// This kernel's version is known to damage streams.
    #[error("kernel {release} is known to lose or repeat bytes in sockmap; good ones: {}", version::GOOD)]
    KernelTooOld {
        /// Its release.
        release: String,
    },
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
    /// The state that outlives the process is not this daemon's.
    #[error("the state of joined sessions cannot be taken over")]
    Pinned {
        /// Whose it is.
        source: PinError,
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
            Self::KernelTooOld { .. } => "kernel_too_old",
            Self::NoCapability { .. } => "no_capability",
            Self::NoBtf => "no_btf",
            Self::LoadFailed { .. } => "load_failed",
            Self::Pinned { source: PinError::OtherLayout(_) } => "pinned_by_other_version",
            Self::Pinned { .. } => "pinned_by_other_daemon",
            Self::SelfTestFailed { .. } => "self_test_failed",
        }
    }

    /// What an operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotBuilt => "build with `cargo xtask build`",
            Self::KernelTooOld { .. } => "use a newer kernel",
            Self::NoCapability { .. } => "run as root, or give the service the capabilities (AmbientCapabilities=)",
            Self::NoBtf => "use a kernel with CONFIG_DEBUG_INFO_BTF",
            Self::LoadFailed { .. } => "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_STREAM_PARSER",
            Self::Pinned { source: PinError::OtherLayout(_) } => "let its sessions end, or run `landbridge detach`",
            Self::Pinned { .. } => "stop the other daemon",
            Self::SelfTestFailed { .. } => "use another kernel; this one does not forward correctly",
        }
    }
}

/// What of the object was rejected.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object, or one of its maps.
    #[error("cannot load the object")]
    Object(#[from] aya::EbpfError),
    /// The verifier or the attachment refused.
    #[error("the program {program} was refused")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// The object has no such program.
    #[error("the object has no program {program}")]
    NoProgram {
        /// Its name.
        program: &'static str,
    },
    /// A map that is missing or of another type.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The network devices cannot be listed.
    #[error("cannot list the network devices")]
    Devices(#[source] io::Error),
    /// The programs' log.
    #[error("cannot read the programs' log")]
    Log(#[from] aya_log::Error),
    /// The kernel's type information cannot be read.
    #[error("cannot read {}", kernel::BTF)]
    TypesUnreadable(#[source] io::Error),
    /// It does not say what the programs have to know.
    #[error(transparent)]
    Types(#[from] BtfError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::chain;

    #[test]
    fn reasons_are_stable_and_chains_name_every_source() {
        let io = io::Error::other("wire cut");
        let failed = Unavailable::SelfTestFailed { source: Failure::Socket { step: "connect", source: io } };
        assert_eq!(failed.reason(), "self_test_failed");
        assert_eq!(chain(&failed), "the self-test of the fast path failed: connect: wire cut");

        let missing = Unavailable::NoCapability { missing: vec![Capability::CAP_BPF, Capability::CAP_PERFMON] };
        assert_eq!(chain(&missing), "the process lacks CAP_BPF, CAP_PERFMON");
        assert_eq!(Unavailable::NotBuilt.reason(), "not_built");
        assert_eq!(Unavailable::KernelTooOld { release: "6.1.0".to_owned() }.reason(), "kernel_too_old");
    }
}
