//! The Debian package, installed, used and removed on a Debian under a systemd of its own. Only `cargo xtask test --long` has
//! what it takes: the package, and the system to install it in.
//!
//! The system is a container with its own network and a copy of its files that is gone afterwards. `check.sh` is what an
//! operator does in it; a unit starts it at boot, and its last act is to power the system off.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::Process;
use tempfile::TempDir;

/// Ten seconds for the package and half a minute for cloud-init on an idle machine.
const LIMIT: Duration = Duration::from_secs(180);

/// The cloud-init of the same Debian judges the user data of docs/aws.md.
#[test]
fn the_user_data_is_valid() -> Result<()> {
    let Some(system) = env::var_os("LANDBRIDGE_DEBIAN") else {
        println!("skipped: `cargo xtask test --long` runs this");
        return Ok(());
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/aws/cloud-init.yaml");
    let judge = "apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends cloud-init && \
                 cloud-init schema --config-file /opt/cloud-init.yaml";
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn
        .args(["--as-pid2", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--volatile=overlay"])
        .args(["--resolv-conf=bind-host", "--setenv=DEBIAN_FRONTEND=noninteractive", "--directory"])
        .arg(system)
        .arg(format!("--bind-ro={}:/opt/cloud-init.yaml", file.display()))
        .args(["/bin/sh", "-c", judge]);
    let finished = Process::start("systemd-nspawn", &mut nspawn)?.finish(LIMIT)?;
    ensure!(finished.stdout.contains("Valid cloud-config: /opt/cloud-init.yaml"), "{finished:?}");
    Ok(())
}

#[test]
fn it_is_installed_used_upgraded_and_removed() -> Result<()> {
    let (Some(package), Some(system)) = (env::var_os("LANDBRIDGE_DEB"), env::var_os("LANDBRIDGE_DEBIAN")) else {
        println!("skipped: `cargo xtask test --long` runs this");
        return Ok(());
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/package");
    let result = TempDir::new()?;
    let bind = |from: &Path, to: &str| format!("--bind-ro={}:{to}", from.display());
    let mut nspawn = Command::new("systemd-nspawn");
    nspawn
        .args(["--boot", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--private-network"])
        // What is written is in memory and ends with it.
        .arg("--volatile=overlay")
        .arg("--directory")
        .arg(system)
        // What the unit asks for, of which a container has only one by itself.
        .args(["--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON", "--system-call-filter=bpf perf_event_open"])
        .arg(bind(Path::new(&package), "/opt/landbridge.deb"))
        .arg(bind(&here.join("check.sh"), "/opt/check.sh"))
        .arg(format!("--bind={}:/opt/result", result.path().display()));
    for unit in ["landbridge-check.service", "echo.socket", "echo@.service", "far-echo.socket", "far-echo@.service"] {
        nspawn.arg(bind(&here.join(unit), &format!("/etc/systemd/system/{unit}")));
    }
    nspawn.arg("systemd.wants=landbridge-check.service");
    let finished = Process::start("systemd-nspawn", &mut nspawn)?.finish(LIMIT)?;
    let log = fs::read_to_string(result.path().join("log")).unwrap_or_default();
    ensure!(log.lines().any(|line| line == "all good"), "{log}\n--- console\n{}\n{}", finished.stdout, finished.stderr);
    Ok(())
}
