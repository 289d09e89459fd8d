//! Dropout on attention weights. Which ones fall out follows from a seed and the place of the
//! weight, so the backward pass finds them again and nothing is stored.

use burn::tensor::{Device, Tensor, TensorData};
use multiversion::multiversion;

use super::Reach;

/// Drops attention weights with probability `rate` and divides the others by `1 - rate`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDropout {
    /// The draw; the same seed drops the same weights.
    pub seed: u64,
    /// `[0, 1)`.
    pub rate: f64,
}

impl AttentionDropout {
    /// Drops weights of one row, in place: those of query row `query` in head `head`.
    pub(super) fn apply(&self, row: &mut [f32], head: usize, query: usize) {
        let threshold = (self.rate * f64::from(u32::MAX)) as u32;
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        drop_row(row, self.row_seed(head, query), threshold, kept);
    }

    fn row_seed(&self, head: usize, query: usize) -> u32 {
        // SplitMix64's output function (Steele, Lea, Flood 2014).
        let place = ((head as u64) << 40) ^ query as u64;
        let z = self.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32
    }

    /// The factors on padded attention weights, `[segments, heads, longest, longest keys]`.
    pub(super) fn factors(&self, reach: &Reach, heads: usize, device: &Device) -> Tensor<4> {
        let (queries, keys) = reach.longest();
        let mut factors = Vec::with_capacity(reach.segments().len() * heads * queries * keys);
        for segment in reach.segments() {
            for head in 0..heads {
                for i in 0..queries {
                    let mut row = vec![1.0; keys];
                    self.apply(&mut row, head, segment.queries.start + i);
                    factors.extend(row);
                }
            }
        }
        let shape = [reach.segments().len(), heads, queries, keys];
        Tensor::from_data(TensorData::new(factors, shape), device)
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn drop_row(row: &mut [f32], seed: u32, threshold: u32, kept: f32) {
    for (i, value) in row.iter_mut().enumerate() {
        // MurmurHash3's 32-bit finaliser (Appleby 2011, public domain): products of 32 bits alone,
        // which vector units have.
        let mut h = seed ^ (i as u32).wrapping_mul(0x9e37_79b9);
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        h ^= h >> 16;
        *value *= if h < threshold { 0.0 } else { kept };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_asked_share_and_keeps_the_mean() {
        let dropout = AttentionDropout { seed: 3, rate: 0.1 };
        let mut dropped = 0;
        for query in 0..100 {
            let mut row = vec![1.0; 100];
            dropout.apply(&mut row, query % 4, query);
            dropped += row.iter().filter(|x| **x == 0.0).count();
            assert!(
                row.iter()
                    .all(|x| *x == 0.0 || (x - 1.0 / 0.9).abs() < 1e-6)
            );
        }
        assert!((850..1150).contains(&dropped), "{dropped} of 10000 dropped");
    }

    #[test]
    fn rows_heads_and_seeds_drop_independently() {
        let draw = |seed, head, query| {
            let mut row = vec![1.0; 64];
            AttentionDropout { seed, rate: 0.5 }.apply(&mut row, head, query);
            row
        };
        assert_eq!(draw(1, 0, 0), draw(1, 0, 0));
        for other in [draw(2, 0, 0), draw(1, 1, 0), draw(1, 0, 1)] {
            assert_ne!(draw(1, 0, 0), other);
        }
    }
}
