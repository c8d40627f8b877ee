//! The devices that the programs are attached to: every one that is up, but loopback and the parts of others.
//!
//! Devices come and go, as a VPN's does when it reconnects. The kernel tells that something changed; what there is now is then
//! read anew.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use aya::Ebpf;
use aya::programs::{Program, SchedClassifier};
use aya::util::KernelVersion;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::{InterfaceFlags, if_nameindex, if_nametoindex};
use tracing::{debug, info, warn};

use super::attach::{attach, detach};
use super::{PacketPath, links};
use crate::chain::chain;
use crate::doorbell::Doorbell;
use crate::fastpath::unavailable::LoadError;

/// The program for devices whose packets begin with a hardware address, and the one for those whose do not.
const ETHERNET: &str = "packet_ethernet";
const RAW: &str = "packet_raw";

/// Links and addresses of both families (linux/rtnetlink.h).
const GROUPS: u32 = (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;

/// Programs are told routes without a neighbour, which `bpf_redirect_neigh` finds (`BPF_FIB_LOOKUP_SKIP_NEIGH`).
const SINCE: KernelVersion = KernelVersion::new(6, 4, 0);

/// Hands both programs to the kernel.
pub(super) fn load(programs: &mut Ebpf) -> Result<(), LoadError> {
    for name in [ETHERNET, RAW] {
        let Some(program) = classifier(programs, name) else { return Err(LoadError::NoProgram { program: name }) };
        program.load().map_err(|source| LoadError::Program { program: name, source })?;
    }
    Ok(())
}

/// The kernel tells a program its routes only if the device that the packet is said to come from forwards. For packets of
/// this host that is loopback, where the setting has no other effect: what comes from there is never forwarded. Returns whether
/// programs are told routes now.
pub(super) fn let_routes_be_asked() -> bool {
    let mut can_be_asked = KernelVersion::current().is_ok_and(|version| version >= SINCE);
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/lo/forwarding");
        let set = match fs::read_to_string(&path) {
            Ok(value) if value.trim() == "1" => Ok(()),
            Ok(_) => fs::write(&path, "1"),
            Err(error) => Err(error),
        };
        if let Err(error) = set {
            // Then packets leave by the device that was found when the session was joined.
            can_be_asked = false;
            info!(path, "the packet datapath cannot follow the routes, for this cannot be set to 1: {error}");
        }
    }
    can_be_asked
}

fn classifier<'a>(programs: &'a mut Ebpf, name: &str) -> Option<&'a mut SchedClassifier> {
    match programs.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Some(program),
        _ => None,
    }
}

/// What there is now.
#[derive(Debug, Default)]
struct Present {
    /// Every device to attach to, by index, with its name and the program that fits.
    devices: HashMap<u32, (String, &'static str)>,
    /// The devices that are a part of another one, by index and name. A packet would be seen twice, and what its first look
    /// has changed would be taken for granted at the second.
    parts: Vec<(u32, String)>,
    /// The indexes of all devices, whether they can be attached to or not.
    all: HashSet<u32>,
    locals: HashMap<IpAddr, u32>,
}

impl PacketPath {
    /// Keeps the programs attached to the devices that there are, for ever. Cancelling it leaves them where they are.
    ///
    /// # Errors
    /// The kernel does not tell about changes.
    pub async fn follow_devices(self: Arc<Self>) -> io::Result<()> {
        let mut changes = Doorbell::new(GROUPS)?;
        loop {
            // First as well: something may have changed between the start and the doorbell.
            self.attach_devices();
            changes.rung().await?;
        }
    }

    /// Attaches to new devices. Those that are gone took their attachments with them.
    pub(super) fn attach_devices(&self) {
        if self.is_retired() {
            // They are the next process's.
            return;
        }
        let Present { devices, parts, all, locals } = match present() {
            Ok(present) => present,
            Err(error) => {
                warn!("cannot list the network devices: {error}");
                return;
            }
        };
        *self.locals.write().unwrap_or_else(PoisonError::into_inner) = locals;
        let mut attached = self.lock_attached();
        // A device that goes down keeps its program.
        attached.retain(|index, _| all.contains(index));
        let pins = self.lock_pins();
        if let Some(pins) = &*pins {
            pins.linked().into_iter().filter(|index| !all.contains(index)).for_each(|index| pins.forget_link(index));
        }
        for (index, name) in &parts {
            attached.remove(index);
            if let Some(pins) = &*pins {
                detach((*index, name), self.hook, pins);
            }
        }
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, (name, program)) in devices {
            let Entry::Vacant(entry) = attached.entry(index) else { continue };
            let Some(program) = classifier(&mut programs, program) else { continue };
            let link = attach(program, (index, &name), self.hook, pins.as_ref());
            match &link {
                Ok(_) => debug!(device = name, "the packet datapath is attached"),
                Err(error) => warn!(device = name, "the packet datapath cannot be attached: {}", chain(&**error)),
            }
            // It is not tried again and again.
            entry.insert(link.ok().flatten());
        }
    }
}

/// The names of the devices that the programs would be attached to, in order.
pub(super) fn names() -> io::Result<Vec<String>> {
    let mut names: Vec<String> = present()?.devices.into_values().map(|(name, _)| name).collect();
    names.sort();
    Ok(names)
}

fn present() -> io::Result<Present> {
    let mut present = Present::default();
    let mut usable = HashSet::new();
    let mut hardware = HashMap::new();
    for interface in getifaddrs()? {
        let name = interface.interface_name;
        let flags = interface.flags;
        if flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            usable.insert(name.clone());
        }
        let Some(address) = interface.address else { continue };
        let index = if_nametoindex(name.as_str()).unwrap_or(0);
        if let Some(v4) = address.as_sockaddr_in() {
            present.locals.insert(IpAddr::V4(v4.ip()), index);
        } else if let Some(v6) = address.as_sockaddr_in6() {
            present.locals.insert(IpAddr::V6(v6.ip()), index);
        } else if let Some(link) = address.as_link_addr() {
            hardware.insert(name, link.hatype());
        }
    }
    present.all = if_nameindex()?.iter().map(|interface| interface.index()).collect();
    let parts = links::parts()?;
    for name in usable {
        let program = match hardware.get(&name) {
            Some(&libc::ARPHRD_ETHER) => ETHERNET,
            // A device without a hardware address has no entry for it: TUN, WireGuard.
            None | Some(&(libc::ARPHRD_PPP | libc::ARPHRD_TUNNEL | libc::ARPHRD_TUNNEL6)) => RAW,
            Some(_other) => continue,
        };
        // It may have gone since.
        match if_nametoindex(name.as_str()) {
            Ok(index) if parts.contains(&index) => present.parts.push((index, name)),
            Ok(index) => drop(present.devices.insert(index, (name, program))),
            Err(_gone) => {}
        }
    }
    Ok(present)
}
