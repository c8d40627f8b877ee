//! The daemon under test.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::config::ADMIN;
use crate::{Config, Finished, Host, LISTENER_PORT, Metrics, PATIENCE, Process, binary, eventually, http};

/// The control socket inside the daemon's own folder.
const SOCKET: &str = "admin.sock";

/// What starts a daemon such that it believes to be on an old kernel, before Linux 6.6: with the personality that has `uname` say 2.6.
pub const ON_OLD_KERNEL: [&str; 2] = ["setarch", "--uname-2.6"];

/// The allocator gives back what has been free for a second.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// A running `landbridge`, with one listener and its metrics.
///
/// It is killed when dropped; [`Daemon::stop`] ends it as an operator would.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    host: Host,
    /// What starts it, if not the tests: a program and its arguments.
    wrapper: Vec<String>,
    config: NamedTempFile,
    folder: TempDir,
}

impl Daemon {
    /// Starts it on `host` and waits until it serves.
    pub fn start(host: &Host, config: &Config) -> Result<Self> {
        Self::start_by(&[], host, config)
    }

    /// The same, started by another program, whose arguments these are.
    pub fn start_by(wrapper: &[&str], host: &Host, config: &Config) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut file = NamedTempFile::with_suffix(".toml")?;
        write!(file, "{}", config.clone().socket(&folder.path().join(SOCKET)))?;
        // It may run as another user.
        fs::set_permissions(file.path(), Permissions::from_mode(0o644))?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
        let wrapper: Vec<String> = wrapper.iter().copied().map(String::from).collect();
        let process = run(host, &wrapper, file.path())?;
        Ok(Self { process, host: host.clone(), wrapper, config: file, folder })
    }

    /// The same where it cannot let the kernel tell its programs routes, as before Linux 6.4.
    pub fn start_without_routes(host: &Host, config: &Config) -> Result<Self> {
        const READ_ONLY: &str =
            "mount --bind /proc/sys/net /proc/sys/net && mount -o remount,bind,ro /proc/sys/net && exec \"$@\"";
        Self::start_by(&["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"], host, config)
    }

    /// Ends it by a signal, whatever comes of that, and starts it again with the same configuration file.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        let ended = self.process.finish(PATIENCE)?;
        println!("--- log of landbridge, ended by {signal}\n{}---", ended.stderr);
        self.start_again()
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.finish(PATIENCE).map(drop)
    }

    /// Starts it again after it has ended.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = run(&self.host, &self.wrapper, self.config.path())?;
        Ok(())
    }

    /// Gives it another configuration file and SIGHUP, and waits until that is in force.
    pub fn reload(&self, config: &Config) -> Result<()> {
        let reloads = || Ok::<_, anyhow::Error>(self.process.stderr().matches(" reloaded generation=").count());
        let before = reloads()?;
        self.change(config)?;
        self.process.signal(Signal::SIGHUP)?;
        eventually("the configuration is reloaded", || {
            ensure!(reloads()? > before, "not yet");
            Ok(())
        })
    }

    /// Gives it another configuration file, without telling it.
    pub fn change(&self, config: &Config) -> Result<()> {
        self.change_text(&config.clone().socket(&self.socket()).to_string())
    }

    /// Gives it another text in its configuration file and SIGHUP, whatever comes of it.
    pub fn reload_text(&self, text: &str) -> Result<()> {
        self.change_text(text)?;
        self.process.signal(Signal::SIGHUP)
    }

    /// A new session of `client`, and the letter that its target says first: see [`crate::targets::Scripted::named`].
    pub fn session(&self, client: &Host) -> Result<(TcpStream, char)> {
        let mut stream = client.connect(self.v4())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut name = [0];
        stream.read_exact(&mut name).context("no greeting")?;
        Ok((stream, name[0].into()))
    }

    /// The letter of the target that serves a new session of `client`.
    pub fn serving(&self, client: &Host) -> Result<char> {
        self.session(client).map(|(_, name)| name)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    /// Its configuration file.
    pub fn file(&self) -> &Path {
        self.config.path()
    }

    /// Runs a verb of the command line on it.
    pub fn cli(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.host.command(binary("landbridge")?);
        command.args(arguments).arg("--socket").arg(self.socket());
        Process::start("landbridge", &mut command)?.finish(PATIENCE)
    }

    /// Runs a verb of the command line that asks no daemon, on its host and started as it is.
    pub fn cli_alone(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = landbridge(&self.host, &self.wrapper)?;
        command.args(arguments);
        Process::start("landbridge", &mut command)?.finish(PATIENCE)
    }

    /// The same as [`Self::cli`]; an error unless it is good. Returns what it printed.
    pub fn cli_good(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.cli(arguments)?;
        ensure!(finished.code() == 0, "{arguments:?}: {finished:?}");
        Ok(finished.stdout)
    }

    /// What a verb prints with `--json`; an error unless it is good.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        serde_json::from_str(&self.cli_good(&arguments)?).with_context(|| format!("{arguments:?}"))
    }

    fn change_text(&self, text: &str) -> Result<()> {
        // In one step, as an editor would: the daemon never reads half a file.
        let mut next = NamedTempFile::with_suffix(".toml")?;
        next.write_all(text.as_bytes())?;
        fs::set_permissions(next.path(), Permissions::from_mode(0o644))?;
        fs::rename(next.into_temp_path().keep()?, self.config.path())?;
        Ok(())
    }

    /// Where clients connect to by IPv4.
    pub fn v4(&self) -> SocketAddr {
        self.host.v4(LISTENER_PORT)
    }

    /// Where clients connect to by IPv6.
    pub fn v6(&self) -> SocketAddr {
        self.host.v6(LISTENER_PORT)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Status and body of a path of the admin address.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(&self.host, ADMIN, path)
    }

    /// Its metrics now.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics answers {status}: {body}");
        body.parse()
    }

    /// Waits until the series of `name` with these labels add up to `expected`.
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], expected: f64) -> Result<()> {
        eventually(&format!("{name} {labels:?} is {expected}"), || {
            let metrics = self.metrics()?;
            let value = metrics.value(name, labels);
            ensure!(value == expected, "it is {value}\n{}", metrics.lines(name));
            Ok(())
        })
    }

    /// Waits until this many sessions ended in this way, and none in another.
    pub fn wait_ended(&self, sessions: u32, end: &str) -> Result<()> {
        self.wait_metric("landbridge_sessions_total", &[("end", end)], sessions.into())?;
        let metrics = self.metrics()?;
        let all = metrics.value("landbridge_sessions_total", &[]);
        ensure!(all == f64::from(sessions), "others ended too\n{}", metrics.lines("landbridge_sessions_total"));
        Ok(())
    }

    /// Physical memory that the process has for itself, in bytes, once it has given back what is free: neither its code nor maps
    /// that it shares with the kernel.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        let mut least = u64::MAX;
        let mut since = Instant::now();
        while since.elapsed() < GIVING_BACK {
            let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")).context("RssAnon is in kB")?;
            let bytes = kibibytes.trim().parse::<u64>()? * 1024;
            if bytes < least {
                (least, since) = (bytes, Instant::now());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(least)
    }

    /// From now on it can have this many file descriptors, and not raise that.
    pub fn limit_descriptors(&self, limit: u64) -> Result<()> {
        let mut command = self.host.command("prlimit");
        command.arg(format!("--pid={}", self.process.id())).arg(format!("--nofile={limit}:{limit}"));
        Process::start("prlimit", &mut command)?.succeed(PATIENCE).map(drop)
    }

    /// How many file descriptors it has.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }

    /// Where it has what outlives it: it holds the lock on that directory.
    pub fn state(&self) -> Result<PathBuf> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.process.id()))?;
        let mut open = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        let is_state = |path: &Path| {
            let parent = path.parent();
            parent.is_some_and(|parent| parent.ends_with("landbridge/bpf") || parent.ends_with("bpf/landbridge"))
        };
        open.find(|path| is_state(path)).context("nothing is pinned")
    }

    /// Ends it with SIGTERM; an error unless it exits with 0 within `limit`.
    pub fn stop_within(&mut self, limit: Duration) -> Result<Finished> {
        self.process.signal(Signal::SIGTERM)?;
        self.wait_exit(limit)
    }

    /// Ends it with SIGTERM; an error unless it exits with 0 soon.
    pub fn stop(&mut self) -> Result<Finished> {
        self.stop_within(PATIENCE)
    }

    /// Ends it with two signals, which resets its sessions; an error unless it exits with 0 soon.
    pub fn stop_at_once(&mut self) -> Result<Finished> {
        self.process.signal(Signal::SIGTERM)?;
        eventually("it drains", || {
            ensure!(self.process.stderr().contains("draining: no new sessions"));
            Ok(())
        })?;
        self.process.signal(Signal::SIGTERM)?;
        self.wait_exit(PATIENCE)
    }

    /// Waits for its end; an error unless it exits with 0 within `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<Finished> {
        let finished = self.process.finish(limit)?;
        if finished.code() != 0 {
            bail!("landbridge ended with {}", finished.status);
        }
        Ok(finished)
    }
}

/// The program, started by another one unless there is none.
fn landbridge(host: &Host, wrapper: &[String]) -> Result<Command> {
    let landbridge = binary("landbridge")?;
    Ok(match wrapper {
        [] => host.command(landbridge),
        [program, arguments @ ..] => {
            let mut command = host.command(program);
            command.args(arguments).arg(landbridge);
            command
        }
    })
}

/// Starts it and waits until it serves.
fn run(host: &Host, wrapper: &[String], config: &Path) -> Result<Process> {
    let mut command = landbridge(host, wrapper)?;
    let mut process = Process::start("landbridge", command.arg("run").arg("--config").arg(config))?;
    process.wait_ready(|_| http::get(host, ADMIN, "/livez").map(drop))?;
    Ok(process)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The test runner shows this only when the test fails.
        println!("--- log of landbridge\n{}---", self.process.kill());
    }
}
