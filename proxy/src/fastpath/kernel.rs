//! What the kernel offers this process: version, capabilities, type information.

use std::path::Path;
use std::{fmt, fs};

use super::version::Version;

/// Where the kernel describes its types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// A right that the fast path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Creating maps, loading programs.
    Bpf,
    /// Loading networking programs.
    NetAdmin,
    /// Reading kernel structures from programs.
    Perfmon,
}

impl Capability {
    /// All that the fast path needs.
    pub const ALL: [Self; 3] = [Self::Bpf, Self::NetAdmin, Self::Perfmon];

    /// The bit of `linux/capability.h`.
    const fn bit(self) -> u64 {
        match self {
            Self::NetAdmin => 1 << 12,
            Self::Perfmon => 1 << 38,
            Self::Bpf => 1 << 39,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "CAP_BPF",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
        })
    }
}

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
    effective: u64,
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
            effective: fs::read_to_string("/proc/self/status").map_or(0, |status| effective(&status)),
        }
    }

    /// Its version; `None`: it tells none.
    pub fn version(&self) -> Option<Version> {
        Version::of_build(&self.release, &self.build)
    }

    /// Whether this process holds the capability.
    pub fn holds(&self, capability: Capability) -> bool {
        self.effective & capability.bit() != 0
    }

    /// What the fast path needs and the process does not hold.
    pub fn missing(&self) -> Vec<Capability> {
        Capability::ALL.into_iter().filter(|capability| !self.holds(*capability)).collect()
    }
}

/// The effective set in the text of `/proc/PID/status`.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read() {
        assert_eq!(effective("CapPrm:\t00000000\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"), 0x1ff_ffff_ffff);
        assert_eq!(effective("Name:\tlandbridge\n"), 0);
        assert_eq!(effective("CapEff:\tnone\n"), 0);
    }

    #[test]
    fn what_is_missing_is_named() {
        let kernel = Kernel { release: String::new(), build: String::new(), btf: true, effective: 1 << 12 };
        assert_eq!(list(&kernel.missing()), "CAP_BPF, CAP_PERFMON");
        assert!(Kernel { effective: u64::MAX, ..kernel }.missing().is_empty());
    }
}
