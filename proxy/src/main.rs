//! The `landbridge` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    landbridge::cli::doctor::doctor(json).unwrap_or(ExitCode::FAILURE)
}
