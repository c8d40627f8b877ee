//! Targets that fall silent: sessions that stall tell, and most of a group tell for all of it.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Echo, Scripted};
use landbridge_tests::{Config, Daemon, Group, Net, SocketExt};

const CONNECTS: &str = "landbridge_target_connects_total";

#[test]
fn a_session_that_stalls_is_evidence_against_its_target() -> Result<()> {
    a_stall_tells("splice", 0.0)
}

#[test]
fn a_joined_session_that_stalls_is_evidence_against_its_target() -> Result<()> {
    a_stall_tells("packet", 2.0)
}

/// No connect and no probe says anything: only what a session has sent is not acknowledged.
fn a_stall_tells(datapath: &str, joins: f64) -> Result<()> {
    let net = Net::new(2)?;
    let echoes = [Echo::start(&net.targets[0], 9000)?, Echo::start(&net.targets[1], 9000)?];
    let group = Group::new("onprem").with("eject_after = 1").with("eject_hold = \"1m\"");
    let group = group.target(echoes[0].address()).target(echoes[1].address());
    let config = Config::new([group]).listener(&format!("datapath = {datapath:?}"));
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    // Both targets have one.
    let mut sessions = [net.client.connect(daemon.v4())?, net.client.connect(daemon.v4())?];
    for session in &mut sessions {
        session.expect_echo(b"before")?;
    }
    daemon.wait_metric("landbridge_datapath_joins_total", &[], joins)?;
    let first = echoes[0].address().to_string();
    let second = echoes[1].address().to_string();
    net.cut_target(0)?;
    for session in &mut sessions {
        session.write_all(b"after")?;
    }
    daemon.wait_metric("landbridge_target_up", &[("target", &first)], 0.0)?;
    assert_eq!(daemon.metrics()?.value("landbridge_target_up", &[("target", &second)]), 1.0);
    assert_eq!(daemon.metrics()?.value(CONNECTS, &[]), 2.0, "nobody has connected again");
    daemon.stop_at_once().map(drop)
}

/// Three targets behind one device, and no probes: two failures are enough, the third target is not tried.
#[test]
fn most_targets_behind_a_device_speak_for_all_of_them() -> Result<()> {
    let net = Net::new(2)?;
    let targets: Vec<_> = [9000, 9001, 9002]
        .map(|port| Scripted::named(&net.targets[0], port, "a"))
        .into_iter()
        .collect::<Result<_>>()?;
    let cloud = Scripted::named(&net.targets[1], 9000, "b")?;
    let onprem =
        Group::new("onprem").with("eject_after = 1").with("eject_hold = \"500ms\"").with("failback_hold = \"0s\"");
    let onprem = onprem.tcp("connect_timeout = \"100ms\"").tcp(&format!("interface = {:?}", net.targets[0].name()));
    let onprem = targets.iter().fold(onprem, |group, target| group.target(target.address()));
    let aws = Group::new("aws").with("tier = 1").target(cloud.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([onprem, aws]))?;
    assert_eq!(daemon.serving(&net.client)?, 'a');
    let connects = |daemon: &Daemon| Ok::<_, anyhow::Error>(daemon.metrics()?.value(CONNECTS, &[("group", "onprem")]));
    let before = connects(&daemon)?;

    net.cut_target(0)?;
    assert_eq!(daemon.serving(&net.client)?, 'b');
    assert_eq!(connects(&daemon)?, before + 2.0);
    ensure!(daemon.process().stderr().contains("most targets failed together"));

    net.mend_target(0)?;
    landbridge_tests::eventually("the group is tried again", || {
        ensure!(daemon.serving(&net.client)? == 'a');
        Ok(())
    })?;
    daemon.stop_within(Duration::from_secs(10)).map(drop)
}
