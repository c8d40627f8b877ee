//! What shells and manuals know about the command line.

use std::fs;

use anyhow::{Context, Result, ensure};
use landbridge_tests::{PATIENCE, Process, binary};

const VERBS: [&str; 12] = [
    "run",
    "check",
    "status",
    "sessions",
    "top",
    "shutdown",
    "set",
    "reload",
    "detach",
    "doctor",
    "completions",
    "man",
];

fn landbridge(arguments: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new(binary("landbridge")?);
    Process::start("landbridge", command.args(arguments))?.succeed(PATIENCE)
}

#[test]
fn every_shell_completes_every_verb() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = landbridge(&["completions", shell])?;
        for verb in VERBS {
            ensure!(script.contains(verb), "{shell} does not know {verb}");
        }
    }
    Ok(())
}

#[test]
fn every_verb_has_a_page() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_str().context("a path of text")?;
    landbridge(&["man", "--folder", path])?;
    let pages = fs::read_dir(folder.path())?.count();
    let own = fs::read_to_string(folder.path().join("landbridge.1"))?;
    ensure!(own.starts_with(".ie") || own.contains(".TH"), "{own}");
    ensure!(own.contains("Exit status") && own.contains("SIGQUIT") && own.contains("RUST_LOG"), "{own}");
    for verb in VERBS {
        let page = fs::read_to_string(folder.path().join(format!("landbridge-{verb}.1"))).context(verb)?;
        ensure!(page.contains(verb) && own.contains(verb), "{page}");
    }
    ensure!(pages > VERBS.len(), "verbs below verbs have pages too: {pages}");
    Ok(())
}
