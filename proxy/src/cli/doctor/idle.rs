//! Whether targets close idle connections before the balancer does, as the running daemon has seen it.

use std::time::Duration;

use super::check::Check;
use crate::admin::api::Status;
use crate::cli::client::ClientError;
use crate::config::units::written;

const NAME: &str = "idle connections";

/// How much longer than the balancer a target should wait: more than a request takes to reach it.
const MARGIN: Duration = Duration::from_secs(5);

/// The findings for a balancer that closes its idle connections after `balancer`.
pub(super) fn checks(status: &Result<Status, ClientError>, balancer: Duration) -> Vec<Check> {
    let status = match status {
        Ok(status) => status,
        Err(ClientError::Connect { path, .. }) => {
            return vec![Check::good(NAME, format!("not checked: no daemon answers on {}", path.display()))];
        }
        Err(error) => return vec![Check::good(NAME, format!("not checked: {error}"))],
    };
    let targets = status.groups.iter().flat_map(|group| group.targets.iter().map(move |target| (group, target)));
    let early: Vec<Check> = targets
        .filter_map(|(group, target)| {
            let idle = Duration::from_millis(target.idle_close_ms?);
            (idle < balancer).then(|| early(&format!("{}/{}", group.name, target.name), idle, balancer))
        })
        .collect();
    if early.is_empty() {
        let balancer = written(balancer);
        return vec![Check::good(NAME, format!("no target was seen to close one within {balancer}"))];
    }
    early
}

fn early(target: &str, idle: Duration, balancer: Duration) -> Check {
    let seconds = (balancer + MARGIN).as_secs();
    let found = format!(
        "{target} closes them after {:.1} s, and the balancer keeps them for {}: requests in between end as 502",
        idle.as_secs_f64(),
        written(balancer)
    );
    let remedy = format!(
        "have the server keep idle connections for {seconds} s (uvicorn --timeout-keep-alive {seconds}, gunicorn \
         --keep-alive {seconds}, nginx keepalive_timeout {seconds}s), or lower the balancer's idle timeout; what was changed \
         less than a day ago is seen after a restart of the daemon"
    );
    Check::bad(NAME, found, remedy)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::example;

    #[test]
    fn a_target_that_closes_before_the_balancer_is_named_with_its_remedy() {
        let mut status = example::status();
        let minute = Duration::from_secs(60);
        for (idle, ok) in [(None, true), (Some(60_000), true), (Some(59_999), false), (Some(5_000), false)] {
            status.groups[0].targets[0].idle_close_ms = idle;
            let found = checks(&Ok(status.clone()), minute);
            assert_eq!((found.len(), found[0].ok, found[0].breaks), (1, ok, false), "{idle:?}: {found:?}");
        }
        let found = checks(&Ok(status), minute);
        assert!(found[0].detail.starts_with("onprem/gpu-1 closes them after 5.0 s"), "{found:?}");
        assert!(found[0].remedy.as_ref().is_some_and(|remedy| remedy.contains("--timeout-keep-alive 65")), "{found:?}");
    }

    #[test]
    fn without_a_daemon_nothing_is_claimed() {
        let source = io::ErrorKind::NotFound.into();
        let found = checks(&Err(ClientError::Connect { path: "/none".into(), source }), Duration::from_secs(60));
        assert!(found[0].ok && found[0].detail.contains("not checked: no daemon answers on /none"), "{found:?}");
    }
}
