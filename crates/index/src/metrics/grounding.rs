//! Accuracy of weakly supervised grounding, as ALBEF counts it (`grounding_eval`): of the boxes proposed for a
//! picture the one with most of the map in it, right if it overlaps the true box by half.

use serde::{Deserialize, Serialize};

/// A box: left, top, width, height in pixels.
pub type Box4 = [f64; 4];

/// Overlap from which a box counts as found.
const FOUND: f64 = 0.5;
/// Coefficient of PyTorch's bicubic interpolation.
const BICUBIC: f64 = -0.75;

/// How much of a picture belongs to a text, on a coarse grid, row by row.
#[derive(Clone, Copy, Debug)]
pub struct HeatMap<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> HeatMap<'a> {
    /// # Panics
    /// When there are not `rows` times `columns` values, or none.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(rows * columns > 0, "a heat map has at least one cell");
        assert_eq!(values.len(), rows * columns, "rows times columns");
        Self {
            values,
            rows,
            columns,
        }
    }

    /// The proposed box that scores highest on the map resized to a picture of `width` and `height` pixels: sum
    /// inside it, cut to whole pixels, by its area to the power of `alpha` (a half in the original). Of equal ones
    /// the first.
    ///
    /// `None` where no box has a positive score; the original then takes the box it chose for the picture before.
    pub fn best(
        &self,
        [width, height]: [usize; 2],
        proposals: &[Box4],
        alpha: f64,
    ) -> Option<usize> {
        let columns = Interpolation::new(self.columns, width);
        let rows = Interpolation::new(self.rows, height);
        let mut best: Option<(usize, f64)> = None;
        for (at, &[left, top, across, down]) in proposals.iter().enumerate() {
            let area = across * down;
            let sum = self.sum(
                &rows.over(top, top + down),
                &columns.over(left, left + across),
            );
            let score = sum / area.powf(alpha);
            if area > 0.0 && score > best.map_or(0.0, |(_, score)| score) {
                best = Some((at, score));
            }
        }
        best.map(|(at, _)| at)
    }

    /// Interpolation is linear and separable, so a sum of pixels is a weighted sum of cells, and the resized map is
    /// never made.
    fn sum(&self, rows: &[f64], columns: &[f64]) -> f64 {
        let lines = self.values.chunks_exact(self.columns).zip(rows);
        lines
            .map(|(line, row)| {
                let cells = line.iter().zip(columns);
                row * cells
                    .map(|(&cell, column)| f64::from(cell) * column)
                    .sum::<f64>()
            })
            .sum()
    }
}

/// Bicubic interpolation along one axis, corners not aligned: sums of the cells' weights over all pixels before one.
struct Interpolation {
    cells: usize,
    /// For pixel 0 to the last and one more, `cells` sums each.
    before: Vec<f64>,
}

impl Interpolation {
    fn new(cells: usize, pixels: usize) -> Self {
        let mut before = vec![0.0; cells];
        before.reserve(cells * pixels);
        let scale = cells as f64 / pixels.max(1) as f64;
        for pixel in 0..pixels {
            let start = before.len() - cells;
            before.extend_from_within(start..);
            let place = (pixel as f64 + 0.5) * scale - 0.5;
            let cell = place.floor();
            for (offset, weight) in weights(place - cell).into_iter().enumerate() {
                let cell = (cell as i64 + offset as i64 - 1).clamp(0, cells as i64 - 1);
                let end = before.len() - cells;
                before[end + cell as usize] += weight;
            }
        }
        Self { cells, before }
    }

    /// How much every cell weighs in all pixels from `start` up to and without `end`, both cut to whole pixels inside
    /// the picture.
    fn over(&self, start: f64, end: f64) -> Vec<f64> {
        let last = self.before.len() / self.cells - 1;
        // A negative number becomes 0.
        let place = |at: f64| (at as usize).min(last) * self.cells;
        let (start, end) = (place(start), place(end));
        if end <= start {
            return vec![0.0; self.cells];
        }
        let sums = |at: usize| &self.before[at..at + self.cells];
        let differences = sums(end).iter().zip(sums(start));
        differences.map(|(end, start)| end - start).collect()
    }
}

/// Weights of the four cells around a place, of which it lies `past` the second.
fn weights(past: f64) -> [f64; 4] {
    let a = BICUBIC;
    let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    [
        far(past + 1.0),
        near(past),
        near(1.0 - past),
        far(2.0 - past),
    ]
}

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
    fn weights_sum_to_one_and_a_cell_hits_itself() {
        assert_eq!(weights(0.0), [0.0, 1.0, 0.0, 0.0]);
        for past in [0.25, 0.5, 0.9] {
            assert!((weights(past).iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn boxes_outside_or_without_area_are_never_chosen() {
        let map = HeatMap::new(&[1.0; 4], 2, 2);
        let outside = [[50.0, 50.0, 5.0, 5.0], [3.0, 3.0, 0.0, 4.0]];
        assert_eq!(map.best([10, 10], &outside, 0.5), None);
        let cut = [[50.0, 50.0, 5.0, 5.0], [-2.0, -2.0, 6.0, 6.0]];
        assert_eq!(map.best([10, 10], &cut, 0.5), Some(1));
    }

    #[test]
    fn nothing_found_is_a_miss() {
        let mut accuracy = GroundingAccuracy::default();
        assert_eq!(accuracy.accuracy(), 0.0);
        accuracy.add([0.0, 0.0, 4.0, 4.0], None);
        accuracy.add([0.0, 0.0, 4.0, 4.0], Some([0.0, 0.0, 4.0, 4.0]));
        assert_eq!(accuracy.accuracy(), 0.5);
    }
}
