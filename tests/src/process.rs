//! A process of a test: its output is collected, its end is bounded in time, and it does not outlive its handle.
//!
//! Two threads collect standard output and standard error until the process closes them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Collected,
    stderr: Collected,
}

/// What a process left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Process {
    /// Starts `command`, called `name` in messages.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = Collected::from(child.stdout.take().context("standard output is a pipe")?);
        let stderr = Collected::from(child.stderr.take().context("standard error is a pipe")?);
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed to standard output.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has printed to standard error.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.id())?), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Stops it until SIGCONT: when this returns none of its threads runs any more.
    pub fn stop_running(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        eventually(&format!("{} stands still", self.name), || {
            for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
                let status = fs::read_to_string(task?.path().join("status"))?;
                ensure!(status.lines().any(|line| line.starts_with("State:\tT")), "{status}");
            }
            Ok(())
        })
    }

    /// An error if it has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            // Its last words may still be in the pipe.
            Some(status) => bail!("{} ended with {status}\n{}", self.name, self.stderr.finish()),
        }
    }

    /// Waits until `ready` succeeds while the process runs.
    pub fn wait_ready(&mut self, ready: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let what = format!("{} is ready", self.name);
        // An end is as final as being ready, so it stops the waiting too.
        eventually(&what, || match self.ensure_running() {
            Ok(()) => ready(self).map(Ok),
            Err(ended) => Ok(Err(ended)),
        })?
    }

    /// Waits for its end; an error after `limit`, and then it is killed.
    pub fn finish(&mut self, limit: Duration) -> Result<Finished> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                bail!("{} still runs after {limit:?}\n{}\n{}", self.name, self.stdout(), self.stderr());
            }
            thread::sleep(POLL_INTERVAL);
        };
        Ok(Finished { status, stdout: self.stdout.finish(), stderr: self.stderr.finish() })
    }

    /// Kills it and returns all that it printed, standard error last.
    pub(crate) fn kill(&mut self) -> String {
        // It may have ended already, and then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
        self.stdout.finish() + &self.stderr.finish()
    }

    /// Waits for its end like [`Self::finish`] and returns its standard output; an error unless it ended with 0.
    pub fn succeed(&mut self, limit: Duration) -> Result<String> {
        let Finished { status, stdout, stderr } = self.finish(limit)?;
        ensure!(status.success(), "{} ended with {status}\n{stdout}\n{stderr}", self.name);
        Ok(stdout)
    }
}

impl Finished {
    /// Its exit code, or minus the signal that ended it.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| -signal)).unwrap_or(i32::MIN)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The text that a pipe delivers, and the thread that reads it.
#[derive(Debug)]
struct Collected {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
        self.text()
    }
}
