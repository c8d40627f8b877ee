//! Whether the devices that groups are bound to are there and up.
//!
//! One task ([`follow`]): the kernel tells over netlink that some link has changed, and then they are all looked at.
//! Cancelling it leaves what was known last.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use tracing::warn;

use crate::doorbell::Doorbell;
use crate::shared::Shared;

/// RTMGRP_LINK (linux/rtnetlink.h): devices that come, go, or change their state.
const LINKS: u32 = 1;

/// Tells `shared` about the devices of its groups, now and whenever they change.
pub(crate) async fn follow(shared: Arc<Shared>) {
    if shared.config.groups.iter().all(|group| group.tcp.interface.is_none()) {
        return;
    }
    if let Err(error) = listen(&shared).await {
        warn!("devices are no longer watched; probes and connects still tell: {error}");
    }
}

async fn listen(shared: &Shared) -> io::Result<()> {
    let mut bell = Doorbell::new(LINKS)?;
    loop {
        // First as well: something may have changed before the kernel was asked to tell.
        look(shared)?;
        bell.rung().await?;
    }
}

/// Tells which groups have their device.
fn look(shared: &Shared) -> io::Result<()> {
    let mut usable = BTreeMap::new();
    for interface in getifaddrs()? {
        let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        usable.insert(interface.interface_name, interface.flags.contains(wanted));
    }
    for (index, group) in shared.config.groups.iter().enumerate() {
        if let Some(name) = &group.tcp.interface {
            shared.link_changed(index, usable.get(name).copied().unwrap_or(false));
        }
    }
    Ok(())
}
