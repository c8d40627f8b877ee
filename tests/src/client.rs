//! Programs that tests run as real clients and servers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::Host;

/// A program that `cargo xtask setup --tests` installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// An HTTP client.
    Curl,
    /// A load generator for HTTP/1.1.
    Wrk,
    /// A load generator for HTTP/2.
    H2load,
    /// An HTTP server.
    Nginx,
    /// Lists sockets with what the kernel knows of them.
    Ss,
    /// Checks what Prometheus would read.
    Promtool,
    /// The monitoring system.
    Prometheus,
    /// A browser, which needs no display.
    Chromium,
    /// Python with the packages `httpx` and `openai`.
    Python,
}

impl Tool {
    /// A command that runs it on `host`; an error if it is not installed.
    pub fn on(self, host: &Host) -> Result<Command> {
        Ok(host.command(self.path()?))
    }

    /// A command that runs it on the machine of the tests; an error if it is not installed.
    pub fn here(self) -> Result<Command> {
        Ok(Command::new(self.path()?))
    }

    fn path(self) -> Result<PathBuf> {
        let path = match self {
            Self::Curl => on_path("curl"),
            Self::Wrk => on_path("wrk"),
            Self::H2load => on_path("h2load"),
            Self::Nginx => on_path("nginx"),
            Self::Ss => on_path("ss"),
            Self::Promtool => on_path("promtool"),
            Self::Prometheus => on_path("prometheus"),
            Self::Chromium => on_path("chromium"),
            Self::Python => Some(python()).filter(|path| path.is_file()),
        };
        path.with_context(|| format!("{self:?} is not installed; run cargo xtask setup --tests"))
    }
}

/// The interpreter of the virtual environment that the setup makes.
fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv/bin/python")
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Servers live where only root looks.
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}
