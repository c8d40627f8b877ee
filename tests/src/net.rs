//! The network of a test: a client, the proxy, and target hosts, each joined to the proxy by a link of its own.
//!
//! Every test has the same addresses because no test sees another's hosts. Nothing is routed between the links, so
//! what arrives at a target can only have come through the proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use crate::link::{FAR_DEVICE, far_v4, far_v6, near_v4, near_v6};
use crate::weather::Storm;
use crate::{Damage, Host, Link};

/// Nobody has this hardware address: what is sent to it is lost without an answer.
const NOBODY: &str = "02:00:00:00:00:99";

/// A client, a proxy and targets.
#[derive(Debug)]
pub struct Net {
    /// Where clients run.
    pub client: Host,
    /// Where the daemon runs. Its addresses are the ones that the client sees.
    pub proxy: Host,
    /// Where targets run.
    pub targets: Vec<Host>,
    storms: Vec<Storm>,
}

impl Net {
    /// A network with this many target hosts.
    pub fn new(targets: u8) -> Result<Self> {
        Self::with_links(Link::default(), &vec![Link::default(); targets.into()])
    }

    /// A network with a link to the client, and one to each of the target hosts.
    pub fn with_links(client: Link, targets: &[Link]) -> Result<Self> {
        let mut net = Self {
            client: Host::new("client", far_v4(0).into(), far_v6(0).into())?,
            proxy: Host::new("proxy", near_v4(0).into(), near_v6(0).into())?,
            targets: (1..)
                .zip(targets)
                .map(|(number, _)| {
                    Host::new(&format!("target{}", number - 1), far_v4(number).into(), far_v6(number).into())
                })
                .collect::<Result<_>>()?,
            storms: Vec::new(),
        };
        let hosts = std::iter::once(&net.client).chain(&net.targets);
        for ((number, host), link) in (0..).zip(hosts).zip(std::iter::once(&client).chain(targets)) {
            net.storms.extend(link.join(&net.proxy, host, number)?);
        }
        Ok(net)
    }

    /// What the weather has done on each of the links that have one, the client's first.
    pub fn damage(&self) -> Vec<Damage> {
        self.storms.iter().map(Storm::damage).collect()
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

    /// Puts target host `far` behind target host `near`, which becomes a router. It keeps its addresses; the router's device to
    /// it has its name.
    pub fn put_behind(&self, near: u8, far: u8) -> Result<()> {
        let [router, host] = [near, far].map(|index| &self.targets[usize::from(index)]);
        let [near, far] = [near + 1, far + 1];
        self.proxy.ip(&format!("link del {}", host.name()))?;
        Link::default().join(router, host, far)?;
        for family in ["ipv4", "ipv6"] {
            router.set_sysctl(&format!("{family}/conf/all/forwarding"), "1")?;
        }
        self.proxy.ip(&format!("route add {} via {}", far_v4(far), far_v4(near)))?;
        self.proxy.ip(&format!("route add {} via {}", far_v6(far), far_v6(near)))?;
        for gateway in [IpAddr::from(near_v4(far)), near_v6(far).into()] {
            host.ip(&format!("route add default via {gateway}"))?;
        }
        Ok(())
    }

    /// Adds another Ethernet link to target host `index`, whose devices have this name at both ends, no address, and no route.
    pub fn second_link(&self, index: u8, device: &str) -> Result<()> {
        let host = &self.targets[usize::from(index)];
        let namespace = host.namespace_path();
        self.proxy.ip(&format!("link add {device} type veth peer name {device} netns {namespace}"))?;
        [&self.proxy, host].into_iter().try_for_each(|end| end.ip(&format!("link set {device} up")))
    }

    /// From now on nothing passes between the proxy and target host `index`, as if that had lost power.
    pub fn cut_target(&self, index: u8) -> Result<()> {
        self.cut(&self.targets[usize::from(index)], index + 1)
    }

    /// Target host `index` is reached again.
    pub fn mend_target(&self, index: u8) -> Result<()> {
        self.neighbours(&self.targets[usize::from(index)], index + 1, "del", "")
    }

    /// From now on nothing passes between the proxy and the client.
    pub fn cut_client(&self) -> Result<()> {
        self.cut(&self.client, 0)
    }

    /// Both ends of a link go on sending, to a device that does not exist.
    fn cut(&self, host: &Host, number: u8) -> Result<()> {
        self.neighbours(host, number, "replace", &format!("lladdr {NOBODY} nud permanent"))
    }

    /// Changes what both ends of a link know of each other's hardware.
    fn neighbours(&self, host: &Host, number: u8, change: &str, to: &str) -> Result<()> {
        let near: [IpAddr; 2] = [near_v4(number).into(), near_v6(number).into()];
        for (from, device, addresses) in
            [(&self.proxy, host.name(), [host.v4(0).ip(), host.v6(0).ip()]), (host, FAR_DEVICE, near)]
        {
            for address in addresses {
                from.ip(&format!("neigh {change} {address} dev {device} {to}"))?;
            }
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
