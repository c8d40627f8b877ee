//! Where things are, and how cargo is called.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment variable that tells the daemon's build script which eBPF object to embed.
const OBJECT: &str = "LANDBRIDGE_EBPF_OBJECT";

/// A cargo profile.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    /// `target/debug`
    Dev,
    /// `target/release`
    Release,
}

impl Profile {
    pub(crate) fn from_release(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// The top folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where setup installs what belongs to this workspace alone.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The target folder of the eBPF programs: apart from the daemon's, so that neither build invalidates the other.
pub(crate) fn ebpf_target() -> PathBuf {
    root().join("target/ebpf")
}

/// The path of a binary that cargo built.
pub(crate) fn binary(profile: Profile, name: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir));
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    target.join(folder).join(name)
}

/// The cargo that runs this program, in the workspace, without an eBPF object.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).env_remove(OBJECT);
    cargo
}

/// The same cargo, which embeds an eBPF object wherever the daemon is built.
pub(crate) fn cargo_with(object: &Path) -> Command {
    let mut cargo = cargo();
    cargo.env(OBJECT, object);
    cargo
}
