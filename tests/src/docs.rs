//! The documentation, to be held against what runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where a file of `docs` is.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// The text of one.
pub fn page(name: &str) -> Result<String> {
    let path = path(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
