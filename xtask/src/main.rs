//! `cargo xtask`: one verb per file.

fn main() {}
