//! Embeds the eBPF objects that `cargo xtask build` made: the one that it names in `LANDBRIDGE_EBPF_OBJECT`, and the packet
//! datapath's, which lies next to it.
//!
//! Writes an expression of type `Option<&'static [u8]>` for each, which the crate includes: without objects the daemon
//! compiles just the same and has no fast path.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const OBJECT: &str = "LANDBRIDGE_EBPF_OBJECT";

/// The name of the packet datapath's object.
const PACKET: &str = "landbridge-packet";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?);

    let object = env::var_os(OBJECT).filter(|path| !path.is_empty()).map(PathBuf::from);
    let packet = object.as_ref().map(|object| object.with_file_name(PACKET));
    include(object.as_deref(), &out_dir, "object.rs", "landbridge-ebpf.o")?;
    include(packet.as_deref(), &out_dir, "packet_object.rs", "landbridge-packet.o")
}

/// Writes the expression for one object, and a copy of the object for it to include.
fn include(object: Option<&Path>, out_dir: &Path, expression: &str, copy: &str) -> Result<(), String> {
    let text = match object {
        None => "None".to_owned(),
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            embed(object, &out_dir.join(copy))
                .map_err(|error| format!("{OBJECT}: {}: {error}: run `cargo xtask build`", object.display()))?;
            format!(r#"Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/{copy}")))"#)
        }
    };
    let target = out_dir.join(expression);
    fs::write(&target, text).map_err(|error| format!("{}: {error}", target.display()))
}

/// Copies the object next to what includes it, so that a later build of it cannot change bytes under the compiler.
fn embed(object: &Path, copy: &Path) -> io::Result<()> {
    if !object.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path must be absolute"));
    }
    fs::copy(object, copy).map(drop)
}
