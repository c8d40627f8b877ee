//! The fast path really runs: the kernel's own counters say so. Where it cannot, it says why.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landbridge_tests::targets::Scripted;
use landbridge_tests::{Checker, Config, Daemon, Net, SocketExt as _, Source, pump, random_chunks};
use serde_json::Value;

/// `landbridge doctor --json`, run from the binary that is tested.
fn doctor(wrap: &[&str]) -> Result<Value> {
    let landbridge =
        env::var_os("LANDBRIDGE_BIN").map(PathBuf::from).context("LANDBRIDGE_BIN: use `cargo xtask test`")?;
    let mut command = match wrap {
        [] => Command::new(landbridge),
        [wrapper, arguments @ ..] => {
            let mut command = Command::new(wrapper);
            command.args(arguments).arg(landbridge);
            command
        }
    };
    let output = command.args(["doctor", "--json"]).output().context("cannot run landbridge doctor")?;
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("doctor --json is not JSON")
}

#[test]
fn the_kernel_counts_every_byte_of_the_self_test() -> Result<()> {
    let report = doctor(&[])?;
    let fast_path = &report["fast_path"];
    assert_eq!(fast_path["available"], true, "{report:#}");

    let test = &fast_path["self_test"];
    let sent = test["sent_bytes"].as_u64().context("sent_bytes")?;
    let copied = test["copied_bytes"].as_u64().context("copied_bytes")?;
    assert!(sent - copied > 200_000, "messages both ways of some 100 KiB: {report:#}");
    assert_eq!(test["kernel"]["redirected_bytes"], sent - copied);
    assert!(test["kernel"]["redirected_packets"].as_u64() > Some(0));
    assert!(test["kernel"]["empty_dropped"].as_u64() >= Some(1), "the FIN of the upload: {report:#}");
    assert_eq!(test["kernel"]["no_flow"], 0);
    assert_eq!(test["kernel"]["no_peer"], 0);
    Ok(())
}

#[test]
fn two_daemons_do_not_disturb_each_other() -> Result<()> {
    let other = std::thread::spawn(|| doctor(&[]));
    let ours = doctor(&[])?;
    let other = other.join().expect("the other doctor ran")?;
    for report in [ours, other] {
        assert_eq!(report["fast_path"]["available"], true, "{report:#}");
    }
    Ok(())
}

/// Every reason that can be brought about from outside; what the daemon does then is to splice.
#[test]
fn whatever_is_missing_is_named_and_nothing_breaks() -> Result<()> {
    let cases: [(&[&str], &str, &str); 5] = [
        (&["setpriv", "--bounding-set=-bpf"], "no_capability", "CAP_BPF"),
        (&["setarch", "--uname-2.6"], "kernel_too_old", "2.6."),
        (
            &["unshare", "--mount", "sh", "-c", r#"mount -t tmpfs none /sys/kernel/btf && exec "$@""#, "sh"],
            "no_btf",
            "no /sys",
        ),
        // Enough for the daemon to start, too few for the maps.
        (&["prlimit", "--nofile=8:8"], "load_failed", "did not take"),
        // A namespace whose loopback device is down.
        (&["unshare", "--net"], "self_test_failed", "loopback"),
    ];
    for (wrap, reason, detail) in cases {
        let report = doctor(wrap).with_context(|| reason.to_owned())?;
        let fast_path = &report["fast_path"];
        ensure!(fast_path["available"] == false && fast_path["reason"] == reason, "{reason}: {report:#}");
        let checks = report["checks"].as_array().context("checks")?;
        let failed = checks.iter().filter(|check| check["ok"] == false && check["remedy"].is_string());
        let told = failed.into_iter().any(|check| check["detail"].as_str().is_some_and(|text| text.contains(detail)));
        ensure!(told, "{reason}: no check that failed says {detail:?}: {report:#}");
    }
    Ok(())
}

#[test]
fn without_the_fast_path_the_daemon_splices_and_says_why() -> Result<()> {
    const LENGTH: u64 = 4 << 20;
    const SEED: u64 = 3;
    let net = Net::new(1)?;
    let target = Scripted::start(&net.targets[0], 9000, |stream| {
        pump(&stream, Source::new(SEED), LENGTH, random_chunks(SEED, Duration::ZERO))?;
        stream.finish_writing()
    })?;
    for datapath in ["auto", "sockmap"] {
        let config = Config::single(target.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start_by(&["setpriv", "--bounding-set=-bpf"], &net.proxy, &config)?;
        let client = net.client.connect(daemon.v4())?;
        Checker::new(SEED).drain(&client, LENGTH, random_chunks(SEED, Duration::ZERO))?;
        drop(client);
        target.outcome()?;
        daemon.wait_ended(1, "target_closed")?;
        let metrics = daemon.metrics()?;
        ensure!(metrics.lines("landbridge_fastpath_available").contains("no_capability"));
        // Only one of them would join.
        let packet = if datapath == "auto" { "no_capability" } else { "not_wanted" };
        let told = metrics.lines("landbridge_packet_available");
        ensure!(told.contains(packet) && told.ends_with(" 0"), "{datapath}: {told}");
        let spliced = metrics.value("landbridge_bytes_total", &[("datapath", "splice")]);
        ensure!(spliced > LENGTH as f64 / 10.0, "{datapath}: {}", metrics.lines("landbridge_bytes_total"));
        let log = daemon.process().stderr() + &daemon.process().stdout();
        ensure!(log.contains("no_capability") && log.contains("CAP_BPF"), "the log does not say why");
        daemon.stop()?;
    }
    Ok(())
}
