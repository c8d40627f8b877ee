//! Whether the devices that groups are bound to are there and up.
//!
//! One task ([`follow`]): the kernel tells over netlink that some link has changed, and then they are all looked at.
//! Cancelling it leaves what was known last.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::shared::Shared;

/// RTMGRP_LINK (linux/rtnetlink.h): devices that come, go, or change their state.
const LINKS: u32 = 1;

/// What a message says does not matter, so it may be cut.
const BUFFER: usize = 4096;

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
    let bell = doorbell()?;
    // SAFETY: the descriptor is owned by what is registered, and stays open until that is dropped.
    let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
    // Something may have changed before the kernel was asked to tell.
    look(shared)?;
    let mut buffer = [0; BUFFER];
    loop {
        let mut ready = bell.readable().await?;
        loop {
            match recv(bell.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // Also when more happened than the socket could hold: everything is looked at anyway.
                Ok(_) | Err(Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        look(shared)?;
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

fn doorbell() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let bell = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(bell.as_raw_fd(), &NetlinkAddr::new(0, LINKS))?;
    Ok(bell)
}
