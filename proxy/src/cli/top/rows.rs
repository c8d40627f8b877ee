//! From answers of the daemon to the rows of the table: groups with their targets below, rates, and their order. Pure.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use crate::admin::api::{GroupStatus, Status, TargetStatus, WeightStatus};

/// What the table has in its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    Tier,
    Weight,
    State,
    Health,
    Share,
    Sessions,
    Started,
    Uploaded,
    Downloaded,
    Slow,
}

impl Column {
    /// All columns, from left to right.
    pub(super) const ALL: [Self; 11] = [
        Self::Name,
        Self::Tier,
        Self::Weight,
        Self::State,
        Self::Health,
        Self::Share,
        Self::Sessions,
        Self::Started,
        Self::Uploaded,
        Self::Downloaded,
        Self::Slow,
    ];

    /// Its heading.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Tier => "T",
            Self::Weight => "WEIGHT",
            Self::State => "STATE",
            Self::Health => "HEALTH",
            Self::Share => "SHARE",
            Self::Sessions => "SESS",
            Self::Started => "NEW/S",
            Self::Uploaded => "UP/S",
            Self::Downloaded => "DOWN/S",
            Self::Slow => "SLOW",
        }
    }

    /// The column `by` places to the right, around the edges.
    pub(super) fn moved(self, by: isize) -> Self {
        let count = Self::ALL.len().cast_signed();
        let to = (self as isize + by).rem_euclid(count);
        Self::ALL[to.unsigned_abs()]
    }
}

/// A group, or a target of the group above it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// `GROUP` or `GROUP/TARGET`, as the daemon wants it.
    pub(super) of: String,
    pub(super) name: String,
    /// `None` for a target: its group has one.
    pub(super) tier: Option<u16>,
    pub(super) weight: WeightStatus,
    pub(super) state: String,
    /// A target's health, or a group's standing.
    pub(super) health: String,
    /// Which fraction of a listener's new sessions it gets; of several listeners the largest.
    pub(super) share: f64,
    pub(super) sessions: u32,
    /// Per second; `None` before the second answer.
    pub(super) rates: Option<Rates>,
    /// What the group's sessions wait for.
    pub(super) slow: Option<String>,
    /// A target's address, and what is wrong with it.
    pub(super) remark: String,
}

impl Row {
    pub(super) const fn is_target(&self) -> bool {
        self.tier.is_none()
    }
}

/// What happens in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) started: f64,
    /// Bytes from clients.
    pub(super) uploaded: f64,
    /// Bytes to clients.
    pub(super) downloaded: f64,
}

impl Rates {
    /// What happened between two answers that came this long after each other.
    ///
    /// A counter that went back is a daemon that started again: nothing is known for that second.
    fn between(before: &TargetStatus, now: &TargetStatus, elapsed: Duration) -> Option<Self> {
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let started = |of: &TargetStatus| of.sessions_ended + u64::from(of.sessions);
        let rate = |now: u64, before: u64| now.checked_sub(before).map(|more| more as f64 / seconds);
        Some(Self {
            started: rate(started(now), started(before))?,
            uploaded: rate(now.upload_bytes, before.upload_bytes)?,
            downloaded: rate(now.download_bytes, before.download_bytes)?,
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            started: self.started + other.started,
            uploaded: self.uploaded + other.uploaded,
            downloaded: self.downloaded + other.downloaded,
        }
    }
}

/// The rows of an answer, with rates if there was one before it and how long ago.
pub(super) fn rows(now: &Status, before: Option<(&Status, Duration)>) -> Vec<Row> {
    let known = before.map(|(before, elapsed)| (by_place(before), elapsed));
    let mut rows = Vec::new();
    for group in &now.groups {
        let share = share(now, &group.name);
        let weights: f64 = group.targets.iter().map(counted).sum();
        let targets: Vec<Row> = group
            .targets
            .iter()
            .map(|target| {
                let inside = if weights > 0.0 { counted(target) / weights } else { 0.0 };
                let rates = known.as_ref().and_then(|(known, elapsed)| {
                    Rates::between(known.get(&place(group, target)).copied()?, target, *elapsed)
                });
                target_row(group, target, share * inside, rates)
            })
            .collect();
        // As long as one of its targets is new, the group's rate would be too low.
        let rates = targets.iter().try_fold(Rates::default(), |sum, target| Some(sum.plus(target.rates?)));
        rows.push(group_row(group, share, targets.iter().map(|target| target.sessions).sum(), rates));
        rows.extend(targets);
    }
    rows
}

fn by_place(status: &Status) -> HashMap<(&str, &str), &TargetStatus> {
    let mut known = HashMap::new();
    for group in &status.groups {
        known.extend(group.targets.iter().map(|target| (place(group, target), target)));
    }
    known
}

fn place<'a>(group: &'a GroupStatus, target: &'a TargetStatus) -> (&'a str, &'a str) {
    (&group.name, &target.name)
}

/// The largest of the shares that its listeners give it.
fn share(status: &Status, group: &str) -> f64 {
    let shares = status.listeners.iter().flat_map(|listener| &listener.shares);
    shares.filter(|of| of.group == group).map(|of| of.share).fold(0.0, f64::max)
}

/// How much of a target's weight counts.
fn counted(target: &TargetStatus) -> f64 {
    f64::from(target.weight.weight) * f64::from(target.percent) / 100.0
}

fn group_row(group: &GroupStatus, share: f64, sessions: u32, rates: Option<Rates>) -> Row {
    Row {
        of: group.name.clone(),
        name: group.name.clone(),
        tier: Some(group.tier),
        weight: group.weight.clone(),
        state: group.state.clone(),
        health: group.standing.clone(),
        share,
        sessions,
        rates,
        slow: group.slow.clone(),
        remark: group.reason.clone().unwrap_or_default(),
    }
}

fn target_row(group: &GroupStatus, target: &TargetStatus, share: f64, rates: Option<Rates>) -> Row {
    let failure = target.last_failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    Row {
        of: format!("{}/{}", group.name, target.name),
        name: target.name.clone(),
        tier: None,
        weight: target.weight.clone(),
        state: target.state.clone(),
        health: target.health_word().to_owned(),
        share,
        sessions: target.sessions,
        rates,
        slow: None,
        remark: format!("{}{failure}", target.address),
    }
}

/// Puts groups in order, and the targets inside each. Rows that are equal stay as the daemon has them.
pub(super) fn sorted(rows: Vec<Row>, by: Column, descending: bool) -> Vec<Row> {
    let order = |a: &Row, b: &Row| {
        let order = compared(a, b, by);
        if descending { order.reverse() } else { order }
    };
    let mut blocks: Vec<(Row, Vec<Row>)> = Vec::new();
    for row in rows {
        match blocks.last_mut().filter(|_| row.is_target()) {
            Some((_, targets)) => targets.push(row),
            None => blocks.push((row, Vec::new())),
        }
    }
    blocks.sort_by(|(a, _), (b, _)| order(a, b));
    let block = |(group, mut targets): (Row, Vec<Row>)| {
        targets.sort_by(order);
        std::iter::once(group).chain(targets)
    };
    blocks.into_iter().flat_map(block).collect()
}

fn compared(a: &Row, b: &Row, by: Column) -> Ordering {
    let rate = |rate: fn(&Rates) -> f64| {
        let of = |row: &Row| row.rates.as_ref().map_or(0.0, rate);
        of(a).total_cmp(&of(b))
    };
    match by {
        Column::Name => a.name.cmp(&b.name),
        Column::Tier => a.tier.cmp(&b.tier),
        Column::Weight => a.weight.weight.cmp(&b.weight.weight),
        Column::State => a.state.cmp(&b.state),
        Column::Health => a.health.cmp(&b.health),
        Column::Share => a.share.total_cmp(&b.share),
        Column::Sessions => a.sessions.cmp(&b.sessions),
        Column::Started => rate(|rates| rates.started),
        Column::Uploaded => rate(|rates| rates.uploaded),
        Column::Downloaded => rate(|rates| rates.downloaded),
        Column::Slow => a.slow.cmp(&b.slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::example::status;

    fn names(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.of.as_str()).collect()
    }

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let before = status();
        let mut now = status();
        let target = &mut now.groups[0].targets[0];
        (target.sessions, target.sessions_ended) = (4, 17);
        (target.upload_bytes, target.download_bytes) = (1_400, 6_000);
        assert!(rows(&now, None).iter().all(|row| row.rates.is_none()));
        let seen = rows(&now, Some((&before, Duration::from_secs(2))));
        let expected = Rates { started: 3.0, uploaded: 200.0, downloaded: 2_000.0 };
        assert_eq!(seen[1].rates, Some(expected));
        assert_eq!(seen[0].rates, Some(expected), "the other target did nothing");
        assert_eq!(seen[3].rates, Some(Rates::default()));
    }

    #[test]
    fn counters_that_went_back_give_no_rate() {
        let mut now = status();
        now.groups[0].targets[0].upload_bytes = 0;
        let seen = rows(&now, Some((&status(), Duration::from_secs(1))));
        assert_eq!((seen[0].rates, seen[1].rates), (None, None));
        assert!(seen[2].rates.is_some());
    }

    #[test]
    fn targets_divide_the_share_of_their_group_by_what_counts_of_their_weights() {
        let mut now = status();
        let shares = |now: &Status| rows(now, None).iter().map(|row| row.share).collect::<Vec<_>>();
        assert_eq!(shares(&now), [1.0, 0.75, 0.25, 0.0, 0.0]);
        now.groups[0].targets[0].percent = 0;
        assert_eq!(shares(&now), [1.0, 0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn targets_stay_below_their_group_in_every_order() {
        for (by, descending, expected) in [
            (Column::Name, false, ["aws", "aws/ec2", "onprem", "onprem/gpu-1", "onprem/gpu-2"]),
            (Column::Name, true, ["onprem", "onprem/gpu-2", "onprem/gpu-1", "aws", "aws/ec2"]),
            (Column::Tier, false, ["onprem", "onprem/gpu-1", "onprem/gpu-2", "aws", "aws/ec2"]),
            (Column::Sessions, true, ["onprem", "onprem/gpu-2", "onprem/gpu-1", "aws", "aws/ec2"]),
            (Column::Weight, false, ["onprem", "onprem/gpu-2", "onprem/gpu-1", "aws", "aws/ec2"]),
        ] {
            assert_eq!(names(&sorted(rows(&status(), None), by, descending)), expected, "{by:?} {descending}");
        }
    }

    #[test]
    fn the_next_column_goes_around_the_edges() {
        assert_eq!(Column::Name.moved(-1), Column::Slow);
        assert_eq!(Column::Slow.moved(1), Column::Name);
        assert!(Column::ALL.iter().enumerate().all(|(place, column)| *column as usize == place));
    }
}
