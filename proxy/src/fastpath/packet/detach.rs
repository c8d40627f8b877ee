//! `landbridge detach`: everything that daemons which run no more have left in this network namespace is ended.

use std::path::PathBuf;

use super::pins::{self, PinError};
use super::{Hook, OBJECT, PacketPath, attach};
use crate::fastpath::unavailable::Unavailable;

/// What became of one daemon's state.
#[derive(Debug)]
pub enum Detached {
    /// So many sessions were reset, and nothing is left.
    Removed {
        /// Where it was.
        directory: PathBuf,
        /// The sessions.
        sessions: usize,
    },
    /// It was of another version: it is removed, and the peers of its sessions learn it by their next packet.
    RemovedUnread {
        /// Where it was.
        directory: PathBuf,
        /// Why it was not read, if it could have been.
        why: Option<Unavailable>,
    },
    /// A daemon has it that runs: nothing has changed.
    InUse(PathBuf),
}

/// Ends what is left here.
///
/// # Errors
/// There is no BPF file system, or it refuses.
pub fn detach() -> Result<Vec<Detached>, PinError> {
    pins::left_here()?.into_iter().map(one).collect()
}

fn one(pins: Result<pins::Pins, PinError>) -> Result<Detached, PinError> {
    let pins = match pins {
        Ok(pins) => pins,
        Err(PinError::InUse(directory)) => return Ok(Detached::InUse(directory)),
        Err(other) => return Err(other),
    };
    let hook = Hook::of_this_kernel();
    let directory = pins.directory().to_owned();
    if !pins.is_of_this_layout() || OBJECT.is_none() {
        attach::remove(&pins, hook);
        return Ok(Detached::RemovedUnread { directory, why: None });
    }
    let again = directory.clone();
    match PacketPath::start(0, Some(pins), hook) {
        Ok(path) => {
            let sessions = path.adopt(Vec::new());
            let count = sessions.iter().filter(|of| !of.joined.ending().is_told()).count();
            // Each one is reset as it is dropped.
            drop(sessions);
            path.unpin();
            Ok(Detached::Removed { directory, sessions: count })
        }
        Err(why) => {
            attach::remove(&pins::Pins::lock(again)?, hook);
            Ok(Detached::RemovedUnread { directory, why: Some(why) })
        }
    }
}
