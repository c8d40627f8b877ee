//! The network of a test: a client, the proxy, and target hosts, each joined to the proxy by a link of its own.
//!
//! Every test has the same addresses because no test sees another's hosts. Nothing is routed between the links, so
//! what arrives at a target can only have come through the proxy.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{Host, eventually};

/// Nobody has this hardware address: what is sent to it is lost without an answer.
const NOBODY: &str = "02:00:00:00:00:99";

/// A host that has just been made listens nowhere.
const CLOSED_PORT: u16 = 9;

/// How long a host that is reached takes to refuse, with much to spare.
const ANSWER: Duration = Duration::from_millis(100);

/// A client, a proxy and targets.
#[derive(Debug)]
pub struct Net {
    /// Where clients run.
    pub client: Host,
    /// Where the daemon runs. Its addresses are the ones that the client sees.
    pub proxy: Host,
    /// Where targets run.
    pub targets: Vec<Host>,
}

impl Net {
    /// A network with this many target hosts.
    pub fn new(targets: u8) -> Result<Self> {
        let net = Self {
            client: Host::new("client", far_v4(0).into(), far_v6(0).into())?,
            proxy: Host::new("proxy", near_v4(0).into(), near_v6(0).into())?,
            targets: (1..=targets)
                .map(|link| Host::new(&format!("target{}", link - 1), far_v4(link).into(), far_v6(link).into()))
                .collect::<Result<_>>()?,
        };
        for (link, host) in (0u8..).zip(std::iter::once(&net.client).chain(&net.targets)) {
            join(&net.proxy, host, link)?;
        }
        Ok(net)
    }

    /// The address of the proxy on its link to target host `index`, which that host sees sessions come from.
    pub fn proxy_towards(&self, index: u8) -> Ipv4Addr {
        near_v4(index + 1)
    }

    /// An address behind the link to target host `index` that never answers: neither accepts nor refuses.
    pub fn blackhole(&self, index: u8, port: u16) -> Result<SocketAddr> {
        let address = Ipv4Addr::new(10, 0, index + 1, 99);
        let device = &self.targets[usize::from(index)].name();
        self.proxy.ip(&format!("neigh replace {address} lladdr {NOBODY} dev {device} nud permanent"))?;
        Ok((address, port).into())
    }

    /// From now on nothing from the proxy reaches target host `index`, as if it had lost power.
    pub fn cut_target(&self, index: u8) -> Result<()> {
        let host = &self.targets[usize::from(index)];
        for address in [host.v4(0).ip(), host.v6(0).ip()] {
            self.proxy.ip(&format!("neigh replace {address} lladdr {NOBODY} dev {} nud permanent", host.name()))?;
        }
        Ok(())
    }

    /// From now on nothing from the proxy reaches the client.
    pub fn cut_client(&self) -> Result<()> {
        for address in [self.client.v4(0).ip(), self.client.v6(0).ip()] {
            self.proxy.ip(&format!("neigh replace {address} lladdr {NOBODY} dev client nud permanent"))?;
        }
        Ok(())
    }

    /// An address that the proxy has no way to.
    pub fn unreachable(&self, port: u16) -> Result<SocketAddr> {
        let address = Ipv4Addr::new(10, 0, 0xff, 1);
        self.proxy.ip(&format!("route replace unreachable {address}"))?;
        Ok((address, port).into())
    }
}

/// Links `host` to the proxy; the proxy's device has the name of the host.
fn join(proxy: &Host, host: &Host, link: u8) -> Result<()> {
    let device = host.name();
    let namespace = host.namespace_path();
    proxy.ip(&format!("link add {device} type veth peer name eth0 netns {namespace}"))?;
    for (end, device, v4, v6) in
        [(proxy, device, near_v4(link), near_v6(link)), (host, "eth0", far_v4(link), far_v6(link))]
    {
        end.ip(&format!("link set {device} up"))?;
        end.ip(&format!("addr add {v4}/24 dev {device}"))?;
        // Duplicate address detection would keep the address unusable for a second.
        end.ip(&format!("addr add {v6}/64 dev {device} nodad"))?;
    }
    // A link that has just come up may still drop packets, and a lost SYN costs a second.
    for address in [host.v4(CLOSED_PORT), host.v6(CLOSED_PORT)] {
        eventually(&format!("the proxy reaches {address}"), || {
            let answer = proxy.enter(|| TcpStream::connect_timeout(&address, ANSWER));
            let kind = answer.map_err(|error| error.kind());
            ensure!(matches!(kind, Err(ErrorKind::ConnectionRefused)), "{kind:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn near_v4(link: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, link, 1)
}

fn far_v4(link: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, link, 2)
}

fn near_v6(link: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, link.into(), 0, 0, 0, 1)
}

fn far_v6(link: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, link.into(), 0, 0, 0, 2)
}
