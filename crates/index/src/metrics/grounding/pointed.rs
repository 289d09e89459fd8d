//! What a map points at, where nobody proposes boxes.

use super::{Box4, HeatMap};

/// Places a side at which a map is looked at between its cells.
const PLACES: usize = 64;
/// How many times as hot as the mean a place is that belongs to the thing.
const ABOVE_MEAN: f32 = 2.0;

impl HeatMap<'_> {
    /// The box around what the map points at, on a picture of `width` and `height` pixels: of the connected places
    /// that are twice as hot as the mean or hotter, those with most heat together.
    ///
    /// `None` where the map is nowhere above 0.
    pub fn pointed(&self, [width, height]: [usize; 2]) -> Option<Box4> {
        let heat = self.resized([PLACES; 2]);
        let hottest = heat.iter().copied().fold(0.0, f32::max);
        if hottest <= 0.0 {
            return None;
        }
        let mean = heat.iter().sum::<f32>() / heat.len() as f32;
        // A map that is nearly the same everywhere has no place so far above its mean.
        let threshold = (ABOVE_MEAN * mean).min(0.99 * hottest);
        let mut left_out: Vec<bool> = heat.iter().map(|&heat| heat < threshold).collect();
        let mut best: Option<(f32, [usize; 4])> = None;
        for start in 0..heat.len() {
            if left_out[start] {
                continue;
            }
            let (mass, edges) = connected(start, &heat, &mut left_out);
            if best.is_none_or(|(most, _)| mass > most) {
                best = Some((mass, edges));
            }
        }
        let (_, [left, top, right, bottom]) = best?;
        let [across, down] = [width, height].map(|length| length as f64 / PLACES as f64);
        Some([
            left as f64 * across,
            top as f64 * down,
            (right - left) as f64 * across,
            (bottom - top) as f64 * down,
        ])
    }

    /// The hottest place on a picture of `width` and `height` pixels: x, y.
    ///
    /// `None` where the map is nowhere above 0.
    pub fn peak(&self, [width, height]: [usize; 2]) -> Option<[f64; 2]> {
        let mut best: Option<(f32, usize)> = None;
        for (at, heat) in self.resized([PLACES; 2]).into_iter().enumerate() {
            if heat > best.map_or(0.0, |(most, _)| most) {
                best = Some((heat, at));
            }
        }
        let (_, at) = best?;
        let middle = |at: usize, length: usize| (at as f64 + 0.5) * length as f64 / PLACES as f64;
        Some([middle(at % PLACES, width), middle(at / PLACES, height)])
    }
}

/// The places that hang together with `start` by their sides, taken out of what is left: their heat, and their left,
/// top, right and bottom edge.
fn connected(start: usize, heat: &[f32], left_out: &mut [bool]) -> (f32, [usize; 4]) {
    let mut mass = 0.0;
    let (mut left, mut top, mut right, mut bottom) = (PLACES, PLACES, 0, 0);
    let mut open = vec![start];
    left_out[start] = true;
    while let Some(at) = open.pop() {
        mass += heat[at];
        let (x, y) = (at % PLACES, at / PLACES);
        (left, right) = (left.min(x), right.max(x + 1));
        (top, bottom) = (top.min(y), bottom.max(y + 1));
        let beside = [
            (x > 0).then(|| at - 1),
            (x + 1 < PLACES).then_some(at + 1),
            (y > 0).then(|| at - PLACES),
            (y + 1 < PLACES).then_some(at + PLACES),
        ];
        for at in beside.into_iter().flatten() {
            if !std::mem::replace(&mut left_out[at], true) {
                open.push(at);
            }
        }
    }
    (mass, [left, top, right, bottom])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 by 4 cells, all cold but these.
    fn map(hot: &[(usize, f32)]) -> [f32; 16] {
        let mut values = [0.0; 16];
        hot.iter().for_each(|&(at, heat)| values[at] = heat);
        values
    }

    fn near(got: Option<Box4>, want: Box4, off: f64) {
        let got = got.unwrap_or_default();
        let sides = got.iter().zip(want);
        assert!(
            sides.clone().all(|(got, want)| (got - want).abs() <= off),
            "{got:?}, not {want:?}"
        );
    }

    #[test]
    fn the_box_lies_around_the_hot_cells() {
        let one = map(&[(5, 1.0)]);
        let square = HeatMap::new(&one, 4, 4);
        // Cell (1, 1) of a picture of 80 by 40. The cubic 1.25 d^3 - 2.25 d^2 + 1 comes down to twice the mean, 1/8, at
        // d = 0.865 cells from its middle: the box is 34.6 by 17.3 pixels about (30, 15).
        near(square.pointed([80, 40]), [12.7, 6.35, 34.6, 17.3], 1.25);
        assert_eq!(
            square.peak([64, 64]).map(|at| at.map(f64::round)),
            Some([24.0, 24.0])
        );
        let wide = map(&[(9, 1.0), (10, 1.0)]);
        let [_, _, width, height] = HeatMap::new(&wide, 4, 4)
            .pointed([64, 64])
            .unwrap_or_default();
        // One cell more across than down, less what is lost to the higher threshold.
        assert!(width > 1.25 * height, "{width} {height}");
    }

    #[test]
    fn the_heat_of_a_part_counts_and_not_its_hottest_place() {
        // One cell in a corner; three of less heat along the other side, which together have more.
        let two = map(&[(0, 1.0), (7, 0.6), (11, 0.6), (15, 0.6)]);
        let map = HeatMap::new(&two, 4, 4);
        let [left, top, ..] = map.pointed([4, 4]).unwrap_or_default();
        assert!(left > 2.0 && top > 0.5, "{left} {top}");
        let peak = map.peak([4, 4]).unwrap_or_default();
        assert!(peak[0] < 1.0 && peak[1] < 1.0, "{peak:?}");
    }

    #[test]
    fn a_map_without_heat_points_at_nothing_and_an_even_one_at_everything() {
        assert_eq!(HeatMap::new(&[0.0; 4], 2, 2).pointed([10, 10]), None);
        assert_eq!(HeatMap::new(&[0.0; 4], 2, 2).peak([10, 10]), None);
        let even = HeatMap::new(&[0.3; 4], 2, 2).pointed([10, 20]);
        assert_eq!(even, Some([0.0, 0.0, 10.0, 20.0]));
    }

    #[test]
    fn of_a_padded_picture_only_its_part_is_looked_at() {
        // Hot on the padding at the left, and less so in the picture's lower half.
        let values = map(&[
            (0, 1.0),
            (4, 1.0),
            (8, 1.0),
            (12, 1.0),
            (14, 0.5),
            (15, 0.5),
        ]);
        let right = HeatMap::new(&values, 4, 4).of_part([0.5, 0.0, 0.5, 1.0]);
        let [left, top, width, height] = right.pointed([20, 40]).unwrap_or_default();
        assert!(top > 20.0 && top + height == 40.0, "{top} {height}");
        assert!(left >= 0.0 && left + width <= 20.0 && width > 10.0);
    }
}
