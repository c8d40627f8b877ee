//! `cargo xtask`: everything that building, running and testing landbridge needs beyond plain cargo. One verb per file.

mod apt;
mod bench;
mod build;
mod child;
mod command;
mod debian;
mod linker;
mod lint;
mod package;
mod progress;
mod run;
mod setup;
mod test;
mod test_tools;
mod toolchain;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Profile;

/// Builds, runs and tests landbridge.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing to build the eBPF programs; harmless and quick when nothing is.
    Setup {
        /// Also install what the end-to-end tests use (needs root).
        #[arg(long)]
        tests: bool,
    },
    /// Set up, build the eBPF programs, and build the daemon with them inside.
    Build {
        /// Build with the release profile.
        #[arg(long)]
        release: bool,
    },
    /// Set up, build and run the daemon; without a configuration file as a demonstration with sample targets.
    Run {
        /// The daemon's configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Build with the release profile.
        #[arg(long)]
        release: bool,
    },
    /// Set up, build and run every test; without root all but the end-to-end tests.
    Test {
        /// Also run the tests that take minutes.
        #[arg(long)]
        long: bool,
        /// Run only the tests whose name contains this.
        filter: Option<String>,
    },
    /// Set up the peers, and measure landbridge against them (needs root).
    Bench(bench::Arguments),
    /// Set up, build with the release profile, and make a Debian package in target/package/deb.
    Package {
        /// Package the development build instead, which is built faster and is what the tests have.
        #[arg(long)]
        dev: bool,
    },
    /// Check formatting, lints, and that the core stays free of I/O.
    Lint,
}

fn main() -> ExitCode {
    match run_verb(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What was being done first, then why it failed, each on a line of its own.
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run_verb(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup { tests } => setup::setup(tests).map(drop),
        Verb::Build { release } => build::build(Profile::from_release(release)).map(drop),
        Verb::Run { config, release } => run::run(config.as_deref(), Profile::from_release(release)),
        Verb::Test { long, filter } => test::test(long, filter.as_deref()),
        Verb::Bench(arguments) => bench::bench(&arguments),
        Verb::Package { dev } => package::package(Profile::from_release(!dev)).map(drop),
        Verb::Lint => lint::lint(),
    }
}
