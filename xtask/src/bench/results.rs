//! From runs to ratios: what was measured, pair by pair, and what may be said about it.

use serde::Serialize;

use super::contender::Contender;
use super::metric::{Metric, Sample};
use super::requirement::{Requirement, requirement};
use super::stats::{Summary, ratio, within};
use super::workload::Workload;

/// One contender under one workload, once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) contender: Contender,
    /// As measured, of the whole machine.
    pub(crate) samples: Vec<Sample>,
}

/// Runs one after the other: landbridge twice, then each peer with a run of landbridge before it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Round {
    pub(crate) runs: Vec<Run>,
}

/// One workload, measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(skip)]
    pub(crate) workload: Workload,
    pub(crate) name: String,
    pub(crate) rows: Vec<Row>,
    /// Who failed, and why.
    pub(crate) failures: Vec<(Contender, String)>,
    pub(crate) rounds: Vec<Round>,
}

/// One metric of a workload, against every peer.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) metric: Metric,
    /// landbridge's own values.
    pub(crate) ours: Summary,
    /// How far from 1 the ratio of two runs of landbridge may be, as a factor. Nothing nearer to 1 is claimed.
    pub(crate) spread: Option<f64>,
    pub(crate) cells: Vec<Cell>,
}

/// landbridge against one peer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    pub(crate) peer: Contender,
    /// landbridge's values in the runs before the peer's.
    pub(crate) ours: Summary,
    pub(crate) theirs: Summary,
    /// landbridge's value by the peer's, pair by pair; `None` if a pair has none. To leave out such pairs, in which a proxy's cost
    /// is lost in the noise of the floor, would leave those in which it is highest.
    pub(crate) ratio: Option<Summary>,
    pub(crate) verdict: Verdict,
    pub(crate) requirement: Option<Requirement>,
}

/// What a ratio says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Better,
    /// Inside the spread of landbridge against itself, or the ratio's own interval has 1 in it.
    Same,
    Worse,
    /// There is no ratio, or nothing to hold it against.
    Unknown,
}

impl Measured {
    /// Compares what was measured.
    pub(crate) fn new(
        workload: Workload,
        peers: &[Contender],
        rounds: Vec<Round>,
        failures: Vec<(Contender, String)>,
    ) -> Self {
        let net: Vec<Round> = rounds.iter().map(Round::net).collect();
        let mut metrics: Vec<Metric> = Vec::new();
        for sample in net.iter().flat_map(|round| &round.runs).flat_map(|run| &run.samples) {
            if !metrics.contains(&sample.metric) {
                metrics.push(sample.metric);
            }
        }
        let rows = metrics.iter().filter_map(|&metric| Row::new(workload, metric, peers, &net)).collect();
        Self { workload, name: workload.to_string(), rows, failures, rounds }
    }
}

impl Row {
    fn new(workload: Workload, metric: Metric, peers: &[Contender], rounds: &[Round]) -> Option<Self> {
        let ours: Vec<f64> = rounds
            .iter()
            .flat_map(|round| &round.runs)
            .filter(|run| run.contender == Contender::Landbridge)
            .filter_map(|run| run.value(metric))
            .collect();
        let same: Vec<(f64, f64)> = rounds.iter().filter_map(|round| round.same(metric)).collect();
        let spread = Summary::of(&ratios(&same)).map(Summary::spread);
        let cells = peers
            .iter()
            .filter(|&&peer| peer != Contender::Forward || metric.has_floor())
            .filter_map(|&peer| {
                let pairs: Vec<_> = rounds.iter().filter_map(|round| round.pair(peer, metric)).collect();
                Cell::new(workload, metric, peer, &pairs, spread)
            })
            .collect();
        Some(Self { metric, ours: Summary::of(&ours)?, spread, cells })
    }
}

impl Cell {
    fn new(
        workload: Workload,
        metric: Metric,
        peer: Contender,
        pairs: &[(f64, f64)],
        spread: Option<f64>,
    ) -> Option<Self> {
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
        let ratio = Summary::of(&ratios(pairs)).filter(|ratio| ratio.count == pairs.len());
        let verdict = match (ratio, spread) {
            (Some(ratio), Some(spread)) if within(ratio.median, spread) || ratio.is_undecided() => Verdict::Same,
            (Some(ratio), Some(_)) if (ratio.median > 1.0) == metric.more_is_better() => Verdict::Better,
            (Some(_), Some(_)) => Verdict::Worse,
            _ => Verdict::Unknown,
        };
        let requirement = requirement(workload, metric, peer);
        Some(Self { peer, ours: Summary::of(&ours)?, theirs: Summary::of(&theirs)?, ratio, verdict, requirement })
    }

    /// What a requirement is held against: the median of the ratios, or without them the quotient of the medians, which is not
    /// positive where landbridge costs no more than the floor. `None` where the peer's is not positive.
    pub(crate) fn quotient(&self) -> Option<f64> {
        let of_medians = || (self.theirs.median > 0.0).then(|| self.ours.median / self.theirs.median);
        self.ratio.map(|ratio| ratio.median).or_else(of_medians)
    }
}

impl Round {
    /// The same with what the proxies themselves cost: the whole machine's cost minus that of plain forwarding.
    fn net(&self) -> Self {
        let floor = self.runs.iter().find(|run| run.contender == Contender::Forward);
        let net = |run: &Run| Run { contender: run.contender, samples: net(&run.samples, floor) };
        Self { runs: self.runs.iter().map(net).collect() }
    }

    /// The values of the two runs of landbridge that follow each other.
    fn same(&self, metric: Metric) -> Option<(f64, f64)> {
        let neighbours =
            self.runs.windows(2).find(|pair| pair.iter().all(|run| run.contender == Contender::Landbridge));
        let [first, second] = neighbours? else { return None };
        Some((first.value(metric)?, second.value(metric)?))
    }

    /// The values of landbridge and of the peer that ran right after it.
    fn pair(&self, peer: Contender, metric: Metric) -> Option<(f64, f64)> {
        let is_pair = |pair: &&[Run]| pair[0].contender == Contender::Landbridge && pair[1].contender == peer;
        let [ours, theirs] = self.runs.windows(2).find(is_pair)? else { return None };
        Some((ours.value(metric)?, theirs.value(metric)?))
    }
}

impl Run {
    fn value(&self, metric: Metric) -> Option<f64> {
        value(&self.samples, metric)
    }
}

fn value(samples: &[Sample], metric: Metric) -> Option<f64> {
    samples.iter().find(|sample| sample.metric == metric).map(|sample| sample.value)
}

fn ratios(pairs: &[(f64, f64)]) -> Vec<f64> {
    pairs.iter().filter_map(|&(ours, theirs)| ratio(ours, theirs)).collect()
}

/// Adds the proxy's own CPU, and takes what is not the proxy's out of memory. Without a floor nothing can be said of these.
fn net(samples: &[Sample], floor: Option<&Run>) -> Vec<Sample> {
    let floor = |metric| floor.and_then(|run| run.value(metric));
    let mut net = Vec::new();
    for &sample in samples {
        let Sample { metric, value: with } = sample;
        match (metric, floor(metric)) {
            (Metric::Cpu, Some(without)) => net.extend([sample, Sample::new(Metric::OwnCpu, with - without)]),
            (Metric::BytesPerCpu, Some(without)) => {
                net.extend([sample, Sample::new(Metric::OwnCpu, 1000.0 / with - 1000.0 / without)]);
            }
            (Metric::KernelMemory, Some(without)) => {
                let kernel = with - without;
                net.push(Sample::new(metric, kernel));
                let process = value(samples, Metric::ProcessMemory);
                net.extend(process.map(|process| Sample::new(Metric::SessionMemory, process + kernel)));
            }
            (Metric::StalledMemory, Some(without)) => net.push(Sample::new(metric, with - without)),
            (Metric::KernelMemory | Metric::StalledMemory, None) => {}
            _ => net.push(sample),
        }
    }
    net
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(contender: Contender, metric: Metric, value: f64) -> Run {
        Run { contender, samples: vec![Sample::new(metric, value)] }
    }

    fn measured(metric: Metric, rounds: &[[f64; 5]]) -> Measured {
        let order = [
            Contender::Landbridge,
            Contender::Landbridge,
            Contender::Forward,
            Contender::Landbridge,
            Contender::Haproxy,
        ];
        let round = |values: &[f64; 5]| Round {
            runs: order.iter().zip(values).map(|(contender, value)| run(*contender, metric, *value)).collect(),
        };
        let peers = [Contender::Forward, Contender::Haproxy];
        Measured::new(Workload::Connects, &peers, rounds.iter().map(round).collect(), Vec::new())
    }

    #[test]
    fn a_pair_is_the_peer_and_the_run_before_it() {
        let measured = measured(Metric::RequestRate, &[[10.0, 11.0, 22.0, 15.0, 10.0], [10.0, 10.0, 20.0, 12.0, 10.0]]);
        let row = &measured.rows[0];
        assert!((row.spread.unwrap() - 1.1).abs() < 1e-9);
        assert_eq!(row.cells[0].ratio.unwrap(), Summary { median: 0.5, low: 0.5, high: 0.5, count: 2 });
        assert_eq!(row.cells[0].verdict, Verdict::Worse);
        let haproxy = row.cells[1].ratio.unwrap();
        assert_eq!((haproxy.low, haproxy.high), (1.2, 1.5));
        assert_eq!(row.cells[1].verdict, Verdict::Better);
    }

    #[test]
    fn nothing_is_claimed_inside_the_spread() {
        let measured = measured(Metric::RequestRate, &[[10.0, 20.0, 22.0, 15.0, 10.0]]);
        assert_eq!(measured.rows[0].cells[1].verdict, Verdict::Same);
    }

    #[test]
    fn own_cost_is_without_that_of_forwarding() {
        let measured = measured(Metric::Cpu, &[[10.0, 10.0, 4.0, 7.0, 10.0]]);
        let own = measured.rows.iter().find(|row| row.metric == Metric::OwnCpu).unwrap();
        assert_eq!(own.cells.len(), 1, "forwarding itself has no own cost to compare");
        assert_eq!(own.cells[0].ratio.unwrap().median, 0.5);
        assert_eq!(own.cells[0].verdict, Verdict::Better);
    }

    #[test]
    fn a_cost_that_the_floor_hides_once_has_no_ratio() {
        let measured = measured(Metric::Cpu, &[[9.0, 9.0, 4.0, 7.0, 10.0], [9.0, 9.0, 4.0, 3.0, 10.0]]);
        let own = measured.rows.iter().find(|row| row.metric == Metric::OwnCpu).unwrap();
        assert_eq!((own.cells[0].ratio, own.cells[0].verdict), (None, Verdict::Unknown));
        assert_eq!((own.cells[0].ours.median, own.cells[0].theirs.median), (1.0, 6.0));
        assert!(own.cells[0].quotient().is_some_and(|quotient| (quotient - 1.0 / 6.0).abs() < 1e-9));
    }

    #[test]
    fn memory_needs_a_floor() {
        let samples = [Sample::new(Metric::ProcessMemory, 2.0), Sample::new(Metric::KernelMemory, 9.0)];
        assert_eq!(net(&samples, None), &samples[..1]);
        let floor = run(Contender::Forward, Metric::KernelMemory, 4.0);
        assert_eq!(value(&net(&samples, Some(&floor)), Metric::SessionMemory), Some(7.0));
    }
}
