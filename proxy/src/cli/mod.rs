//! The command line: one file per verb. A verb returns how the process should exit; only `main` exits it.

mod check;
mod doctor;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Joins cloud and on-premises capacity: a layer-4 TCP proxy with a kernel fast path.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the proxy until SIGTERM or SIGINT, which drain it; a second one ends it at once
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Says whether a configuration file is valid, and every problem if it is not
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Says what the kernel offers and whether the fast path works here
    Doctor {
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
}

/// How the process exits. Wrong usage exits with 2, which is clap's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Good,
    /// It failed at run time.
    Failed,
    /// The configuration is invalid (`EX_CONFIG` of sysexits.h).
    InvalidConfiguration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Good => 0,
            Exit::Failed => 1,
            Exit::InvalidConfiguration => 78,
        })
    }
}

/// Carries out what the command line says.
pub fn execute(arguments: Arguments) -> Exit {
    match arguments.verb {
        Verb::Run { config } => run::run(&config),
        Verb::Check { file } => check::check(&file),
        // Nobody reads stdout any more: there is nobody to tell either.
        Verb::Doctor { json } => doctor::doctor(json).unwrap_or(Exit::Failed),
    }
}
