//! `cargo xtask setup`: installs what is missing, and nothing else.

use std::path::PathBuf;

use anyhow::Result;

use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::{linker, test_tools, toolchain};

/// What building the eBPF programs takes.
pub(crate) struct Ebpf {
    pub(crate) toolchain: Toolchain,
    pub(crate) linker: PathBuf,
}

/// Makes sure that the eBPF programs can be built and, if asked, that the end-to-end tests can run.
pub(crate) fn setup(tests: bool) -> Result<Ebpf> {
    let mut progress = Progress::of(if tests { 6 } else { 2 });
    let toolchain = progress.step("Rust for eBPF", toolchain::ensure)?;
    let linker = progress.step("bpf-linker", || linker::ensure(&toolchain))?;
    if tests {
        progress.step("programs for the tests", test_tools::programs)?;
        progress.step("nginx for the tests", test_tools::nginx)?;
        progress.step("Prometheus for the tests", test_tools::prometheus)?;
        progress.step("Python clients for the tests", test_tools::python)?;
    }
    Ok(Ebpf { toolchain, linker })
}
