//! Masked image modelling: which patches are hidden. BEiT's block-wise rule
//! (`beit/masking_generator.py`) as a pure function of its random draws: rectangles of random area
//! and aspect ratio are laid over each other until enough patches are covered.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Patches that BEiT hides of its 14 x 14, and the least of one block.
const BEIT_PATCHES: f64 = 75.0;
const BEIT_LEAST: f64 = 16.0;

/// Least ratio of a block's height to its width; the greatest is its inverse.
const LEAST_ASPECT: f64 = 0.3;

/// Blocks tried before the mask is left as it is.
const ATTEMPTS: usize = 10;

/// Sizes of the masks of one grid of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockMasking {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub columns: usize,
    /// Patches hidden at most; a mask ends below it when no further block fits.
    pub patches: usize,
    /// Area of a block at least, unless less is left to hide.
    pub least_block: usize,
}

impl BlockMasking {
    /// For a square grid of `side` patches of which about `share`, in [0, 1], are hidden. The
    /// least block keeps BEiT's proportion to what is hidden, 16 of 75.
    pub fn square(side: usize, share: f64) -> Self {
        let patches = ((side * side) as f64 * share).round();
        Self {
            rows: side,
            columns: side,
            patches: patches as usize,
            least_block: (patches * BEIT_LEAST / BEIT_PATCHES).round().max(1.0) as usize,
        }
    }

    /// Whether each patch is hidden, `[rows * columns]`, row by row.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<bool> {
        let mut mask = vec![false; self.rows * self.columns];
        let mut hidden = 0;
        while hidden < self.patches {
            let more = self.hide_block(&mut mask, self.patches - hidden, rng);
            if more == 0 {
                break;
            }
            hidden += more;
        }
        mask
    }

    /// Hides one block with at most `room` patches that were not hidden yet; how many there were,
    /// 0 when none of ten blocks fitted.
    fn hide_block(&self, mask: &mut [bool], room: usize, rng: &mut ChaCha8Rng) -> usize {
        let between =
            |low: f64, high: f64, rng: &mut ChaCha8Rng| low + (high - low) * rng.random::<f64>();
        for _ in 0..ATTEMPTS {
            let area = between(self.least_block as f64, room as f64, rng);
            let log_aspect = between(LEAST_ASPECT.ln(), -LEAST_ASPECT.ln(), rng);
            // Python rounds halves to even.
            let height = (area * log_aspect.exp()).sqrt().round_ties_even() as usize;
            let width = (area / log_aspect.exp()).sqrt().round_ties_even() as usize;
            // A block never spans the picture.
            if height >= self.rows || width >= self.columns {
                continue;
            }
            let top = rng.random_range(0..=self.rows - height);
            let left = rng.random_range(0..=self.columns - width);
            let places = || {
                (top..top + height)
                    .flat_map(|y| (left..left + width).map(move |x| y * self.columns + x))
            };
            let new = places().filter(|&at| !mask[at]).count();
            if new > 0 && new <= room {
                places().for_each(|at| mask[at] = true);
                return new;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn sizes_are_those_of_beit_and_their_proportion() {
        let beit = BlockMasking::square(14, 75.0 / 196.0);
        assert_eq!((beit.patches, beit.least_block), (75, 16));
        let small = BlockMasking::square(6, 0.4);
        assert_eq!((small.patches, small.least_block), (14, 3));
        assert_eq!(BlockMasking::square(2, 0.4).least_block, 1);
    }

    #[test]
    fn about_the_share_is_hidden_and_never_more() {
        for (side, share) in [(14, 75.0 / 196.0), (6, 0.4)] {
            let masking = BlockMasking::square(side, share);
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let counts: Vec<usize> = (0..500)
                .map(|_| masking.draw(&mut rng).iter().filter(|&&m| m).count())
                .collect();
            assert!(counts.iter().all(|&n| 0 < n && n <= masking.patches));
            let mean = counts.iter().sum::<usize>() as f64 / 500.0;
            assert!(mean > 0.93 * masking.patches as f64, "{side}: {mean}");
        }
    }

    #[test]
    fn hidden_patches_lie_in_blocks_anywhere() {
        let masking = BlockMasking::square(14, 75.0 / 196.0);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (mut alone, mut hidden) = (0, 0);
        let mut seen = [false; 14 * 14];
        for _ in 0..500 {
            let mask = masking.draw(&mut rng);
            for at in (0..mask.len()).filter(|&at| mask[at]) {
                seen[at] = true;
                hidden += 1;
                let (y, x) = (at / 14, at % 14);
                let beside = (x > 0 && mask[at - 1]) || (x < 13 && mask[at + 1]);
                let above = (y > 0 && mask[at - 14]) || (y < 13 && mask[at + 14]);
                alone += usize::from(!beside && !above);
            }
        }
        // Drawn one by one, (1 - 0.38)^4 = 15 % of them would have no neighbour.
        assert!(alone * 50 < hidden, "{alone} of {hidden} alone");
        assert!(seen.iter().all(|&seen| seen));
    }

    #[test]
    fn the_same_generator_gives_the_same_mask() {
        let masking = BlockMasking::square(6, 0.4);
        let draw = |seed| masking.draw(&mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
