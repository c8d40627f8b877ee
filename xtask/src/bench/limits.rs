//! Open files: how many sessions a proxy can hold at once.

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Enough for every number of sessions that is measured.
const OPEN_FILES: u64 = 1 << 18;

/// More than any workload opens, where the machine allows it.
const MANY: usize = 50_000;

/// HAProxy counts on two sockets for each session, a pipe for every fourth, and some more for itself, and does not start
/// if that is above the limit.
const SPARE_FILES: u64 = 500;

/// Raises the limit for this process and all that it starts, as far as it may, and returns how many sessions at once
/// that is good for in each proxy.
pub(crate) fn raise() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    let wanted = hard.max(OPEN_FILES);
    // Raising the hard limit takes a capability that root in a container may lack.
    let files = match setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
        Ok(()) => wanted,
        Err(_) => {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
            hard
        }
    };
    let sessions = sessions(files);
    ensure!(sessions >= 1000, "only {files} files may be open at once, and measuring needs 3500: `ulimit -Hn 3500`");
    Ok(sessions)
}

fn sessions(files: u64) -> usize {
    usize::try_from(files.saturating_sub(SPARE_FILES) * 2 / 5).unwrap_or(MANY).min(MANY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_take_two_files_and_a_half() {
        assert_eq!(sessions(20_000), 7_800);
        assert_eq!(sessions(1 << 30), MANY);
        assert_eq!(sessions(100), 0);
    }
}
