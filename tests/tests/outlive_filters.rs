//! Before Linux 6.6 an attachment is a filter of the device's clsact discipline. Joined sessions outlive the daemon there too.

use std::fs;

use anyhow::{Context, Result, ensure};
use landbridge_tests::talk::{Talk, joined_by};
use landbridge_tests::targets::Echo;
use landbridge_tests::{Config, Daemon, Ending, Net, ON_OLD_KERNEL, SocketExt as _, eventually};

const SESSIONS: usize = 20;
const ADOPTIONS: &str = "landbridge_datapath_adoptions_total";

fn joined(config: impl FnOnce(std::net::SocketAddr) -> Config) -> Result<(Net, Echo, Daemon, Talk)> {
    joined_by(&ON_OLD_KERNEL, SESSIONS, config)
}

/// The filters of both devices of the proxy.
fn filters(net: &Net) -> Result<Vec<String>> {
    Ok([net.proxy.filters("client")?, net.proxy.filters("target0")?].concat())
}

#[test]
fn nobody_notices_that_the_daemon_is_killed() -> Result<()> {
    let (net, _echo, mut daemon, talk) = joined(Config::single)?;
    let first = filters(&net)?;
    ensure!(first.len() == 2, "{first:?}");
    for kill in 1..=3 {
        daemon.kill()?;
        talk.goes_on().with_context(|| format!("after kill {kill}, without a daemon"))?;
        daemon.start_again()?;
        daemon.wait_metric(ADOPTIONS, &[], SESSIONS as f64)?;
        talk.goes_on().with_context(|| format!("after kill {kill}, with the next daemon"))?;
        // In the place of the former ones.
        let now = filters(&net)?;
        ensure!(now.len() == 2 && now != first, "{now:?} after {first:?}");
    }
    let (clients, _) = talk.end()?;
    let metrics = daemon.metrics()?;
    ensure!(metrics.value("landbridge_bytes_total", &[("datapath", "copy")]) == 0.0, "bytes went through user space");
    drop(clients);
    daemon.wait_ended(SESSIONS as u32, "client_closed")?;
    daemon.stop()?;
    ensure!(filters(&net)?.is_empty(), "a filter is left");
    Ok(())
}

#[test]
fn a_clean_stop_resets_what_is_left_and_takes_the_filters_off() -> Result<()> {
    let (net, _echo, mut daemon, talk) = joined(|address| Config::single(address).runtime("drain_timeout = \"0s\""))?;
    let (mut clients, _) = talk.end()?;
    let state = daemon.state()?;
    ensure!(fs::read_dir(&state)?.count() == 3, "the maps are pinned");
    daemon.stop()?;
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))?;
    ensure!(!state.exists() && filters(&net)?.is_empty(), "something is left");
    Ok(())
}

#[test]
fn detach_resets_what_a_dead_daemon_has_left() -> Result<()> {
    let (net, _echo, mut daemon, talk) = joined(Config::single)?;
    let state = daemon.state()?;
    let (mut clients, _) = talk.end()?;
    daemon.kill()?;
    let detached = daemon.cli_alone(&["detach"])?;
    ensure!(detached.code() == 0 && detached.stdout.contains("removed, 20 sessions reset"), "{detached:?}");
    ensure!(!state.exists() && filters(&net)?.is_empty(), "something is left");
    clients.iter_mut().try_for_each(|client| client.expect_ending(Ending::Reset))
}

/// What the device carries goes with it, and the next daemon anywhere removes what was pinned for it.
#[test]
fn state_of_a_network_that_is_gone_is_removed() -> Result<()> {
    let (net, echo, mut daemon, talk) = joined(Config::single)?;
    let state = daemon.state()?;
    drop(talk.end()?);
    daemon.kill()?;
    let starts = |net: &Net| Daemon::start(&net.proxy, &Config::single(echo.address()))?.stop().map(drop);
    let other = Net::new(1)?;
    starts(&other)?;
    ensure!(state.exists(), "its network is still there");
    drop((daemon, net));
    eventually("the state is removed", || {
        starts(&other)?;
        ensure!(!state.exists(), "it is still there");
        Ok(())
    })
}
