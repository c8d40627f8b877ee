//! `landbridge run`: reads the configuration and runs the daemon.

use std::path::Path;

use tracing::{error, info};

use super::{Exit, check, log};
use crate::chain::chain;
use crate::supervisor;

/// Runs the daemon with the configuration in `file`. Nothing is bound unless the whole file is valid.
pub(super) fn run(file: &Path) -> Exit {
    let config = match check::load(file) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    log::start(config.log.format);
    info!(version = env!("CARGO_PKG_VERSION"), file = %file.display(), "starting");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!("cannot start the runtime: {error}");
            return Exit::Failed;
        }
    };
    match runtime.block_on(supervisor::run(config, file.to_owned())) {
        Ok(()) => Exit::Good,
        Err(error) => {
            error!("{}", chain(&error));
            Exit::Failed
        }
    }
}
