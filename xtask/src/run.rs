//! `cargo xtask run`: the daemon in the foreground; without a configuration file with sample targets behind it.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use crate::build;
use crate::child::Child;
use crate::workspace::{self, Profile};

/// What `config/demo.toml` says: where it listens, and its targets.
const DEMO: &str = "config/demo.toml";
const LISTENER: &str = "127.0.0.1:8000";
const TARGETS: [(&str, &str); 3] =
    [("gpu-1", "127.0.0.1:18001"), ("gpu-2", "127.0.0.1:18002"), ("aws-1", "127.0.0.1:18003")];

/// Where a daemon has its status page unless its configuration says otherwise.
const STATUS_PAGE: &str = "http://127.0.0.1:9900/";

/// Between two attempts to reach a sample target that starts.
const START_POLL: Duration = Duration::from_millis(10);

/// How long the demonstration's daemon may take to drain before it is asked a second time, which ends it at once.
const DEMO_DRAIN: Duration = Duration::from_secs(3);

/// Sets up, builds, and runs until the daemon ends or a signal ends everything.
pub(crate) fn run(config: Option<&Path>, profile: Profile) -> Result<()> {
    let config = config
        .map(|file| file.canonicalize().with_context(|| format!("cannot read {}", file.display())))
        .transpose()?;
    build::build(profile)?;

    // Before any thread is started, so that all of them inherit it and only the one that waits gets the signals.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD]);
    signals.thread_block().context("cannot block signals")?;
    let signals = watch(signals)?;
    let daemon = workspace::binary(profile, "landbridge");
    let mut daemon = Command::new(daemon);
    daemon.arg("run").arg("--config");
    let status = match config {
        Some(file) => supervise(Child::start("landbridge", daemon.arg(file))?, Vec::new(), &signals, Duration::MAX)?,
        None => {
            for address in TARGETS.iter().map(|(_, address)| *address).chain([LISTENER]) {
                must_be_free(address)?;
            }
            let targets = TARGETS.iter().map(|target| sample_target(profile, target)).collect::<Result<_>>()?;
            let daemon = Child::start("landbridge", daemon.arg(workspace::root().join(DEMO)))?;
            introduce();
            supervise(daemon, targets, &signals, DEMO_DRAIN)?
        }
    };
    match status {
        Some(status) if !status.success() => bail!("landbridge ended: {status}"),
        _ => Ok(()),
    }
}

/// Waits until the daemon has ended by itself or after a signal. The targets end after it, so that it never sees them die.
///
/// Returns how the daemon ended; `None` if it had to be killed.
fn supervise(
    mut daemon: Child,
    mut targets: Vec<Child>,
    signals: &Receiver<Signal>,
    drain: Duration,
) -> Result<Option<ExitStatus>> {
    let mut asked: Option<Instant> = None;
    let mut patience = drain;
    loop {
        match signals.recv_timeout(asked.map_or(Duration::MAX, |since| patience.saturating_sub(since.elapsed()))) {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = daemon.ended()? {
                    return Ok(Some(status));
                }
                for target in &mut targets {
                    if let Some(status) = target.ended()? {
                        bail!("the sample target {} ended: {status}", target.name);
                    }
                }
            }
            Ok(_) => {
                eprintln!("stopping; once more to stop at once");
                daemon.terminate()?;
                asked.get_or_insert_with(Instant::now);
            }
            // A second request ends a daemon that drains; one that does not even follow that is killed.
            Err(RecvTimeoutError::Timeout) if patience == drain => {
                daemon.terminate()?;
                patience = drain.saturating_mul(2);
            }
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the signals are not watched any more"),
        }
    }
}

/// A thread that reports every signal of the set.
fn watch(signals: SigSet) -> Result<Receiver<Signal>> {
    let (sender, receiver) = channel();
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot start a thread")?;
    Ok(receiver)
}

fn must_be_free(address: &str) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "{address} is in use by another program (`ss -ltnp` shows which); end it, or run your own configuration \
             with --config FILE"
        ),
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

/// Starts one sample target, whose lines are printed as they come.
fn sample_target(profile: Profile, (name, address): &(&str, &str)) -> Result<Child> {
    let mut command = Command::new(workspace::binary(profile, "sample-target"));
    command.args(["--listen", address, "--name", name]).stdout(Stdio::piped());
    let mut target = Child::start(name, &mut command)?;
    let lines = target.process.stdout.take().context("a pipe that was asked for is missing")?;
    let print = move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            if writeln!(std::io::stdout().lock(), "{line}").is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name((*name).to_owned()).spawn(print).context("cannot start a thread")?;
    // The daemon's first probe decides alone.
    while TcpStream::connect(address).is_err() {
        if let Some(status) = target.ended()? {
            bail!("the sample target {name} ended: {status}");
        }
        thread::sleep(START_POLL);
    }
    Ok(target)
}

fn introduce() {
    let targets = TARGETS.map(|(name, _)| name).join(", ");
    eprintln!(
        r#"
landbridge listens on {LISTENER}; behind it serve {targets}. Try, in another terminal:

  curl -N http://{LISTENER}/v1/chat/completions -H 'content-type: application/json' -d '{{"model":"demo","stream":true,"messages":[{{"role":"user","content":"hello"}}]}}'

The status page is at {STATUS_PAGE}
Below, each target says what it serves. Ctrl-C ends everything.
"#
    );
}
