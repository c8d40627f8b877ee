//! What a session costs in memory while it does nothing: each has had one request and its answer.

use std::thread;

use anyhow::{Result, ensure};

use crate::bench::burden::session;
use crate::bench::contender::{Running, Service};
use crate::bench::lab::{CALM, Lab};
use crate::bench::machine::{Memory, resident_kib, socket_kib};
use crate::bench::metric::{Metric, Sample};

/// Enough for every worker to have had some.
const WARM: usize = 100;

/// Memory at one moment, in KiB.
struct Snapshot {
    process: u64,
    kernel: u64,
}

pub(super) fn run(lab: &Lab, running: &Running, count: usize) -> Result<Vec<Sample>> {
    let address = running.address(Service::Http);
    let open = |count: usize| lab.net.client.enter(|| (0..count).map(|_| session(address)).collect::<Result<Vec<_>>>());
    // A proxy that listens may still be starting, and what it allocates once is not a cost of a session.
    let warm = open(WARM)??;
    thread::sleep(CALM);
    let before = Snapshot::take(lab, running)?;
    let sessions = open(count)??;
    thread::sleep(CALM);
    let after = Snapshot::take(lab, running)?;
    ensure!(sessions.len() == count, "not all sessions stand");
    drop((warm, sessions));

    let each = |after: u64, before: u64| (after as f64 - before as f64) / count as f64;
    Ok(vec![
        Sample::new(Metric::ProcessMemory, each(after.process, before.process)),
        Sample::new(Metric::KernelMemory, each(after.kernel, before.kernel)),
    ])
}

impl Snapshot {
    fn take(lab: &Lab, running: &Running) -> Result<Self> {
        let process = running.process_id().map(resident_kib).transpose()?.unwrap_or(0);
        let sockets = lab.net.proxy.enter(socket_kib)??;
        Ok(Self { process, kernel: Memory::read()?.slab_kib() + sockets })
    }
}
