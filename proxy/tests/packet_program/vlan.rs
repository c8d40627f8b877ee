//! Packets with a VLAN tag are not the device's: they are seen again, without it, where their VLAN's device receives.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use landbridge_common::packet::{CLIENT, PacketCounter, TARGET};
use landbridge_tests::{Host, Net, eventually};
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::middle::INDEX;
use crate::programs::Programs;
use crate::rig::{Ends, Link};

#[test]
fn tagged_packets_are_not_touched() -> Result<()> {
    let Some(mut programs) = Programs::load() else { return Ok(()) };
    let net = Net::new(1)?;
    let ends = Ends::new(false, false, Link::Ethernet);
    let joint = ends.joint();
    programs.joints.set(INDEX, &joint);
    for side in [CLIENT, TARGET] {
        programs.insert(ends.tuple(side), INDEX << 1 | side as u32);
    }
    net.proxy.enter(|| {
        programs.attach("packet_ethernet", "client");
        std::fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "1")
    })?;

    let packet = ends.packet(CLIENT, &joint).bytes();
    let addresses = [hardware_address(&net.proxy, "client")?, hardware_address(&net.client, "eth0")?].concat();
    let tagged = [&addresses, &[0x81, 0, 0, 5, 8, 0][..], &packet].concat();
    let plain = [&addresses, &[8, 0][..], &packet].concat();
    // In this order they also arrive.
    send(&net.client, &[&tagged, &tagged, &plain])?;
    eventually("the packet without a tag is sent on", || {
        ensure!(programs.counter(PacketCounter::Forwarded) == 1, "{:?}", programs.counted());
        Ok(())
    })?;
    assert_eq!(programs.counted(), [(PacketCounter::Forwarded, 1)]);
    assert_eq!(programs.joints.get(INDEX).legs[CLIENT].packets, 1);
    Ok(())
}

fn hardware_address(host: &Host, device: &str) -> Result<[u8; 6]> {
    let found = host.enter(|| -> nix::Result<_> {
        let mut all = getifaddrs()?.filter(|found| found.interface_name == device);
        Ok(all.find_map(|found| found.address?.as_link_addr()?.addr()))
    })?;
    found.with_context(|| format!("{device} of {} has no hardware address", host.name()))
}

/// Sends frames out of the host's device as they are.
fn send(host: &Host, frames: &[&Vec<u8>]) -> Result<()> {
    host.enter(|| {
        let all = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
        // SAFETY: all zeros is a valid value of this C structure.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = nix::net::if_::if_nametoindex("eth0")? as i32;
        for frame in frames {
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the frame and the address are valid for their lengths.
            let sent = unsafe {
                libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), len)
            };
            ensure!(nix::errno::Errno::result(sent)? == frame.len() as isize, "a part of a frame was sent");
        }
        Ok(())
    })
}
