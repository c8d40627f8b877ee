//! `[datapath]`: when `auto` uses what, and what the kernel may hold.

use std::ops::RangeInclusive;
use std::time::Duration;

use landbridge_common::MAX_FLOWS;
use landbridge_core::datapath::{Limits, Thresholds};
use landbridge_core::join::JoinRules;

use super::DatapathRules;
use super::durations::{DurationRange, MILLISECOND};
use super::notes::Noted;
use super::raw::Table;
use super::units::written_size;

/// A read fills at most 64 KiB of user space or a pipe of 1 MiB.
const LARGE: RangeInclusive<u64> = 1 << 10..=1 << 20;
/// A longer row than a million is never.
const ROW: RangeInclusive<u32> = 1..=1_000_000;
/// Less than a packet would demote after every one; more than 1 GiB for one direction bounds nothing.
const LIMIT: RangeInclusive<u64> = 1 << 10..=1 << 30;
/// How far the hard limit is above the soft one at least. What arrives before the daemon has demoted the direction has to fit in
/// between: the gate drops the rest, and a sender without timestamps whose new segments are dropped as well as those it repeats
/// doubles its timeout every time (RFC 6298, sections 3 and 5), up to two minutes.
const ROOM: u64 = 32 << 10;
/// The self-test at the start promotes several directions.
const PROMOTED: RangeInclusive<u32> = 16..=MAX_FLOWS;
/// No two tokens are a minute apart.
const GAP: DurationRange =
    DurationRange { least: Duration::ZERO, most: Duration::from_mins(1), step: MILLISECOND, zero: None };

/// A session that is quiet for a minute has nothing to gain.
const QUIET: DurationRange =
    DurationRange { least: MILLISECOND, most: Duration::from_mins(1), step: MILLISECOND, zero: None };

/// Reads `[datapath]`.
pub(super) fn read(table: Table<'_>) -> Result<DatapathRules, Noted> {
    let (by, kernel) = (Thresholds::default(), Limits::default());
    let large = table.or("splice_size", by.large, |v| v.size(LARGE));
    let splice_after = table.or("splice_after", by.splice_after, |v| v.number(ROW));
    let copy_after = table.or("copy_after", by.copy_after, |v| v.number(ROW));
    let promote_after = table.or("promote_after", by.promote_after, |v| v.number(ROW));
    let promote_gap = table.or("promote_gap", by.promote_gap, |v| v.duration(&GAP));
    let promote_busy = table.or("promote_busy", by.promote_busy, |v| v.number(0..=MAX_FLOWS));
    let reluctance = table.or("reluctance", by.reluctance, |v| v.number(ROW));
    let joins = JoinRules::default();
    let after = table.or("join_after", joins.after, |v| v.number(ROW));
    let quiet = table.or("join_quiet", joins.quiet, |v| v.duration(&QUIET));
    let soft = table.or("soft_limit", kernel.soft, |v| v.size(LIMIT));
    let hard = table.or("hard_limit", kernel.hard, |v| v.size(LIMIT));
    let bulk = table.or("bulk_limit", kernel.bulk, |v| v.size(LIMIT));
    let budget = table.or("max_promoted", kernel.budget, |v| v.number(PROMOTED));
    if let (Ok(soft), Ok(hard)) = (&soft, &hard)
        && soft + ROOM > *hard
    {
        let [soft, hard, room] = [*soft, *hard, ROOM].map(written_size);
        let what = format!("hard_limit {hard} is less than {room} above soft_limit {soft}");
        table.place().unfit(what, "give hard_limit some times the size of soft_limit");
    }
    table.finish();
    Ok(DatapathRules {
        thresholds: Thresholds {
            large: large?,
            splice_after: splice_after?,
            copy_after: copy_after?,
            promote_after: promote_after?,
            promote_gap: promote_gap?,
            promote_busy: promote_busy?,
            reluctance: reluctance?,
        },
        join: JoinRules { after: after?, quiet: quiet? },
        limits: Limits { soft: soft?, hard: hard?, bulk: bulk?, budget: budget? },
    })
}
