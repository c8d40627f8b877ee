//! For each listener and target, whether sessions can be joined at packet level.

use std::io;

use super::check::Check;
use super::host::{Device, device_towards};
use crate::config::{Config, Group, Target};
use crate::fastpath::packet::{Way, prospect};
use crate::net::path;

/// One check for each pair. `devices`: those that the programs can be attached to.
pub(super) fn checks(config: &Config, devices: &[String]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (index, group) in config.groups.iter().enumerate() {
        for target in group.targets.iter().filter(|target| target.is_resolved()) {
            let way = way(group, target);
            for listener in config.listeners.iter().filter(|listener| listener.groups.contains(&index)) {
                let name = format!("{} to {}/{}", listener.name, group.name, target.name);
                checks.push(match prospect(listener, way.as_ref(), devices) {
                    Ok(detail) => Check::good(name, detail),
                    Err(why) => Check::bad(name, format!("not joined: {why}"), why.remedy()),
                });
            }
        }
    }
    checks
}

fn way(group: &Group, target: &Target) -> io::Result<Way> {
    let segment = path::segment_towards(target.address, &group.dial, &group.tcp)?;
    let device = device_towards(group, target);
    let is_local = matches!(device, Some(Device::Loopback));
    let device = match device {
        Some(Device::Of { name, .. }) => Some(name),
        _ => None,
    };
    Ok(Way { device, segment, is_local, is_ipv6: target.address.is_ipv6() })
}
