//! A reload: from a file to a configuration that is ready to take the place of the one that runs.
//!
//! [`prepare`] binds, and lets the probes of new targets have their first verdict; until it returns nothing has changed,
//! and dropping what it returns, or cancelling it, leaves everything as it was.

use std::path::Path;
use std::sync::Arc;

use tracing::{info, warn};

use crate::config::diff::Plan;
use crate::config::{Config, LoadError};
use crate::listening::{Bound, Listening};
use crate::net::listener::BindError;
use crate::shared::Shared;
use crate::watch::{Watch, first_verdicts, watch_targets};

/// Why everything stays as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// There is no valid configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// A configuration that is ready to run.
pub(crate) struct Prepared {
    pub(crate) shared: Arc<Shared>,
    pub(crate) watch: Watch,
    pub(crate) bound: Vec<Bound>,
    /// What is different, for people.
    pub(crate) changes: Vec<String>,
}

/// A configuration that is bound.
pub(crate) struct Begun {
    shared: Arc<Shared>,
    bound: Vec<Bound>,
    changes: Vec<String>,
}

/// Reads `file` and binds what it has and `current` does not.
pub(crate) fn begin(
    file: &Path,
    current: &Shared,
    listening: &mut Listening,
    workers: usize,
) -> Result<Begun, ReloadError> {
    let config = Config::load(file)?;
    let bound = listening.bind_new(&config, workers, None)?;
    let plan = Plan::between(&current.config, &config);
    for change in &plan.changes {
        match change.needs_restart {
            true => warn!("reload: {change}"),
            false => info!("reload: {change}"),
        }
    }
    let changes = plan.changes.iter().map(ToString::to_string).collect();
    Ok(Begun { shared: Arc::new(current.next(config, workers)), bound, changes })
}

/// Waits until new targets are known, as the start does.
pub(crate) async fn prepare(Begun { shared, bound, changes }: Begun) -> Prepared {
    let watch = watch_targets(&shared);
    first_verdicts(&shared).await;
    Prepared { shared, watch, bound, changes }
}
