//! `landbridge check` as a user calls it.

use std::path::Path;
use std::process::{Command, Output};

fn check(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_landbridge")).arg("check").arg(path).output().expect("landbridge runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

#[test]
fn a_good_file_is_summed_up() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/demo.toml");
    let output = check(&path);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("{}: good: 1 listener, 2 groups, 3 targets\n", path.display()));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_bad_file_is_refused_with_all_its_problems() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    let good = include_str!("../../config/minimal.toml");
    std::fs::write(&path, format!("{good}weight = 70000\nwieght = 1\n")).unwrap();
    let output = check(&path);
    let file = path.display();
    let lines = good.lines().count();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        format!(
            "{file}:{}: group[0].target[0].weight: 70000 is out of range; use a whole number from 0 to 65535\n\
             {file}:{}: group[0].target[0].wieght: unknown key; did you mean weight?\n",
            lines + 1,
            lines + 2
        )
    );
}

#[test]
fn a_file_that_is_not_text_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bytes.toml");
    std::fs::write(&path, b"[runtime]\nworkers = \xff\n").unwrap();
    let output = check(&path);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("bytes.toml:2: the line is not UTF-8 text"));
}

#[test]
fn an_endless_file_is_refused() {
    let output = check(Path::new("/dev/zero"));
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("larger than 1 MiB"));
}

#[test]
fn a_missing_file_is_a_failure() {
    let output = check(Path::new("no-such-file.toml"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).starts_with("cannot read no-such-file.toml: "));
}
