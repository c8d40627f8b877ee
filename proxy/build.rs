//! Embeds the eBPF object that `cargo xtask build` names in `LANDBRIDGE_EBPF_OBJECT`.
//!
//! Writes an expression of type `Option<&'static [u8]>` that the crate includes: without an object the daemon compiles
//! just the same and has no fast path.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const OBJECT: &str = "LANDBRIDGE_EBPF_OBJECT";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?);

    let expression = match env::var_os(OBJECT).filter(|path| !path.is_empty()).map(PathBuf::from) {
        None => "None".to_owned(),
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            embed(&object, &out_dir.join("landbridge-ebpf.o"))
                .map_err(|error| format!("{OBJECT}={}: {error}: run `cargo xtask build`", object.display()))?;
            r#"Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/landbridge-ebpf.o")))"#.to_owned()
        }
    };
    let target = out_dir.join("object.rs");
    fs::write(&target, expression).map_err(|error| format!("{}: {error}", target.display()))
}

/// Copies the object next to what includes it, so that a later build of it cannot change bytes under the compiler.
fn embed(object: &Path, copy: &Path) -> io::Result<()> {
    if !object.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path must be absolute"));
    }
    fs::copy(object, copy).map(drop)
}
