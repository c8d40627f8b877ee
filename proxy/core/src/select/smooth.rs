//! Smooth weighted round-robin: each cycle gives every candidate exactly its weight's share, spread out evenly.
//!
//! The method is nginx's: every candidate gains its weight, the highest is chosen and pays the sum. Over
//! `sum / gcd(weights)` choices each candidate is chosen exactly `weight / gcd(weights)` times.

use alloc::vec;
use alloc::vec::Vec;

/// Whose turn it is among candidates that are named by an index.
#[derive(Debug)]
pub(super) struct SmoothRoundRobin {
    credit: Vec<i64>,
}

impl SmoothRoundRobin {
    /// For candidates with indexes below `len`.
    pub(super) fn new(len: usize) -> Self {
        Self { credit: vec![0; len] }
    }

    /// The next of `candidates`, pairs of index and weight; `None` if there is none. Among equals the first.
    pub(super) fn next(&mut self, candidates: impl Iterator<Item = (usize, u32)>) -> Option<usize> {
        let mut sum = 0;
        let mut best = None;
        for (index, weight) in candidates {
            sum += i64::from(weight);
            self.credit[index] += i64::from(weight);
            if best.is_none_or(|best: usize| self.credit[index] > self.credit[best]) {
                best = Some(index);
            }
        }
        self.credit[best?] -= sum;
        best
    }
}
