//! Other programs: run quietly with a log, with a limit, or in the open.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// How many lines of a log an error shows.
const LOG_LINES: usize = 15;

/// Runs a command whose output goes to the user.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", text(command)))?;
    succeeded(command, status)
}

/// Runs a command that only its result makes interesting; its output goes to a log, whose end an error shows.
pub(crate) fn quiet(command: &mut Command, log: &str) -> Result<()> {
    quiet_within(command, log, Duration::MAX)
}

/// The same, killed when the limit is over.
pub(crate) fn quiet_within(command: &mut Command, log: &str, limit: Duration) -> Result<()> {
    let path = log_path(log)?;
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let errors = file.try_clone().with_context(|| format!("cannot write {}", path.display()))?;
    let start = Instant::now();
    let mut child =
        command.stdout(file).stderr(errors).spawn().with_context(|| format!("cannot start {}", text(command)))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill().and_then(|()| child.wait().map(drop)).context("cannot end a command that takes too long")?;
            bail!("{} took more than {} s and was ended", text(command), limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    };
    succeeded(command, status).with_context(|| {
        let log = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("{}\n(all of it: {})", end.join("\n"), path.display())
    })
}

/// The output of a command that succeeds; `None` if it fails or cannot be started.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("{} failed: {status}", text(command)) }
}

fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}

fn log_path(name: &str) -> Result<PathBuf> {
    let folder = workspace::tools().join("log");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.join(format!("{name}.log")))
}
