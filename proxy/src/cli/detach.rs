//! `landbridge detach`: ends the joined sessions that a daemon has left which runs no more, and removes its state.

use std::io::{self, Write as _};

use super::Exit;
use crate::chain::chain;
use crate::fastpath::packet::{Detached, detach as remove};

/// Removes what is left in this network namespace, and prints what that was.
///
/// # Errors
/// Writing to stdout.
pub(super) fn detach() -> io::Result<Exit> {
    let mut out = io::stdout().lock();
    let removed = match remove() {
        Ok(removed) => removed,
        Err(error) => {
            eprintln!("cannot detach: {}", chain(&error));
            return Ok(Exit::Failed);
        }
    };
    if removed.is_empty() {
        writeln!(out, "nothing is left here")?;
    }
    let mut exit = Exit::Good;
    for one in removed {
        match one {
            Detached::Removed { directory, sessions } => {
                writeln!(out, "{}: removed, {sessions} sessions reset", directory.display())?;
            }
            Detached::RemovedUnread { directory, why } => {
                let why = why.map_or_else(|| "of another version".to_owned(), |why| chain(&why));
                writeln!(
                    out,
                    "{}: removed unread ({why}); its sessions end with their next packet",
                    directory.display()
                )?;
            }
            Detached::InUse(directory) => {
                writeln!(out, "{}: a daemon runs that has it; stop it with SIGTERM", directory.display())?;
                exit = Exit::Failed;
            }
        }
    }
    out.flush()?;
    Ok(exit)
}
