//! What the daemon may do while it serves, and who may give it orders.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Net, PATIENCE, Process, SocketExt, binary};
use nix::sys::signal::Signal;

/// A user and a group that nobody has.
const NOBODY: u32 = 54_321;

/// CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_BIND_SERVICE (linux/capability.h).
const UNIT: u64 = 1 << 39 | 1 << 12 | 1 << 38 | 1 << 10;
/// CAP_SYS_RESOURCE, which root keeps where it has it.
const RESOURCE: u64 = 1 << 24;

/// What the kernel says about a process or a thread.
struct Status(String);

impl Status {
    /// Of every thread of a process.
    fn of_threads(process: u32) -> Result<Vec<Self>> {
        let tasks = fs::read_dir(format!("/proc/{process}/task"))?;
        tasks.map(|task| Ok(Self(fs::read_to_string(task?.path().join("status"))?))).collect()
    }

    fn field(&self, name: &str) -> Result<&str> {
        let found = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(found.with_context(|| format!("no {name}"))?.trim())
    }

    fn set(&self, name: &str) -> Result<u64> {
        Ok(u64::from_str_radix(self.field(name)?, 16)?)
    }

    /// What root keeps on this machine.
    fn roots() -> Result<u64> {
        Ok(UNIT | RESOURCE & Self(fs::read_to_string("/proc/self/status")?).set("CapPrm")?)
    }

    fn ensure_given_up(&self, kept: u64) -> Result<()> {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let held = self.set(set)?;
            ensure!(held == kept, "{set} is {held:#x} and not {kept:#x}\n{}", self.0);
        }
        for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
            ensure!(self.field(field)? == value, "{field} is not {value}\n{}", self.0);
        }
        Ok(())
    }
}

#[test]
fn root_gives_up_what_it_does_not_need() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let config = Config::single(echo.address()).runtime("workers = 2").table("[session_log]\npath = \"stdout\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    net.client.connect(daemon.v4())?.expect_echo(b"a session")?;
    let threads = Status::of_threads(daemon.process().id())?;
    ensure!(threads.len() >= 4, "the supervisor, two workers and what writes the session log");
    for thread in threads {
        thread.ensure_given_up(Status::roots()?)?;
        ensure!(thread.set("CapBnd")? == Status::roots()?, "{}", thread.0);
    }
    daemon.stop().map(drop)
}

#[test]
fn a_user_with_a_few_capabilities_gets_the_kernel_datapaths() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    let capabilities = "-all,+bpf,+net_admin,+perfmon,+net_bind_service";
    let sets = ["inh", "ambient", "bounding"].map(|set| {
        let option = if set == "bounding" { "--bounding-set".to_owned() } else { format!("--{set}-caps") };
        format!("{option}={capabilities}")
    });
    let mut wrapper = vec!["setpriv", &user, &group, "--clear-groups"];
    wrapper.extend(sets.iter().map(String::as_str));
    // A port that takes a capability to listen on.
    let config = Config::single(echo.address()).bind("0.0.0.0:80").runtime("workers = 1");
    let mut daemon = Daemon::start_by(&wrapper, &net.proxy, &config)?;
    for thread in Status::of_threads(daemon.process().id())? {
        thread.ensure_given_up(UNIT)?;
        ensure!(thread.field("Uid")?.split('\t').all(|id| id == NOBODY.to_string()), "{}", thread.0);
    }
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"first")?;
    daemon.wait_metric("landbridge_datapath_joins_total", &[], 1.0)?;
    session.expect_echo(b"by the packet datapath")?;
    let available = daemon.metrics()?.lines("landbridge_fastpath_available");
    ensure!(available.trim_end().ends_with(" 1"), "{available}");
    net.client.connect(net.proxy.v4(80))?.expect_echo(b"on a port below 1024")?;

    // New addresses, and an upgrade, as the daemon is now.
    daemon.reload(&config.bind("0.0.0.0:81"))?;
    net.client.connect(net.proxy.v4(81))?.expect_echo(b"on another")?;
    ensure!(!daemon.process().stderr().contains("WARN"), "{}", daemon.process().stderr());
    drop(session);
    daemon.stop().map(drop)
}

#[test]
fn an_upgrade_needs_no_more_than_the_daemon_has() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], 9000)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(echo.address()).runtime("workers = 1"))?;
    daemon.process().signal(Signal::SIGUSR2)?;
    let id = landbridge_tests::eventually("a new process serves", || {
        let log = daemon.process().stderr();
        ensure!(log.contains("the new process serves"), "not yet");
        let named = log.rsplit_once("successor=").context("it is named")?.1;
        Ok(named.split_whitespace().next().context("it has a number")?.parse::<u32>()?)
    })?;
    let end = || nix::sys::signal::kill(nix::unistd::Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
    let checked = Status::of_threads(id).and_then(|threads| {
        threads.iter().try_for_each(|thread| thread.ensure_given_up(Status::roots()?))?;
        // One filter, however many upgrades.
        ensure!(threads[0].field("Seccomp_filters")? == "1", "{}", threads[0].0);
        net.client.connect(daemon.v4())?.expect_echo(b"by the new process")
    });
    end()?;
    checked
}

#[test]
fn strangers_give_no_orders() -> Result<()> {
    let net = Net::new(1)?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(net.targets[0].v4(9000)))?;
    let socket = daemon.socket();
    // The mode alone would let them in.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let ask = |groups: &str| {
        let mut command = net.proxy.command("setpriv");
        command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), groups]);
        command.arg(binary("landbridge")?).args(["status", "--socket"]).arg(&socket);
        Process::start("landbridge", &mut command)?.finish(PATIENCE)
    };
    let refused = ask("--clear-groups")?;
    let why = format!("user {NOBODY} may not use the control socket: be root, user 0, or a member of group 0");
    ensure!(refused.code() == 1 && refused.stderr.contains(&why), "{refused:?}");
    let member = ask("--groups=0")?;
    ensure!(member.code() == 0 && member.stdout.contains("onprem"), "{member:?}");
    ensure!(daemon.cli_good(&["status"])?.contains("onprem"), "root");
    daemon.stop().map(drop)
}
