//! The kernel's word, over netlink, that links, addresses or routes have changed. What has changed is looked up by whoever
//! hears it, which is simpler than to follow what the messages say, and misses nothing.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Duration, Instant, sleep_until};

use crate::netlink::socket;

/// From one ring to the next: whoever hears it looks at everything, and a routing daemon changes thousands of routes in a row.
const PAUSE: Duration = Duration::from_millis(100);

/// Rings when something has changed: at once, and again after a pause if that was not all.
pub(crate) struct Doorbell {
    netlink: AsyncFd<OwnedFd>,
    not_before: Instant,
}

impl Doorbell {
    /// Rings for the groups `RTMGRP_*` (linux/rtnetlink.h) from now on. Needs a tokio runtime with I/O.
    pub(crate) fn new(groups: u32) -> io::Result<Self> {
        Self::of(libc::NETLINK_ROUTE, groups)
    }

    /// The same for groups of another part of the kernel, `NETLINK_*`.
    pub(crate) fn of(part: libc::c_int, groups: u32) -> io::Result<Self> {
        let bell = socket(part, groups)?;
        // SAFETY: the descriptor is owned by what is registered, and stays open until that is dropped.
        let netlink = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
        Ok(Self { netlink, not_before: Instant::now() })
    }

    /// Waits until it has rung since the last time. Cancelling loses nothing.
    pub(crate) async fn rung(&mut self) -> io::Result<()> {
        sleep_until(self.not_before).await;
        let mut ready = self.netlink.readable().await?;
        self.not_before = Instant::now() + PAUSE;
        loop {
            match recv(self.netlink.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                // The rest of a message is cut. ENOBUFS: more happened than the socket could hold.
                Ok(_) | Err(Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
