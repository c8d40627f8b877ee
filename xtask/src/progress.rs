//! Numbered steps: what is being done, and how it came out.

use std::time::Instant;

use anyhow::{Context as _, Result};

/// The steps of one verb.
pub(crate) struct Progress {
    done: usize,
    total: usize,
}

impl Progress {
    pub(crate) fn of(total: usize) -> Self {
        Self { done: 0, total }
    }

    /// Runs one step, which returns what to say about its result. Its error names the step.
    pub(crate) fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        self.done += 1;
        let step = format!("[{}/{}] {title}", self.done, self.total);
        let start = Instant::now();
        let (value, result) = work().with_context(|| format!("step {step} failed"))?;
        eprintln!("{step}: {result} ({:.1} s)", start.elapsed().as_secs_f32());
        Ok(value)
    }
}

/// Says inside a step what takes time now.
pub(crate) fn say(what: &str) {
    eprintln!("      {what} ...");
}
