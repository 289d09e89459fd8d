//! The running list of the best hits.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Hit;

/// The order of hits: see the [module](super) for ties and NaN.
pub(super) fn best_first(a: &Hit, b: &Hit) -> Ordering {
    // `partial_cmp` and not `total_cmp`: 0.0 and -0.0 are equal scores, and tie by row.
    b.score
        .partial_cmp(&a.score)
        .unwrap_or_else(|| a.score.is_nan().cmp(&b.score.is_nan()))
        .then(a.row.cmp(&b.row))
}

/// A hit in a heap whose top is the worst kept, the one to go next.
struct Kept(Hit);

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        best_first(&self.0, &other.0)
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Kept {}

/// Keeps the `k` best of the scores it is shown, in ascending order of rows.
pub(crate) struct TopK {
    k: usize,
    kept: BinaryHeap<Kept>,
    /// The worst kept score once `k` are kept: a later row must beat it, a tie is not enough.
    bar: Option<f32>,
}

impl TopK {
    pub(crate) fn new(k: usize) -> Self {
        Self {
            k,
            kept: BinaryHeap::with_capacity(k),
            bar: None,
        }
    }

    /// Shows the scores of rows `first`, `first + 1`, and so on; rows must come in order.
    pub(crate) fn extend(&mut self, first: usize, scores: &[f32]) {
        for (offset, &score) in scores.iter().enumerate() {
            let passes = match self.bar {
                None => self.k > 0,
                Some(bar) => score > bar || (bar.is_nan() && !score.is_nan()),
            };
            if passes {
                self.insert(Hit {
                    row: first + offset,
                    score,
                });
            }
        }
    }

    fn insert(&mut self, hit: Hit) {
        if self.kept.len() < self.k {
            self.kept.push(Kept(hit));
        } else if let Some(mut worst) = self.kept.peek_mut() {
            *worst = Kept(hit);
        }
        if self.kept.len() == self.k {
            self.bar = self.kept.peek().map(|worst| worst.0.score);
        }
    }

    /// The kept hits, best first.
    pub(crate) fn into_sorted(self) -> Vec<Hit> {
        self.kept
            .into_sorted_vec()
            .into_iter()
            .map(|kept| kept.0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(k: usize, scores: &[f32]) -> Vec<usize> {
        let mut best = TopK::new(k);
        best.extend(0, scores);
        best.into_sorted().iter().map(|hit| hit.row).collect()
    }

    #[test]
    fn ties_go_to_the_lower_row() {
        assert_eq!(rows(2, &[0.5, 1.0, 0.5, 1.0, 1.0]), [1, 3]);
        assert_eq!(rows(3, &[-0.0, 0.0, 0.0]), [0, 1, 2]);
    }

    #[test]
    fn nan_ranks_after_every_number() {
        let scores = [f32::NAN, f32::NEG_INFINITY, f32::NAN, 2.0];
        assert_eq!(rows(4, &scores), [3, 1, 0, 2]);
        assert_eq!(rows(2, &scores), [3, 1]);
    }

    #[test]
    fn nothing_is_kept_for_k_of_zero() {
        assert!(rows(0, &[1.0]).is_empty());
    }
}
