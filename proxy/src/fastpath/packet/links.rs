//! What the kernel tells of devices and ways beside their names and addresses.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use nix::libc;

use crate::netlink::{Netlink, attribute, find, number};

/// linux/if_link.h: what kind of device a device is a part of.
const IFLA_INFO_SLAVE_KIND: u16 = 4;

/// The devices that are a part of another one, as those of a bond or a bridge: what arrives on them arrives on the other one
/// next, whose ingress it passes as well. Those of a VRF only have other routes.
pub(super) fn parts() -> io::Result<HashSet<u32>> {
    /// `struct ifinfomsg`
    const HEAD: usize = 16;
    let mut parts = HashSet::new();
    Netlink::open(libc::NETLINK_ROUTE)?.list(libc::RTM_GETLINK, &[0; HEAD], |link| {
        let Some((head, attributes)) = link.split_at_checked(HEAD) else { return };
        let kind = find(attributes, libc::IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_SLAVE_KIND));
        let has_master = number(attributes, libc::IFLA_MASTER).is_some_and(|master| master != 0);
        if has_master && kind.is_none_or(|kind| !kind.starts_with(b"vrf")) {
            parts.insert(u32::from_ne_bytes([head[4], head[5], head[6], head[7]]));
        }
    })?;
    Ok(parts)
}

/// The device by which packets from `local` leave for `peer`; `None`: there is no way.
pub(super) fn way(local: IpAddr, peer: IpAddr) -> io::Result<Option<u32>> {
    /// `struct rtmsg`
    const HEAD: usize = 12;
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (local, peer) = (bytes(local), bytes(peer));
    let bits = (8 * peer.len()) as u8;
    let mut question = vec![0; HEAD];
    let family = if bits == 32 { libc::AF_INET } else { libc::AF_INET6 };
    question[..3].copy_from_slice(&[family as u8, bits, bits]);
    question.extend(attribute(libc::RTA_DST, &peer));
    question.extend(attribute(libc::RTA_SRC, &local));
    let mut device = None;
    let asked = Netlink::open(libc::NETLINK_ROUTE)?.get(libc::RTM_GETROUTE, &question, |route| {
        device = route.get(HEAD..).and_then(|attributes| number(attributes, libc::RTA_OIF));
    });
    match asked {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(None),
        asked => asked.map(|()| device),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn loopback_is_the_way_to_this_host_and_no_part_of_anything() {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(way(localhost, localhost).unwrap(), Some(1));
        assert!(!parts().unwrap().contains(&1));
    }
}
