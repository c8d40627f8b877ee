//! Debian packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{output, quiet};
use crate::progress::say;

const APT_GET: &str = "/usr/bin/apt-get";

/// Whether this process may install packages.
pub(crate) fn usable() -> bool {
    Path::new(APT_GET).exists() && nix::unistd::geteuid().is_root()
}

/// Which of the packages are not installed.
pub(crate) fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // Fails as a whole when it knows one of the packages not at all, and still prints the others.
    let installed = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let is_installed = |package: &str| installed.lines().any(|line| line == format!("{package} installed"));
    packages.iter().copied().filter(|package| !is_installed(package)).collect()
}

/// Installs packages; fetches the package lists if it does not work with those that are there.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !usable() {
        bail!("missing: {names}. Run this as root on Debian, or install them in another way");
    }
    say(&format!("apt-get install {names}"));
    let install = || quiet(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages), "apt");
    with_fresh_lists(install).with_context(|| format!("apt-get could not install: {names}"))
}

/// Unpacks one package into a folder, without installing it: its services do not start and its settings stay away.
pub(crate) fn unpack(package: &str, folder: &Path) -> Result<()> {
    say(&format!("apt-get download {package}, unpacked for the tests only"));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let download = || quiet(apt_get().current_dir(folder).args(["download", package]), "apt");
    with_fresh_lists(download).with_context(|| format!("apt-get could not download: {package}"))?;

    let prefix = format!("{package}_");
    for entry in std::fs::read_dir(folder)?.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let unpacked = output(Command::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(folder));
            return unpacked.map(drop).with_context(|| format!("cannot unpack {}", entry.path().display()));
        }
    }
    bail!("apt-get download left no {prefix}*.deb in {}", folder.display())
}

fn with_fresh_lists(work: impl Fn() -> Result<()>) -> Result<()> {
    if work().is_ok() {
        return Ok(());
    }
    say("apt-get update");
    quiet(apt_get().arg("update"), "apt-update").context("apt-get could not fetch the package lists")?;
    work()
}

fn apt_get() -> Command {
    let mut apt_get = Command::new(APT_GET);
    // Another apt may be at work, and as root apt would complain about folders that its helper user cannot write.
    apt_get.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "APT::Sandbox::User=root",
    ]);
    apt_get
}
