//! Programs that run beside this one and never outlive it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// How often it is asked whether a program has ended.
const POLL: Duration = Duration::from_millis(10);

/// A running program; killed when dropped.
pub(crate) struct Child {
    pub(crate) name: String,
    pub(crate) process: std::process::Child,
}

impl Child {
    /// Starts a program in a process group of its own: the terminal's Ctrl-C reaches only this program, which decides in
    /// what order the others end. Call it on the main thread: the kernel kills the child when the calling thread ends.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        command.process_group(0);
        let prepare = || {
            // A child inherits the signals that this program has blocked to wait for them; it has to get its own.
            SigSet::empty().thread_set_mask()?;
            set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        };
        // SAFETY: both system calls are async-signal-safe, and the closure allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), process })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Asks it to end.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        // Not waited for yet, so that the id still is this child's.
        let id = i32::try_from(self.process.id()).context("a process id that is none")?;
        kill(Pid::from_raw(id), Signal::SIGTERM).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks it to end and waits for that, but not longer than `patience`.
    pub(crate) fn end(&mut self, patience: Duration) -> Result<()> {
        self.terminate()?;
        self.wait(patience).map(drop)
    }

    /// Waits until it has ended, but not longer than `limit`: then there is no status.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let status = self.ended()?;
            if status.is_some() || start.elapsed() >= limit {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // Nothing is left to do about an error here; the kernel still kills the child when this program ends.
            let _ended = self.process.kill().and_then(|()| self.process.wait());
        }
    }
}
