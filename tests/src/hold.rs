//! A thread of a process under test that stands still, as a debugger has it stand: anywhere, or before a system call.

use std::fs;
use std::marker::PhantomData;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{PATIENCE, Process};

/// Between two looks at a thread that runs: some system calls last about as long.
const PAUSE: Duration = Duration::from_micros(50);

/// A thread that stands still; it goes on when this is dropped.
#[derive(Debug)]
pub struct Held {
    thread: Pid,
    /// The kernel knows a thread as its holder, not a process.
    _not_send: PhantomData<*const ()>,
}

impl Process {
    /// Holds the thread of this name.
    pub fn hold(&self, name: &str) -> Result<Held> {
        for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim_end() == name {
                let thread = Pid::from_raw(task.file_name().to_string_lossy().parse()?);
                ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD)?;
                let held = Held { thread, _not_send: PhantomData };
                ptrace::interrupt(thread)?;
                held.stands()?;
                return Ok(held);
            }
        }
        bail!("process {} has no thread {name}", self.id())
    }
}

impl Held {
    /// Lets it go on until it is about to make a system call for which `is_it` is true of the number and the arguments.
    pub fn run_to(&self, what: &str, is_it: impl Fn(libc::c_long, &[u64; 6]) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut signal = None::<Signal>;
        loop {
            ptrace::syscall(self.thread, signal.take())?;
            match self.stands()? {
                WaitStatus::PtraceSyscall(_) => {
                    let info = ptrace::syscall_info(self.thread)?;
                    if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                        // SAFETY: the kernel says that this is the part which it has filled in.
                        let entry = unsafe { info.u.entry };
                        if is_it(libc::c_long::try_from(entry.nr)?, &entry.args) {
                            return Ok(());
                        }
                    }
                }
                WaitStatus::Stopped(_, stopped_by) => signal = Some(stopped_by),
                _ => {}
            }
            ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        }
    }

    /// Waits until it stands still.
    fn stands(&self) -> Result<WaitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match waitpid(self.thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => thread::sleep(PAUSE),
                ended @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => bail!("it has ended: {ended:?}"),
                status => return Ok(status),
            }
            ensure!(Instant::now() < deadline, "the thread waits for something");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may run, and only one that stands still is let go; or it may have been killed.
        if ptrace::detach(self.thread, None).is_err() && ptrace::interrupt(self.thread).is_ok() {
            self.stands().ok();
            ptrace::detach(self.thread, None).ok();
        }
    }
}
