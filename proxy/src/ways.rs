//! The ways through the kernel: started with the tasks that listen to their programs, or refused with a reason.
//!
//! Tasks: one for the alarms of the fast path, one for its log, one for the events of the packet datapath, one for this
//! host's devices. Cancelling one leaves the programs where they are.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use crate::chain::chain;
use crate::config::{Config, Listener};
use crate::fastpath::packet::{Hook, PacketPath, PinError, Pins};
use crate::fastpath::{FastPath, Limits, Unavailable};
use crate::listening::Command;

/// The fast path with what listens to its programs, or the code of the reason why there is none.
pub(crate) fn start_fastpath(limits: Limits) -> Result<Arc<FastPath>, &'static str> {
    match FastPath::start(limits) {
        Ok(fastpath) => {
            info!("kernel fast path: loaded and tested");
            let alarms = Arc::clone(&fastpath).run_alarms();
            tokio::spawn(async move {
                if let Err(error) = alarms.await {
                    error!("the kernel's alarms are no longer heard: {}", chain(&error));
                }
            });
            if let Some(log) = fastpath.take_log() {
                tokio::spawn(async move {
                    if let Err(error) = log.forward().await {
                        warn!("what the eBPF programs log is no longer shown: {}", chain(&error));
                    }
                });
            }
            Ok(fastpath)
        }
        Err(reason) => {
            let code = reason.reason();
            warn!(code, "kernel fast path: not available ({}); sessions are forwarded in user space", chain(&reason));
            Err(code)
        }
    }
}

/// The packet datapath with what follows its events and this host's devices, if a listener may use it and it can be had;
/// else the code of the reason.
pub(crate) fn start_packet(config: &Config, file: &Path) -> Result<Arc<PacketPath>, &'static str> {
    let wanted = |listener: &&Listener| listener.datapath.joins();
    let sessions: u32 = config.listeners.iter().filter(wanted).map(|listener| listener.max_connections).sum();
    if sessions == 0 {
        return Err("not_wanted");
    }
    let pins = match Pins::open(file) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ (PinError::InUse(_) | PinError::OtherLayout(_))) => Err(Unavailable::Pinned { source: error }),
        Err(error) => {
            warn!("joined sessions end with this process, for their state cannot be pinned: {}", chain(&error));
            Ok(None)
        }
    };
    let path = match pins.and_then(|pins| PacketPath::start(sessions, pins, Hook::of_this_kernel())) {
        Ok(path) => path,
        Err(reason) => {
            let code = reason.reason();
            warn!(code, "packet datapath: not available ({})", chain(&reason));
            return Err(code);
        }
    };
    info!("packet datapath: loaded");
    let (events, devices) = (Arc::clone(&path).run_events(), Arc::clone(&path).follow_devices());
    let policies = Arc::clone(&path).follow_policies();
    tokio::spawn(async move {
        if let Err(error) = events.await {
            error!("the packet datapath's events are no longer heard: {}", chain(&error));
        }
    });
    tokio::spawn(async move {
        if let Err(error) = devices.await {
            error!("new network devices are no longer seen: {}", chain(&error));
        }
    });
    tokio::spawn(async move {
        if let Err(error) = policies.await {
            error!("new IPsec policies are no longer seen: {}", chain(&error));
        }
    });
    Ok(path)
}

/// Gives the sessions that a former process has joined to the workers. `shadows`: the sockets that hold their ports.
pub(crate) fn adopt(path: Option<&Arc<PacketPath>>, shadows: Vec<OwnedFd>, workers: &[UnboundedSender<Command>]) {
    let mut sessions = path.map(|path| path.adopt(shadows)).unwrap_or_default();
    if sessions.is_empty() {
        return;
    }
    info!(sessions = sessions.len(), "adopting the joined sessions of a former process");
    let each = sessions.len().div_ceil(workers.len());
    for worker in workers {
        let some = sessions.split_off(sessions.len().saturating_sub(each));
        // A worker that has ended ends the daemon.
        let _ended = worker.send(Command::Adopt(some));
    }
}
