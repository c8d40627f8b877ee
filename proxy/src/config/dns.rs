//! `[dns]`: how the names of targets are resolved.

use std::time::Duration;

use super::durations::{DurationRange, MILLISECOND};
use super::notes::Noted;
use super::raw::Table;
use super::{Dns, address};

const MIN_TTL: Duration = Duration::from_secs(5);
const MAX_TTL: Duration = Duration::from_mins(5);
/// Faster than this the resolver is a burden to its servers; a day is as good as never.
const TTL_LIMITS: DurationRange =
    DurationRange { least: Duration::from_millis(10), most: Duration::from_hours(24), step: MILLISECOND, zero: None };

/// Reads the table.
pub(super) fn read(table: Table<'_>) -> Result<Dns, Noted> {
    let servers =
        table.or("servers", Vec::new(), |v| v.list("10.0.0.2:53", |v| v.parse("10.0.0.2:53", address::server)));
    let min_ttl = table.or("min_ttl", MIN_TTL, |v| v.duration(&TTL_LIMITS));
    let mut place = None;
    let max_ttl = table.or("max_ttl", MAX_TTL, |v| {
        place = Some(v.place().clone());
        v.duration(&TTL_LIMITS)
    });
    if let (Ok(least), Ok(most), Some(place)) = (&min_ttl, &max_ttl, &place)
        && least > most
    {
        place.unfit("is shorter than min_ttl", "use at least min_ttl");
    }
    table.finish();
    Ok(Dns { servers: servers?, min_ttl: min_ttl?, max_ttl: max_ttl? })
}
