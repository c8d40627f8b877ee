//! `bpf-linker`: built for the LLVM of the eBPF toolchain, and kept in the workspace.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{output, quiet};
use crate::progress::say;
use crate::toolchain::Toolchain;
use crate::workspace;

const VERSION: &str = "0.13.0";

/// Builds the linker if the one for this toolchain does not run, and says what it did.
pub(crate) fn ensure(toolchain: &Toolchain) -> Result<(PathBuf, String)> {
    // One for each toolchain: a linker is bound to the LLVM it was built for.
    let root = workspace::tools().join(format!("bpf-linker-{VERSION}-{}", toolchain.name));
    let linker = root.join("bin/bpf-linker");
    if runs(&linker) {
        return Ok((linker, format!("{VERSION} is there")));
    }

    say("building it, which takes one to three minutes");
    let feature = format!("llvm-{}", toolchain.llvm);
    let mut install = workspace::cargo();
    install
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &feature])
        .arg("--root")
        .arg(&root)
        .env("LLVM_PREFIX", toolchain.llvm_prefix(&root)?);
    quiet(&mut install, "bpf-linker").with_context(|| format!("cannot build the package bpf-linker {VERSION}"))?;
    output(Command::new(&linker).arg("--version")).with_context(|| format!("{} does not run", linker.display()))?;
    Ok((linker, format!("built {VERSION} for {}", toolchain.name)))
}

/// An update of the toolchain takes the library away that the linker was built for; it then does not even start.
fn runs(linker: &PathBuf) -> bool {
    output(Command::new(linker).arg("--version")).is_some_and(|version| version.contains(VERSION))
}
