//! How much memory the machine has in use, as far as sockets are part of it.

use std::fs;

use anyhow::{Context, Result};

use crate::Host;

/// Memory at one moment, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// What new programs could have, says the kernel.
    pub available: u64,
    /// What the kernel itself uses and cannot give back: neither programs' memory nor files'. Packets are part of it,
    /// accounted to a socket or not, and other programs' memory is not, so that they do not disturb.
    pub kernel: u64,
    /// The part of it that is slab.
    pub slab: u64,
    /// What TCP sockets have accounted, in all namespaces.
    pub tcp: u64,
}

impl Memory {
    /// Looks, for sockets from inside `host`.
    pub fn now(host: &Host) -> Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let field = |name: &str| -> Result<u64> {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes = line.and_then(|value| value.trim().strip_suffix(" kB"));
            let kibibytes = kibibytes.with_context(|| format!("/proc/meminfo has no {name}"))?;
            Ok(kibibytes.parse::<u64>()? * 1024)
        };
        let sum = |names: &[&str]| names.iter().map(|name| field(name)).sum::<Result<u64>>();
        let known = sum(&["MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "SReclaimable"])?;
        Ok(Self {
            available: field("MemAvailable")?,
            kernel: field("MemTotal")?.saturating_sub(known),
            slab: field("SUnreclaim")?,
            tcp: tcp(host)?,
        })
    }
}

/// The field `mem` of `TCP` in sockstat, which counts pages.
fn tcp(host: &Host) -> Result<u64> {
    let sockstat = host.enter(|| fs::read_to_string("/proc/thread-self/net/sockstat"))?;
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).context("sockstat has no TCP")?;
    let pages = line.split_whitespace().skip_while(|word| *word != "mem").nth(1).context("TCP has no mem")?;
    Ok(pages.parse::<u64>()? * nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("page size")? as u64)
}
