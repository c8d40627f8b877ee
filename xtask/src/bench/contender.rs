//! What is compared: landbridge with its datapaths, its peers, and no proxy at all.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::burden::Burden;
use super::host::{Net, PROXY, SPARE, TARGET};
use super::lab::Lab;
use super::peer_config;
use super::process;
use crate::child::Child;

/// Worker threads or processes of every proxy.
pub(crate) const WORKERS: usize = 2;
/// Connections that wait to be accepted, of every proxy.
pub(crate) const BACKLOG: usize = 4096;

/// How long a contender may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// One way to get from the client to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// landbridge with `datapath = "auto"`, the default.
    Landbridge,
    /// landbridge with `datapath = "packet"`.
    LandbridgePacket,
    /// landbridge with `datapath = "sockmap"`.
    LandbridgeSockmap,
    /// landbridge with `datapath = "copy"`.
    LandbridgeCopy,
    /// landbridge with `datapath = "splice"`.
    LandbridgeSplice,
    /// As the default, with 5,000 sessions more and a scrape of its metrics each second: what being looked at costs.
    LandbridgeScraped,
    /// HAProxy with `option splice-auto`.
    Haproxy,
    /// HAProxy without splice.
    HaproxyNoSplice,
    /// nginx with its stream module.
    Nginx,
    /// Envoy with its TCP proxy filter.
    Envoy,
    /// Plain IP forwarding: the floor.
    Forward,
}

impl Contender {
    /// What it is called in tables, and its `--against` name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Landbridge => "landbridge",
            Self::LandbridgePacket => "landbridge-packet",
            Self::LandbridgeSockmap => "landbridge-sockmap",
            Self::LandbridgeCopy => "landbridge-copy",
            Self::LandbridgeSplice => "landbridge-splice",
            Self::LandbridgeScraped => "landbridge-scraped",
            Self::Haproxy => "haproxy",
            Self::HaproxyNoSplice => "haproxy-no-splice",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Forward => "forward",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What the targets offer, each behind a listener of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// nginx with small files.
    Http,
    /// The server of iperf3.
    Bulk,
    /// Token streams.
    Streams,
    /// A sender that never stops.
    Flood,
    /// Two targets, of which the second takes over from the first.
    Pair,
}

impl Service {
    const ALL: [Self; 5] = [Self::Http, Self::Bulk, Self::Streams, Self::Flood, Self::Pair];

    /// Its port at the targets.
    pub(crate) fn port(self) -> u16 {
        8000 + self.index()
    }

    /// Where it is offered, in order of preference.
    pub(crate) fn targets(self) -> Vec<SocketAddr> {
        let hosts: &[Ipv4Addr] = if self == Self::Pair { &[TARGET, SPARE] } else { &[TARGET] };
        hosts.iter().map(|host| (*host, self.port()).into()).collect()
    }

    fn index(self) -> u16 {
        match self {
            Self::Http => 0,
            Self::Bulk => 1,
            Self::Streams => 2,
            Self::Flood => 3,
            Self::Pair => 4,
        }
    }
}

/// One listener of a proxy and what is behind it.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) listen: SocketAddr,
    /// In order of preference.
    pub(crate) targets: Vec<SocketAddr>,
}

/// A contender that can be used.
pub(crate) struct Running {
    pub(crate) contender: Contender,
    process: Option<Child>,
    base: u16,
    // Dropped after the process: what it holds then ends without a word.
    burden: Option<Burden>,
}

impl Running {
    /// Starts it; `serial` is its own, and chooses its ports.
    pub(crate) fn start(contender: Contender, serial: u16, lab: &Lab) -> Result<Self> {
        let base = 10_000 + serial * 10;
        let routes = Service::ALL
            .map(|service| Route { listen: (PROXY, base + service.index()).into(), targets: service.targets() });
        let process = match command(contender, serial, &routes, lab)? {
            None => None,
            Some(mut command) => {
                let child = process::start(contender.name(), &mut command)?;
                let http = routes[usize::from(Service::Http.index())].listen;
                lab.net.proxy.wait_for(http).with_context(|| format!("{contender} did not start"))?;
                lab.net.client.wait_for_answer(http).with_context(|| format!("{contender} does not serve"))?;
                for lack in process::log(contender.name())?.lines().filter(|line| line.contains("not available")) {
                    eprintln!("{contender} is measured without a part of it: {lack}");
                }
                Some(child)
            }
        };
        let burden = match contender {
            Contender::LandbridgeScraped => Some(Burden::put(lab, routes[0].listen, admin(&routes))?),
            _ => None,
        };
        Ok(Self { contender, process, base, burden })
    }

    /// Where clients reach a service.
    pub(crate) fn address(&self, service: Service) -> SocketAddr {
        match self.process {
            Some(_) => (PROXY, self.base + service.index()).into(),
            None => (TARGET, service.port()).into(),
        }
    }

    /// The proxy's process.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|child| child.process.id())
    }

    /// An error if it has ended.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.process.as_mut().map(Child::ended).transpose()?.flatten() {
            anyhow::bail!("{} ended: {status}; see target/bench/{}.log", self.contender, self.contender);
        }
        self.burden.as_mut().map_or(Ok(()), Burden::ensure_running)
    }
}

impl Drop for Running {
    /// Killed, it would leave what it has pinned.
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // One that does not end is killed.
            let _alive = child.end(PATIENCE);
        }
    }
}

/// Writes the contender's configuration to the folder of results and returns what starts it; nothing for plain forwarding.
fn command(contender: Contender, serial: u16, routes: &[Route], lab: &Lab) -> Result<Option<Command>> {
    let Lab { net, tools, sessions, .. } = lab;
    let sessions = *sessions;
    let folder = process::folder()?;
    let write = |extension: &str, text: String| {
        // A file of its own: two daemons with the same one would have the same joined sessions, and the second goes without.
        let path = folder.join(format!("{contender}-{serial}.{extension}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display())).map(|()| path)
    };
    let landbridge = |datapath, admin| {
        let file = write("toml", peer_config::landbridge(routes, datapath, admin, sessions))?;
        let mut command = net.proxy.command(&tools.landbridge);
        command.arg("run").arg("--config").arg(file);
        Ok(Some(command))
    };
    let haproxy = |splice| {
        let file = write("cfg", peer_config::haproxy(routes, splice, sessions))?;
        let mut command = net.proxy.command(available(&tools.haproxy)?);
        // In the foreground, and one process.
        command.arg("-db").arg("-f").arg(file);
        Ok(Some(command))
    };
    match contender {
        Contender::Landbridge => landbridge("auto", None),
        Contender::LandbridgePacket => landbridge("packet", None),
        Contender::LandbridgeSockmap => landbridge("sockmap", None),
        Contender::LandbridgeCopy => landbridge("copy", None),
        Contender::LandbridgeSplice => landbridge("splice", None),
        Contender::LandbridgeScraped => landbridge("auto", Some(admin(routes))),
        Contender::Haproxy => haproxy(true),
        Contender::HaproxyNoSplice => haproxy(false),
        Contender::Nginx => {
            let nginx = available(&tools.nginx_stream)?;
            let file = write("conf", peer_config::nginx(routes, &nginx.module, &folder, sessions))?;
            // Its workers are processes: in a namespace of process ids they end with the first process.
            let mut command = net.proxy.command("unshare");
            command.args(["--pid", "--fork", "--kill-child"]).arg(&nginx.program);
            command.arg("-p").arg(&folder).arg("-c").arg(file).args(["-e", "stderr"]);
            Ok(Some(command))
        }
        Contender::Envoy => {
            let file = write("json", peer_config::envoy(routes, sessions)?)?;
            let mut command = net.proxy.command(available(&tools.envoy)?);
            command.arg("--config-path").arg(file).arg("--concurrency").arg(WORKERS.to_string());
            command.args(["--disable-hot-restart", "--log-level", "warning"]);
            Ok(Some(command))
        }
        Contender::Forward => Ok(None),
    }
}

/// Where the metrics of a landbridge with these routes are.
fn admin(routes: &[Route]) -> SocketAddr {
    let last = routes.iter().map(|route| route.listen.port()).max().unwrap_or_default();
    (PROXY, last + 1).into()
}

fn available<T>(tool: &Result<T>) -> Result<&T> {
    tool.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))
}

/// What starts nginx as a target that serves the files of `root` on `address`, in one process.
pub(crate) fn target(net: &Net, nginx: &Path, address: SocketAddr, root: &Path) -> Result<Command> {
    let file = root.join("nginx.conf");
    fs::write(&file, peer_config::target(address, root)).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = net.targets.command(nginx);
    command.arg("-p").arg(root).arg("-c").arg(file).args(["-e", "stderr"]);
    Ok(command)
}
