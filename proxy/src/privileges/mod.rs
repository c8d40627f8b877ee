//! What the daemon may do once it is set up: a handful of capabilities, no new privileges, and the system calls of its work.
//!
//! [`give_up`] concerns the calling thread and those that it starts from then on, so it is called before the workers are
//! started. A process that takes over at an upgrade inherits all of it, which is why what a start needs is kept.

mod seccomp;

use std::collections::HashSet;
use std::env::consts::ARCH;

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use tracing::info;

/// What is kept of what the process was given:
/// loading programs, changing their maps; TCP repair, routes, attachments to devices; programs that read kernel structures;
/// ports below 1024 in a reload; pipes beyond the user's share (fs.pipe-user-pages-soft), which at 1 MiB each is 64 of them.
const KEPT: [Capability; 5] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_RESOURCE,
];

/// Why the process still has more than it needs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    /// The capabilities could not be read or changed.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// New privileges could not be forsworn.
    #[error("cannot forswear new privileges: {0}")]
    NoNewPrivileges(#[source] Errno),
    /// The filter could not be made or installed.
    #[error("cannot filter system calls: {0}")]
    Filter(#[from] seccompiler::Error),
    /// There is no filter for this processor.
    #[error("cannot filter system calls on {ARCH}")]
    Architecture(#[source] seccompiler::BackendError),
}

/// Gives up what is not needed any more. `filtered`: the former process had the filter installed, and so has this one.
pub(crate) fn give_up(filtered: bool) -> Result<(), PrivilegeError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<Capability> = KEPT.into_iter().filter(|capability| held.contains(capability)).collect();
    // Without this capability nothing can leave the bounding set. It then limits only a root user's next program, which
    // can gain nothing beyond what is permitted here: see no-new-privileges below.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported().difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    // An upgrade starts a program that needs the same.
    caps::set(None, CapSet::Inheritable, &kept)?;
    caps::set(None, CapSet::Ambient, &kept)?;
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)?;
    if !filtered {
        seccomp::install()?;
    }
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    info!(kept = names.join(" "), "privileges given up");
    Ok(())
}
