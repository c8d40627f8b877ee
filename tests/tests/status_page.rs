//! The status page, looked at with a real browser.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Checked, Echo};
use landbridge_tests::{Config, Daemon, Group, Host, Net, Process, SocketExt, Tool, eventually};
use tempfile::TempDir;

const PAGE: &str = "http://127.0.0.1:9900/";

/// A browser needs some seconds to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks at the page with these arguments: what the browser prints, and what it complains about.
fn look(host: &Host, profile: &Path, arguments: &[&str]) -> Result<(String, String)> {
    let mut browser = Tool::Chromium.on(host)?;
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]);
    browser.arg(format!("--user-data-dir={}", profile.display())).args(arguments).arg(PAGE);
    let finished = Process::start("chromium", &mut browser)?.finish(PATIENCE)?;
    ensure!(finished.code() == 0, "{finished:?}");
    let complaints = finished.stderr.lines().filter(|line| line.contains("CONSOLE"));
    let complaints = complaints.collect::<Vec<_>>().join("\n");
    Ok((finished.stdout, complaints))
}

/// A daemon with a target that is up and one that is down.
fn served(net: &Net) -> Result<(Daemon, Echo, Checked)> {
    let echo = Echo::start(&net.targets[0], 9000)?;
    let check = Checked::start(&net.targets[0], 9100)?;
    let checked = |group: Group| group.health("port = 9100").health("interval = \"100ms\"").health("fall = 1");
    let onprem = checked(Group::new("onprem").target_with(echo.address(), "name = \"gpu-1\""));
    let onprem = onprem.target_with(net.targets[1].v4(9000), "name = \"gpu-2\"");
    let aws = Group::new("aws").with("tier = 1").target_with(net.targets[1].v4(9001), "name = \"aws-1\"");
    let daemon = Daemon::start(&net.proxy, &Config::new([onprem, aws]))?;
    eventually("one target is up and one is down", || {
        let table = daemon.cli_good(&["status"])?;
        ensure!(table.contains(" up ") && table.contains(" down "), "{table}");
        Ok(())
    })?;
    Ok((daemon, echo, check))
}

#[test]
fn a_browser_shows_who_serves_and_why_not() -> Result<()> {
    let net = Net::new(2)?;
    let (mut daemon, _echo, _check) = served(&net)?;
    let mut client = net.client.connect(daemon.v4())?;
    client.expect_echo(b"hello")?;
    daemon.cli_good(&["set", "weight", "onprem/gpu-1", "7"])?;
    let folder = TempDir::new()?;
    let (dom, complaints) = look(&net.proxy, folder.path(), &["--dump-dom"])?;
    ensure!(complaints.is_empty(), "{complaints}");
    for expected in [
        "<h1>landbridge</h1>",
        "badge good\">serving",
        ">onprem 100%<",
        ">aws 0%<",
        "<th>gpu-1</th>",
        "badge good\">up<",
        "badge bad\">down<",
        "cannot connect to",
        "7 <small>operator</small>",
        "takes sessions",
        "<svg",
    ] {
        ensure!(dom.contains(expected), "{expected}\n{dom}");
    }
    ensure!(!dom.contains("<script"), "it works without scripts");
    drop(client);
    daemon.stop().map(drop)
}

#[test]
fn it_is_drawn_in_light_and_dark_wide_and_narrow() -> Result<()> {
    let net = Net::new(2)?;
    let (mut daemon, _echo, _check) = served(&net)?;
    let folder = TempDir::new()?;
    let mut pictures = Vec::new();
    for (scheme, window) in [("1", "1280,1100"), ("0", "1280,1100"), ("1", "400,1100"), ("0", "400,1100")] {
        let file = folder.path().join(format!("{scheme}-{window}.png"));
        let arguments = [
            &format!("--blink-settings=preferredColorScheme={scheme}"),
            &format!("--window-size={window}"),
            &format!("--screenshot={}", file.display()),
        ];
        let (_, complaints) = look(&net.proxy, folder.path(), &arguments.map(String::as_str))?;
        ensure!(complaints.is_empty(), "{complaints}");
        let picture = fs::read(&file)?;
        // A blank picture of this size has five kibibytes.
        ensure!(picture.len() > 20_000, "{} has {} bytes", file.display(), picture.len());
        pictures.push(picture);
    }
    for (one, other) in [(0, 1), (2, 3), (0, 2)] {
        ensure!(pictures[one] != pictures[other], "{one} and {other} are the same");
    }
    daemon.stop().map(drop)
}

#[test]
fn nothing_can_be_changed_or_loaded_from_elsewhere() -> Result<()> {
    let net = Net::new(2)?;
    let (mut daemon, _echo, _check) = served(&net)?;
    let curl = |arguments: &[&str]| -> Result<String> {
        let mut curl = Tool::Curl.on(&net.proxy)?;
        Process::start("curl", curl.args(["--silent", "--include"]).args(arguments).arg(PAGE))?.succeed(PATIENCE)
    };
    let page = curl(&[])?.to_lowercase();
    ensure!(page.contains("content-security-policy: default-src 'none'; style-src 'self'"), "{page}");
    ensure!(page.contains("content-type: text/html"), "{page}");
    ensure!(!page.contains("src=\"http") && !page.contains("href=\"http") && !page.contains("<form"), "{page}");
    for method in ["POST", "PUT", "DELETE"] {
        let refused = curl(&["--request", method])?;
        ensure!(refused.starts_with("HTTP/1.1 405"), "{refused}");
    }
    daemon.stop().map(drop)
}
