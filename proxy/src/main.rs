//! The `landbridge` command: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use landbridge::cli::{Arguments, execute};

fn main() -> ExitCode {
    execute(Arguments::parse()).into()
}
