//! VLMo's relative position bias (`modules/vlmo_module.py`, after BEiT): one learned number per
//! relative position, layer and head, added to the attention scores. Patches are told apart by
//! their distance in both directions, words by their distance in the text; between the two
//! modalities, and with a modality's CLS token, one number serves all.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The table of one model and the sizes that say what its rows mean.
///
/// Rows, with `d = (2 * window - 1)^2`: `d` for patches; 3 for the image's CLS (to patches, from
/// patches, to itself); text to image; image to text; `2 * table_text_len` for the text, of
/// which the last 3 are its CLS.
#[derive(Module, Debug)]
pub struct RelativePositionBias {
    /// `[rows, layers * heads]`, layer by layer.
    pub table: Param<Tensor<2>>,
    window: usize,
    table_text_len: usize,
    heads: usize,
}

/// Rows of a table that do not depend on the window: the image's CLS, the crossings, the text.
fn extra_rows(table_text_len: usize) -> usize {
    3 + 2 + 2 * table_text_len
}

impl RelativePositionBias {
    /// A zero table, as the original starts. `window`: patches along one side of the image;
    /// `table_text_len`: the longest text that the table has rows for (196 in the published
    /// models), at least that of the texts.
    pub fn new(
        window: usize,
        table_text_len: usize,
        heads: usize,
        layers: usize,
        device: &Device,
    ) -> Self {
        let rows = (2 * window - 1).pow(2) + extra_rows(table_text_len);
        Self {
            table: Initializer::Zeros.init([rows, layers * heads], device),
            window,
            table_text_len,
            heads,
        }
    }

    /// Bias of every layer for image tokens alone, each `[heads, tokens, tokens]`.
    pub fn image(&self) -> Vec<Tensor<3>> {
        self.per_layer(&self.image_index())
    }

    /// Bias of every layer for `text` text tokens alone, each `[heads, text, text]`.
    pub fn text(&self, text: usize) -> Vec<Tensor<3>> {
        self.per_layer(&self.text_index(text))
    }

    /// Bias of every layer for `text` text tokens and then the image's, each
    /// `[heads, tokens, tokens]`.
    pub fn fused(&self, text: usize) -> Vec<Tensor<3>> {
        self.per_layer(&self.fused_index(text))
    }

    /// Looks a square index up, once for each layer: narrow gathers, so that no tensor of all
    /// layers is held for the backward pass.
    fn per_layer(&self, index: &[i64]) -> Vec<Tensor<3>> {
        let tokens = index.len().isqrt();
        let table = self.table.val();
        let index = TensorData::new(index.to_vec(), [index.len()]);
        let index = Tensor::<1, Int>::from_data(index, &table.device());
        (0..table.dims()[1] / self.heads)
            .map(|layer| {
                let columns = table.clone().narrow(1, layer * self.heads, self.heads);
                let bias = columns.select(0, index.clone());
                bias.transpose().reshape([self.heads, tokens, tokens])
            })
            .collect()
    }

    fn patch_rows(&self) -> usize {
        (2 * self.window - 1).pow(2)
    }

    /// Row of the table for every pair of image tokens, CLS first; row-major, `1 + window^2` a
    /// side.
    pub fn image_index(&self) -> Vec<i64> {
        let (window, rows) = (self.window, self.patch_rows());
        square(window * window + 1, |query, key| {
            with_cls(query, key, rows, |query, key| {
                let row = query / window + window - 1 - key / window;
                let column = query % window + window - 1 - key % window;
                row * (2 * window - 1) + column
            })
        })
    }

    /// Row of the table for every pair of `text` text tokens, `[CLS]` first; row-major.
    pub fn text_index(&self, text: usize) -> Vec<i64> {
        let first = self.patch_rows() + 3 + 2;
        let cls = first + 2 * self.table_text_len - 3;
        square(text, |query, key| {
            with_cls(query, key, cls, |query, key| {
                first + self.table_text_len - 2 + key - query
            })
        })
    }

    /// Row of the table for every pair of tokens of `text` text tokens and then the image's;
    /// row-major, `text + 1 + window^2` a side.
    pub fn fused_index(&self, text: usize) -> Vec<i64> {
        let (texts, images) = (self.text_index(text), self.image_index());
        let image = images.len().isqrt();
        let crossing = self.patch_rows() + 3;
        let mut index = Vec::with_capacity((text + image).pow(2));
        for row in 0..text {
            index.extend_from_slice(&texts[row * text..(row + 1) * text]);
            index.extend(std::iter::repeat_n(crossing as i64, image));
        }
        for row in 0..image {
            index.extend(std::iter::repeat_n(crossing as i64 + 1, text));
            index.extend_from_slice(&images[row * image..(row + 1) * image]);
        }
        index
    }
}

/// The `side * side` values of `at(query, key)`, row-major.
fn square(side: usize, at: impl Fn(usize, usize) -> usize) -> Vec<i64> {
    let pairs = (0..side).flat_map(|query| (0..side).map(move |key| (query, key)));
    pairs.map(|(query, key)| at(query, key) as i64).collect()
}

/// Three rows from `cls` on where token 0 takes part (it asks, it is asked, both); else `other`
/// of the positions without it.
fn with_cls(query: usize, key: usize, cls: usize, other: impl Fn(usize, usize) -> usize) -> usize {
    match (query, key) {
        (0, 0) => cls + 2,
        (_, 0) => cls + 1,
        (0, _) => cls,
        _ => other(query - 1, key - 1),
    }
}

/// Why a table cannot be resized.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// The patch rows do not form a square of odd side.
    #[error(
        "relative position table of {rows} rows: all but {extra}, those of CLS and text, must be \
         (2 * window - 1)^2 for some window of patches"
    )]
    NotAWindow {
        /// Rows of the table.
        rows: usize,
        /// Rows that do not belong to patches.
        extra: usize,
    },
    /// A cubic spline needs four points: a window of three patches.
    #[error("a window of {window} patches is too small to be resized, 3 is the least")]
    TooSmall {
        /// Patches along one side of the image that the table is for.
        window: usize,
    },
}

/// Resizes the patch rows of a table for images of `window` patches a side as the original does
/// when it loads a checkpoint: the known distances are put on a geometric grid, dense near 0,
/// that reaches as far as the new ones, and a cubic spline is read at the whole numbers. All
/// other rows are copied.
///
/// `table`: `[rows, layers * heads]`; `table_text_len`: as in [`RelativePositionBias::new`].
///
/// # Errors
/// [`ResizeError`] when the rows are no such table, or the window it is for is below 3.
pub fn resize_table(
    table: Tensor<2>,
    table_text_len: usize,
    window: usize,
) -> Result<Tensor<2>, ResizeError> {
    let [rows, columns] = table.dims();
    let extra = extra_rows(table_text_len);
    let patches = rows.saturating_sub(extra);
    let (source, target) = (patches.isqrt(), 2 * window - 1);
    if source * source != patches || source.is_multiple_of(2) {
        return Err(ResizeError::NotAWindow { rows, extra });
    }
    if source == target {
        return Ok(table);
    }
    if source < 5 {
        return Err(ResizeError::TooSmall {
            window: source.div_ceil(2),
        });
    }
    let half = (target / 2) as f64;
    let offsets: Vec<f64> = (0..target).map(|i| i as f64 - half).collect();
    let weights = spline_weights(&geometric_grid(source, target), &offsets);
    let weights: Vec<f32> = weights.iter().map(|w| *w as f32).collect();
    let weights = TensorData::new(weights, [target, source]);
    let weights = Tensor::<2>::from_data(weights, &table.device());

    // Separable: along y, then along x, each one matrix product.
    let tail = table.clone().narrow(0, patches, extra);
    let grid = table.narrow(0, 0, patches);
    let grid = weights
        .clone()
        .matmul(grid.reshape([source, source * columns]))
        .reshape([target, source, columns])
        .swap_dims(0, 1)
        .reshape([source, target * columns]);
    let grid = weights
        .matmul(grid)
        .reshape([target, target, columns])
        .swap_dims(0, 1)
        .reshape([target * target, columns]);
    Ok(Tensor::cat(vec![grid, tail], 0))
}

/// `source` distances, symmetric about 0, whose steps grow by a factor in `[1.01, 1.5]`: the one
/// with which they reach `target / 2`, found by bisection as in BEiT.
fn geometric_grid(source: usize, target: usize) -> Vec<f64> {
    let half = (source / 2) as i32;
    let (mut low, mut high, mut factor) = (1.01f64, 1.5f64, 1.01f64);
    while high - low > 1e-6 {
        factor = (low + high) / 2.0;
        let reach = (1.0 - factor.powi(half)) / (1.0 - factor);
        if reach > (target / 2) as f64 {
            high = factor;
        } else {
            low = factor;
        }
    }
    let distance = |i: i32| (0..i).map(|k| factor.powi(k)).sum::<f64>();
    let sides = (-half..=half).map(|i| f64::from(i.signum()) * distance(i.abs()));
    sides.collect()
}

/// The `[at, knots]` matrix, row-major, that reads an interpolating cubic spline with not-a-knot
/// ends at the points `at`; points outside take the value at the border (FITPACK's `regrid` and
/// `bispev`, which `scipy.interpolate.interp2d` calls). `knots` ascend, at least 4.
fn spline_weights(knots: &[f64], at: &[f64]) -> Vec<f64> {
    let n = knots.len();
    let step: Vec<f64> = knots.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // `left * curvature = right * values`: the first derivative is continuous at inner knots, the
    // third at the second and the last but one.
    let (mut left, mut right) = (vec![0.0; n * n], vec![0.0; n * n]);
    for i in 1..n - 1 {
        let (before, after) = (step[i - 1], step[i]);
        let row = i * n + i;
        left[row - 1] = before;
        left[row] = 2.0 * (before + after);
        left[row + 1] = after;
        right[row - 1] = 6.0 / before;
        right[row] = -6.0 / before - 6.0 / after;
        right[row + 1] = 6.0 / after;
    }
    for (row, first, before, after) in [
        (0, 0, step[0], step[1]),
        (n - 1, n - 3, step[n - 3], step[n - 2]),
    ] {
        left[row * n + first] = after;
        left[row * n + first + 1] = -before - after;
        left[row * n + first + 2] = before;
    }
    let curvature = solve(left, right, n);

    let mut weights = vec![0.0; at.len() * n];
    for (point, weights) in at.iter().zip(weights.chunks_mut(n)) {
        let point = point.clamp(knots[0], knots[n - 1]);
        let k = knots[1..n - 1].partition_point(|knot| *knot <= point);
        let h = step[k];
        let a = (knots[k + 1] - point) / h;
        let b = 1.0 - a;
        weights[k] += a;
        weights[k + 1] += b;
        for (j, weight) in weights.iter_mut().enumerate() {
            *weight += h * h / 6.0
                * ((a.powi(3) - a) * curvature[k * n + j]
                    + (b.powi(3) - b) * curvature[(k + 1) * n + j]);
        }
    }
    weights
}

/// `left^-1 * right` for `n x n` matrices, row-major, by elimination with row exchange.
fn solve(mut left: Vec<f64>, mut right: Vec<f64>, n: usize) -> Vec<f64> {
    for column in 0..n {
        let magnitude = |row: &usize| left[row * n + column].abs();
        let pivot = (column..n)
            .max_by(|a, b| magnitude(a).total_cmp(&magnitude(b)))
            .unwrap_or(column);
        for k in 0..n {
            left.swap(column * n + k, pivot * n + k);
            right.swap(column * n + k, pivot * n + k);
        }
        for row in (0..n).filter(|row| *row != column) {
            let factor = left[row * n + column] / left[column * n + column];
            if factor == 0.0 {
                continue;
            }
            for k in 0..n {
                left[row * n + k] -= factor * left[column * n + k];
                right[row * n + k] -= factor * right[column * n + k];
            }
        }
    }
    for row in 0..n {
        let diagonal = left[row * n + row];
        right[row * n..(row + 1) * n]
            .iter_mut()
            .for_each(|v| *v /= diagonal);
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spline_reproduces_a_cubic_and_clamps_outside() {
        let knots = [-3.0, -1.0, 0.0, 1.5, 4.0];
        let cubic = |x: f64| 2.0 * x * x * x - x * x + 3.0 * x - 5.0;
        for (at, want) in [
            (-2.2, cubic(-2.2)),
            (0.0, -5.0),
            (0.7, cubic(0.7)),
            (3.9, cubic(3.9)),
            (9.0, cubic(4.0)),
            (-9.0, cubic(-3.0)),
        ] {
            let weights = spline_weights(&knots, &[at]);
            let got: f64 = weights.iter().zip(knots).map(|(w, x)| w * cubic(x)).sum();
            assert!((got - want).abs() < 1e-9, "at {at}: {got}, not {want}");
        }
    }

    #[test]
    fn the_grid_reaches_the_new_window() {
        let grid = geometric_grid(27, 47);
        assert_eq!((grid.len(), grid[13], grid[14]), (27, 0.0, 1.0));
        assert!((grid[26] - 23.0).abs() < 1e-3, "{}", grid[26]);
        assert!((grid[0] + grid[26]).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_table_is_named() {
        let table = |rows| Tensor::<2>::zeros([rows, 4], &Device::flex());
        assert_eq!(
            resize_table(table(30), 4, 6).map(|_| ()),
            Err(ResizeError::NotAWindow {
                rows: 30,
                extra: 13,
            })
        );
        assert_eq!(
            resize_table(table(13 + 9), 4, 6).map(|_| ()),
            Err(ResizeError::TooSmall { window: 2 })
        );
    }
}
