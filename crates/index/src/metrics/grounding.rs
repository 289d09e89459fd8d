//! Accuracy of weakly supervised grounding, as ALBEF counts it (`grounding_eval`): of the boxes proposed for a
//! picture the one with most of the map in it, right if it overlaps the true box by half.

mod heat_map;
mod pointed;

use serde::{Deserialize, Serialize};

pub use heat_map::HeatMap;

/// A box: left, top, width, height in pixels.
pub type Box4 = [f64; 4];

/// Overlap from which a box counts as found.
const FOUND: f64 = 0.5;
/// Boxes tried as the constant one.
const CANDIDATES: usize = 1000;

/// Overlap of two boxes as the original computes it: the last pixel counts in what both cover and not in the union.
pub fn overlap(one: Box4, other: Box4) -> f64 {
    let side = |axis: usize| {
        let start = one[axis].max(other[axis]);
        let end = (one[axis] + one[axis + 2] - 1.0).min(other[axis] + other[axis + 2] - 1.0);
        (start < end).then_some(end - start + 1.0)
    };
    let both = match (side(0), side(1)) {
        (Some(across), Some(down)) => across * down,
        _ => 0.0,
    };
    both / (one[2] * one[3] + other[2] * other[3] - both)
}

/// Whether a chosen box is right.
pub fn is_found(truth: Box4, chosen: Box4) -> bool {
    overlap(truth, chosen) >= FOUND
}

/// Share of references whose box was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroundingAccuracy {
    /// References scored.
    pub references: usize,
    /// References found.
    pub found: usize,
}

impl GroundingAccuracy {
    /// Counts a reference with the box that was chosen for it, if any was.
    pub fn add(&mut self, truth: Box4, chosen: Option<Box4>) {
        self.references += 1;
        self.found += usize::from(chosen.is_some_and(|chosen| is_found(truth, chosen)));
    }

    /// Found of all, 0 to 1; 0 without any.
    pub fn accuracy(&self) -> f64 {
        self.found as f64 / self.references.max(1) as f64
    }
}

/// The one box that, put on every picture, is right most often: what a model has to beat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConstantBox {
    /// Left, top, width, height as shares of the picture's width and height.
    pub shares: Box4,
    /// How often it is right.
    pub accuracy: GroundingAccuracy,
}

impl ConstantBox {
    /// The best of the true boxes themselves, at most 1000 of them, evenly spread. Each
    /// comes with its picture's width and height. Chosen and counted on the same references, so no
    /// box chosen in advance does better. The whole picture where there are none.
    pub fn best(truths: &[(Box4, [u32; 2])]) -> Self {
        let count = |shares: Box4| {
            let mut accuracy = GroundingAccuracy::default();
            for &(truth, [width, height]) in truths {
                let lengths = [width, height, width, height];
                let chosen = std::array::from_fn(|side| shares[side] * f64::from(lengths[side]));
                accuracy.add(truth, Some(chosen));
            }
            Self { shares, accuracy }
        };
        let step = truths.len().div_ceil(CANDIDATES).max(1);
        let mut best = count([0.0, 0.0, 1.0, 1.0]);
        for &(truth, [width, height]) in truths.iter().step_by(step) {
            let lengths = [width, height, width, height];
            let counted = count(std::array::from_fn(|side| {
                truth[side] / f64::from(lengths[side].max(1))
            }));
            if counted.accuracy.found > best.accuracy.found {
                best = counted;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pixel_counts_in_what_both_cover() {
        let square = [0.0, 0.0, 10.0, 10.0];
        assert_eq!(overlap(square, square), 1.0);
        assert_eq!(overlap(square, [10.0, 0.0, 10.0, 10.0]), 0.0);
        assert_eq!(overlap(square, [5.0, 0.0, 10.0, 10.0]), 50.0 / 150.0);
        // Of one common column: the original demands that start lies before end.
        assert_eq!(overlap(square, [9.0, 0.0, 10.0, 10.0]), 0.0);
    }

    #[test]
    fn nothing_found_is_a_miss() {
        let mut accuracy = GroundingAccuracy::default();
        assert_eq!(accuracy.accuracy(), 0.0);
        accuracy.add([0.0, 0.0, 4.0, 4.0], None);
        accuracy.add([0.0, 0.0, 4.0, 4.0], Some([0.0, 0.0, 4.0, 4.0]));
        assert_eq!(accuracy.accuracy(), 0.5);
    }
    #[test]
    fn the_constant_box_is_the_one_right_most_often_on_pictures_of_any_size() {
        // Less than half of the picture, or all of it would be right.
        let left = ([0.0, 0.0, 5.0, 20.0], [20, 20]);
        let left_of_large = ([0.0, 0.0, 25.0, 100.0], [100, 100]);
        let right = ([15.0, 0.0, 5.0, 20.0], [20, 20]);
        let best = ConstantBox::best(&[right, left, left_of_large]);
        assert_eq!(best.shares, [0.0, 0.0, 0.25, 1.0]);
        assert_eq!((best.accuracy.found, best.accuracy.references), (2, 3));
        assert_eq!(ConstantBox::best(&[]).shares, [0.0, 0.0, 1.0, 1.0]);
    }
}
