//! `[group.health]`: how targets are probed.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::durations::{DurationRange, MILLISECOND};
use super::fault::Fault;
use super::notes::{Noted, Place};
use super::raw::Table;
use super::suggest::quoted;
use super::{HealthCheck, HttpProbe, Method, ProbeKind};

const INTERVAL: Duration = Duration::from_secs(2);
const FAST_INTERVAL: Duration = Duration::from_millis(500);
/// Faster than this, probes are a load of their own; an hour between two says nothing about now.
const INTERVAL_LIMITS: DurationRange =
    DurationRange { least: Duration::from_millis(10), most: Duration::from_hours(1), step: MILLISECOND, zero: None };
const TIMEOUT: Duration = Duration::from_secs(1);
/// The start waits for the first probes at most this long.
const TIMEOUT_LIMITS: DurationRange =
    DurationRange { least: MILLISECOND, most: Duration::from_mins(1), step: MILLISECOND, zero: None };
const RISE: u32 = 2;
const FALL: u32 = 3;
/// More probes in a row than this take longer than any operator waits.
const MOST_IN_A_ROW: u32 = 1_000;
const PATH: &str = "/health";
const EXPECT: RangeInclusive<u16> = 200..=299;
/// A word or a sentence that is looked for in the answer; the prober reads far more of that.
const LONGEST_BODY: usize = 1_024;
/// Longer than any path that a health check has.
const LONGEST_TEXT: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
}

const KINDS: &[(&str, Kind)] = &[("tcp", Kind::Tcp), ("http", Kind::Http)];
pub(super) const METHODS: &[(&str, Method)] =
    &[("GET", Method::Get), ("HEAD", Method::Head), ("OPTIONS", Method::Options), ("POST", Method::Post)];

/// Reads the table; `None` if the file does not have it.
pub(super) fn read<'d>(table: Table<'d>) -> Result<Option<HealthCheck>, Noted> {
    let kind = table.or("kind", Kind::Http, |v| v.choice(KINDS));
    let mut http_only = Vec::new();
    let mut note = |place: &Place<'d>| http_only.push(place.clone());
    let method = table.or("method", Method::Get, |v| {
        note(v.place());
        v.choice(METHODS)
    });
    let path = table.optional("path", |v| {
        note(v.place());
        v.parse(PATH, path)
    });
    let host = table.optional("host", |v| {
        note(v.place());
        v.parse("inference.example", host)
    });
    let expect = table.or("expect", vec![EXPECT], |v| {
        note(v.place());
        v.list("200-299", |v| v.parse("200-299", statuses))
    });
    let mut body_place = None;
    let body = table.optional("body", |v| {
        note(v.place());
        body_place = Some(v.place().clone());
        v.parse("ready", body)
    });
    let port = table.optional("port", |v| v.number(1..=u16::MAX));
    let interval = table.or("interval", INTERVAL, |v| v.duration(&INTERVAL_LIMITS));
    let mut fast_place = None;
    let fast_interval = table.optional("fast_interval", |v| {
        fast_place = Some(v.place().clone());
        v.duration(&INTERVAL_LIMITS)
    });
    let timeout = table.or("timeout", TIMEOUT, |v| v.duration(&TIMEOUT_LIMITS));
    let rise = table.or("rise", RISE, |v| v.number(1..=MOST_IN_A_ROW));
    let fall = table.or("fall", FALL, |v| v.number(1..=MOST_IN_A_ROW));
    let present = table.is_present();
    table.finish();

    if kind == Ok(Kind::Tcp) {
        for place in &http_only {
            place.unfit("a TCP probe asks for nothing", "remove it, or write kind = \"http\"");
        }
    }
    if let (Ok(Method::Head), Ok(Some(_)), Some(place)) = (&method, &body, &body_place) {
        place.unfit("the answer to HEAD has no body", "remove it, or write method = \"GET\"");
    }
    if let (Ok(interval), Ok(Some(fast)), Some(place)) = (&interval, &fast_interval, &fast_place)
        && fast > interval
    {
        place.unfit("is longer than interval", "use at most the interval");
    }

    let http = HttpProbe {
        method: method?,
        path: path?.unwrap_or_else(|| PATH.to_owned()),
        host: host?,
        expect: expect?,
        body: body?,
    };
    let interval = interval?;
    let check = HealthCheck {
        kind: match kind? {
            Kind::Tcp => ProbeKind::Tcp,
            Kind::Http => ProbeKind::Http(http),
        },
        port: port?,
        interval,
        fast_interval: fast_interval?.unwrap_or_else(|| FAST_INTERVAL.min(interval)),
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
    };
    Ok(present.then_some(check))
}

/// What stands in a request line: origin form, without spaces.
fn path(text: &str) -> Result<String, Fault> {
    let remedy = "write a path that begins with /, such as \"/health\"";
    if !text.starts_with('/') {
        return Err(Fault::new(format!("{} does not begin with /", quoted(text)), remedy));
    }
    graphic(text, remedy)
}

fn host(text: &str) -> Result<String, Fault> {
    graphic(text, "write the value of the Host header, such as \"inference.example\"")
}

fn graphic(text: &str, remedy: &str) -> Result<String, Fault> {
    if text.is_empty() || text.len() > LONGEST_TEXT || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::new(format!("{} cannot stand in a request", quoted(text)), remedy));
    }
    Ok(text.to_owned())
}

/// `200` or `200-299`.
fn statuses(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    match (status(least), status(most)) {
        (Some(least), Some(most)) if least <= most => Ok(least..=most),
        _ => Err(Fault::new(
            format!("{} is no range of status codes", quoted(text)),
            "write one code or two of them, from 100 to 599, such as \"200\" or \"200-299\"",
        )),
    }
}

/// Writes a range of status codes as [`statuses`] reads it.
pub(super) fn written_statuses(range: &RangeInclusive<u16>) -> String {
    let (least, most) = (range.start(), range.end());
    if least == most { least.to_string() } else { format!("{least}-{most}") }
}

fn body(text: &str) -> Result<String, Fault> {
    if text.is_empty() || text.len() > LONGEST_BODY {
        let remedy = format!("use 1 to {LONGEST_BODY} bytes that a good answer contains");
        return Err(Fault::new(format!("{} bytes cannot be looked for", text.len()), remedy));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_ranges() {
        for (text, range) in [("200", 200..=200), ("200-299", 200..=299)] {
            assert_eq!(statuses(text).unwrap(), range);
            assert_eq!(written_statuses(&range), text);
        }
        for bad in ["", "-", "99", "600", "299-200", "2xx", "200-", "200-299-300"] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        assert!(path("/v1/health?deep=1").is_ok());
        for bad in ["", "health", "/a b", "/ä", "/\r\n"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
