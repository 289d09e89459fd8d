//! Exact search against the obvious search.
#![allow(clippy::unwrap_used)]

use fitup_index::{FeatureView, Hit, search};
use half::f16;
use proptest::prelude::*;

/// All scores in double precision, fully sorted.
fn naive(rows: &[f32], queries: &[f32], dim: usize, k: usize) -> Vec<Vec<(usize, f64)>> {
    queries
        .chunks_exact(dim)
        .map(|query| {
            let mut hits: Vec<(usize, f64)> = rows
                .chunks_exact(dim)
                .map(|row| row.iter().zip(query).map(|(a, b)| f64::from(a * b)).sum())
                .enumerate()
                .collect();
            // A stable sort keeps ties by row; 0.0 and -0.0 tie.
            hits.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
            hits.truncate(k);
            hits
        })
        .collect()
}

/// Small whole numbers: every product and sum is exact in `f32` and in `f16`, so ties are true
/// ties and results must be equal to the last bit.
fn whole_numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64)
        .map(|i| {
            let mixed = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed;
            let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((mixed >> 40) % 9) as f32 - 4.0
        })
        .collect()
}

fn assert_equal(got: &[Vec<Hit>], expected: &[Vec<(usize, f64)>]) {
    let got: Vec<Vec<(usize, f64)>> = got
        .iter()
        .map(|hits| hits.iter().map(|h| (h.row, f64::from(h.score))).collect())
        .collect();
    assert_eq!(got, expected);
}

proptest! {
    #[test]
    fn search_equals_naive(
        rows in 0usize..70, queries in 0usize..10, dim in 1usize..70, k in 0usize..80,
        seed in any::<u64>(),
    ) {
        let values = whole_numbers(rows * dim, seed);
        let batch = whole_numbers(queries * dim, !seed);
        let expected = naive(&values, &batch, dim, k);
        assert_equal(&search(FeatureView::f32(&values, dim), &batch, k), &expected);
        let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        assert_equal(&search(FeatureView::f16(&halves, dim), &batch, k), &expected);
    }

    #[test]
    fn scores_are_accurate(
        values in prop::collection::vec(-1.0f32..1.0, 5 * 67),
        query in prop::collection::vec(-1.0f32..1.0, 67),
    ) {
        let hits = search(FeatureView::f32(&values, 67), &query, 5);
        for hit in &hits[0] {
            let row = &values[hit.row * 67..(hit.row + 1) * 67];
            let exact: f64 = row
                .iter()
                .zip(&query)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum();
            prop_assert!((f64::from(hit.score) - exact).abs() < 1e-5);
        }
        prop_assert!(hits[0].is_sorted_by(|a, b| a.score >= b.score));
    }
}

/// Enough rows and queries for several tasks, blocks and tiles, with many ties between them.
#[test]
fn the_result_does_not_depend_on_how_the_work_is_cut() {
    let (rows, dim, k) = (5003, 19, 50);
    let values = whole_numbers(rows * dim, 1);
    let batch = whole_numbers(131 * dim, 2);
    let features = FeatureView::f32(&values, dim);
    let expected = naive(&values, &batch, dim, k);
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert_equal(&pool.install(|| search(features, &batch, k)), &expected);
    }
}

#[test]
fn a_batch_equals_its_singles() {
    let (rows, dim) = (3001, 45);
    let scale = |values: Vec<f32>| -> Vec<f32> { values.iter().map(|v| v / 7.3).collect() };
    let values = scale(whole_numbers(rows * dim, 3));
    let batch = scale(whole_numbers(70 * dim, 4));
    let features = FeatureView::f32(&values, dim);
    let together = search(features, &batch, 20);
    let singles: Vec<Vec<Hit>> = batch
        .chunks_exact(dim)
        .flat_map(|query| search(features, query, 20))
        .collect();
    assert_eq!(together, singles);
}

#[test]
fn rows_that_are_not_numbers_come_last() {
    let values = [f32::NAN, 0.0, -5.0, 0.0, f32::NAN, 0.0, 3.0, 0.0];
    let hits = search(FeatureView::f32(&values, 2), &[1.0, 0.0], 9);
    let rows: Vec<usize> = hits[0].iter().map(|hit| hit.row).collect();
    assert_eq!(rows, [3, 1, 0, 2]);
}

#[test]
#[should_panic(expected = "no whole number of queries of 2")]
fn queries_of_another_dim_are_a_mistake_of_the_caller() {
    search(FeatureView::f32(&[1.0, 2.0], 2), &[1.0], 1);
}
