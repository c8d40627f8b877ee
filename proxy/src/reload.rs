//! A reload: from a file to a configuration that is ready to take the place of the one that runs.
//!
//! [`begin`] binds, and [`prepare`] resolves names and lets the probes of new targets have their first verdict; until then nothing
//! has changed, and dropping what they return, or cancelling, leaves everything as it was. A name that has another address
//! goes the same way, with the file as it was read last.

use std::sync::Arc;

use tracing::{info, warn};

use crate::config::diff::Plan;
use crate::config::{Config, LoadError};
use crate::listening::{Bound, Listening};
use crate::names::Names;
use crate::net::listener::BindError;
use crate::running::Running;
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

impl ReloadError {
    /// Whether the file can be read and is wrong.
    pub(crate) const fn is_invalid(&self) -> bool {
        matches!(self, Self::Load(LoadError::Invalid { .. }))
    }
}

/// Why there is another configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The file was read again.
    File,
    /// A name has another address.
    Names,
}

/// A configuration that is ready to run.
pub(crate) struct Prepared {
    pub(crate) shared: Arc<Shared>,
    pub(crate) watch: Watch,
    pub(crate) bound: Vec<Bound>,
    /// As the file has it, but for what needs a restart: names are names.
    pub(crate) template: Config,
    /// What is different, for people.
    pub(crate) changes: Vec<String>,
    pub(crate) cause: Cause,
}

/// A configuration that is bound.
pub(crate) struct Begun {
    current: Arc<Shared>,
    names: Arc<Names>,
    workers: usize,
    bound: Vec<Bound>,
    template: Config,
    cause: Cause,
}

/// Binds what `template` has and the running configuration does not.
pub(crate) fn begin(
    template: Config,
    cause: Cause,
    running: &Running,
    listening: &mut Listening,
    workers: usize,
) -> Result<Begun, ReloadError> {
    let bound = listening.bind_new(&template, workers, None)?;
    Ok(Begun { current: running.load(), names: Arc::clone(&running.names), workers, bound, template, cause })
}

/// Waits until new names and targets are known, as the start does.
pub(crate) async fn prepare(begun: Begun) -> Prepared {
    let Begun { current, names, workers, bound, template, cause } = begun;
    names.learn(&template).await;
    let config = template.clone().resolved(|host| names.address(host));
    let plan = Plan::between(&current.config, &config);
    let changes = current.told(&plan.changes);
    for (change, told) in plan.changes.iter().zip(&changes) {
        match change.needs_restart {
            true => warn!("reload: {told}"),
            false => info!("reload: {told}"),
        }
    }
    // What needs a restart is not in force, and the next reload has to tell it again.
    let (template, config) = (template.started_as(&current.config), config.started_as(&current.config));
    let shared = Arc::new(current.next(config, workers));
    let watch = watch_targets(&shared);
    first_verdicts(&shared).await;
    Prepared { shared, watch, bound, template, changes, cause }
}
