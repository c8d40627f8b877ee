//! `cargo xtask test`: every test that this user can run, and a last line that says what could not.

use std::env;
use std::ffi::OsString;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};

use crate::command::{output, show};
use crate::setup::setup;
use crate::workspace::{self, Profile};
use crate::{build, debian, package, test_tools};

/// The packages whose tests need nothing but cargo.
const WITHOUT_ROOT: [&str; 4] = ["landbridge", "landbridge-core", "landbridge-common", "xtask"];

/// Runs the tests whose name contains `filter`; `long` adds those that take minutes.
pub(crate) fn test(long: bool, filter: Option<&str>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        let packages = WITHOUT_ROOT.iter().flat_map(|package| ["--package", package]);
        tests(workspace::cargo, |cargo| cargo.args(packages.clone()), filter)?;
        eprintln!("passed: unit and property tests\nskipped: end-to-end tests: need root (network namespaces)");
        return Ok(());
    }

    let object = build::object(&setup(true)?)?;
    build::binaries(Profile::Dev, &object)?;
    // Where the package is installed, and the package.
    let installed = if long { Some((debian::system()?.0, package::package(Profile::Dev)?)) } else { None };
    let path = path()?;
    let cargo = || {
        let mut cargo = workspace::cargo_with(&object);
        cargo.env("LANDBRIDGE_BIN", workspace::binary(Profile::Dev, "landbridge")).env("PATH", &path);
        if long {
            cargo.env("LANDBRIDGE_LONG", "1");
        }
        if let Some((system, package)) = &installed {
            cargo.env("LANDBRIDGE_DEBIAN", system).env("LANDBRIDGE_DEB", package);
        }
        cargo
    };
    tests(cargo, |cargo| cargo, filter)?;
    let left_out = if long { "" } else { " (without those that only --long runs)" };
    eprintln!("passed: unit, property and end-to-end tests{left_out}");
    Ok(())
}

/// Runs the tests with nextest if it is installed, which leaves out the examples in the documentation, else with cargo.
fn tests(
    cargo: impl Fn() -> Command,
    select: impl Fn(&mut Command) -> &mut Command,
    filter: Option<&str>,
) -> Result<()> {
    if output(cargo().args(["nextest", "--version"])).is_none() {
        let mut test = cargo();
        return show(select(test.arg("test")).args(filter)).context("tests failed");
    }
    // Half of their time tests wait for a timeout or a pause.
    let threads = thread::available_parallelism().map_or(2, usize::from) * 3 / 2;
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--test-threads", &threads.to_string()]);
    show(select(&mut nextest).args(filter)).context("tests failed")?;
    if filter.is_none() {
        let mut examples = cargo();
        show(select(examples.args(["test", "--quiet", "--doc"]))).context("examples in the documentation failed")?;
    }
    Ok(())
}

/// The search path with the unpacked programs at its end, where installed ones go first.
fn path() -> Result<OsString> {
    let current = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&current).chain(test_tools::folders());
    env::join_paths(folders).context("the workspace's path has a colon in it, which PATH cannot hold")
}
