//! `/metrics`: the counters of the data plane, summed over the workers when somebody asks.

use std::sync::{Mutex, PoisonError};

use landbridge_common::packet::PacketCounter;
use landbridge_core::datapath::Demotion;
use landbridge_core::end::SessionEnd;
use landbridge_core::failover::Standing;
use landbridge_core::join::NotJoined;
use landbridge_core::select::TargetId;
use landbridge_core::slow::Slow;
use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::Datapaths;
use super::status::{idle_close, shares};
use crate::fastpath::Fallback;
use crate::fastpath::packet::PacketPath;
use crate::histogram::{self, Histogram};
use crate::net::dial::FailureReason;
use crate::probe::ProbeFailure;
use crate::running::Running;
use crate::session_log::SessionLog;
use crate::shared::Shared;
use crate::stats::{Carrier, Direction, Ends, RouteCell};

/// The Prometheus registry of this process.
pub(super) struct Metrics {
    kernel: Datapaths,
    /// With what it is for: the next one may no longer have all of its series.
    recorder: Mutex<(Scope, PrometheusRecorder)>,
}

/// The generation of the configuration, and whether the packet datapath was left to another process.
type Scope = (u64, bool);

impl Metrics {
    pub(super) fn new(kernel: Datapaths) -> Self {
        let recorder = Mutex::new(((0, false), recorder(&kernel)));
        Self { kernel, recorder }
    }

    /// The current values as Prometheus text.
    pub(super) fn render(&self, running: &Running) -> String {
        let shared = running.load();
        // A panic inside leaves values that are out of date, and they are all set below.
        let mut held = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        let scope = (shared.generation, self.kernel.packet.as_deref().is_ok_and(PacketPath::is_retired));
        if held.0 != scope {
            *held = (scope, recorder(&self.kernel));
        }
        with_local_recorder(&held.1, || {
            publish(&shared);
            publish_pulse(running, &shared);
            self.kernel.packet.as_deref().map(publish_packets).unwrap_or_default();
            let (good, loaded_at) = running.last_reload();
            gauge!("landbridge_config_last_reload_success").set(if good { 1.0 } else { 0.0 });
            gauge!("landbridge_config_last_reload_timestamp_seconds").set(loaded_at as f64);
        });
        let mut text = held.1.handle().render();
        write_times(&shared, &mut text);
        text
    }
}

fn recorder(kernel: &Datapaths) -> PrometheusRecorder {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        describe();
        gauge!("landbridge_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let packet = match &kernel.packet {
            Ok(path) if path.is_retired() => Err("handed_over"),
            Ok(_) => Ok(()),
            Err(code) => Err(*code),
        };
        for (name, available) in
            [("landbridge_fastpath_available", kernel.sockmap), ("landbridge_packet_available", packet)]
        {
            gauge!(name, "reason" => available.err().unwrap_or("none")).set(u8::from(available.is_ok()));
        }
    });
    recorder
}

fn describe() {
    describe_counter!("landbridge_sessions_total", "Sessions that ended, by how they ended.");
    describe_counter!("landbridge_bytes_total", "Bytes forwarded, by direction and what carried them.");
    describe_counter!(
        "landbridge_accept_failures_total",
        "Connections that could not be accepted, for want of resources."
    );
    describe_counter!("landbridge_target_connects_total", "Connects to the target that were tried.");
    describe_counter!("landbridge_target_connect_failures_total", "Connects to the target that failed, by reason.");
    describe_counter!(
        "landbridge_integrity_resets_total",
        "Sessions that were reset because their bytes did not agree, or because their packets can never be sent on. It should stay 0."
    );
    describe_gauge!(
        "landbridge_datapath_sessions",
        "Sessions that are open, by direction and what carries that direction now."
    );
    describe_gauge!("landbridge_fastpath_available", "1 if the kernel fast path works, else 0 and the reason.");
    describe_counter!("landbridge_datapath_joins_total", "Sessions that were joined at packet level.");
    describe_counter!(
        "landbridge_datapath_adoptions_total",
        "Joined sessions that were taken over from a former process."
    );
    describe_counter!(
        "landbridge_datapath_fallbacks_total",
        "Sessions or directions that a datapath refused, and that went on in another one, by reason."
    );
    describe_gauge!("landbridge_packet_available", "1 if the packet datapath works, else 0 and the reason.");
    describe_counter!(
        "landbridge_packet_packets_total",
        "Packets of watched and joined sessions, by what became of them. One that the kernel put together counts once."
    );
    describe_gauge!("landbridge_packet_joints", "Sessions that are watched, joined, or linger after their end.");
    describe_counter!("landbridge_datapath_promotions_total", "Directions that were handed to the kernel.");
    describe_counter!("landbridge_datapath_demotions_total", "Directions that came back from the kernel, by reason.");
    describe_gauge!("landbridge_target_sessions", "Sessions that the target has now.");
    describe_gauge!(
        "landbridge_target_weight",
        "The target's weight inside its group: the configuration's or the operator's."
    );
    describe_gauge!(
        "landbridge_target_idle_close_seconds",
        "Shortest time without a byte after which the target has closed sessions first, three at different moments; 0: it was not seen to."
    );
    describe_gauge!(
        "landbridge_target_up",
        "1 if the target is healthy: neither down, nor ejected, nor unknown to its probes."
    );
    describe_gauge!(
        "landbridge_slow_leg",
        "1 if most active sessions of the group wait for it: the client, the network to the targets, or the target itself."
    );
    describe_gauge!(
        "landbridge_leg_round_trip_seconds",
        "Mean smoothed round-trip time of the sessions last looked at; 0 before the first."
    );
    describe_gauge!("landbridge_leg_unsent_bytes", "Bytes that wait to be sent, mean of the sessions last looked at.");
    describe_gauge!(
        "landbridge_leg_unacknowledged_bytes",
        "Bytes sent and not acknowledged, mean of the sessions last looked at."
    );
    describe_counter!(
        "landbridge_leg_retransmitted_segments_total",
        "Segments sent again, as far as looks at sessions have seen them."
    );
    describe_counter!(
        "landbridge_session_log_dropped_total",
        "Lines of the session log that were lost because its writer was behind or could not write."
    );
    describe_gauge!("landbridge_listener_sessions", "Sessions that the listener has now.");
    describe_gauge!("landbridge_listener_max_connections", "Sessions that the listener may have at once.");
    describe_gauge!("landbridge_group_able", "1 if the group can take new sessions by its health and its states.");
    describe_counter!(
        "landbridge_dns_failures_total",
        "Look-ups of the target's DNS name without an answer; the last good one is kept."
    );
    describe_gauge!("landbridge_group_share", "Fraction of the listener's new sessions that the group gets now.");
    describe_gauge!("landbridge_probe_seconds", "How long the last probe of the target took.");
    describe_counter!("landbridge_probe_failures_total", "Bad probes of the target, by reason.");
    describe_gauge!("landbridge_config_last_reload_success", "1 if the last reload was good; 0 if it changed nothing.");
    describe_gauge!(
        "landbridge_config_last_reload_timestamp_seconds",
        "When the running configuration was put in force, in seconds since 1970."
    );
    describe_gauge!("landbridge_build_info", "1, with the version as a label.");
}

fn publish(shared: &Shared) {
    let mut integrity_resets = 0;
    for (index, listener) in shared.config.listeners.iter().enumerate() {
        let labels = [("listener", listener.name.clone())];
        let cells = shared.stats.listener_cells(index);
        publish_ends(&labels, cells.iter().map(|cell| &cell.ends));
        let failures = cells.iter().map(|cell| cell.accept_failures.get()).sum();
        counter!("landbridge_accept_failures_total", &labels).absolute(failures);

        for (id, cells) in shared.stats.routes(index) {
            let (group, target) = shared.target(id);
            let labels =
                [("listener", listener.name.clone()), ("group", group.name.clone()), ("target", target.name.clone())];
            publish_ends(&labels, cells.iter().map(|cell| &cell.ends));
            integrity_resets += cells.iter().map(|cell| cell.ends.of(SessionEnd::IntegrityReset).get()).sum::<u64>();
            let connects = cells.iter().map(|cell| cell.connects.get()).sum();
            counter!("landbridge_target_connects_total", &labels).absolute(connects);
            for reason in FailureReason::ALL {
                let failures = cells.iter().map(|cell| cell.failures(reason).get()).sum();
                let labels = with(&labels, [("reason", reason.label())]);
                counter!("landbridge_target_connect_failures_total", &labels).absolute(failures);
            }
            for why in Demotion::ALL {
                let demotions = cells.iter().map(|cell| cell.demotions(why).get()).sum();
                let labels = with(&labels, [("reason", why.code())]);
                counter!("landbridge_datapath_demotions_total", &labels).absolute(demotions);
            }
            let promotions = cells.iter().map(|cell| cell.promotions.get()).sum();
            counter!("landbridge_datapath_promotions_total", &labels).absolute(promotions);
            let joins = cells.iter().map(|cell| cell.joins.get()).sum();
            counter!("landbridge_datapath_joins_total", &labels).absolute(joins);
            let adoptions = cells.iter().map(|cell| cell.adoptions.get()).sum();
            counter!("landbridge_datapath_adoptions_total", &labels).absolute(adoptions);
            let of_directions = Fallback::ALL.map(|why| {
                (Carrier::Sockmap, why.code(), cells.iter().map(|cell| cell.fallbacks(why).get()).sum::<u64>())
            });
            let of_sessions = NotJoined::ALL.map(|why| {
                (Carrier::Packet, why.code(), cells.iter().map(|cell| cell.not_joined(why).get()).sum::<u64>())
            });
            for (datapath, reason, count) in of_directions.into_iter().chain(of_sessions) {
                let labels = with(&labels, [("datapath", datapath.label()), ("reason", reason)]);
                counter!("landbridge_datapath_fallbacks_total", &labels).absolute(count);
            }
            for direction in Direction::ALL {
                for carrier in Carrier::ALL {
                    let bytes = cells.iter().map(|cell| cell.bytes(direction, carrier).get()).sum();
                    let labels = with(&labels, [("direction", direction.label()), ("datapath", carrier.label())]);
                    counter!("landbridge_bytes_total", &labels).absolute(bytes);
                    let present: i64 = cells.iter().map(|cell| cell.present(direction, carrier).get()).sum();
                    gauge!("landbridge_datapath_sessions", &labels).set(present as f64);
                }
            }
        }
    }
    counter!("landbridge_integrity_resets_total").absolute(integrity_resets);
    publish_shares(shared);
    publish_places(shared);
    for (group_index, group) in shared.config.groups.iter().enumerate() {
        for (target_index, target) in group.targets.iter().enumerate() {
            let labels = [("group", group.name.clone()), ("target", target.name.clone())];
            let id = TargetId { group: group_index, target: target_index };
            gauge!("landbridge_target_sessions", &labels).set(shared.sessions(id));
            let up = if healthy(shared, id) { 1.0 } else { 0.0 };
            gauge!("landbridge_target_up", &labels).set(up);
            let weight = shared.pool().selector().weight(id);
            gauge!("landbridge_target_weight", &labels).set(weight);
            let idle = idle_close(shared, id).unwrap_or_default();
            gauge!("landbridge_target_idle_close_seconds", &labels).set(idle.as_secs_f64());
            if let Some(host) = &target.host {
                counter!("landbridge_dns_failures_total", &labels).absolute(shared.names.failures(host));
            }
            if group.health.is_some() {
                let probes = &shared.state(id).probes;
                gauge!("landbridge_probe_seconds", &labels).set(probes.last().as_secs_f64());
                for failure in ProbeFailure::ALL {
                    let labels = with(&labels, [("reason", failure.label())]);
                    counter!("landbridge_probe_failures_total", &labels).absolute(probes.failures(failure).get());
                }
            }
        }
    }
}

/// The histograms. The exporter would keep them itself, and could not take what workers have counted.
fn write_times(shared: &Shared, text: &mut String) {
    type Times = fn(&RouteCell) -> &Histogram;
    let families: [(&str, &str, Times); 2] = [
        ("landbridge_target_connect_seconds", "How long connects to the target took that worked.", |cell| {
            &cell.connect_times
        }),
        (
            "landbridge_target_first_byte_seconds",
            "From the first byte sent to the target, or the connect if it speaks first, to its first byte.",
            |cell| &cell.first_byte_times,
        ),
    ];
    for (name, help, times) in families {
        histogram::describe(text, name, help);
        for (index, listener) in shared.config.listeners.iter().enumerate() {
            for (id, cells) in shared.stats.routes(index) {
                let (group, target) = shared.target(id);
                let (listener, group, target) = (&listener.name, &group.name, &target.name);
                let labels = format!("listener=\"{listener}\",group=\"{group}\",target=\"{target}\"");
                histogram::write(text, name, &labels, cells.iter().map(|cell| times(cell)));
            }
        }
    }
}

/// What looks at sessions have found.
fn publish_pulse(running: &Running, shared: &Shared) {
    for (index, group) in shared.config.groups.iter().enumerate() {
        let pulse = running.pulse.group(&group.name);
        for slow in Slow::ALL {
            let labels = [("group", group.name.clone()), ("leg", slow.code().to_owned())];
            gauge!("landbridge_slow_leg", &labels).set(u8::from(pulse.slow() == Some(slow)));
        }
        for (side, leg) in ["client", "target"].into_iter().enumerate() {
            let labels = [("group", group.name.clone()), ("leg", leg.to_owned())];
            let known = &pulse.legs[side];
            gauge!("landbridge_leg_round_trip_seconds", &labels)
                .set(known.round_trip.unwrap_or_default().as_secs_f64());
            gauge!("landbridge_leg_unsent_bytes", &labels).set(known.unsent);
            gauge!("landbridge_leg_unacknowledged_bytes", &labels).set(known.unacknowledged);
            let cells = shared.stats.cells_of(|id| id.group == index);
            let again = cells.map(|cell| cell.looked.legs[side].retransmitted.get()).sum();
            counter!("landbridge_leg_retransmitted_segments_total", &labels).absolute(again);
        }
    }
    let dropped = running.session_log.as_ref().map_or(0, SessionLog::dropped);
    counter!("landbridge_session_log_dropped_total").absolute(dropped);
}

/// What the programs of the packet datapath did.
fn publish_packets(path: &PacketPath) {
    for what in PacketCounter::ALL {
        if let Ok(count) = path.count(what) {
            counter!("landbridge_packet_packets_total", "verdict" => what.code()).absolute(count);
        }
    }
    gauge!("landbridge_packet_joints").set(path.sessions());
}

/// How full the listeners are, and which groups take sessions.
fn publish_places(shared: &Shared) {
    for (index, listener) in shared.config.listeners.iter().enumerate() {
        let labels = [("listener", listener.name.clone())];
        gauge!("landbridge_listener_sessions", &labels).set(shared.taken(index));
        gauge!("landbridge_listener_max_connections", &labels).set(listener.max_connections);
    }
    for (index, group) in shared.config.groups.iter().enumerate() {
        let able = shared.pool().group(index).standing() == Standing::Able;
        gauge!("landbridge_group_able", "group" => group.name.clone()).set(u8::from(able));
    }
}

/// Which fraction of a listener's new sessions each of its groups gets.
fn publish_shares(shared: &Shared) {
    for (index, listener) in shared.config.listeners.iter().enumerate() {
        for (group, share) in shares(shared, index) {
            let labels = [("listener", listener.name.clone()), ("group", shared.config.groups[group].name.clone())];
            gauge!("landbridge_group_share", &labels).set(share);
        }
    }
}

fn healthy(shared: &Shared, id: TargetId) -> bool {
    shared.pool().group(id.group).is_healthy(id.target)
}

/// One series per end that was seen: most never are.
fn publish_ends<'a>(labels: &[(&'static str, String)], ends: impl Iterator<Item = &'a Ends> + Clone) {
    for end in SessionEnd::ALL {
        let count: u64 = ends.clone().map(|ends| ends.of(end).get()).sum();
        if count > 0 {
            counter!("landbridge_sessions_total", &with(labels, [("end", end.code())])).absolute(count);
        }
    }
}

fn with<const N: usize>(
    labels: &[(&'static str, String)],
    more: [(&'static str, &str); N],
) -> Vec<(&'static str, String)> {
    labels.iter().cloned().chain(more.map(|(key, value)| (key, value.to_owned()))).collect()
}
