//! `landbridge top` in a pseudo terminal: what it shows, what its keys do, and what it leaves behind.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Group, Host, Net, Process, SocketExt, binary, eventually};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, tcgetpgrp};
use serde_json::Value;

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;
const SIZE: Winsize = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };

const TRAFFIC: u16 = 9000;

/// A terminal with a program in it, which is killed when this is dropped.
struct Screen {
    child: Child,
    keyboard: File,
    terminal: OwnedFd,
    seen: Arc<Mutex<vt100::Parser>>,
}

impl Screen {
    /// Runs `landbridge top` on a daemon, in a session of its own so that the terminal is no other than this.
    fn of(daemon: &Daemon) -> Result<Self> {
        let OpenptyResult { master, slave } = pseudo_terminal()?;
        let mut command: Command = daemon.host().command("setsid");
        command.arg("--ctty").arg("--wait").arg(binary("landbridge")?).arg("top").arg("--socket").arg(daemon.socket());
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
        let child = command.env("TERM", "xterm-256color").spawn()?;
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone()?;
        let seen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let sink = Arc::clone(&seen);
        // It ends when the last of the terminal's other ends is closed.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..length]);
            }
        });
        Ok(Self { child, keyboard, terminal: slave, seen })
    }

    fn text(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    fn wait(&self, what: &str) -> Result<()> {
        eventually(&format!("{what:?} is on the screen"), || {
            let text = self.text();
            ensure!(text.contains(what), "{text}");
            Ok(())
        })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keyboard.write_all(keys.as_bytes())?)
    }

    /// Whether the terminal shows the former screen and takes lines, as a shell needs it.
    fn is_restored(&self) -> Result<bool> {
        let screen_restored = !self.seen.lock().unwrap_or_else(PoisonError::into_inner).screen().alternate_screen();
        let lines = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        Ok(screen_restored && tcgetattr(&self.terminal)?.local_flags.contains(lines))
    }

    /// The process that has the terminal: its other end tells.
    fn program(&self) -> Result<Pid> {
        Ok(tcgetpgrp(&self.keyboard)?)
    }

    fn finish(&mut self) -> Result<ExitStatus> {
        eventually("it ends", || self.child.try_wait()?.context("it still runs"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to do.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A terminal that programs have only where it is passed to them: one that held its other end would keep it open.
fn pseudo_terminal() -> Result<OpenptyResult> {
    let terminal = openpty(&SIZE, None)?;
    for end in [&terminal.master, &terminal.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(terminal)
}

fn start(net: &Net) -> Result<(Echo, Daemon)> {
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let group = Group::new("onprem").target_with(echo.address(), "name = \"first\"");
    let daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    Ok((echo, daemon))
}

fn target(daemon: &Daemon) -> Result<Value> {
    let status = daemon.json(&["status"])?;
    Ok(status["groups"][0]["targets"][0].clone())
}

#[test]
fn a_weight_and_a_state_are_changed_by_keys_after_a_yes() -> Result<()> {
    let net = Net::new(1)?;
    let (_echo, mut daemon) = start(&net)?;
    let mut screen = Screen::of(&daemon)?;
    for what in ["landbridge", "serving", "onprem", "  first", "q quit"] {
        screen.wait(what)?;
    }
    ensure!(!screen.is_restored()?, "it has a screen of its own");
    screen.press("jw4\r")?;
    screen.wait("set the weight of onprem/first to 4? y/n")?;
    screen.press("n")?;
    screen.wait("nothing has changed")?;
    assert_eq!(target(&daemon)?["weight"]["weight"], 1);
    screen.press("w4\r")?;
    screen.wait("set the weight of onprem/first to 4? y/n")?;
    screen.press("y")?;
    screen.wait("done: set the weight of onprem/first to 4")?;
    assert_eq!(target(&daemon)?["weight"]["weight"], 4);
    screen.wait("4*")?;
    screen.press("sd")?;
    screen.wait("set the state of onprem/first to draining? y/n")?;
    screen.press("y")?;
    screen.wait("done: set the state of onprem/first to draining")?;
    assert_eq!(target(&daemon)?["state"], "draining");
    screen.press("q")?;
    ensure!(screen.finish()?.success());
    daemon.stop_at_once().map(drop)
}

#[test]
fn the_terminal_is_restored_by_every_way_out() -> Result<()> {
    let net = Net::new(1)?;
    let (_echo, mut daemon) = start(&net)?;
    for way in ["q", "\u{3}"] {
        let mut screen = Screen::of(&daemon)?;
        screen.wait("  first")?;
        screen.press(way)?;
        ensure!(screen.finish()?.success(), "{way:?}");
        eventually("the terminal is as it was", || {
            ensure!(screen.is_restored()?, "{way:?}: {}", screen.text());
            Ok(())
        })?;
    }
    daemon.stop_at_once().map(drop)
}

#[test]
fn the_terminal_is_restored_when_a_signal_ends_it() -> Result<()> {
    let net = Net::new(1)?;
    let (_echo, mut daemon) = start(&net)?;
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for signal in [SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2] {
        let mut screen = Screen::of(&daemon)?;
        screen.wait("  first")?;
        kill(screen.program()?, signal)?;
        ensure!(screen.finish()?.success(), "{signal}");
        eventually("the terminal is as it was", || {
            ensure!(screen.is_restored()?, "{signal}: {}", screen.text());
            Ok(())
        })?;
    }
    daemon.stop_at_once().map(drop)
}

#[test]
fn it_ends_when_its_terminal_is_gone() -> Result<()> {
    let net = Net::new(1)?;
    let (_echo, mut daemon) = start(&net)?;
    let OpenptyResult { master, slave } = pseudo_terminal()?;
    let mut command = daemon.host().command(binary("landbridge")?);
    command.arg("top").arg("--socket").arg(daemon.socket());
    // Its session has another terminal, if any: no signal tells it.
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    let mut child = command.env("TERM", "xterm-256color").spawn()?;
    drop(command);
    let mut master = File::from(master);
    let mut seen = vt100::Parser::new(ROWS, COLUMNS, 0);
    let mut bytes = [0; 4096];
    while !seen.screen().contents().contains("  first") {
        let length = master.read(&mut bytes)?;
        seen.process(&bytes[..length]);
    }
    drop(master);
    let ended = eventually("it ends", || child.try_wait()?.context("it still runs"));
    // Nobody else would end it.
    child.kill().ok();
    child.wait()?;
    ended?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_daemon_that_is_lost_is_told_and_found_again() -> Result<()> {
    let net = Net::new(1)?;
    let (_echo, mut daemon) = start(&net)?;
    let screen = Screen::of(&daemon)?;
    screen.wait("serving")?;
    daemon.stop_at_once()?;
    screen.wait("LOST")?;
    daemon.start_again()?;
    screen.wait("serving")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn bytes_and_ended_sessions_are_counted_for_each_target() -> Result<()> {
    let net = Net::new(1)?;
    let (_echo, mut daemon) = start(&net)?;
    assert_eq!(target(&daemon)?["sessions_ended"], 0);
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"seven b")?;
    drop(session);
    daemon.wait_ended(1, "client_closed")?;
    let target = target(&daemon)?;
    for (counter, expected) in [("sessions_ended", 1), ("upload_bytes", 7), ("download_bytes", 7)] {
        assert_eq!(target[counter], expected, "{counter}: {target}");
    }
    daemon.stop().map(drop)
}

#[test]
fn without_a_terminal_there_is_another_verb() -> Result<()> {
    let host: Host = Net::new(0)?.proxy;
    let mut command = host.command(binary("landbridge")?);
    let finished = Process::start("landbridge", command.arg("top"))?.finish(landbridge_tests::PATIENCE)?;
    ensure!(finished.code() == 1 && finished.stderr.contains("landbridge status"), "{finished:?}");
    Ok(())
}
