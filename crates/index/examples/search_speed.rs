//! Times exact search: `cargo run --release -p fitup-index --example search_speed [rows] [dim]`.
//!
//! GB/s counts the bytes of the rows once per pass over the queries, so for one query it is the
//! memory bandwidth reached. The processor and the number of threads belong beside any number
//! quoted from here.

use std::time::{Duration, Instant};

use fitup_index::{FeatureView, search};
use half::f16;
use half::slice::HalfFloatSliceExt;

const K: usize = 100;

fn main() {
    let argument = |at: usize, default: usize| {
        std::env::args()
            .nth(at)
            .and_then(|value| value.parse().ok())
            .filter(|&value| value > 0)
            .unwrap_or(default)
    };
    let rows = argument(1, 100_000);
    let dim = argument(2, 256);
    let values = normal_rows(rows, dim, 1);
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(&values);

    println!(
        "{rows} rows of {dim}, top {K}, {} threads",
        rayon::current_num_threads()
    );
    for queries in [1, 64, 1000] {
        let batch = normal_rows(queries, dim, 2);
        report("f32", FeatureView::f32(&values, dim), &batch, 4);
        report("f16", FeatureView::f16(&halves, dim), &batch, 2);
    }
}

fn report(name: &str, features: FeatureView<'_>, queries: &[f32], value_bytes: usize) {
    let count = queries.len() / features.dim();
    let bytes = features.rows() * features.dim() * value_bytes;
    let time = best_of(10, || search(features, queries, K).len());
    let seconds = time.as_secs_f64();
    println!(
        "{name} {count:>4} queries: {:8.2} ms {:8.1} GB/s {:9.1} queries/s {:7.1} GFLOP/s",
        seconds * 1e3,
        bytes as f64 / seconds / 1e9,
        count as f64 / seconds,
        2.0 * (features.rows() * queries.len()) as f64 / seconds / 1e9,
    );
}

fn best_of(runs: usize, mut work: impl FnMut() -> usize) -> Duration {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

/// Rows of unit length from a fixed seed (splitmix64).
fn normal_rows(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut values: Vec<f32> = (0..rows * dim)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut bits = state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (bits >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    values
}
