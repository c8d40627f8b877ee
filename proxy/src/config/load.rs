//! From a file to a [`Config`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::binds::Binds;
use super::notes::Noted;
use super::problem::{Problem, Problems};
use super::raw::{Document, Table};
use super::references::Groups;
use super::unique::Unique;
use super::{Config, datapath, dns, group, listener, logs, process};

/// Thousands of targets fit into this; a larger file is not a configuration.
const LARGEST_FILE: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file was read, but it is not a valid configuration.
    #[error("{}", problems.in_file(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Problems,
    },
}

impl Config {
    /// Reads a configuration file of at most 1 MiB.
    ///
    /// # Errors
    /// When the file cannot be read, or with all its problems when it is not valid.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = read_file(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes).map_err(|problems| LoadError::Invalid { path: path.to_owned(), problems })
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// With all problems of the text. When the text is not even TOML, only what is sure in spite of that.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let document = Document::parse(text);
        let config = read(document.top());
        let problems = document.finish();
        match config {
            Ok(config) if problems.is_empty() => Ok(config),
            // `Noted` proves that there is at least one.
            Ok(_) | Err(Noted { .. }) => Err(problems),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Problems> {
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(Problem::of_text(1, "the file is larger than 1 MiB", "give a configuration file").into());
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
            Problem::of_text(line, "the line is not UTF-8 text", "save the file as UTF-8")
        })?;
        Self::parse(text)
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte too many shows that the file is too large.
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads all sections, in the order in which they refer to each other.
pub(super) fn read(top: Table<'_>) -> Result<Config, Noted> {
    let mut binds = Binds::default();
    let runtime = process::runtime(top.table("runtime"));
    let admin = process::admin(top.table("admin"), &mut binds);
    let dns = dns::read(top.table("dns"));
    let log = logs::log(top.table("log"));
    let session_log = logs::session_log(top.table("session_log"));
    let datapath = datapath::read(top.table("datapath"));

    let mut all_groups = Groups::default();
    let mut names = Unique::new("give each group its own name");
    let groups: Vec<_> = top
        .tables("group")
        .into_iter()
        .map(|table| {
            let table = table.inspect_err(|noted| all_groups.add_unreadable(*noted))?;
            group::read(table, &mut names, &mut all_groups)
        })
        .collect();

    let mut names = Unique::new("give each listener its own name");
    let listeners: Vec<_> = top
        .tables("listener")
        .into_iter()
        .map(|table| {
            let table = table.inspect_err(|_| all_groups.add_unreadable_use())?;
            listener::read(table, &mut names, &mut binds, &mut all_groups)
        })
        .collect();

    if groups.is_empty() {
        top.place().key("group", 1).unfit("no group", "add [[group]] with a name and a [[group.target]]");
    }
    if listeners.is_empty() {
        top.place().key("listener", 1).unfit("no listener", "add [[listener]] with name, bind and groups");
    } else {
        all_groups.report_unused();
    }
    top.finish();
    Ok(Config {
        runtime: runtime?,
        admin: admin?,
        dns: dns?,
        log: log?,
        session_log: session_log?,
        datapath: datapath?,
        listeners: listeners.into_iter().collect::<Result<_, _>>()?,
        groups: groups.into_iter().collect::<Result<_, _>>()?,
    })
}
