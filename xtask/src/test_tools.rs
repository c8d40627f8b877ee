//! What the end-to-end tests use of others: real clients, real targets, and the tools to lay out networks.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{output, quiet};
use crate::progress::say;
use crate::{apt, workspace};

/// Debian packages, and what each is for.
const PACKAGES: [(&str, &str); 12] = [
    ("curl", "HTTP/1.1 client"),
    ("wrk", "HTTP/1.1 load"),
    ("nghttp2-client", "h2load: HTTP/2 and gRPC load"),
    ("iperf3", "bulk transfer"),
    ("iproute2", "ip: network namespaces and veth pairs"),
    ("ethtool", "offloads of veth pairs"),
    ("python3-venv", "the Python clients below"),
    ("systemd", "systemd-socket-activate and systemd-analyze; nothing of it is started"),
    ("libpcre2-8-0", "nginx, which is unpacked and not installed"),
    ("libssl3", "nginx"),
    ("chromium", "the browser that looks at the status page"),
    ("fonts-dejavu-core", "letters for it"),
];

/// Python packages, and what each is for.
const PYTHON: [(&str, &str); 2] =
    [("httpx[http2]==0.28.1", "HTTP client with streaming"), ("openai==1.109.1", "what callers of inference use")];

/// WireGuard in user space.
const BORINGTUN: &str = "0.7.1";

/// Installs the packages that are missing.
pub(crate) fn programs() -> Result<((), String)> {
    let missing = apt::missing(&PACKAGES.map(|(package, _)| package));
    if missing.is_empty() {
        return Ok(((), "all there".to_owned()));
    }
    apt::install(&missing)?;
    Ok(((), format!("installed {}", missing.join(" "))))
}

/// Provides nginx. Its package would start a server on port 80 now and at every boot, so that it is only unpacked.
pub(crate) fn nginx() -> Result<((), String)> {
    let nginx = nginx_folder().join("nginx");
    if let Some(found) = on_path("nginx").or_else(|| nginx.exists().then_some(nginx)) {
        return Ok(((), format!("{} is there", found.display())));
    }
    apt::unpack("nginx", &workspace::tools().join("nginx"))?;
    let nginx = nginx_folder().join("nginx");
    output(Command::new(&nginx).arg("-v")).with_context(|| format!("{} does not run", nginx.display()))?;
    Ok(((), format!("unpacked {}", nginx.display())))
}

/// Provides Prometheus and promtool. Their package would start a server too.
pub(crate) fn prometheus() -> Result<((), String)> {
    let promtool = prometheus_folder().join("promtool");
    if let Some(found) = on_path("promtool").or_else(|| promtool.exists().then_some(promtool)) {
        return Ok(((), format!("{} is there", found.display())));
    }
    apt::unpack("prometheus", &workspace::tools().join("prometheus"))?;
    let promtool = prometheus_folder().join("promtool");
    output(Command::new(&promtool).arg("--version")).with_context(|| format!("{} does not run", promtool.display()))?;
    Ok(((), format!("unpacked {}", promtool.display())))
}

/// Provides a WireGuard that needs no kernel module.
pub(crate) fn wireguard() -> Result<((), String)> {
    let root = wireguard_root();
    let program = root.join("bin/boringtun-cli");
    let runs = || output(Command::new(&program).arg("--version")).is_some_and(|version| version.contains(BORINGTUN));
    if runs() {
        return Ok(((), format!("{BORINGTUN} is there")));
    }
    say("building boringtun-cli, which takes one to two minutes");
    let mut install = workspace::cargo();
    install.args(["install", "boringtun-cli", "--version", BORINGTUN, "--locked", "--force", "--root"]).arg(&root);
    quiet(&mut install, "boringtun").with_context(|| format!("cannot build the package boringtun-cli {BORINGTUN}"))?;
    ensure!(runs(), "{} does not run", program.display());
    Ok(((), format!("built {BORINGTUN}")))
}

/// Provides a Python of its own with the clients in it.
pub(crate) fn python() -> Result<((), String)> {
    let venv = workspace::tools().join("venv");
    let wanted = PYTHON.map(|(package, _)| package).join("\n");
    // Written last: it says that everything it lists is in there.
    let installed = venv.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(((), "all there".to_owned()));
    }
    say(&format!("pip install {}", wanted.replace('\n', " ")));
    let mut create = Command::new("/usr/bin/python3");
    quiet(create.args(["-m", "venv", "--clear"]).arg(&venv), "venv").context("cannot make a Python environment")?;
    let mut install = Command::new(venv.join("bin/python"));
    install.args(["-m", "pip", "install", "--disable-pip-version-check"]).args(PYTHON.map(|(package, _)| package));
    quiet(&mut install, "pip").with_context(|| format!("pip could not install: {}", wanted.replace('\n', " ")))?;
    fs::write(&installed, &wanted).with_context(|| format!("cannot write {}", installed.display()))?;
    Ok(((), format!("installed in {}", venv.display())))
}

/// Where the programs are that are not installed; for the end of `PATH`.
pub(crate) fn folders() -> [PathBuf; 3] {
    [nginx_folder(), prometheus_folder(), wireguard_root().join("bin")]
}

pub(crate) fn nginx_folder() -> PathBuf {
    workspace::tools().join("nginx/usr/sbin")
}

fn wireguard_root() -> PathBuf {
    workspace::tools().join(format!("boringtun-{BORINGTUN}"))
}

/// Where the unpacked Prometheus is; for the end of `PATH`.
fn prometheus_folder() -> PathBuf {
    workspace::tools().join("prometheus/usr/bin")
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
