//! The status page at `/`, for people: everything is made here, so that it works without scripts, and nothing can be changed.

mod chart;
mod text;

use std::fmt::Write as _;

use super::api::{GroupStatus, ListenerStatus, TargetStatus};
use super::status;
use crate::pulse::{GroupPulse, POINTS, Point};
use crate::running::Running;
use crate::shared::Shared;
use crate::stats::{Carrier, Direction};
use crate::worker::Phase;
use text::{bytes_per_second, escaped, number, short, weighed};

/// The style sheet, at `/style.css`.
pub(super) const STYLE: &str = include_str!("style.css");

/// Nothing from elsewhere, and nothing that runs.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page as it is now.
pub(super) fn html(running: &Running, phase: Phase) -> String {
    let shared = running.load();
    let status = status::status(running, phase);
    let pulses: Vec<GroupPulse> = status.groups.iter().map(|group| running.pulse.group(&group.name)).collect();
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>landbridge</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"refresh\" content=\"5\">\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body><main>\n",
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "<header><h1>landbridge</h1>{}<p>version {}, configuration {}{}</p></header>",
        badge(if status.phase == "serving" { "good" } else { "warn" }, &status.phase_words()),
        escaped(&status.version),
        status.generation,
        if status.last_reload_good {
            ""
        } else {
            "; <strong class=\"bad\">the last reload failed, see the log</strong>"
        },
    );
    overview(&mut page, &shared, &pulses);
    page += "<section class=\"card\"><h2>Listeners</h2><div class=\"scroll\"><table><thead><tr><th>name</th><th>addresses</th>\
             <th>now</th><th class=\"wide\">shares of new sessions</th></tr></thead><tbody>\n";
    status.listeners.iter().for_each(|of| listener(&mut page, &status.phase, of));
    page += "</tbody></table></div></section>\n";
    for (index, (of, pulse)) in status.groups.iter().zip(&pulses).enumerate() {
        group(&mut page, (&shared, index), of, pulse);
    }
    page + "<footer>read-only; renews itself every 5 seconds; charts show the last ten minutes. \
            <a href=\"/metrics\">metrics</a> <a href=\"/readyz\">readiness</a></footer></main></body></html>\n"
}

/// What goes on in total.
fn overview(page: &mut String, shared: &Shared, pulses: &[GroupPulse]) {
    let length = pulses.iter().map(|pulse| pulse.history.len()).max().unwrap_or(0);
    // Groups that a reload has added know less: counted from the newest point back.
    let sum = |back: usize, of: fn(&Point) -> f64| -> f64 {
        pulses.iter().filter_map(|pulse| pulse.history.iter().rev().nth(back)).map(of).sum()
    };
    let series = |of: fn(&Point) -> f64| -> Vec<f64> { (0..length).rev().map(|back| sum(back, of)).collect() };
    let sessions: u32 = shared.config.target_ids().map(|id| shared.sessions(id)).sum();
    *page += "<section class=\"tiles\">\n";
    let tiles: [(&str, String, Vec<f64>); 4] = [
        ("sessions", number(sessions.into()), series(|point| point.sessions.into())),
        ("new sessions per second", short(sum(0, |point| point.connects)), series(|point| point.connects)),
        ("upload", bytes_per_second(sum(0, |point| point.bytes[0])), series(|point| point.bytes[0])),
        ("download", bytes_per_second(sum(0, |point| point.bytes[1])), series(|point| point.bytes[1])),
    ];
    for (label, value, series) in tiles {
        let chart = chart::area(&series, POINTS, label);
        let _ = writeln!(page, "<div class=\"card tile\"><h3>{label}</h3><p class=\"value\">{value}</p>{chart}</div>");
    }
    *page += "</section>\n";
}

fn listener(page: &mut String, phase: &str, listener: &ListenerStatus) {
    let addresses = listener.addresses.iter().map(|address| escaped(address)).collect::<Vec<_>>().join("<br>");
    let word = listener.word(phase);
    let kind = match word {
        "serves" => "good",
        "refuses" => "bad",
        _ => "warn",
    };
    let now = badge(kind, word);
    let bars = chart::bar(&listener.shares.iter().map(|of| of.share).collect::<Vec<_>>());
    let legend = listener.shares.iter().enumerate().map(|(index, of)| {
        let percent = of.share * 100.0;
        format!("<span class=\"key s{}\">{} {percent:.0}%</span>", index % chart::COLOURS, escaped(&of.group))
    });
    let _ = writeln!(
        page,
        "<tr><th>{}</th><td class=\"mono\">{addresses}</td><td>{now}</td><td>{bars}<div>{}</div></td></tr>",
        escaped(&listener.name),
        legend.collect::<String>(),
    );
}

fn group(page: &mut String, (shared, index): (&Shared, usize), group: &GroupStatus, pulse: &GroupPulse) {
    let standing = match group.standing.as_str() {
        "able" => badge("good", "takes sessions"),
        "held" => badge("warn", "held back"),
        _ => badge("bad", "takes no sessions"),
    };
    let state = if group.state == "active" { String::new() } else { badge("warn", &group.state) };
    let reason = group.reason.as_deref().map(|why| format!(" {}", escaped(why))).unwrap_or_default();
    let slow = match group.slow.as_deref() {
        None => String::new(),
        Some("network") => badge("warn", "slow: the network to the targets"),
        Some(leg) => badge("warn", &format!("slow: the {leg}")),
    };
    let _ = writeln!(
        page,
        "<section class=\"card\"><h2>{}</h2><p class=\"facts\">tier {} <i>&middot;</i> weight {} {standing}{state}{slow}{reason}</p>",
        escaped(&group.name),
        group.tier,
        weighed(&group.weight),
    );
    let of = |value: fn(&Point) -> f64| -> Vec<f64> { pulse.history.iter().map(value).collect() };
    let newest = pulse.history.back().copied().unwrap_or_default();
    let sessions: u32 = group.targets.iter().map(|target| target.sessions).sum();
    *page += "<div class=\"charts\">\n";
    for (label, value, series) in [
        ("sessions", number(sessions.into()), of(|point| point.sessions.into())),
        ("new per second", short(newest.connects), of(|point| point.connects)),
        ("upload", bytes_per_second(newest.bytes[0]), of(|point| point.bytes[0])),
        ("download", bytes_per_second(newest.bytes[1]), of(|point| point.bytes[1])),
    ] {
        let chart = chart::area(&series, POINTS, label);
        let _ = writeln!(page, "<div><h3>{label} <b>{value}</b></h3>{chart}</div>");
    }
    *page += "</div>\n<p class=\"facts\">";
    legs(page, pulse);
    datapaths(page, shared, index);
    *page += "</p>\n<div class=\"scroll\"><table><thead><tr><th>target</th><th>address</th><th>health</th><th class=\"n\">weight</th>\
              <th class=\"n\">share</th><th class=\"n\">sessions</th><th class=\"wide\">remark</th></tr></thead><tbody>\n";
    let weight = |target: &TargetStatus| f64::from(target.weight.weight) * f64::from(target.percent);
    let sum: f64 = group.targets.iter().map(weight).sum();
    for of in &group.targets {
        let share = if sum > 0.0 { weight(of) / sum * 100.0 } else { 0.0 };
        target(page, of, share);
    }
    *page += "</tbody></table></div></section>\n";
}

/// Round-trip times and backlogs, as far as they are known.
fn legs(page: &mut String, pulse: &GroupPulse) {
    for (name, leg) in ["client", "target"].into_iter().zip(&pulse.legs) {
        if let Some(trip) = leg.round_trip {
            let waiting =
                if leg.unsent >= 1.0 { format!(", {} unsent", text::bytes(leg.unsent)) } else { String::new() };
            let millis = trip.as_secs_f64() * 1_000.0;
            let _ = write!(page, "<span class=\"pill\">{name} leg {} ms{waiting}</span> ", short(millis));
        }
    }
}

/// What carries the group's sessions towards their clients.
fn datapaths(page: &mut String, shared: &Shared, group: usize) {
    for carrier in Carrier::ALL {
        let cells = shared.stats.cells_of(|id| id.group == group);
        let sessions: i64 = cells.map(|cell| cell.present(Direction::Download, carrier).get()).sum();
        if sessions > 0 {
            let _ = write!(page, "<span class=\"pill\">{} by {}</span> ", number(sessions as f64), carrier.label());
        }
    }
}

fn target(page: &mut String, target: &TargetStatus, share: f64) {
    let health = target.health_word();
    let kind = match health {
        "up" => "good",
        "down" | "ejected" => "bad",
        _ => "warn",
    };
    let state = (target.state != "active").then(|| format!("{} by the operator", target.state));
    let remarks: Vec<_> = state.into_iter().chain(target.remarks()).collect();
    let _ = writeln!(
        page,
        "<tr><th>{}</th><td class=\"mono\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{share:.0}%</td>\
         <td class=\"n\">{}</td><td class=\"remark\">{}</td></tr>",
        escaped(&target.name),
        escaped(&target.address),
        badge(kind, health),
        weighed(&target.weight),
        number(target.sessions.into()),
        escaped(&remarks.join("; ")),
    );
}

fn badge(kind: &str, text: &str) -> String {
    format!(" <span class=\"badge {kind}\">{}</span>", escaped(text))
}
