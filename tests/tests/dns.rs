//! Targets that have names: resolved, and resolved again.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::targets::{DnsServer, Scripted};
use landbridge_tests::{Config, Daemon, Ending, Group, Net, SocketExt, eventually};

const NAME: &str = "gpu.example";
const TRAFFIC: u16 = 9000;

/// Two hosts that serve, and a name that can mean either.
struct Scene {
    net: Net,
    _targets: [Scripted<()>; 2],
    dns: DnsServer,
}

impl Scene {
    fn start() -> Result<Self> {
        let net = Net::new(2)?;
        let targets =
            [Scripted::named(&net.targets[0], TRAFFIC, "a")?, Scripted::named(&net.targets[1], TRAFFIC, "b")?];
        let dns = DnsServer::start(&net.proxy)?;
        Ok(Self { net, _targets: targets, dns })
    }

    fn address(&self, target: usize) -> Result<Ipv4Addr> {
        match self.net.targets[target].v4(TRAFFIC).ip() {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(_) => anyhow::bail!("an IPv4 address"),
        }
    }

    fn config(&self, group: Group) -> Config {
        let config = Config::new([group.named_target(&format!("{NAME}:{TRAFFIC}"))]);
        let servers = format!("servers = [\"{}\"]", self.dns.address());
        config.dns(&servers).dns("min_ttl = \"50ms\"").runtime("drain_timeout = \"600ms\"")
    }

    fn wait_serving(&self, daemon: &Daemon, expected: char) -> Result<()> {
        eventually(&format!("{expected} serves"), || {
            let name = daemon.serving(&self.net.client)?;
            ensure!(name == expected, "{name} does");
            Ok(())
        })
    }
}

#[test]
fn a_name_that_moves_takes_new_sessions_along_and_drains_the_old() -> Result<()> {
    let scene = Scene::start()?;
    scene.dns.set(NAME, &[scene.address(0)?]);
    let mut daemon = Daemon::start(&scene.net.proxy, &scene.config(Group::new("onprem")))?;
    let (mut session, name) = daemon.session(&scene.net.client)?;
    assert_eq!(name, 'a');
    scene.dns.set(NAME, &[scene.address(1)?]);
    scene.wait_serving(&daemon, 'b')?;
    session.expect_ending(Ending::Reset)?;
    let label = format!("{NAME}:{TRAFFIC}");
    daemon.wait_metric("landbridge_target_up", &[("target", &label)], 1.0)?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn the_last_good_answer_is_kept() -> Result<()> {
    let scene = Scene::start()?;
    scene.dns.set(NAME, &[scene.address(0)?]);
    let mut daemon = Daemon::start(&scene.net.proxy, &scene.config(Group::new("onprem")))?;
    scene.dns.set_broken(true);
    let asked = scene.dns.asked();
    eventually("it was asked in vain", || {
        ensure!(scene.dns.asked() > asked + 6);
        Ok(())
    })?;
    let (mut session, name) = daemon.session(&scene.net.client)?;
    assert_eq!(name, 'a');
    let label = format!("{NAME}:{TRAFFIC}");
    ensure!(daemon.metrics()?.value("landbridge_dns_failures_total", &[("target", &label)]) >= 2.0);
    scene.dns.set_broken(false);
    scene.dns.set(NAME, &[scene.address(1)?]);
    scene.wait_serving(&daemon, 'b')?;
    session.expect_ending(Ending::Reset)?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_name_without_an_address_is_no_target_until_it_has_one() -> Result<()> {
    let scene = Scene::start()?;
    let mut daemon = Daemon::start(&scene.net.proxy, &scene.config(Group::new("onprem")))?;
    assert_eq!(daemon.get("/readyz")?.0, 503);
    ensure!(daemon.cli_good(&["status"])?.contains("gpu.example has no address"));
    ensure!(scene.net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    scene.dns.set(NAME, &[scene.address(1)?]);
    eventually("it is ready", || {
        ensure!(daemon.get("/readyz")?.0 == 200);
        Ok(())
    })?;
    assert_eq!(daemon.serving(&scene.net.client)?, 'b');
    daemon.stop_at_once().map(drop)
}

/// The answer would be good for an hour; that nobody can be connected is reason enough to ask again.
#[test]
fn a_failed_connect_has_the_name_looked_up_afresh() -> Result<()> {
    let scene = Scene::start()?;
    // Nobody listens at the first address.
    scene.dns.set(NAME, &[Ipv4Addr::new(10, 0, 1, 1)]);
    scene.dns.set_ttl(3_600);
    let config = scene.config(Group::new("onprem")).dns("max_ttl = \"24h\"");
    let mut daemon = Daemon::start(&scene.net.proxy, &config)?;
    // That nothing happens takes time to see: one look-up at the start, one when it begins to follow, and then none.
    std::thread::sleep(Duration::from_millis(300));
    let asked = scene.dns.asked();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scene.dns.asked(), asked, "an answer that is good is not asked for again");
    scene.dns.set(NAME, &[scene.address(0)?]);
    eventually("the new address serves", || {
        ensure!(daemon.serving(&scene.net.client)? == 'a');
        Ok(())
    })?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn a_reload_brings_new_names() -> Result<()> {
    let scene = Scene::start()?;
    scene.dns.set(NAME, &[scene.address(0)?]);
    scene.dns.set("other.example", &[scene.address(1)?]);
    let mut daemon = Daemon::start(&scene.net.proxy, &scene.config(Group::new("onprem")))?;
    let (mut session, name) = daemon.session(&scene.net.client)?;
    assert_eq!(name, 'a');
    let both = scene.config(Group::new("onprem").named_target(&format!("other.example:{TRAFFIC}")));
    // The reload waits for the answer.
    scene.dns.set_delay(Duration::from_millis(200));
    daemon.reload(&both)?;
    let mut names: Vec<_> = (0..2).map(|_| daemon.serving(&scene.net.client)).collect::<Result<_>>()?;
    names.sort_unstable();
    assert_eq!(names, ['a', 'b']);
    session.expect_quiet(Duration::from_millis(700))?;
    daemon.stop_at_once().map(drop)
}

/// One address is used at a time, and stays for as long as it serves; when it does not, the next one of the answer is.
#[test]
fn a_name_with_several_addresses_moves_on_when_one_is_dead() -> Result<()> {
    let scene = Scene::start()?;
    let dead = Ipv4Addr::new(10, 0, 1, 1);
    let (first, second) = (scene.address(0)?, scene.address(1)?);
    scene.dns.set(NAME, &[second, first]);
    let group = Group::new("onprem").with("eject_after = 1").with("max_ejected = 100");
    let mut daemon = Daemon::start(&scene.net.proxy, &scene.config(group))?;
    let name = daemon.serving(&scene.net.client)?;
    let chosen = [first, second][usize::from(name == 'b')];
    // The other order and another address change nothing.
    scene.dns.set(NAME, &[first, second, dead]);
    let asked = scene.dns.asked();
    eventually("it was asked again", || {
        ensure!(scene.dns.asked() > asked + 6);
        Ok(())
    })?;
    assert_eq!(daemon.serving(&scene.net.client)?, name);
    // Only the dead one is left, and then there is a living one again.
    scene.dns.set(NAME, &[dead]);
    eventually("nobody serves", || {
        ensure!(daemon.session(&scene.net.client).is_err());
        Ok(())
    })?;
    scene.dns.set(NAME, &[dead, chosen]);
    scene.wait_serving(&daemon, name)?;
    daemon.stop_at_once().map(drop)
}

/// What the operator says of a target stays said when its name moves; a reload that failed stays failed.
#[test]
fn orders_and_the_state_of_the_last_reload_outlast_another_address() -> Result<()> {
    let scene = Scene::start()?;
    scene.dns.set(NAME, &[scene.address(0)?]);
    let mut daemon = Daemon::start(&scene.net.proxy, &scene.config(Group::new("onprem")))?;
    daemon.cli_good(&["set", "weight", &format!("onprem/{NAME}:{TRAFFIC}"), "7"])?;
    daemon.reload_text("nonsense")?;
    daemon.wait_metric("landbridge_config_last_reload_success", &[], 0.0)?;
    scene.dns.set(NAME, &[scene.address(1)?]);
    scene.wait_serving(&daemon, 'b')?;
    let label = format!("{NAME}:{TRAFFIC}");
    daemon.wait_metric("landbridge_target_weight", &[("target", &label)], 7.0)?;
    daemon.wait_metric("landbridge_config_last_reload_success", &[], 0.0)?;
    daemon.stop_at_once().map(drop)
}

/// Without clients it is the probes that tell; the answer would be good for an hour.
#[test]
fn a_failed_probe_has_the_name_looked_up_afresh() -> Result<()> {
    let scene = Scene::start()?;
    scene.dns.set(NAME, &[Ipv4Addr::new(10, 0, 1, 1)]);
    scene.dns.set_ttl(3_600);
    let group = Group::new("onprem").health("kind = \"tcp\"").health("interval = \"100ms\"");
    let config = scene.config(group.health("fast_interval = \"50ms\"")).dns("max_ttl = \"24h\"");
    let mut daemon = Daemon::start(&scene.net.proxy, &config)?;
    assert_eq!(daemon.get("/readyz")?.0, 503);
    scene.dns.set(NAME, &[scene.address(0)?]);
    eventually("the new address is up", || {
        ensure!(daemon.get("/readyz")?.0 == 200);
        Ok(())
    })?;
    daemon.stop_at_once().map(drop)
}

#[test]
fn an_answer_lasts_no_longer_than_the_configuration_says() -> Result<()> {
    let scene = Scene::start()?;
    scene.dns.set(NAME, &[scene.address(0)?]);
    scene.dns.set_ttl(3_600);
    let config = scene.config(Group::new("onprem")).dns("max_ttl = \"100ms\"");
    let mut daemon = Daemon::start(&scene.net.proxy, &config)?;
    assert_eq!(daemon.serving(&scene.net.client)?, 'a');
    scene.dns.set(NAME, &[scene.address(1)?]);
    scene.wait_serving(&daemon, 'b')?;
    daemon.stop_at_once().map(drop)
}

/// The answers are good for no time, and every connect fails: it is asked again after the least time all the same.
#[test]
fn a_name_is_not_asked_for_more_often_than_the_configuration_says() -> Result<()> {
    let scene = Scene::start()?;
    scene.dns.set(NAME, &[Ipv4Addr::new(10, 0, 1, 1)]);
    let config = Config::new([Group::new("onprem").named_target(&format!("{NAME}:{TRAFFIC}"))]);
    let config = config.dns(&format!("servers = [\"{}\"]", scene.dns.address())).dns("min_ttl = \"1h\"");
    let mut daemon = Daemon::start(&scene.net.proxy, &config.dns("max_ttl = \"24h\""))?;
    // That nothing happens takes time to see: one look-up at the start, one when it begins to follow, and then none.
    std::thread::sleep(Duration::from_millis(300));
    let asked = scene.dns.asked();
    for _ in 0..3 {
        ensure!(scene.net.client.connect(daemon.v4())?.read_to_ending()?.0.is_empty());
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scene.dns.asked(), asked);
    daemon.stop_at_once().map(drop)
}
