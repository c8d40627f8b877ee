//! What the kernel offers this process: version, capabilities, type information.

use std::collections::HashSet;
use std::path::Path;

use caps::{CapSet, Capability};

use super::version::Version;

/// Where the kernel describes its types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What the fast path needs: to create maps and load programs, networking ones, and such that read kernel structures.
pub const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// The names of some capabilities, in one line.
pub fn list(capabilities: &[Capability]) -> String {
    capabilities.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it; empty if it does not tell.
    pub release: String,
    build: String,
    /// Whether [`BTF`] exists.
    pub btf: bool,
    effective: HashSet<Capability>,
}

impl Kernel {
    /// Looks. What cannot be read counts as not there.
    pub fn observe() -> Self {
        let (release, build) = nix::sys::utsname::uname()
            .map(|name| [name.release(), name.version()].map(|of| of.to_string_lossy().into_owned()).into())
            .unwrap_or_default();
        Self {
            release,
            build,
            btf: Path::new(BTF).exists(),
            effective: caps::read(None, CapSet::Effective).unwrap_or_default(),
        }
    }

    /// Its version; `None`: it tells none.
    pub fn version(&self) -> Option<Version> {
        Version::of_build(&self.release, &self.build)
    }

    /// Whether this process holds the capability.
    pub fn holds(&self, capability: Capability) -> bool {
        self.effective.contains(&capability)
    }

    /// What the fast path needs and the process does not hold.
    pub fn missing(&self) -> Vec<Capability> {
        NEEDED.into_iter().filter(|capability| !self.holds(*capability)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let kernel = Kernel {
            release: String::new(),
            build: String::new(),
            btf: true,
            effective: [Capability::CAP_NET_ADMIN].into(),
        };
        assert_eq!(list(&kernel.missing()), "CAP_BPF, CAP_PERFMON");
        assert!(Kernel { effective: NEEDED.into(), ..kernel }.missing().is_empty());
    }
}
