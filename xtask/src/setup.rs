//! `cargo xtask setup`: installs what is missing, and nothing else.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command::output;
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::{apt, linker, test_tools, toolchain};

/// What building the eBPF programs takes.
pub(crate) struct Ebpf {
    pub(crate) toolchain: Toolchain,
    pub(crate) linker: PathBuf,
}

/// Makes sure that the daemon and the eBPF programs can be built and, if asked, that the end-to-end tests can run.
pub(crate) fn setup(tests: bool) -> Result<Ebpf> {
    let mut progress = Progress::of(if tests { 8 } else { 3 });
    progress.step("make, for the allocator", make)?;
    let toolchain = progress.step("Rust for eBPF", toolchain::ensure)?;
    let linker = progress.step("bpf-linker", || linker::ensure(&toolchain))?;
    if tests {
        progress.step("programs for the tests", test_tools::programs)?;
        progress.step("nginx for the tests", test_tools::nginx)?;
        progress.step("Prometheus for the tests", test_tools::prometheus)?;
        progress.step("WireGuard for the tests", test_tools::wireguard)?;
        progress.step("Python clients for the tests", test_tools::python)?;
    }
    Ok(Ebpf { toolchain, linker })
}

fn make() -> Result<((), String)> {
    if output(Command::new("make").arg("--version")).is_some() {
        return Ok(((), "is there".to_owned()));
    }
    apt::install(&["make"])?;
    Ok(((), "installed".to_owned()))
}
