//! Whether there are IPsec policies: joined packets are not held against them and would leave in clear text.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::libc;
use tracing::{info, warn};

use super::PacketPath;
use crate::doorbell::Doorbell;
use crate::netlink::{Netlink, find};

/// linux/xfrm.h: the request, the attribute of its answer, and the group that is told when policies change.
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;
const XFRMNLGRP_POLICY: u32 = 4;

impl PacketPath {
    /// Keeps knowing whether there are policies, for ever. Cancelling it leaves what was known last.
    ///
    /// # Errors
    /// The kernel does not tell about changes.
    pub async fn follow_policies(self: Arc<Self>) -> io::Result<()> {
        let mut changes = match Doorbell::of(libc::NETLINK_XFRM, 1 << (XFRMNLGRP_POLICY - 1)) {
            Err(error) if is_without_ipsec(&error) => return Ok(()),
            changes => changes?,
        };
        loop {
            // First as well: something may have changed between the start and the doorbell.
            self.look_at_policies();
            changes.rung().await?;
        }
    }

    /// Whether there are policies: then no session may be joined. Where that cannot be told, there may be some.
    pub fn has_policies(&self) -> bool {
        self.has_policies.load(Relaxed)
    }

    /// Looks whether there are policies.
    pub(super) fn look_at_policies(&self) {
        let found = exist();
        let had = self.has_policies.swap(*found.as_ref().unwrap_or(&true), Relaxed);
        match found {
            Ok(true) if !had => {
                warn!(
                    "there are IPsec policies: no session is joined, and what is joined already goes on without them"
                );
            }
            Ok(false) if had => info!("there are no IPsec policies any more: sessions are joined"),
            Err(error) if !had => {
                warn!("no session is joined, for it is not known whether there are IPsec policies: {error}");
            }
            _ => return,
        }
        // Those that are armed have to be told.
        self.wake_all();
    }
}

/// Whether packets that leave may have to be held against a policy.
///
/// # Errors
/// The kernel does not say.
pub(super) fn exist() -> io::Result<bool> {
    let netlink = match Netlink::open(libc::NETLINK_XFRM) {
        Err(error) if is_without_ipsec(&error) => return Ok(false),
        netlink => netlink?,
    };
    let mut outgoing = 0;
    // An answer begins with 32 bits of flags. `struct xfrmu_spdinfo`: the numbers of policies for what comes in, goes out, …
    netlink.get(XFRM_MSG_GETSPDINFO, &0_u32.to_ne_bytes(), |answer| {
        let info = answer.get(4..).and_then(|attributes| find(attributes, XFRMA_SPD_INFO));
        let count = info.and_then(|info| info.get(4..)?.first_chunk());
        outgoing = count.map_or(0, |count| u32::from_ne_bytes(*count));
    })?;
    Ok(outgoing > 0)
}

/// Whether the kernel has no IPsec at all.
fn is_without_ipsec(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32)
}
