//! The control socket: what the operator sees and changes while the daemon runs.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use landbridge_tests::targets::{Checked, Echo, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Host, Net, PATIENCE, Process, SocketExt, binary, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

const TRAFFIC: u16 = 9000;

/// One group with two targets that say their letters.
struct Pair {
    net: Net,
    targets: [Scripted<()>; 2],
}

impl Pair {
    fn start() -> Result<Self> {
        let net = Net::new(1)?;
        let target = |port, name| Scripted::named(&net.targets[0], port, name);
        let targets = [target(TRAFFIC, "a")?, target(9001, "b")?];
        Ok(Self { net, targets })
    }

    fn config(&self) -> Config {
        let group = Group::new("onprem").target_with(self.targets[0].address(), "name = \"first\"");
        Config::new([group.target(self.targets[1].address())])
    }

    fn sessions(&self, daemon: &Daemon, count: usize) -> Result<(Vec<TcpStream>, BTreeMap<char, usize>)> {
        let mut streams = Vec::new();
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            let mut stream = self.net.client.connect(daemon.v4())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut name = [0];
            stream.read_exact(&mut name)?;
            *shares.entry(char::from(name[0])).or_default() += 1;
            streams.push(stream);
        }
        Ok((streams, shares))
    }
}

fn status(daemon: &Daemon) -> Result<Value> {
    daemon.json(&["status"])
}

fn run(host: &Host, arguments: &[&str]) -> Result<landbridge_tests::Finished> {
    let mut command = host.command(binary("landbridge")?);
    Process::start("landbridge", command.args(arguments))?.finish(PATIENCE)
}

#[test]
fn status_tells_what_runs() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let check = Checked::start(&net.targets[0], 9100)?;
    let onprem = Group::new("onprem").health("port = 9100").health("interval = \"50ms\"").target(echo.address());
    let aws = Group::new("aws").with("tier = 3").target(net.targets[0].v4(9007));
    let mut daemon = Daemon::start(&net.proxy, &Config::new([onprem, aws]))?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"in")?;
    let seen = status(&daemon)?;
    assert_eq!(seen["phase"], "serving");
    assert_eq!(seen["listeners"][0]["shares"][0]["share"], 1.0);
    assert_eq!(seen["groups"][1]["tier"], 3);
    let target = &seen["groups"][0]["targets"][0];
    assert_eq!((&target["health"], &target["sessions"], &target["percent"]), (&"up".into(), &1.into(), &100.into()));
    let text = daemon.cli_good(&["status"])?;
    for word in ["serving", "main", "onprem", "100%", "up"] {
        ensure!(text.contains(word), "{word} is not in\n{text}");
    }

    check.answer(503);
    eventually("the status tells why it is down", || {
        let seen = status(&daemon)?;
        let target = &seen["groups"][0]["targets"][0];
        let why = target["last_failure"].as_str().context("no reason yet")?;
        ensure!(
            target["health"] == "down" && why.contains("503") && seen["groups"][0]["standing"] == "unable",
            "{seen}"
        );
        let reason = seen["groups"][0]["reason"].as_str().context("no reason of the group")?;
        ensure!(reason.starts_with("has 0 of 1 targets healthy and needs 1") && reason.contains("503"), "{reason}");
        ensure!(daemon.cli_good(&["status"])?.contains("answered 503"));
        Ok(())
    })?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_daemon_that_drains_says_so_and_for_how_long() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let config = Config::single(echo.address()).listener("max_connections = 2").runtime("drain_timeout = \"1h\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"in")?;
    let seen = status(&daemon)?;
    assert_eq!((&seen["listeners"][0]["sessions"], &seen["listeners"][0]["max_connections"]), (&1.into(), &2.into()));
    ensure!(seen.get("phase_left_ms").is_none(), "{seen}");
    daemon.process().signal(Signal::SIGTERM)?;
    eventually("the daemon drains", || {
        let seen = status(&daemon)?;
        let left = seen["phase_left_ms"].as_u64().context("no time")?;
        ensure!(seen["phase"] == "draining" && (3_500_000..=3_600_000).contains(&left), "{seen}");
        Ok(())
    })?;
    let text = daemon.cli_good(&["status"])?;
    ensure!(!text.contains("serves") && text.matches("draining").count() == 2, "{text}");
    session.finish_writing()?;
    session.expect_ending(Ending::Closed)?;
    daemon.wait_exit(PATIENCE).map(drop)
}

#[test]
fn sessions_are_listed() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    let (streams, _) = pair.sessions(&daemon, 3)?;
    let listed = daemon.json(&["sessions"])?;
    let listed = listed.as_array().context("a list")?;
    assert_eq!(listed.len(), 3);
    for stream in &streams {
        let client = stream.local_addr()?.to_string();
        ensure!(listed.iter().any(|of| of["client"] == client.as_str() && of["listener"] == "main"), "{listed:?}");
    }
    ensure!(daemon.cli_good(&["sessions"])?.contains("onprem/first"));
    drop(streams);
    eventually("none is left", || {
        let listed = daemon.json(&["sessions"])?;
        ensure!(listed.as_array().is_some_and(Vec::is_empty), "{listed}");
        Ok(())
    })?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn sessions_are_shut_down_and_new_ones_come() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    let (streams, shares) = pair.sessions(&daemon, 4)?;
    assert_eq!(shares, BTreeMap::from([('a', 2), ('b', 2)]));
    let answer = daemon.json(&["shutdown", "sessions", "onprem/first"])?;
    assert_eq!(answer["groups"][0]["targets"][0]["state"], "active");
    daemon.wait_ended(2, "shut_down")?;
    let (more, shares) = pair.sessions(&daemon, 2)?;
    assert_eq!(shares, BTreeMap::from([('a', 1), ('b', 1)]));
    daemon.cli_good(&["shutdown", "sessions", "onprem"])?;
    for mut stream in streams.into_iter().chain(more) {
        stream.expect_ending(Ending::Reset)?;
    }
    daemon.wait_metric("landbridge_sessions_total", &[("end", "shut_down")], 6.0)?;
    daemon.stop().map(drop)
}

#[test]
fn weights_change_at_once_and_outlast_reloads() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    daemon.cli_good(&["set", "weight", "onprem/first", "4"])?;
    assert_eq!(pair.sessions(&daemon, 10)?.1, BTreeMap::from([('a', 8), ('b', 2)]));
    daemon.reload(&pair.config())?;
    assert_eq!(pair.sessions(&daemon, 10)?.1, BTreeMap::from([('a', 8), ('b', 2)]));
    let weight = status(&daemon)?["groups"][0]["targets"][0]["weight"].clone();
    assert_eq!((&weight["weight"], &weight["origin"]), (&4.into(), &"operator".into()));
    daemon.wait_metric("landbridge_target_weight", &[("target", "first")], 4.0)?;

    // By its address, and for a while only.
    let other = format!("onprem/{}", pair.targets[1].address());
    let text = daemon.cli_good(&["set", "weight", &other, "0", "--for", "600ms"])?;
    ensure!(text.contains("0 (operator"), "{text}");
    assert_eq!(pair.sessions(&daemon, 4)?.1, BTreeMap::from([('a', 4)]));
    let since = Instant::now();
    daemon.reload(&pair.config())?;
    daemon.wait_metric("landbridge_target_weight", &[("target", &pair.targets[1].address().to_string())], 1.0)?;
    ensure!(since.elapsed() < Duration::from_secs(5));
    assert_eq!(status(&daemon)?["groups"][0]["targets"][1]["weight"]["origin"], "config");
    assert_eq!(pair.sessions(&daemon, 10)?.1, BTreeMap::from([('a', 8), ('b', 2)]));

    // Its time is up without a reload too.
    daemon.cli_good(&["set", "weight", "onprem/first", "0", "--for", "300ms"])?;
    daemon.wait_metric("landbridge_target_weight", &[("target", "first")], 1.0)?;

    // Or it is taken back; until then what a reload changes says that it stays.
    daemon.cli_good(&["set", "weight", "onprem/first", "5"])?;
    let of = format!("target onprem/{}: weight", pair.targets[0].address());
    let group = Group::new("onprem").target_with(pair.targets[0].address(), "name = \"first\"\nweight = 2");
    daemon.change(&Config::new([group.target(pair.targets[1].address())]))?;
    let told = format!("~ {of}: 1 -> 2 (the operator's 5 stays in force)\n");
    assert_eq!(daemon.cli_good(&["reload"])?, told);
    daemon.wait_metric("landbridge_target_weight", &[("target", "first")], 5.0)?;
    let answer = daemon.json(&["set", "weight", "onprem/first", "config"])?;
    let weight = serde_json::json!({ "weight": 2, "origin": "config" });
    assert_eq!(answer["groups"][0]["targets"][0]["weight"], weight);
    assert_eq!(daemon.cli(&["set", "weight", "onprem/first", "config", "--for", "1h"])?.code(), 1);
    daemon.change(&pair.config())?;
    assert_eq!(daemon.cli_good(&["reload"])?, format!("~ {of}: 2 -> 1\n"));

    let answer = daemon.json(&["set", "weight", "onprem", "0"])?;
    assert_eq!(answer["groups"][0]["weight"]["weight"], 0);
    ensure!(pair.net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty(), "a group of weight 0 takes nothing");
    daemon.stop_at_once().map(drop)
}

#[test]
fn one_target_drains_with_a_deadline_and_progress() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config().runtime("drain_timeout = \"900ms\""))?;
    let (mut streams, shares) = pair.sessions(&daemon, 4)?;
    assert_eq!(shares, BTreeMap::from([('a', 2), ('b', 2)]));
    let since = Instant::now();
    daemon.cli_good(&["set", "state", "onprem/first", "draining"])?;
    assert_eq!(pair.sessions(&daemon, 3)?.1, BTreeMap::from([('b', 3)]));
    let target = status(&daemon)?["groups"][0]["targets"][0].clone();
    ensure!(target["state"] == "draining" && target["sessions"] == 2, "{target}");
    ensure!(target["ends_in_ms"].as_u64().is_some_and(|left| left <= 900), "{target}");
    // The first of them finishes in time.
    streams[0].finish_writing()?;
    streams[0].expect_ending(Ending::Closed)?;
    streams[2].expect_ending(Ending::Reset)?;
    ensure!(since.elapsed() >= Duration::from_millis(900), "{:?}", since.elapsed());
    daemon.wait_metric("landbridge_sessions_total", &[("end", "drained")], 1.0)?;
    streams[1].expect_quiet(Duration::from_millis(1))?;

    // The state outlasts a reload, and an active target serves at once.
    daemon.reload(&pair.config())?;
    assert_eq!(pair.sessions(&daemon, 3)?.1, BTreeMap::from([('b', 3)]));
    let answer = daemon.json(&["set", "state", "onprem/first", "active"])?;
    assert_eq!(answer["groups"][0]["targets"][0]["state"], "active");
    assert_eq!(pair.sessions(&daemon, 4)?.1, BTreeMap::from([('a', 2), ('b', 2)]));
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_group_drains_unless_it_is_active_again_in_time() -> Result<()> {
    const DRAIN: Duration = Duration::from_secs(2);
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config().runtime("drain_timeout = \"2s\""))?;
    let (mut streams, shares) = pair.sessions(&daemon, 4)?;
    assert_eq!(shares, BTreeMap::from([('a', 2), ('b', 2)]));
    let since = Instant::now();
    daemon.cli_good(&["set", "state", "onprem", "draining"])?;
    ensure!(pair.net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    daemon.cli_good(&["set", "state", "onprem", "active"])?;
    ensure!(since.elapsed() < DRAIN, "{:?}", since.elapsed());
    streams[0].expect_quiet(DRAIN + Duration::from_millis(500))?;
    streams[1].expect_quiet(Duration::from_millis(1))?;

    let since = Instant::now();
    daemon.cli_good(&["set", "state", "onprem", "draining"])?;
    for stream in &mut streams {
        stream.expect_ending(Ending::Reset)?;
    }
    ensure!(since.elapsed() >= DRAIN, "{:?}", since.elapsed());
    daemon.wait_metric("landbridge_sessions_total", &[("end", "drained")], 4.0)?;
    daemon.stop_at_once().map(drop)
}

/// What the probes and the device say meanwhile changes nothing about it.
#[test]
fn a_drained_target_goes_on_draining_when_it_comes_back() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let check = Checked::start(&net.targets[0], 9100)?;
    let group = Group::new("onprem").with("on_down = \"keep\"").tcp("interface = \"target0\"");
    let group = group.health("port = 9100").health("interval = \"50ms\"").health("fast_interval = \"20ms\"");
    let config = Config::new([group.target(echo.address())]).runtime("drain_timeout = \"3s\"");
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let up = |up| daemon.wait_metric("landbridge_target_up", &[], up);
    for by_probes in [true, false] {
        let mut session = net.client.connect(daemon.v4())?;
        session.expect_echo(b"in")?;
        daemon.cli_good(&["set", "state", "onprem", "draining"])?;
        if by_probes {
            check.answer(503);
            up(0.0)?;
            check.answer(200);
        } else {
            net.targets[0].ip("link set eth0 down")?;
            up(0.0)?;
            net.targets[0].ip("link set eth0 up")?;
        }
        up(1.0)?;
        session.expect_ending(Ending::Reset)?;
        daemon.cli_good(&["set", "state", "onprem", "active"])?;
    }
    daemon.wait_ended(2, "drained")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_disabled_group_has_no_sessions_and_no_probes() -> Result<()> {
    let net = Net::new(1)?;
    let echo = Echo::start(&net.targets[0], TRAFFIC)?;
    let check = Checked::start(&net.targets[0], 9100)?;
    let group = Group::new("onprem").health("port = 9100").health("interval = \"50ms\"").target(echo.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    let mut session = net.client.connect(daemon.v4())?;
    session.expect_echo(b"in")?;
    daemon.cli_good(&["set", "state", "onprem", "disabled"])?;
    session.expect_ending(Ending::Reset)?;
    daemon.wait_ended(1, "drained")?;
    assert_eq!(daemon.get("/readyz")?.0, 503);
    let asked = check.asked();
    // That nothing happens takes time to see. One probe may have been on its way.
    std::thread::sleep(Duration::from_millis(400));
    ensure!(check.asked() <= asked + 1, "it was probed {} times", check.asked() - asked);
    daemon.cli_good(&["set", "state", "onprem", "active"])?;
    net.client.connect(daemon.v4())?.expect_echo(b"in again")?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_reload_and_its_plan_are_told() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    assert_eq!(daemon.cli_good(&["reload"])?, "nothing has changed\n");
    daemon.change(&pair.config().listener("max_connections = 7"))?;
    let file = daemon.file().display().to_string();
    let plan = daemon.cli_good(&["check", &file, "--against-running"])?;
    ensure!(plan.contains("~ listener main: max_connections: 20000 -> 7"), "{plan}");
    let changes = serde_json::json!(["~ listener main: max_connections: 20000 -> 7"]);
    assert_eq!(daemon.json(&["check", &file, "--against-running"])?["changes"], changes);
    assert_eq!(status(&daemon)?["generation"], 1);
    let told = daemon.cli_good(&["reload"])?;
    assert_eq!(told, "~ listener main: max_connections: 20000 -> 7\n");
    ensure!(daemon.cli_good(&["check", &file, "--against-running"])?.contains("nothing would change"));
    daemon.change(&pair.config())?;
    let back = serde_json::json!(["~ listener main: max_connections: 7 -> 20000"]);
    assert_eq!(daemon.json(&["reload"])?["changes"], back);

    std::fs::write(daemon.file(), "[[listener]]\nname = 7\n")?;
    let refused = daemon.cli(&["reload"])?;
    ensure!(refused.code() == 78 && refused.stderr.contains("7 is a whole number, not a string"), "{refused:?}");
    daemon.wait_metric("landbridge_config_last_reload_success", &[], 0.0)?;
    assert_eq!(daemon.cli(&["check", &file, "--against-running"])?.code(), 78);

    std::fs::remove_file(daemon.file())?;
    let refused = daemon.cli(&["reload"])?;
    let why = format!("cannot read {file}: No such file or directory");
    ensure!(refused.code() == 1 && refused.stderr.contains(&why), "{refused:?}");
    daemon.stop_at_once().map(drop)
}

/// Until then every reload says it, and what is taken back leaves nothing to say.
#[test]
fn what_needs_a_restart_is_pending_until_there_is_one() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    let file = daemon.file().display().to_string();
    daemon.change(&pair.config().runtime("workers = 2"))?;
    for _ in 0..2 {
        assert_eq!(daemon.cli_good(&["reload"])?, "~ runtime: workers: 0 -> 2 (after a restart)\n");
        let plan = daemon.cli_good(&["check", &file, "--against-running"])?;
        ensure!(plan.contains("~ runtime: workers: 0 -> 2 (after a restart)"), "{plan}");
    }
    daemon.change(&pair.config())?;
    assert_eq!(daemon.cli_good(&["reload"])?, "nothing has changed\n");
    daemon.stop_at_once().map(drop)
}

#[test]
fn the_daemon_is_found_by_its_file_and_by_the_environment() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    let file = daemon.file().display().to_string();
    for found in [&["check", &file, "--against-running"][..], &["reload", "--config", &file]] {
        let finished = daemon.cli_alone(found)?;
        ensure!(finished.code() == 0, "{found:?}: {finished:?}");
    }
    let mut reload = pair.net.proxy.command(binary("landbridge")?);
    reload.arg("reload").env("LANDBRIDGE_SOCKET", daemon.socket());
    Process::start("landbridge", &mut reload)?.succeed(PATIENCE)?;

    std::fs::write(daemon.file(), "[[listener]]\nname = 7\n")?;
    let refused = daemon.cli_alone(&["reload", "--config", &file])?;
    ensure!(refused.code() == 78 && refused.stderr.contains("7 is a whole number, not a string"), "{refused:?}");
    daemon.stop_at_once().map(drop)
}

#[test]
fn what_does_not_exist_is_refused_with_what_does() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    for (arguments, code, said) in [
        (&["set", "weight", "on-prem", "4"][..], 1, "the groups are onprem"),
        (&["set", "weight", "onprem/third", "4"], 1, "its targets are first"),
        (&["set", "weight", "onprem", "65536"], 2, "65536"),
        (&["set", "weight", "onprem", "4", "--for", "soon"], 2, "soon"),
        (&["set", "state", "onprem", "asleep"], 2, "draining"),
    ] {
        let finished = daemon.cli(arguments)?;
        ensure!(finished.code() == code && finished.stderr.contains(said), "{arguments:?}: {finished:?}");
    }
    daemon.stop_at_once()?;
    let gone = daemon.cli(&["status"])?;
    ensure!(gone.code() == 1 && gone.stderr.contains("does it run"), "{gone:?}");
    Ok(())
}

#[test]
fn the_socket_is_for_owner_and_group_and_taken_over_only_from_the_dead() -> Result<()> {
    let pair = Pair::start()?;
    let mut daemon = Daemon::start(&pair.net.proxy, &pair.config())?;
    let mode = std::fs::metadata(daemon.socket())?.permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let socket = daemon.socket();
    daemon.stop_at_once()?;
    ensure!(!socket.exists(), "a daemon that has ended leaves {} behind", socket.display());

    // What a daemon leaves behind that was killed.
    drop(UnixListener::bind(&socket)?);
    let config = format!("{}", pair.config()).replace("\"off\"", &format!("{:?}", socket.display().to_string()));
    let file = socket.with_file_name("stale.toml");
    std::fs::write(&file, config)?;
    let mut command = pair.net.proxy.command(binary("landbridge")?);
    let process = Process::start("landbridge", command.arg("run").arg("--config").arg(&file))?;
    let answers = || run(&pair.net.proxy, &["status", "--socket", &socket.display().to_string()]);
    eventually("the new daemon answers", || {
        let finished = answers()?;
        ensure!(finished.code() == 0, "{finished:?} {}", process.stderr());
        Ok(())
    })
}
