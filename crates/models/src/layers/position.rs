//! Resizing learned position embeddings to another grid.

use burn::tensor::{Tensor, TensorData};

/// Resizes the patch rows of a position embedding to a `rows x columns` grid as
/// `interpolate_pos_embed` of ALBEF's `models/vit.py` does: bicubic (a = -0.75),
/// `align_corners = false`, the CLS row copied.
///
/// `pos_embed`: `[1, 1 + side * side, width]`; returns `[1, 1 + rows * columns, width]`.
///
/// # Panics
/// When the patch rows do not form a square.
pub fn interpolate_pos_embed(pos_embed: Tensor<3>, rows: usize, columns: usize) -> Tensor<3> {
    let [_, tokens, width] = pos_embed.dims();
    let side = (tokens - 1).isqrt();
    assert_eq!(
        side * side + 1,
        tokens,
        "position embedding is not a square grid"
    );
    if (side, side) == (rows, columns) {
        return pos_embed;
    }
    let device = pos_embed.device();
    let cls = pos_embed.clone().narrow(1, 0, 1);
    let weights = |size: usize| {
        Tensor::<2>::from_data(
            TensorData::new(bicubic_weights(side, size), [size, side]),
            &device,
        )
    };
    // Separable: along y, then along x, each one matrix product.
    let grid = pos_embed.narrow(1, 1, side * side);
    let grid = weights(rows).matmul(grid.reshape([side, side * width]));
    let grid = grid
        .reshape([rows, side, width])
        .swap_dims(0, 1)
        .reshape([side, rows * width]);
    let grid = weights(columns)
        .matmul(grid)
        .reshape([columns, rows, width])
        .swap_dims(0, 1)
        .reshape([1, rows * columns, width]);
    Tensor::cat(vec![cls, grid], 1)
}

/// The `[target, source]` matrix of one-dimensional bicubic interpolation, borders clamped.
fn bicubic_weights(source: usize, target: usize) -> Vec<f32> {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    let mut weights = vec![0.0f32; target * source];
    let scale = source as f64 / target as f64;
    for i in 0..target {
        let x = (i as f64 + 0.5) * scale - 0.5;
        let floor = x.floor();
        let t = x - floor;
        let taps = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        for (k, weight) in taps.into_iter().enumerate() {
            let at = (floor as isize + k as isize - 1).clamp(0, source as isize - 1);
            weights[i * source + at as usize] += weight as f32;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_each_row_sum_to_one() {
        for (source, target) in [(4, 6), (4, 3), (14, 24), (1, 5)] {
            for row in bicubic_weights(source, target).chunks(source) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
    }
}
