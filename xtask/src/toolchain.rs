//! The Rust toolchain for the eBPF target: one that has the sources of `core`, and an LLVM that the linker can use.
//!
//! What is there already is taken as it is. Otherwise rustup fetches a nightly of its own, or, where it cannot, apt
//! installs Debian's. Neither becomes the default: this program calls both by their paths.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{output, quiet_within};
use crate::progress::say;
use crate::{apt, workspace};

/// The nightly that rustup fetches: pinned, because the unstable parts that an eBPF build needs change.
const NIGHTLY: &str = "nightly-2026-05-20";

/// Debian 12 has a second, recent Rust beside its old one, built on this LLVM.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "cargo-web", "llvm-22-dev"];
const DEBIAN_LLVM: (u32, &str) = (22, "/usr/lib/llvm-22");

/// The versions of LLVM that the linker can be built for.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// How long rustup may take (it loads some 200 MB): shorter if there is something else to try.
const FETCH_OR_APT: Duration = Duration::from_secs(180);
const FETCH_OR_FAIL: Duration = Duration::from_secs(900);

/// A toolchain that can build for eBPF.
pub(crate) struct Toolchain {
    /// A name for messages and folders.
    pub(crate) name: String,
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    /// The major version of the LLVM it is built on.
    pub(crate) llvm: u32,
    /// Where that LLVM is.
    libraries: Libraries,
}

enum Libraries {
    /// A folder with `lib/libLLVM.so`.
    Prefix(PathBuf),
    /// The toolchain's own library, under a name that no linker looks for.
    File(PathBuf),
}

impl Toolchain {
    /// The folder to give to the linker's build as `LLVM_PREFIX`; created in `folder` if need be.
    pub(crate) fn llvm_prefix(&self, folder: &Path) -> Result<PathBuf> {
        let library = match &self.libraries {
            Libraries::Prefix(prefix) => return Ok(prefix.clone()),
            Libraries::File(library) => library,
        };
        let prefix = folder.join("llvm");
        let lib = prefix.join("lib");
        // Links to an earlier version of the toolchain may be in the way.
        if lib.exists() {
            fs::remove_dir_all(&lib).with_context(|| format!("cannot renew {}", lib.display()))?;
        }
        fs::create_dir_all(&lib).with_context(|| format!("cannot create {}", lib.display()))?;
        // The second name is the one it is known by once something is linked against it.
        let own_name = library.file_name().unwrap_or_default();
        for link in [lib.join("libLLVM.so"), lib.join(own_name)] {
            symlink(library, &link).with_context(|| format!("cannot create {}", link.display()))?;
        }
        Ok(prefix)
    }

    /// A command that runs in this toolchain and no other, free of what the cargo that runs this program has set.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let inherited =
                ["RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"];
            if inherited.contains(&&*text) || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_BUILD_") {
                command.env_remove(&name);
            }
        }
        command
            .env("CARGO", &self.cargo)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(workspace::root());
        command
    }
}

/// Finds or installs a toolchain, and says what it did.
pub(crate) fn ensure() -> Result<(Toolchain, String)> {
    if let Some(found) = rustup(NIGHTLY).or_else(|| rustup("nightly")).or_else(debian) {
        let result = format!("{} is there", found.name);
        return Ok((found, result));
    }

    let mut obstacles = Vec::new();
    match fetch() {
        Ok(fetched) => {
            let result = format!("rustup installed {}", fetched.name);
            return Ok((fetched, result));
        }
        Err(obstacle) => obstacles.push(format!("rustup: {obstacle:#}")),
    }
    match install() {
        Ok(installed) => {
            let result = format!("apt installed {}", installed.name);
            return Ok((installed, result));
        }
        Err(obstacle) => obstacles.push(format!("apt: {obstacle:#}")),
    }
    bail!(
        "no Rust toolchain for eBPF could be installed. Install rustup and let it reach its server, or run this as root \
         on Debian 12. (`cargo build` alone gives a daemon without the fast path.)\n  {}",
        obstacles.join("\n  ")
    )
}

/// A toolchain of rustup that is installed and complete.
fn rustup(name: &str) -> Option<Toolchain> {
    // It would otherwise fetch what it does not have as soon as it is asked about it.
    let which = || {
        Command::new("rustup").env("RUSTUP_AUTO_INSTALL", "0").args(["which", "--toolchain", name, "rustc"]).output()
    };
    let found = which().ok().filter(|output| output.status.success())?;
    let rustc = PathBuf::from(String::from_utf8(found.stdout).ok()?.trim());
    let sysroot = rustc.parent()?.parent()?;
    if !sysroot.join("lib/rustlib/src/rust/library/core").exists() {
        return None;
    }
    let library = fs::read_dir(sysroot.join("lib"))
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM.so."))?
        .path();
    let version = output(Command::new(&rustc).arg("-vV"))?;
    let llvm = llvm_major(&version).filter(|major| LLVM_MAJORS.contains(major))?;
    let cargo = sysroot.join("bin/cargo");
    Some(Toolchain { name: name.to_owned(), cargo, rustc, llvm, libraries: Libraries::File(library) })
}

/// Debian's, if all of it is installed.
fn debian() -> Option<Toolchain> {
    if !apt::missing(&DEBIAN_PACKAGES).is_empty() {
        return None;
    }
    let (llvm, prefix) = DEBIAN_LLVM;
    Some(Toolchain {
        name: format!("debian-llvm-{llvm}"),
        cargo: "/usr/bin/cargo".into(),
        rustc: "/usr/bin/rustc".into(),
        llvm,
        libraries: Libraries::Prefix(prefix.into()),
    })
}

fn fetch() -> Result<Toolchain> {
    if output(Command::new("rustup").arg("--version")).is_none() {
        bail!("is not installed");
    }
    say(&format!("rustup fetches {NIGHTLY} (200 MB); your default toolchain stays as it is"));
    let limit = if apt::usable() { FETCH_OR_APT } else { FETCH_OR_FAIL };
    let mut install = Command::new("rustup");
    install.args([
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src,clippy",
        "--no-self-update",
    ]);
    quiet_within(&mut install, "rustup", limit)?;
    rustup(NIGHTLY).with_context(|| format!("{NIGHTLY} is installed but not complete"))
}

fn install() -> Result<Toolchain> {
    apt::install(&apt::missing(&DEBIAN_PACKAGES))?;
    debian().with_context(|| format!("installed, but not complete: {}", apt::missing(&DEBIAN_PACKAGES).join(" ")))
}

/// The major version in the line `LLVM version: 22.1.4` of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let number = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    number.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn the_version_of_llvm_is_read() {
        assert_eq!(llvm_major("rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.97.0-nightly\n"), None);
    }
}
