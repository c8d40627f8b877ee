//! The link between the proxy and another host: a pair of Ethernet devices, or two TUN devices with bad weather between.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;

use crate::weather::{Storm, Weather};
use crate::{Host, eventually};

/// The device of a host that is not the proxy.
pub(crate) const FAR_DEVICE: &str = "eth0";

/// The usual largest packet of Ethernet, in bytes.
const ETHERNET: u32 = 1500;

/// A host that has just been made listens nowhere.
const CLOSED_PORT: u16 = 9;

/// How long a host that is reached takes to refuse, with much to spare.
const ANSWER: Duration = Duration::from_millis(100);

/// What the devices of an Ethernet link do for TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// Packets of up to 64 KiB cross the link unsegmented (TSO), as the kernel sets it up.
    Send,
    /// Segments cross the link, and are put together where they arrive (GRO).
    Receive,
    /// Segments cross the link, and arrive one by one.
    Neither,
}

/// What a link is like.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// What its devices do. Of no meaning with a weather: TUN devices have no offloads.
    pub offloads: Offloads,
    /// What happens to packets on the way.
    pub weather: Option<Weather>,
    /// How long every packet takes.
    pub delay: Duration,
}

impl Default for Link {
    fn default() -> Self {
        Self { mtu: ETHERNET, offloads: Offloads::Send, weather: None, delay: Duration::ZERO }
    }
}

/// Where a link is in the address plan: number 0 leads to the client, the others to the targets.
pub(crate) type Number = u8;

impl Link {
    /// Links `host` to the proxy; the proxy's device has the name of the host. The storm has to be kept.
    pub(crate) fn join(&self, proxy: &Host, host: &Host, number: Number) -> Result<Option<Storm>> {
        let device = host.name();
        let ends =
            [(proxy, device, near_v4(number), near_v6(number)), (host, FAR_DEVICE, far_v4(number), far_v6(number))];
        let weather = self.weather.or((!self.delay.is_zero()).then_some(Weather::FAIR));
        let storm = match weather {
            None => {
                let namespace = host.namespace_path();
                proxy.ip(&format!("link add {device} type veth peer name {FAR_DEVICE} netns {namespace}"))?;
                None
            }
            Some(weather) => {
                let open = |(end, device): (&Host, &str)| {
                    let tun = end.enter(|| tun(device));
                    tun.with_context(|| format!("cannot make the TUN device {device} on {}", end.name()))
                };
                Some(weather.between(self.delay, [open((proxy, device))?, open((host, FAR_DEVICE))?])?)
            }
        };
        for (end, device, v4, v6) in ends {
            end.ip(&format!("link set {device} mtu {} up", self.mtu))?;
            if weather.is_none() {
                self.offloads.apply(end, device)?;
            }
            end.ip(&format!("addr add {v4}/24 dev {device}"))?;
            // Duplicate address detection would keep the address unusable for a second.
            end.ip(&format!("addr add {v6}/64 dev {device} nodad"))?;
        }
        // A link that has just come up may still drop packets, and a lost SYN costs a second.
        for address in [host.v4(CLOSED_PORT), host.v6(CLOSED_PORT)] {
            eventually(&format!("the proxy reaches {address}"), || {
                let patience = ANSWER + self.delay * 2;
                let answer = proxy.enter(|| TcpStream::connect_timeout(&address, patience));
                let kind = answer.map_err(|error| error.kind());
                ensure!(matches!(kind, Err(ErrorKind::ConnectionRefused)), "{kind:?}");
                Ok(())
            })?;
        }
        Ok(storm)
    }
}

impl Offloads {
    fn apply(self, end: &Host, device: &str) -> Result<()> {
        let [send, receive] = match self {
            Self::Send => return Ok(()),
            Self::Receive => ["off", "on"],
            Self::Neither => ["off", "off"],
        };
        let mut ethtool = end.command("ethtool");
        ethtool.args(["--offload", device, "tso", send, "gso", send, "gro", receive]);
        let output = ethtool.output().context("cannot run `ethtool`; cargo xtask setup --tests installs it")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ethtool on {device} of {}: {}", end.name(), complaint.trim());
        Ok(())
    }
}

/// A new TUN device of this thread's network namespace: a packet at each read and write, none of them waits. It goes
/// when it is closed.
fn tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid value of this C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is a valid `ifreq`, which this call reads and writes.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn near_v4(number: Number) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, number, 1)
}

pub(crate) fn far_v4(number: Number) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, number, 2)
}

pub(crate) fn near_v6(number: Number) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, number.into(), 0, 0, 0, 1)
}

pub(crate) fn far_v6(number: Number) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, number.into(), 0, 0, 0, 2)
}
