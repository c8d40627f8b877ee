//! Everything about one measurement, and how it reads on a terminal.

use serde::Serialize;

use super::contender::{BACKLOG, Contender, WORKERS};
use super::machine::Machine;
use super::requirement::Requirement;
use super::results::{Cell, Measured, Row, Verdict};
use super::table::Table;
use super::workload::Workload;

/// What the two numbers behind a median are.
pub(crate) const CONFIDENCE: &str = "95 % confidence interval (of five pairs or fewer: lowest - highest)";

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) date: String,
    pub(crate) seconds: u64,
    pub(crate) machine: Machine,
    pub(crate) steering: String,
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) missing: Vec<(Contender, String)>,
    pub(crate) peers: Vec<Contender>,
    pub(crate) measured: Vec<Measured>,
}

/// A cell that something is required of.
pub(crate) struct Required<'a> {
    pub(crate) workload: Workload,
    pub(crate) row: &'a Row,
    pub(crate) cell: &'a Cell,
    pub(crate) requirement: Requirement,
}

impl Required<'_> {
    /// Whether it is good enough, in words.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.cell.quotient() {
            Some(quotient) if self.requirement.met(quotient) => "met",
            Some(_) => "NOT met",
            None => "no ratio",
        }
    }
}

impl Report {
    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "\nlandbridge's value divided by the peer's: median of the pairs, one run each, in turn, and its {CONFIDENCE}.\n\
             + better, - worse, ~ undecided, or inside the A/A spread (landbridge against itself): nothing is claimed.\n\
             No ratio: the medians, ours : theirs. {WORKERS} workers and a backlog of {BACKLOG} for all; RPS {}.\n\n",
            self.steering
        );
        text += &self.ratios(mark).text();
        let required = self.requirements();
        if !required.is_empty() {
            text += "\nRequired of the median:\n\n";
            text += &required.text();
        }
        for line in self.remarks() {
            text += &format!("\n{line}");
        }
        text + "\n"
    }

    /// The table of all ratios; `mark` writes one.
    pub(crate) fn ratios(&self, mark: fn(&Cell) -> String) -> Table {
        let mut head = vec!["workload", "metric", "ours", "unit", "A/A"];
        head.extend(self.peers.iter().map(|peer| peer.name()));
        let mut table = Table::new(&head);
        for measured in &self.measured {
            for row in &measured.rows {
                let mut line = vec![
                    measured.name.clone(),
                    row.metric.name().to_owned(),
                    digits(row.ours.median),
                    row.metric.unit().to_owned(),
                    row.spread.map_or("?".to_owned(), |spread| format!("x{spread:.2}")),
                ];
                line.extend(self.peers.iter().map(|peer| match row.cells.iter().find(|cell| cell.peer == *peer) {
                    Some(cell) => mark(cell),
                    None => self.absence(measured, *peer).to_owned(),
                }));
                table.add(line);
            }
        }
        table
    }

    /// The table of what is required.
    pub(crate) fn requirements(&self) -> Table {
        let mut table = Table::new(&["workload", "metric", "against", "required", "measured", "A/A", ""]);
        for required in self.required() {
            table.add(vec![
                required.workload.to_string(),
                required.row.metric.name().to_owned(),
                required.cell.peer.name().to_owned(),
                required.requirement.to_string(),
                plain(required.cell),
                required.row.spread.map_or("?".to_owned(), |spread| format!("x{spread:.2}")),
                required.outcome().to_owned(),
            ]);
        }
        table
    }

    /// Who took no part or failed.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|(peer, reason)| format!("missing: {peer}: {reason}"));
        let failed = self.measured.iter().flat_map(|measured| {
            measured.failures.iter().map(|(peer, reason)| format!("failed: {peer} in {}: {reason}", measured.name))
        });
        let busy = self.machine.busy_before;
        let busy = format!("{busy:.1} CPUs were busy before the first run: others used this machine as well");
        missing.chain(failed).chain(self.machine.is_busy().then_some(busy)).collect()
    }

    fn required(&self) -> impl Iterator<Item = Required<'_>> {
        self.measured.iter().flat_map(|measured| {
            measured.rows.iter().flat_map(|row| {
                row.cells.iter().filter_map(|cell| {
                    let requirement = cell.requirement?;
                    Some(Required { workload: measured.workload, row, cell, requirement })
                })
            })
        })
    }

    fn absence(&self, measured: &Measured, peer: Contender) -> &'static str {
        if self.missing.iter().any(|(missing, _)| *missing == peer) {
            "missing"
        } else if measured.failures.iter().any(|(failed, _)| *failed == peer) {
            "failed"
        } else {
            "n/a"
        }
    }
}

/// A ratio with what it says.
pub(crate) fn mark(cell: &Cell) -> String {
    let sign = match cell.verdict {
        Verdict::Better => " +",
        Verdict::Same => " ~",
        Verdict::Worse => " -",
        Verdict::Unknown => "",
    };
    format!("{}{sign}", plain(cell))
}

/// A ratio alone, or without one both medians.
pub(crate) fn plain(cell: &Cell) -> String {
    match cell.ratio {
        Some(ratio) => format!("{:.2} ({:.2} - {:.2})", ratio.median, ratio.low, ratio.high),
        None => format!("{} : {}", digits(cell.ours.median), digits(cell.theirs.median)),
    }
}

/// Three digits are more than a noisy number has.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size > 0.0 => format!("{value:.2}"),
        _ => "0".to_owned(),
    }
}
