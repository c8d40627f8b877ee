//! Runs the rounds: who runs when, and what happens when one fails.

use std::thread;

use anyhow::{Context as _, Result};

use super::contender::{Contender, Running};
use super::lab::{Lab, SETTLE};
use super::metric::Sample;
use super::results::{Measured, Round, Run};
use super::workload::{Effort, Workload};

/// The contenders, those that are shared by workloads running.
pub(crate) struct Field<'a> {
    lab: &'a Lab,
    effort: Effort,
    shared: Vec<Running>,
    serial: u16,
    /// Who takes no part, and why.
    pub(crate) missing: Vec<(Contender, String)>,
}

impl<'a> Field<'a> {
    /// Starts landbridge and every peer. A peer that does not start is missing.
    pub(crate) fn start(lab: &'a Lab, effort: Effort, peers: &[Contender]) -> Result<Self> {
        let mut field = Self { lab, effort, shared: Vec::new(), serial: 0, missing: Vec::new() };
        let landbridge = field.launch(Contender::Landbridge).context("landbridge itself does not run")?;
        field.shared.push(landbridge);
        for &peer in peers {
            match field.launch(peer) {
                Ok(running) => field.shared.push(running),
                Err(error) => field.missing.push((peer, format!("{error:#}"))),
            }
        }
        Ok(field)
    }

    /// Measures one workload.
    pub(crate) fn measure(&mut self, workload: Workload) -> Result<Measured> {
        let peers: Vec<Contender> =
            self.shared.iter().skip(1).map(|running| running.contender).filter(|peer| workload.suits(*peer)).collect();
        let mut failures: Vec<(Contender, String)> = Vec::new();
        let mut rounds = Vec::new();
        for _ in 0..self.effort.rounds(workload) {
            let mut round = Round::default();
            for contender in order(&peers) {
                if failures.iter().any(|(failed, _)| *failed == contender) {
                    continue;
                }
                match self.run(workload, contender) {
                    Ok(samples) => round.runs.push(Run { contender, samples }),
                    Err(error) => failures.push((contender, format!("{error:#}"))),
                }
                thread::sleep(SETTLE);
            }
            rounds.push(round);
        }
        Ok(Measured::new(workload, &peers, rounds, failures))
    }

    fn run(&mut self, workload: Workload, contender: Contender) -> Result<Vec<Sample>> {
        if !workload.shares_instance() {
            let fresh = self.launch(contender)?;
            return workload.run(self.lab, &fresh, self.effort);
        }
        let shared = self.shared.iter_mut().find(|running| running.contender == contender);
        let shared = shared.with_context(|| format!("{contender} does not run"))?;
        shared.ensure_running()?;
        workload.run(self.lab, shared, self.effort)
    }

    fn launch(&mut self, contender: Contender) -> Result<Running> {
        let running = Running::start(contender, self.serial, self.lab)?;
        self.serial = (self.serial + 1) % SERIALS;
        Ok(running)
    }
}

/// More than can run at once, and few enough for their ports to stay below those of outgoing connections.
const SERIALS: u16 = 900;

/// landbridge against itself, then before each peer once more.
fn order(peers: &[Contender]) -> Vec<Contender> {
    let mut order = vec![Contender::Landbridge; 2];
    for (index, &peer) in peers.iter().enumerate() {
        if index > 0 {
            order.push(Contender::Landbridge);
        }
        order.push(peer);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_follows_landbridge() {
        use Contender::{Forward, Haproxy, Landbridge};
        assert_eq!(order(&[]), [Landbridge, Landbridge]);
        assert_eq!(order(&[Forward, Haproxy]), [Landbridge, Landbridge, Forward, Landbridge, Haproxy]);
    }
}
