//! A small Debian to install the package in: made once, kept in the workspace, never changed by a test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::quiet;
use crate::progress::say;
use crate::{apt, workspace};

/// The release that the package is for.
const RELEASE: &str = "bookworm";

/// What makes the system, and what runs it.
const PACKAGES: [&str; 2] = ["debootstrap", "systemd-container"];

/// What is in it beyond the least: an init system, and what the package depends on.
const INSIDE: &str = "systemd,systemd-sysv,dbus,libgcc-s1,mount,iproute2";

/// The file in it that says what it was made with.
const MADE_WITH: &str = "etc/landbridge-test";

/// Makes the system if it is not there, and says what it did.
pub(crate) fn system() -> Result<(PathBuf, String)> {
    let missing = apt::missing(&PACKAGES);
    if !missing.is_empty() {
        apt::install(&missing)?;
    }
    let system = workspace::tools().join(format!("debian-{RELEASE}"));
    if fs::read_to_string(system.join(MADE_WITH)).is_ok_and(|with| with == INSIDE) {
        return Ok((system, "is there".to_owned()));
    }
    say("debootstrap makes a small Debian (a minute or two)");
    // Under another name until it is complete.
    let partial = system.with_extension("partial");
    for former in [&system, &partial] {
        if former.exists() {
            fs::remove_dir_all(former).with_context(|| format!("cannot remove {}", former.display()))?;
        }
    }
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={INSIDE}"), RELEASE]).arg(&partial);
    quiet(&mut debootstrap, "debootstrap").context("debootstrap cannot make a Debian")?;
    let made_with = partial.join(MADE_WITH);
    fs::write(&made_with, INSIDE).with_context(|| format!("cannot write {}", made_with.display()))?;
    fs::rename(&partial, &system).with_context(|| format!("cannot name it {}", system.display()))?;
    Ok((system, "made".to_owned()))
}
