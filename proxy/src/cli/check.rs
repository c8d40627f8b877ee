//! `landbridge check FILE`: says everything that is wrong with a configuration file, or that it is good.

use std::io::{self, Write};
use std::path::Path;

use super::{Exit, operate};
use crate::config::{Config, LoadError};

/// Checks a file: its summary goes to stdout, its problems go to stderr.
///
/// With the control socket of a daemon it also says what a reload would change there.
///
/// A file that cannot be read is a failure, one that can be read and is wrong an invalid configuration.
pub(super) fn check(path: &Path, running: Option<&Path>) -> Exit {
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match writeln!(io::stdout(), "{}: good: {}", path.display(), summary(&config)) {
        Ok(()) => running.map_or(Exit::Good, |socket| against(socket, path)),
        Err(_) => Exit::Failed,
    }
}

fn against(socket: &Path, path: &Path) -> Exit {
    match std::fs::read_to_string(path) {
        Ok(text) => operate::plan(socket, text),
        Err(error) => {
            eprintln!("cannot read {}: {error}", path.display());
            Exit::Failed
        }
    }
}

/// The configuration in a file, or else how to exit after stderr was told why there is none. Every verb refuses alike.
pub(super) fn load(path: &Path) -> Result<Config, Exit> {
    Config::load(path).map_err(|error| {
        let exit = match &error {
            LoadError::Invalid { .. } => Exit::InvalidConfiguration,
            LoadError::Read { .. } => Exit::Failed,
        };
        eprintln!("{:#}", anyhow::Error::from(error));
        exit
    })
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
