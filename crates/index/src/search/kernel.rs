//! Dot products of a block of rows with a block of queries.

use multiversion::multiversion;
use multiversion::target::match_target;

/// Partial sums a dot product is kept in: one 512-bit register, two of 256 bits. The number is
/// the same for every tile shape, so a score does not depend on what it was computed beside.
const LANES: usize = 16;

/// `scores[q, r] = queries[q] . rows[r]`, with rows `[r, dim]`, queries `[q, dim]`.
///
/// The tile (rows by queries whose sums are held in registers at once) follows the number of
/// registers: each value that is loaded is used for a whole side of the tile.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma"
))]
pub(super) fn score_block(rows: &[f32], queries: &[f32], dim: usize, scores: &mut [f32]) {
    match_target! {
        "x86_64+avx512f+fma" => tiles::<4, 4, true>(rows, queries, dim, scores),
        "x86_64+avx2+fma" => tiles::<2, 2, true>(rows, queries, dim, scores),
        "aarch64+neon" => tiles::<2, 2, true>(rows, queries, dim, scores),
        _ => tiles::<1, 2, false>(rows, queries, dim, scores),
    }
}

// Everything below is inlined into `score_block`, so that it is compiled once per target.

#[inline(always)]
fn tiles<const ROWS: usize, const QUERIES: usize, const FMA: bool>(
    rows: &[f32],
    queries: &[f32],
    dim: usize,
    scores: &mut [f32],
) {
    let row_count = rows.len() / dim;
    let query_tiles = queries.chunks_exact(QUERIES * dim);
    let rest = query_tiles.remainder();
    let done = (queries.len() - rest.len()) / dim;
    let (tiled, single) = scores.split_at_mut(done * row_count);
    for (tile, scores) in query_tiles.zip(tiled.chunks_exact_mut(QUERIES * row_count)) {
        row_tiles::<ROWS, QUERIES, FMA>(rows, tile, dim, scores);
    }
    for (query, scores) in rest
        .chunks_exact(dim)
        .zip(single.chunks_exact_mut(row_count))
    {
        row_tiles::<4, 1, FMA>(rows, query, dim, scores);
    }
}

#[inline(always)]
fn row_tiles<const ROWS: usize, const QUERIES: usize, const FMA: bool>(
    rows: &[f32],
    queries: &[f32],
    dim: usize,
    scores: &mut [f32],
) {
    let row_count = rows.len() / dim;
    let tiles = rows.chunks_exact(ROWS * dim);
    let rest = tiles.remainder();
    let mut first = 0;
    for tile in tiles {
        dots::<ROWS, QUERIES, FMA>(tile, queries, dim, scores, row_count, first);
        first += ROWS;
    }
    for row in rest.chunks_exact(dim) {
        dots::<1, QUERIES, FMA>(row, queries, dim, scores, row_count, first);
        first += 1;
    }
}

#[inline(always)]
fn dots<const ROWS: usize, const QUERIES: usize, const FMA: bool>(
    rows: &[f32],
    queries: &[f32],
    dim: usize,
    scores: &mut [f32],
    stride: usize,
    first: usize,
) {
    let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &rows[r * dim..(r + 1) * dim]);
    let queries: [&[f32]; QUERIES] = std::array::from_fn(|q| &queries[q * dim..(q + 1) * dim]);
    let sums = lane_sums::<ROWS, QUERIES, FMA>(
        rows.map(|row| row.as_chunks().0),
        queries.map(|query| query.as_chunks().0),
    );
    let whole = dim - dim % LANES;
    for r in 0..ROWS {
        for q in 0..QUERIES {
            let mut score = sum(sums[r][q]);
            for d in whole..dim {
                score = multiply_add::<FMA>(rows[r][d], queries[q][d], score);
            }
            scores[q * stride + first + r] = score;
        }
    }
}

/// Leaves its loop by a return and never by a panic: on the way to a panic the sums would have to
/// be in memory, and be stored there in every step.
#[inline(always)]
fn lane_sums<const ROWS: usize, const QUERIES: usize, const FMA: bool>(
    rows: [&[[f32; LANES]]; ROWS],
    queries: [&[[f32; LANES]]; QUERIES],
) -> [[[f32; LANES]; QUERIES]; ROWS] {
    let mut sums = [[[0.0f32; LANES]; QUERIES]; ROWS];
    let mut row_values = [[0.0; LANES]; ROWS];
    let mut query_values = [[0.0; LANES]; QUERIES];
    for step in 0.. {
        for (values, row) in row_values.iter_mut().zip(&rows) {
            let Some(chunk) = row.get(step) else {
                return sums;
            };
            *values = *chunk;
        }
        for (values, query) in query_values.iter_mut().zip(&queries) {
            let Some(chunk) = query.get(step) else {
                return sums;
            };
            *values = *chunk;
        }
        for r in 0..ROWS {
            for q in 0..QUERIES {
                for lane in 0..LANES {
                    sums[r][q][lane] = multiply_add::<FMA>(
                        row_values[r][lane],
                        query_values[q][lane],
                        sums[r][q][lane],
                    );
                }
            }
        }
    }
    sums
}

/// Without hardware support, `mul_add` is a library call and many times slower.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sums by halves, which is both what vector registers do well and kinder to rounding than
/// adding lane after lane.
#[inline(always)]
fn sum(lanes: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_shape_gives_the_same_bits() {
        let dim = 37;
        let value = |i: usize| ((i * 7919 % 1009) as f32 - 504.0) / 97.0;
        let rows: Vec<f32> = (0..11 * dim).map(value).collect();
        let queries: Vec<f32> = (0..9 * dim).map(|i| value(i + 31)).collect();
        let run = |kernel: fn(&[f32], &[f32], usize, &mut [f32])| {
            let mut scores = vec![f32::NAN; 9 * 11];
            kernel(&rows, &queries, dim, &mut scores);
            scores
        };
        let single = run(tiles::<1, 1, true>);
        assert_eq!(run(tiles::<4, 4, true>), single);
        assert_eq!(run(tiles::<2, 2, true>), single);
        assert_eq!(run(tiles::<1, 2, false>), run(tiles::<4, 3, false>));
        for (a, b) in run(score_block).iter().zip(&single) {
            assert!((a - b).abs() <= 1e-3, "{a} is not {b}");
        }
    }
}
