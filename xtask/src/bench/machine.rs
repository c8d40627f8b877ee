//! The machine as a whole: how busy it was, what memory it uses, and what it is.
//!
//! Never per process: in-kernel forwarding runs in softirqs and kernel threads, which no process is charged for.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use crate::command::output;

/// How long the machine is listened to before the first run. The load average would show what built the programs.
const LISTENING: Duration = Duration::from_secs(2);

/// What the results depend on besides the programs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) system: String,
    /// How many CPUs were busy before the first run: with what others were doing.
    pub(crate) busy_before: f64,
}

impl Machine {
    /// This one, which takes [`LISTENING`].
    pub(crate) fn read() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let before = CpuTime::read()?;
        thread::sleep(LISTENING);
        let busy = CpuTime::read()?.since(before);
        Ok(Self {
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: Memory::read()?.total_kib.div_ceil(1 << 20),
            kernel: output(Command::new("uname").arg("-sr")).unwrap_or_default().trim().to_owned(),
            system: system.unwrap_or("unknown").trim_matches('"').to_owned(),
            busy_before: busy.div_duration_f64(LISTENING),
        })
    }
}

impl Machine {
    /// Whether others had work for it before the first run.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy_before > 0.2
    }
}

/// CPU time of all CPUs since boot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CpuTime {
    busy: Duration,
}

impl CpuTime {
    /// Until now.
    pub(crate) fn read() -> Result<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the kernel does not say how long a tick is")?;
        parse_stat(&read("/proc/stat")?, u32::try_from(ticks)?).context("/proc/stat has no line for all CPUs")
    }

    /// Time spent busy since `earlier`, of all CPUs together.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.busy.saturating_sub(earlier.busy)
    }
}

/// Memory of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Memory {
    total_kib: u64,
    slab_kib: u64,
    /// All that is neither free nor cache: also what no account shows, such as bytes queued inside the kernel.
    used_kib: u64,
}

impl Memory {
    /// Now.
    pub(crate) fn read() -> Result<Self> {
        parse_meminfo(&read("/proc/meminfo")?).context("/proc/meminfo misses a field")
    }

    /// Kernel objects.
    pub(crate) fn slab_kib(self) -> u64 {
        self.slab_kib
    }

    /// Everything but free memory and caches of files.
    pub(crate) fn used_kib(self) -> u64 {
        self.used_kib
    }
}

/// Memory that TCP accounts for, in this thread's namespace's view of the machine, in KiB.
pub(crate) fn socket_kib() -> Result<u64> {
    let pages = parse_sockstat(&read("/proc/net/sockstat")?).context("/proc/net/sockstat has no TCP memory")?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.context("the kernel does not say how long a page is")?;
    Ok(pages * u64::try_from(page)? / 1024)
}

/// Resident memory of a process and all its descendants, in KiB.
pub(crate) fn resident_kib(root: u32) -> Result<u64> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("cannot list processes")?.filter_map(Result::ok) {
        // What is no process has no number as its name; a process may end while this looks.
        let Ok(id) = entry.file_name().to_string_lossy().parse() else { continue };
        if let Some(parent) = status(id, "PPid:") {
            children.entry(u32::try_from(parent)?).or_default().push(id);
        }
    }
    let mut sum = 0;
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        sum += status(id, "VmRSS:").unwrap_or(0);
        open.extend(children.remove(&id).unwrap_or_default());
    }
    Ok(sum)
}

fn status(id: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).ok()?;
    number(&status, field)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The first number behind a word that begins a line.
fn number(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User, nice, system, irq and softirq; neither idle and waiting nor what other guests took of the CPU.
fn parse_stat(stat: &str, ticks_per_second: u32) -> Option<CpuTime> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6].iter().map(|&field| ticks.get(field).copied()).sum::<Option<_>>()?;
    Some(CpuTime { busy: Duration::from_millis(busy * 1000 / u64::from(ticks_per_second)) })
}

fn parse_meminfo(meminfo: &str) -> Option<Memory> {
    let field = |name| number(meminfo, name);
    let reclaimable = field("MemFree:")? + field("Buffers:")? + field("Cached:")? + field("SReclaimable:")?;
    let total_kib = field("MemTotal:")?;
    Some(Memory { total_kib, slab_kib: field("Slab:")?, used_kib: total_kib.saturating_sub(reclaimable) })
}

fn parse_sockstat(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let mut words = line.split(' ').skip_while(|word| *word != "mem").skip(1);
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_wait_and_steal() {
        let before = parse_stat("cpu  100 0 50 1000 7 1 2 300 0 0\ncpu0 1 1 1\n", 100).unwrap();
        let after = parse_stat("cpu  150 1 60 9000 8 2 6 900 0 0\n", 100).unwrap();
        assert_eq!(after.since(before), Duration::from_millis(660));
        assert_eq!(before.since(after), Duration::ZERO);
        assert_eq!(parse_stat("cpu0 1 2 3\n", 100), None);
    }

    #[test]
    fn memory_is_read_by_field() {
        let text =
            "MemTotal: 1000 kB\nMemFree: 500 kB\nBuffers: 10 kB\nCached: 90 kB\nSlab: 80 kB\nSReclaimable: 50 kB\n";
        assert_eq!(parse_meminfo(text), Some(Memory { total_kib: 1000, slab_kib: 80, used_kib: 350 }));
        assert_eq!(parse_meminfo("MemTotal: 1000 kB\n"), None);
        assert_eq!(parse_sockstat("sockets: used 21\nTCP: inuse 5 orphan 3 tw 0 alloc 8 mem 89\n"), Some(89));
    }
}
