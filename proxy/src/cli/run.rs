//! `landbridge run`: reads the configuration and runs the daemon.

use std::io::IsTerminal;
use std::path::Path;

use tracing::error;
use tracing_subscriber::EnvFilter;

use super::{Exit, check};
use crate::supervisor;

/// Runs the daemon with the configuration in `file`. Nothing is bound unless the whole file is valid.
pub(super) fn run(file: &Path) -> Exit {
    let config = match check::load(file) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!("cannot start: {error}");
            return Exit::Failed;
        }
    };
    match runtime.block_on(supervisor::run(config, file.to_owned())) {
        Ok(()) => Exit::Good,
        Err(error) => {
            error!("{error}");
            Exit::Failed
        }
    }
}

/// `RUST_LOG` chooses what is logged; by default everything from `info` on.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_not_set| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
}
