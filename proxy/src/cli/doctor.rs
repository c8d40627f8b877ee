//! `landbridge doctor`: what this machine offers, and what to do about what it does not.

mod check;
mod host;
mod idle;
mod joins;

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::check::Check;
use self::host::Host;
use super::{Daemon, Exit, client};
use crate::admin::api::Status;
use crate::chain::chain;
use crate::fastpath::kernel::{BTF, Kernel, NEEDED};
use crate::fastpath::packet::{Ground, PacketPath};
use crate::fastpath::version::{GOOD, Version};
use crate::fastpath::{FastPath, Limits, OBJECT, SelfTest, Unavailable};

/// Looks at the machine, tries the fast path, and prints the findings to stdout, as JSON if asked.
///
/// With a configuration it also says whether this machine can carry that, by the limits of the `daemon` or, without
/// one, by its own. The daemon tells whether its targets close idle connections before a balancer that does so after
/// `balancer`. The exit code says whether something would break. A missing fast path does not: the daemon then works in user
/// space.
///
/// # Errors
/// Writing to stdout.
pub(super) fn doctor(config: Option<&Path>, (daemon, balancer): (Daemon, Duration), json: bool) -> io::Result<Exit> {
    let config = match config.map(super::check::load).transpose() {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let packet = PacketPath::examine();
    let ground = packet.as_ref().ok().cloned();
    let mut report = Report::of(&Kernel::observe(), OBJECT, FastPath::start(Limits::default()), packet);
    let status = client::get::<Status>(&daemon.socket_of(config.as_ref()), "/status");
    if let Some(config) = config {
        let process = status.as_ref().ok().map(|status| status.process);
        report.checks.extend(Host::observe(process).checks(&config));
        if let Some(ground) = ground {
            report.checks.extend(joins::checks(&config, &ground)?);
        }
    }
    report.checks.extend(idle::checks(&status, balancer));
    let exit = if report.checks.iter().any(|check| check.breaks) { Exit::Failed } else { Exit::Good };
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        report.print(&mut out)?;
    }
    out.flush()?;
    Ok(exit)
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    checks: Vec<Check>,
    fast_path: FastPathReport,
    packet_path: PacketPathReport,
}

#[derive(Debug, Serialize)]
struct FastPathReport {
    available: bool,
    /// The stable name of the reason if it is not.
    reason: Option<&'static str>,
    self_test: Option<SelfTest>,
}

#[derive(Debug, Serialize)]
struct PacketPathReport {
    available: bool,
    /// The stable name of the reason if it is not.
    reason: Option<&'static str>,
}

impl Report {
    fn of(
        kernel: &Kernel,
        object: Option<&[u8]>,
        fast_path: Result<Arc<FastPath>, Unavailable>,
        packet: Result<Ground, Unavailable>,
    ) -> Self {
        let mut checks = vec![version_check(&kernel.release, kernel.version())];
        for capability in NEEDED {
            checks.push(if kernel.holds(capability) {
                Check::good(capability, "held")
            } else {
                let remedy = Unavailable::NoCapability { missing: vec![capability] }.remedy();
                Check::bad(capability, "not held", remedy)
            });
        }
        checks.push(if kernel.btf {
            Check::good("kernel types", BTF)
        } else {
            Check::bad("kernel types", format!("no {BTF}"), Unavailable::NoBtf.remedy())
        });
        checks.push(match object {
            Some(object) => Check::good("fast path built in", format!("{} bytes of eBPF", object.len())),
            None => Check::bad("fast path built in", "no eBPF object", Unavailable::NotBuilt.remedy()),
        });
        checks.extend(fast_path_checks(&fast_path));
        let packet_path = packet.as_ref().map(drop).map_err(Unavailable::reason);
        checks.push(packet_check(packet));

        let fast_path = match fast_path {
            Ok(started) => FastPathReport { available: true, reason: None, self_test: Some(*started.self_test()) },
            Err(why) => FastPathReport { available: false, reason: Some(why.reason()), self_test: None },
        };
        let packet_path = PacketPathReport { available: packet_path.is_ok(), reason: packet_path.err() };
        Self { kernel: kernel.release.clone(), checks, fast_path, packet_path }
    }

    fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        for check in &self.checks {
            let mark = if check.ok { "ok" } else { "no" };
            writeln!(out, "{mark}  {:<20} {}", check.name, check.detail)?;
            if let Some(remedy) = &check.remedy {
                writeln!(out, "    {:<20} -> {remedy}", "")?;
            }
        }
        match self.fast_path.reason {
            None => writeln!(out, "\nThe fast path is available.")?,
            Some(reason) => writeln!(out, "\nNo fast path ({reason}): what is not joined moves in user space.")?,
        }
        match self.packet_path.reason {
            None => writeln!(out, "The packet datapath is available."),
            Some(reason) => writeln!(out, "No packet datapath ({reason}): no session is joined."),
        }
    }
}

/// The kernel's place on the list of those that forward without a known fault, with the reasons if it has none.
fn version_check(release: &str, version: Option<Version>) -> Check {
    const KERNEL: &str = "kernel";
    let remedy = Unavailable::KernelTooOld { release: release.to_owned() }.remedy();
    let Some(version) = version else {
        return Check::bad(KERNEL, format!("{release:?} has no version; known to be good: {GOOD}"), remedy);
    };
    let named = if release.starts_with(&version.to_string()) { "" } else { &format!(" ({version})") };
    let faults: Vec<&str> = version.faults().map(|fault| fault.what).collect();
    match faults.is_empty() {
        true => Check::good(KERNEL, format!("{release}{named}, without known faults in sockmap")),
        false => Check::bad(KERNEL, format!("{release}{named}: {}; good: {GOOD}", faults.join(", and ")), remedy),
    }
}

fn fast_path_checks(fast_path: &Result<Arc<FastPath>, Unavailable>) -> Vec<Check> {
    const LOADED: &str = "fast path loaded";
    const SELF_TEST: &str = "self-test";
    match fast_path {
        Ok(started) => {
            let SelfTest { sent_bytes, copied_bytes, promotions, kernel, took_us } = started.self_test();
            let seen = format!(
                "{sent_bytes} bytes sent in {promotions} promotions, {} bytes in {} packets redirected by the kernel, \
                 {copied_bytes} copied between, {took_us} us",
                kernel.redirected_bytes, kernel.redirected_packets
            );
            vec![Check::good(LOADED, "verdict attached"), Check::good(SELF_TEST, seen)]
        }
        Err(why @ Unavailable::SelfTestFailed { .. }) => {
            vec![Check::good(LOADED, "verdict attached"), Check::bad(SELF_TEST, chain(&why), why.remedy())]
        }
        Err(why) => vec![Check::bad(LOADED, chain(&why), why.remedy())],
    }
}

/// Whether the packet datapath loads, and where it would look.
fn packet_check(packet: Result<Ground, Unavailable>) -> Check {
    const NAME: &str = "packet datapath";
    match packet {
        Ok(Ground { devices, .. }) if devices.is_empty() => Check::good(NAME, "loaded; no device but loopback is up"),
        Ok(Ground { devices, .. }) => Check::good(NAME, format!("loaded; for the devices {}", devices.join(", "))),
        Err(why) => Check::bad(NAME, chain(&why), why.remedy()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_not_on_the_list_is_told_why() {
        let check = |release| version_check(release, Version::of(release));
        let old = check("6.1.0-49-cloud-amd64");
        assert!(!old.ok && old.detail.contains("was sent twice, and data of a verdict"), "{old:?}");
        assert!(check("6.18.44").ok);
        assert!(!check("next").ok);
        let debian = version_check("6.1.0-48-amd64", Version::of_build("6.1.0-48-amd64", "Debian 6.1.172-1"));
        assert!(debian.ok && debian.detail.contains("6.1.0-48-amd64 (6.1.172)"), "{debian:?}");
    }

    #[test]
    fn a_daemon_without_the_object_says_so_and_what_to_do() {
        let missing = (Err(Unavailable::NotBuilt), Err(Unavailable::NotBuilt));
        let report = Report::of(&Kernel::observe(), None, missing.0, missing.1);
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("no  fast path built in"), "{text}");
        assert!(text.contains("-> build with `cargo xtask build`"), "{text}");
        assert!(text.contains("No fast path (not_built): what is not joined moves in user space.\n"), "{text}");
        assert!(text.ends_with("No packet datapath (not_built): no session is joined.\n"), "{text}");

        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["fast_path"]["reason"], "not_built");
        assert_eq!(json["fast_path"]["available"], false);
    }
}
