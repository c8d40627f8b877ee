//! nginx as a target, with files of known content.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use crate::{Host, Process, Source, Tool};

/// A running nginx that serves `/small` and `/large`.
#[derive(Debug)]
pub struct Nginx {
    address: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Nginx {
    /// Bytes of `/small`.
    pub const SMALL: usize = 100;
    /// Bytes of `/large`.
    pub const LARGE: usize = 4 << 20;
    /// The content of both files begins the stream of this seed.
    pub const SEED: u64 = 80;

    /// Listens on `port` of `host`.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let directory = TempDir::new()?;
        let path = directory.path();
        for (name, length) in [("small", Self::SMALL), ("large", Self::LARGE)] {
            let mut content = vec![0; length];
            Source::new(Self::SEED).fill(&mut content);
            fs::write(path.join(name), content)?;
        }
        let file = path.join("nginx.conf");
        fs::write(&file, configuration(path, port))?;
        let mut command = Tool::Nginx.on(host)?;
        command.arg("-p").arg(path).arg("-c").arg(&file).args(["-e", "stderr"]);
        let mut process = Process::start("nginx", &mut command)?;
        let address = host.v4(port);
        process.wait_ready(|_| Ok(host.try_connect(address).map(drop)?))?;
        Ok(Self { address, _process: process, _directory: directory })
    }

    /// Its IPv4 address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One process in the foreground that writes nowhere but below `root`.
fn configuration(root: &Path, port: u16) -> String {
    let root = root.display();
    format!(
        "daemon off;
         master_process off;
         user root;
         pid {root}/nginx.pid;
         events {{ worker_connections 1000; }}
         http {{
             access_log off;
             keepalive_requests 1000000;
             client_body_temp_path {root}/body;
             proxy_temp_path {root}/proxy;
             fastcgi_temp_path {root}/fastcgi;
             uwsgi_temp_path {root}/uwsgi;
             scgi_temp_path {root}/scgi;
             server {{
                 listen {port};
                 root {root};
             }}
         }}"
    )
}
