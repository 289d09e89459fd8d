//! What a map on a coarse grid says of a picture's pixels.

use super::Box4;

/// Coefficient of PyTorch's bicubic interpolation.
const BICUBIC: f64 = -0.75;

/// How much of a picture belongs to a text, on a coarse grid, row by row.
#[derive(Clone, Copy, Debug)]
pub struct HeatMap<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    /// The part of the map that shows the picture.
    part: Box4,
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
            part: [0.0, 0.0, 1.0, 1.0],
        }
    }

    /// The same of a picture that was padded before it was mapped: `part` is where it lies, as shares of the map's
    /// width and height.
    pub fn of_part(self, part: Box4) -> Self {
        Self { part, ..self }
    }

    fn interpolations(&self, [width, height]: [usize; 2]) -> [Interpolation; 2] {
        let [left, top, across, down] = self.part;
        [
            Interpolation::new(self.columns, [left, across], width),
            Interpolation::new(self.rows, [top, down], height),
        ]
    }

    /// The map on a picture of `width` and `height` pixels, row by row. Bicubic, so it falls a little below 0 beside
    /// steep places.
    pub fn resized(&self, [width, height]: [usize; 2]) -> Vec<f32> {
        let [columns, rows] = self.interpolations([width, height]);
        let mut lines = vec![0.0; self.rows * width];
        for (line, values) in lines
            .chunks_exact_mut(width.max(1))
            .zip(self.values.chunks_exact(self.columns))
        {
            for (pixel, value) in line.iter_mut().enumerate() {
                let weighted = values.iter().zip(columns.of(pixel));
                *value = weighted
                    .map(|(&cell, weight)| f64::from(cell) * weight)
                    .sum();
            }
        }
        let mut resized = Vec::with_capacity(width * height);
        for pixel in 0..height {
            let rows: Vec<f64> = rows.of(pixel).collect();
            resized.extend((0..width).map(|x| {
                let weighted = rows.iter().enumerate();
                weighted
                    .map(|(row, weight)| weight * lines[row * width + x])
                    .sum::<f64>() as f32
            }));
        }
        resized
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
        let [columns, rows] = self.interpolations([width, height]);
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
    /// `part`: where the pixels begin and how far they reach, as shares of the cells.
    fn new(cells: usize, part: [f64; 2], pixels: usize) -> Self {
        let mut before = vec![0.0; cells];
        before.reserve(cells * pixels);
        let [start, length] = part.map(|share| share * cells as f64);
        let scale = length / pixels.max(1) as f64;
        for pixel in 0..pixels {
            let last = before.len() - cells;
            before.extend_from_within(last..);
            let place = start + (pixel as f64 + 0.5) * scale - 0.5;
            let cell = place.floor();
            for (offset, weight) in weights(place - cell).into_iter().enumerate() {
                let cell = (cell as i64 + offset as i64 - 1).clamp(0, cells as i64 - 1);
                let end = before.len() - cells;
                before[end + cell as usize] += weight;
            }
        }
        Self { cells, before }
    }

    /// How much every cell weighs in one pixel.
    fn of(&self, pixel: usize) -> impl Iterator<Item = f64> {
        let at = pixel * self.cells;
        let [before, with] = [at, at + self.cells].map(|at| &self.before[at..at + self.cells]);
        with.iter().zip(before).map(|(with, before)| with - before)
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
