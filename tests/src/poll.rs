//! Waiting for something that must come true.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long anything on an idle network may take before a test gives up. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks `attempt` again and again until it succeeds; after [`PATIENCE`] its last error, with `what` was waited for.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(anyhow!("{what}: not within {PATIENCE:?}: {error:#}"));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
