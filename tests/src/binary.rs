//! Where the programs of this repository are.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The program `name`: the path in the environment (`LANDBRIDGE_BIN` for `landbridge`), else the one that was built in
/// the same profile as this test.
pub fn binary(name: &str) -> Result<PathBuf> {
    let variable = format!("{}_BIN", name.to_uppercase().replace('-', "_"));
    let path = match std::env::var_os(&variable) {
        Some(path) => path.into(),
        None => beside_this_test(name)?,
    };
    ensure!(path.is_file(), "{} is missing; `cargo build` makes it, or set {variable}", path.display());
    Ok(path)
}

/// Tests run in `target/PROFILE/deps`, programs are in `target/PROFILE`.
fn beside_this_test(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.parent().and_then(|deps| deps.parent());
    Ok(profile.with_context(|| format!("{} is not inside a target directory", test.display()))?.join(name))
}
