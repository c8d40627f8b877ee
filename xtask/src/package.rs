//! `cargo xtask package`: the release build as a Debian package, with what the daemon itself generates for shells and manuals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{output, quiet, show};
use crate::progress::say;
use crate::setup::setup;
use crate::workspace::{self, Profile};
use crate::{apt, build};

/// The version of cargo-deb that reads `[package.metadata.deb]` of the daemon.
const CARGO_DEB: &str = "3.8.0";

/// For `dpkg-shlibdeps`, which tells what the binary is linked against.
const PACKAGES: [&str; 1] = ["dpkg-dev"];

/// The completions, and where each shell looks for them; the package's description refers to these names.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "landbridge.bash"), ("zsh", "_landbridge"), ("fish", "landbridge.fish")];

/// Builds the package, as release or with what a development build has made, and returns its path.
pub(crate) fn package(profile: Profile) -> Result<PathBuf> {
    let object = build::object(&setup(false)?)?;
    build::binaries(profile, &object)?;
    let cargo_deb = cargo_deb()?;
    let missing = apt::missing(&PACKAGES);
    if !missing.is_empty() {
        apt::install(&missing)?;
    }
    generate(&workspace::binary(profile, "landbridge"))?;

    // A folder of its own that is emptied first: what is in it afterwards is the package.
    let folder = workspace::root().join("target/package/deb");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut deb = Command::new(cargo_deb);
    deb.current_dir(workspace::root())
        .args(["deb", "--no-build", "--package", "landbridge", "--profile", profile.name(), "--output"])
        .arg(&folder);
    quiet(&mut deb, "cargo-deb").context("cargo-deb cannot make the package")?;
    let made = fs::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let package = made.into_iter().find(|path| path.extension().is_some_and(|of| of == "deb"));
    let package = package.with_context(|| format!("cargo-deb left no package in {}", folder.display()))?;
    show(Command::new("dpkg-deb").arg("--contents").arg(&package))?;
    eprintln!("\npackaged: {}", package.display());
    Ok(package)
}

fn cargo_deb() -> Result<PathBuf> {
    let tool = workspace::tools().join("bin/cargo-deb");
    if output(Command::new(&tool).args(["deb", "--version"])).is_some_and(|version| version.trim() == CARGO_DEB) {
        return Ok(tool);
    }
    say("installing cargo-deb (a minute)");
    let mut install = workspace::cargo();
    install.args(["install", "cargo-deb", "--version", CARGO_DEB, "--locked", "--force", "--debug", "--root"]);
    // It runs for seconds: to optimise it takes longer than that saves.
    quiet(install.arg(workspace::tools()), "cargo-deb-install").context("cannot build the package cargo-deb")?;
    Ok(tool)
}

/// Has the daemon write its manual pages and completions to where the package's description expects them.
fn generate(daemon: &Path) -> Result<()> {
    let folder = workspace::root().join("target/package");
    let man = folder.join("man");
    if man.exists() {
        fs::remove_dir_all(&man).with_context(|| format!("cannot empty {}", man.display()))?;
    }
    quiet(Command::new(daemon).args(["man", "--folder"]).arg(&man), "man").context("cannot write the manual pages")?;
    let completions = folder.join("completions");
    fs::create_dir_all(&completions).with_context(|| format!("cannot create {}", completions.display()))?;
    for (shell, name) in COMPLETIONS {
        let script = output(Command::new(daemon).args(["completions", shell])).context("no completions")?;
        ensure!(!script.is_empty(), "the completions for {shell} are empty");
        let path = completions.join(name);
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
