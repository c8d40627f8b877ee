//! What the package ships for shells and manuals.

use std::fs;
use std::process::{Command, Output};

fn landbridge(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_landbridge")).args(arguments).output().expect("the program starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

#[test]
fn shells_learn_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(landbridge(&["completions", shell]).stdout).unwrap();
        // clap_complete does not teach fish the values of arguments without a flag.
        let words = ["against-running", "doctor", "draining"].into_iter().take(if shell == "fish" { 2 } else { 3 });
        for word in words {
            assert!(script.contains(word), "{shell} does not learn {word}");
        }
    }
}

#[test]
fn bash_takes_the_completions() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("landbridge");
    fs::write(&script, landbridge(&["completions", "bash"]).stdout).unwrap();
    let ask = "source \"$1\"; COMP_WORDS=(landbridge set state onprem d); COMP_CWORD=4; \
               _landbridge landbridge d onprem; echo ${COMPREPLY[@]}";
    let answer = Command::new("bash").args(["-c", ask, "bash"]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), "draining disabled\n", "{answer:?}", answer = answer.stderr);
}

#[test]
fn every_verb_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    landbridge(&["man", "--folder", folder.path().to_str().unwrap()]);
    for (page, word) in
        [("landbridge", "doctor"), ("landbridge-set-weight", "GROUP/TARGET"), ("landbridge-run", "SIGTERM")]
    {
        let text = fs::read_to_string(folder.path().join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH") && text.contains(word), "{page}: {text}");
    }
    let printed = String::from_utf8(landbridge(&["man"]).stdout).unwrap();
    assert_eq!(printed, fs::read_to_string(folder.path().join("landbridge.1")).unwrap());
}
