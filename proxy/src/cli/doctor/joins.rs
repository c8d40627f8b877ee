//! For each listener and target, whether sessions can be joined at packet level.

use std::io;
use std::os::fd::AsFd as _;

use futures_util::future::join_all;
use tokio::runtime::Builder;

use super::check::Check;
use super::host::{Device, device_towards};
use crate::config::{Config, Group, Target};
use crate::fastpath::packet::{Ground, Way, prospect};
use crate::net::dial::{Opening, dial};
use crate::net::path;
use crate::tcp::TcpInfo;

/// One check for each pair. Connects to each target once.
///
/// # Errors
/// There is no runtime to connect in.
pub(super) fn checks(config: &Config, ground: &Ground) -> io::Result<Vec<Check>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut checks = Vec::new();
    for (index, group) in config.groups.iter().enumerate() {
        let targets = || group.targets.iter().filter(|target| target.is_resolved());
        // All at once: those that are down take as long as one.
        let options = runtime.block_on(async { join_all(targets().map(|target| options(group, target))).await });
        for (target, options) in targets().zip(options) {
            let way = way(group, target, options);
            for listener in config.listeners.iter().filter(|listener| listener.groups.contains(&index)) {
                let name = format!("{} to {}/{}", listener.name, group.name, target.name);
                checks.push(match prospect(listener, way.as_ref(), ground) {
                    Ok(detail) => Check::good(name, detail),
                    Err(why) => Check::bad(name, format!("not joined: {why}"), why.remedy()),
                });
            }
        }
    }
    Ok(checks)
}

/// What a target agrees on, as bits of `tcpi_options`; `None` if it cannot be connected.
async fn options(group: &Group, target: &Target) -> Option<u8> {
    let stream = dial(target.address, &group.dial, &group.tcp, Opening::default()).await.ok()?;
    TcpInfo::of(stream.as_fd()).ok().map(|info| info.options)
}

fn way(group: &Group, target: &Target, options: Option<u8>) -> io::Result<Way> {
    let segment = path::segment_towards(target.address, &group.dial, &group.tcp)?;
    let device = device_towards(group, target);
    let is_local = matches!(device, Some(Device::Loopback));
    let device = match device {
        Some(Device::Of { name, .. }) => Some(name),
        _ => None,
    };
    Ok(Way { device, segment, is_local, is_ipv6: target.address.is_ipv6(), options })
}
