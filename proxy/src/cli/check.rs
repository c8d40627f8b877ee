//! `landbridge check FILE`: says everything that is wrong with a configuration file, or that it is good.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::{Daemon, Exit, operate};
use crate::chain::chain;
use crate::config::{Config, LoadError, Problem};

/// Checks a file: its summary goes to stdout, its problems go to stderr; as JSON all of it goes to stdout.
///
/// With a `running` daemon it also says what a reload would change there.
///
/// A file that cannot be read is a failure, one that can be read and is wrong an invalid configuration.
pub(super) fn check(path: &Path, running: Option<Daemon>, json: bool) -> Exit {
    if json {
        return report(path, running);
    }
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match writeln!(io::stdout(), "{}: good: {}", path.display(), summary(&config)) {
        Ok(()) => running.map_or(Exit::Good, |daemon| against(&daemon.socket_of(Some(&config)), path)),
        Err(_) => Exit::Failed,
    }
}

/// What `check --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    valid: bool,
    problems: Vec<Found>,
    /// How much is in a valid file.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
    /// What a reload would change, if that was asked and the file is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct Found {
    /// The option; empty where the text is not TOML.
    path: String,
    /// From 1.
    line: usize,
    message: String,
    hint: String,
}

#[derive(Debug, Serialize)]
struct Summary {
    listeners: usize,
    groups: usize,
    targets: usize,
}

impl Summary {
    fn of(config: &Config) -> Self {
        let targets = config.groups.iter().map(|group| group.targets.len()).sum();
        Self { listeners: config.listeners.len(), groups: config.groups.len(), targets }
    }
}

impl From<&Problem> for Found {
    fn from(Problem { path, line, what, remedy }: &Problem) -> Self {
        Self { path: path.clone(), line: *line, message: what.clone(), hint: remedy.clone() }
    }
}

/// Prints the report of a file that can be read; why there is none goes to stderr.
fn report(path: &Path, running: Option<Daemon>) -> Exit {
    let file = path.display().to_string();
    let (report, exit) = match Config::load(path) {
        Ok(config) => {
            let changes = running.map(|daemon| changes(&daemon.socket_of(Some(&config)), path));
            let changes = match changes.transpose() {
                Ok(changes) => changes,
                Err(exit) => return exit,
            };
            let summary = Some(Summary::of(&config));
            (Report { file, valid: true, problems: Vec::new(), summary, changes }, Exit::Good)
        }
        Err(LoadError::Invalid { problems, .. }) => {
            let problems = problems.iter().map(Found::from).collect();
            (Report { file, valid: false, problems, summary: None, changes: None }, Exit::InvalidConfiguration)
        }
        Err(error @ LoadError::Read { .. }) => {
            eprintln!("{}", chain(&error));
            return Exit::Failed;
        }
    };
    let text = serde_json::to_string_pretty(&report).map_err(io::Error::from);
    // Without a reader of stdout there is nobody to tell either.
    text.and_then(|text| writeln!(io::stdout(), "{text}")).map_or(Exit::Failed, |()| exit)
}

fn changes(socket: &Path, path: &Path) -> Result<Vec<String>, Exit> {
    operate::changes(socket, read(path)?).map_err(|error| {
        eprintln!("{error}");
        error.exit()
    })
}

fn against(socket: &Path, path: &Path) -> Exit {
    read(path).map_or_else(|exit| exit, |text| operate::plan(socket, text))
}

fn read(path: &Path) -> Result<String, Exit> {
    std::fs::read_to_string(path).map_err(|error| {
        eprintln!("cannot read {}: {error}", path.display());
        Exit::Failed
    })
}

/// The configuration in a file, or else how to exit after stderr was told why there is none. Every verb refuses alike.
pub(super) fn load(path: &Path) -> Result<Config, Exit> {
    Config::load(path).map_err(|error| {
        let exit = match &error {
            LoadError::Invalid { .. } => Exit::InvalidConfiguration,
            LoadError::Read { .. } => Exit::Failed,
        };
        eprintln!("{}", chain(&error));
        exit
    })
}

fn summary(config: &Config) -> String {
    let Summary { listeners, groups, targets } = Summary::of(config);
    [counted(listeners, "listener"), counted(groups, "group"), counted(targets, "target")].join(", ")
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
