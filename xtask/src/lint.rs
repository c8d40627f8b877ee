//! `cargo xtask lint`: formatting, lints, and the core's purity.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::command::{output, show};
use crate::progress::Progress;
use crate::setup::setup;
use crate::{build, workspace};

/// All that the core may depend on: none of it has a socket, a clock, a runtime or a global random source.
const CORE: [&str; 6] = ["landbridge-common", "landbridge-core", "libm", "rand", "rand_core", "siphasher"];

/// Checks everything, stops at the first check that fails.
pub(crate) fn lint() -> Result<()> {
    let ebpf = setup(false)?;
    let mut progress = Progress::of(4);
    progress.step("formatting", || {
        show(workspace::cargo().args(["fmt", "--all", "--check"]))?;
        Ok(((), "clean".to_owned()))
    })?;
    progress.step("clippy", || {
        show(workspace::cargo().args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]))?;
        Ok(((), "clean".to_owned()))
    })?;
    progress.step("clippy of the eBPF programs", || {
        let Some(mut clippy) = build::clippy(&ebpf) else {
            return Ok(((), format!("skipped: {} has no clippy", ebpf.toolchain.name)));
        };
        show(clippy.args(["--quiet", "--", "-D", "warnings"]))?;
        Ok(((), "clean".to_owned()))
    })?;
    progress.step("purity of the core", || core_is_pure().map(|()| ((), "clean".to_owned())))
}

fn core_is_pure() -> Result<()> {
    let tree = output(workspace::cargo().args([
        "tree",
        "--package=landbridge-core",
        "--edges=normal",
        "--target=all",
        "--prefix=none",
        "--format={p}",
    ]))
    .context("cargo tree failed for landbridge-core")?;
    let found = packages(&tree);
    let allowed = BTreeSet::from(CORE);
    let (more, fewer): (Vec<_>, Vec<_>) = (found.difference(&allowed).collect(), allowed.difference(&found).collect());
    if !more.is_empty() || !fewer.is_empty() {
        bail!("landbridge-core depends on other packages than allowed: too many {more:?}, not any more {fewer:?}");
    }

    let lib = workspace::root().join("proxy/core/src/lib.rs");
    let text = fs::read_to_string(&lib).with_context(|| format!("cannot read {}", lib.display()))?;
    if !text.lines().any(|line| line == "#![no_std]") {
        bail!("{} is not #![no_std]", lib.display());
    }
    Ok(())
}

/// The names in the output of `cargo tree`, one package a line.
fn packages(tree: &str) -> BTreeSet<&str> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::packages;

    #[test]
    fn packages_are_named_once() {
        let tree = "landbridge-core v0.1.0 (/somewhere)\nrand v0.10.4\nrand_core v0.10.0\nrand_core v0.10.0 (*)\n";
        assert_eq!(packages(tree).into_iter().collect::<Vec<_>>(), ["landbridge-core", "rand", "rand_core"]);
    }
}
