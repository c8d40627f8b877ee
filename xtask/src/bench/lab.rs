//! What a measurement stands on: the network, the programs, and the targets that every workload uses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::contender::{self, Service};
use super::host::{Net, TARGET};
use super::process;
use super::tools::Tools;
use crate::child::Child;

/// Between two runs: what the first left behind in the kernel ends.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);

/// Before memory is looked at. What is free is given back by then: the allocators of some take a second or two, and the kernel
/// frees its objects later, too.
pub(crate) const CALM: Duration = Duration::from_secs(3);

/// Of every stream.
pub(crate) const TOKENS_PER_SECOND: u32 = 20;

/// Sizes of the files that the HTTP target serves; each has its size as its name.
const FILES: [usize; 2] = [64, 16 << 10];

/// The network and what runs in it beside the contenders.
pub(crate) struct Lab {
    pub(crate) net: Net,
    pub(crate) tools: Tools,
    /// What every proxy's limits are set to.
    pub(crate) sessions: usize,
    _targets: Vec<Child>,
}

impl Lab {
    /// Makes the network and starts the targets.
    pub(crate) fn new(tools: Tools, sessions: usize) -> Result<Self> {
        let net = Net::new()?;
        let root = process::folder()?.join("target");
        make_folder(&root)?;
        for size in FILES {
            fs::write(root.join(size.to_string()), vec![b'x'; size]).context("cannot write the target's files")?;
        }

        let address = |service: Service| (TARGET, service.port()).into();
        let mut nginx = contender::target(&net, &tools.nginx, address(Service::Http), &root)?;
        let mut iperf = net.targets.command("iperf3");
        iperf.args(["--server", "--port", &Service::Bulk.port().to_string()]);
        let mut streams = net.targets.command(&tools.sse_load);
        streams.args(["serve", "--listen", &format!("{TARGET}:{}", Service::Streams.port())]);
        streams.args(["--interval", &format!("{}ms", 1000 / TOKENS_PER_SECOND)]);
        let mut targets = Vec::new();
        for (name, command, service) in [
            ("target-http", &mut nginx, Service::Http),
            ("target-bulk", &mut iperf, Service::Bulk),
            ("target-streams", &mut streams, Service::Streams),
        ] {
            targets.push(process::start(name, command)?);
            net.targets.wait_for(address(service)).with_context(|| format!("{name} did not start"))?;
        }
        Ok(Self { net, tools, sessions, _targets: targets })
    }
}

/// Makes a folder that may exist.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}
