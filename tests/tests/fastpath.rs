//! The fast path really runs: the kernel's own counters say so.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
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

#[test]
fn without_the_capability_the_fast_path_says_no_and_nothing_breaks() -> Result<()> {
    let report = doctor(&["setpriv", "--bounding-set=-bpf"])?;
    assert_eq!(report["fast_path"]["available"], false, "{report:#}");
    assert_eq!(report["fast_path"]["reason"], "no_capability");
    Ok(())
}
