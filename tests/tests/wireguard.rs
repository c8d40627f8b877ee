//! On-premises targets behind a real WireGuard tunnel: failover when it is cut, and joined sessions through it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use landbridge_tests::crowd::{Crowd, Habits};
use landbridge_tests::targets::Scripted;
use landbridge_tests::wireguard::Tunnel;
use landbridge_tests::{Config, Daemon, Ending, Group, Net, SocketExt, eventually};

const TRAFFIC: u16 = 9000;

fn tunnel(net: &Net) -> Result<Tunnel> {
    let near = net.proxy_towards(0).into();
    Tunnel::lay((&net.proxy, near), (&net.targets[0], net.targets[0].v4(0).ip()))
}

#[test]
fn the_cloud_takes_over_while_the_tunnel_is_cut_and_gives_back_after_the_hold() -> Result<()> {
    const HOLD: Duration = Duration::from_secs(2);
    let net = Net::new(2)?;
    let tunnel = tunnel(&net)?;
    let _onprem = Scripted::named(&net.targets[0], TRAFFIC, "a")?;
    let cloud = Scripted::named(&net.targets[1], TRAFFIC, "b")?;
    let onprem = Group::new("onprem").with(&format!("failback_hold = \"{}s\"", HOLD.as_secs()));
    let onprem = onprem.health("kind = \"tcp\"").health("interval = \"200ms\"").health("fast_interval = \"50ms\"");
    let onprem = onprem.health("timeout = \"200ms\"").tcp(&format!("interface = {:?}", tunnel.device()));
    let onprem = onprem.target(tunnel.far(TRAFFIC));
    let aws = Group::new("aws").with("tier = 1").target(cloud.address());
    let mut daemon = Daemon::start(&net.proxy, &Config::new([onprem, aws]))?;
    assert_eq!(daemon.serving(&net.client)?, 'a');
    let mut session = net.client.connect(daemon.v4())?;
    session.expect(b"a")?;

    net.cut_target(0)?;
    daemon.wait_metric("landbridge_target_up", &[("group", "onprem")], 0.0)?;
    assert_eq!(daemon.serving(&net.client)?, 'b');
    session.expect_ending(Ending::Reset)?;
    assert_eq!(daemon.metrics()?.value("landbridge_group_share", &[("group", "onprem")]), 0.0);

    net.mend_target(0)?;
    daemon.wait_metric("landbridge_target_up", &[("group", "onprem")], 1.0)?;
    let back = Instant::now();
    assert_eq!(daemon.serving(&net.client)?, 'b', "it is held");
    eventually("it is given back", || {
        ensure!(daemon.serving(&net.client)? == 'a');
        Ok(())
    })?;
    // The metric was seen a moment after the target came back.
    ensure!(back.elapsed() > HOLD - Duration::from_millis(500), "after {:?}", back.elapsed());
    daemon.stop_at_once().map(drop)
}

#[test]
fn sessions_through_the_tunnel_are_joined_and_every_byte_is_right() -> Result<()> {
    const SESSIONS: u64 = 100;
    let net = Net::new(1)?;
    let tunnel = tunnel(&net)?;
    let crowd = Crowd::new(&net.targets[0], TRAFFIC, Habits { seed: 7, small_buffers: false }, SESSIONS)?;
    // All begin at once, and the tunnel loses what its socket cannot hold: a lost SYN is repeated after a second.
    let group = Group::new("onprem").target(tunnel.far(TRAFFIC)).tcp("connect_timeout = \"30s\"");
    let mut daemon = Daemon::start(&net.proxy, &Config::new([group]))?;
    crowd.run(&net.client, &[daemon.v4()])?;
    let metrics = daemon.metrics()?;
    let joins = metrics.value("landbridge_datapath_joins_total", &[]);
    ensure!(joins > SESSIONS as f64 / 10.0, "{joins} joins\n{}", metrics.lines("landbridge_datapath_fallbacks_total"));
    let kernel = metrics.value("landbridge_bytes_total", &[("datapath", "packet")]);
    ensure!(kernel > 0.0, "{}", metrics.lines("landbridge_bytes_total"));
    daemon.stop_at_once().map(drop)
}
