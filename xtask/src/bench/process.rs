//! Programs of a measurement: each ends with this one, is ended by its own id, and its output goes to a file or is read.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::Child;
use crate::workspace;

/// Slow starters load kernel programs or check themselves first.
const START_LIMIT: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(10);

/// Where configurations, logs and results of measurements go.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = workspace::root().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Starts a program that runs until it is dropped; its output goes to its [`log`].
pub(crate) fn start(name: &str, command: &mut Command) -> Result<Child> {
    let path = log_path(name)?;
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let errors = log.try_clone().context("cannot open a log twice")?;
    Child::start(name, command.stdin(Stdio::null()).stdout(log).stderr(errors))
}

/// What the last program of that name has printed.
pub(crate) fn log(name: &str) -> Result<String> {
    let path = log_path(name)?;
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn log_path(name: &str) -> Result<PathBuf> {
    Ok(folder()?.join(format!("{name}.log")))
}

/// Runs a program to its end and returns its standard output; an error after `limit` or if it fails.
pub(crate) fn run(name: &str, command: &mut Command, limit: Duration) -> Result<String> {
    let path = log_path(name)?;
    let mut child = Child::start(name, command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file(&path)?))?;
    let mut pipe = child.process.stdout.take().context("a pipe that was asked for is missing")?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let status = child.wait(limit)?;
    let status = status.with_context(|| format!("{name} still ran after {} s and was ended", limit.as_secs()))?;
    let Ok(text) = reader.join() else { bail!("the thread that reads the output of {name} panicked") };
    let text = text.with_context(|| format!("cannot read the output of {name}"))?;
    if !status.success() {
        bail!("{name} failed: {status}\n{text}{}", fs::read_to_string(&path).unwrap_or_default());
    }
    Ok(text)
}

/// Waits until something accepts connections at `address`, from the namespace of this thread.
pub(crate) fn wait_for(address: SocketAddr) -> Result<()> {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > START_LIMIT => {
                return Err(error).with_context(|| format!("nothing accepts connections at {address}"));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Waits until the web server behind `address` has answered, from the namespace of this thread: a proxy may listen before it is
/// ready.
pub(crate) fn wait_for_answer(address: SocketAddr) -> Result<()> {
    let ask = || -> io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(START_LIMIT))?;
        stream.write_all(b"GET /64 HTTP/1.0\r\n\r\n")?;
        stream.read_exact(&mut [0])
    };
    ask().with_context(|| format!("no answer through {address}"))
}

fn file(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}
