//! Exact search by dot product.
//!
//! Every row is scored against every query; nothing is pruned and nothing approximated, so the
//! result is the truth that an approximate search (planned) will be measured against.
//!
//! Order of hits: the higher score first, equal scores by the lower row, NaN scores after every
//! number (again by row). The order is total, so the result does not depend on the number of
//! threads or on how the work was cut. A score is computed in the same order of operations
//! whatever else is searched with it: a batch of queries gives exactly what its singles give.
//! Between processors with and without fused multiply-add, the last bits of a score may differ.

mod kernel;
mod top_k;

use rayon::prelude::*;

use crate::features::FeatureView;
use kernel::score_block;
pub(crate) use top_k::TopK;

/// One row found by a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The row in the features that were searched.
    pub row: usize,
    /// Its dot product with the query.
    pub score: f32,
}

/// Queries that walk over the rows together: enough to make the scan compute-bound, few enough
/// that they and their lists of hits stay in the second-level cache.
const QUERY_BLOCK: usize = 64;

/// Bytes of rows that are scored against all queries of a block before the next rows are read:
/// small enough for the first-level cache.
const ROW_BLOCK_BYTES: usize = 16 * 1024;

/// Rows a task has at least: below that, starting a task costs more than it saves.
const MIN_TASK_ROWS: usize = 1024;

/// The `min(k, rows)` best rows of `features` `[rows, dim]` for each of `queries` `[n, dim]`,
/// best first, by dot product (the cosine where both sides have unit length).
///
/// Runs on the current rayon thread pool.
///
/// # Panics
/// If the number of query values is no multiple of the features' dim.
pub fn search(features: FeatureView<'_>, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
    let dim = features.dim();
    assert!(
        queries.len().is_multiple_of(dim),
        "{} query values are no whole number of queries of {dim}",
        queries.len()
    );
    let rows = features.rows();
    let k = k.min(rows);
    if k == 0 {
        return vec![Vec::new(); queries.len() / dim];
    }

    let query_blocks: Vec<&[f32]> = queries.chunks(QUERY_BLOCK * dim).collect();
    let ranges = row_ranges(rows, query_blocks.len());
    let tasks: Vec<(&[f32], (usize, usize))> = query_blocks
        .iter()
        .flat_map(|block| ranges.iter().map(move |range| (*block, *range)))
        .collect();
    let partial: Vec<Vec<Vec<Hit>>> = tasks
        .into_par_iter()
        .map(|(block, range)| scan(features, block, range, k))
        .collect();

    partial
        .chunks(ranges.len())
        .flat_map(|of_one_block| merge(of_one_block, k))
        .collect()
}

/// Cuts the rows so that there are about four tasks a thread, counting the query blocks.
fn row_ranges(rows: usize, query_blocks: usize) -> Vec<(usize, usize)> {
    let tasks = (4 * rayon::current_num_threads()).div_ceil(query_blocks.max(1));
    let step = rows.div_ceil(tasks).max(MIN_TASK_ROWS);
    (0..rows)
        .step_by(step)
        .map(|first| (first, (first + step).min(rows)))
        .collect()
}

fn scan(
    features: FeatureView<'_>,
    queries: &[f32],
    (first, last): (usize, usize),
    k: usize,
) -> Vec<Vec<Hit>> {
    let dim = features.dim();
    let count = queries.len() / dim;
    let block_rows = (ROW_BLOCK_BYTES / (4 * dim)).clamp(4, 512);
    let mut best: Vec<TopK> = (0..count).map(|_| TopK::new(k)).collect();
    let mut scratch = Vec::new();
    let mut scores = vec![0.0; count * block_rows];

    for start in (first..last).step_by(block_rows) {
        let end = (start + block_rows).min(last);
        let rows = features.block(start, end, &mut scratch);
        let scores = &mut scores[..count * (end - start)];
        score_block(rows, queries, dim, scores);
        for (of_query, best) in scores.chunks_exact(end - start).zip(&mut best) {
            best.extend(start, of_query);
        }
    }
    best.into_iter().map(TopK::into_sorted).collect()
}

fn merge(parts: &[Vec<Vec<Hit>>], k: usize) -> Vec<Vec<Hit>> {
    let queries = parts.first().map_or(0, Vec::len);
    (0..queries)
        .map(|query| {
            let mut hits: Vec<Hit> = parts
                .iter()
                .flat_map(|part| part[query].iter().copied())
                .collect();
            hits.sort_unstable_by(top_k::best_first);
            hits.truncate(k);
            hits
        })
        .collect()
}
