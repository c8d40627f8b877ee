//! Each family on each leg.

use anyhow::{Context, Result};
use landbridge_tests::targets::{Echo, ProxyHeader, Scripted};
use landbridge_tests::{Config, Daemon, Group, Net, SocketExt};

#[test]
fn every_pair_of_families_is_joined() -> Result<()> {
    let net = Net::new(1)?;
    let _echo = Echo::start(&net.targets[0], 9000)?;
    for target in [net.targets[0].v4(9000), net.targets[0].v6(9000)] {
        let mut daemon = Daemon::start(&net.proxy, &Config::single(target).bind("[::]:8000"))?;
        for listener in [daemon.v4(), daemon.v6()] {
            let mut client = net.client.connect(listener)?;
            client.expect_echo(b"across").with_context(|| format!("{listener} to {target}"))?;
        }
        daemon.wait_ended(2, "client_closed")?;
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_header_tells_the_client_as_it_came() -> Result<()> {
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, ProxyHeader::read)?;
    for version in [1, 2] {
        let group = Group::new("onprem").target(target.address()).with(&format!("send_proxy = \"v{version}\""));
        let mut daemon = Daemon::start(&net.proxy, &Config::new([group]).bind("[::]:8000"))?;
        for listener in [daemon.v4(), daemon.v6()] {
            let client = net.client.connect(listener)?;
            let expected = ProxyHeader { version, source: client.local_addr()?, destination: listener };
            assert_eq!(target.outcome()?, expected);
        }
        daemon.stop()?;
    }
    Ok(())
}
