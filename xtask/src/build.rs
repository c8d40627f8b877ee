//! `cargo xtask build`: the eBPF object, then the daemon around it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::show;
use crate::setup::{Ebpf, setup};
use crate::workspace::{self, Profile};

/// The target of the programs. The other byte order would need its own.
const TARGET: &str = "bpfel-unknown-none";

const PACKAGE: &str = "landbridge-ebpf";

/// Sets up, builds the object and everything that plain cargo builds, and returns the object's path.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let object = object(&setup(false)?)?;
    binaries(profile, &object)?;
    Ok(object)
}

/// Builds the eBPF object.
pub(crate) fn object(ebpf: &Ebpf) -> Result<PathBuf> {
    eprintln!("building the eBPF programs");
    show(cargo(ebpf, "build").arg("--quiet")).context("cannot build the eBPF programs")?;
    Ok(workspace::ebpf_target().join(TARGET).join("release").join(PACKAGE))
}

/// Builds the daemon with the object inside, and the sample programs.
pub(crate) fn binaries(profile: Profile, object: &Path) -> Result<()> {
    eprintln!("building the daemon");
    let mut cargo = workspace::cargo_with(object);
    show(cargo.args(["build", "--bins", "--profile", profile.name()])).context("cannot build the daemon")
}

/// A cargo subcommand on the eBPF programs.
pub(crate) fn cargo(ebpf: &Ebpf, subcommand: &str) -> Command {
    with(ebpf, &ebpf.toolchain.cargo, subcommand)
}

/// The toolchain's own clippy on the eBPF programs; `None` if it has none.
pub(crate) fn clippy(ebpf: &Ebpf) -> Option<Command> {
    // Not as a subcommand of cargo, which would look for it in the search path first, where rustup's proxy may be.
    let clippy = ebpf.toolchain.cargo.with_file_name("cargo-clippy");
    clippy.exists().then(|| with(ebpf, &clippy, "clippy"))
}

fn with(ebpf: &Ebpf, program: &Path, subcommand: &str) -> Command {
    // The debug information is where the linker takes the BTF from.
    let flags =
        ["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned(), format!("-Clinker={}", ebpf.linker.display())];
    let mut cargo = ebpf.toolchain.command(program);
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args([subcommand, "--package", PACKAGE, "--release", "--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(workspace::ebpf_target());
    cargo
}
