//! The sample inference server as a target.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::{Host, Process, binary};

/// A running `sample-target`.
#[derive(Debug)]
pub struct Sample {
    address: SocketAddr,
    name: String,
    process: Process,
}

impl Sample {
    /// Listens on `port` of `host` under `name`, with further `options`.
    pub fn start(host: &Host, port: u16, name: &str, options: &[&str]) -> Result<Self> {
        let address = host.v4(port);
        let mut command = host.command(binary("sample-target")?);
        command.args(["--name", name, "--listen", &format!("[::]:{port}")]).args(options);
        let mut process = Process::start(name, &mut command)?;
        process.wait_ready(|process| {
            ensure!(process.stderr().contains("listening on"), "it does not listen yet");
            Ok(())
        })?;
        Ok(Self { address, name: name.to_owned(), process })
    }

    /// Its IPv4 address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// How many requests it has answered, by its own account.
    pub fn served(&self) -> usize {
        let stdout = self.process.stdout();
        stdout.lines().filter(|line| line.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with(' '))).count()
    }
}
