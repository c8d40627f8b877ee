//! `landbridge check FILE`: says everything that is wrong with a configuration file, or that it is good.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, LoadError};

/// The file was read and is not valid (EX_CONFIG of sysexits.h).
const INVALID: u8 = 78;

/// Checks a file: its summary goes to stdout, its problems go to stderr.
///
/// Exit codes: 0 good, 1 not readable, 78 invalid.
pub fn check(path: &Path) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => return refuse(error),
    };
    match writeln!(io::stdout(), "{}: good: {}", path.display(), summary(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says on stderr why there is no configuration. Every verb that loads one refuses it alike.
pub fn refuse(error: LoadError) -> ExitCode {
    let code = match &error {
        LoadError::Invalid { .. } => ExitCode::from(INVALID),
        LoadError::Read { .. } => ExitCode::FAILURE,
    };
    eprintln!("{:#}", anyhow::Error::from(error));
    code
}

fn summary(config: &Config) -> String {
    let targets = config.groups.iter().map(|group| group.targets.len()).sum();
    let counts = [
        counted(config.listeners.len(), "listener"),
        counted(config.groups.len(), "group"),
        counted(targets, "target"),
    ];
    counts.join(", ")
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
