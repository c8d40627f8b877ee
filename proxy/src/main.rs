//! The `landbridge` command.

use std::path::Path;
use std::process::ExitCode;

use landbridge::cli;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check", file] => cli::check::check(Path::new(file)),
        _ => {
            eprintln!("usage: landbridge check FILE");
            ExitCode::from(2)
        }
    }
}
