//! Which rows of keys and values each row of queries reads, when sequences of different lengths
//! stand one after another without padding.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Sequences of query rows, in order and without gaps, each with the rows of keys and values that
/// all its queries read. Several sequences may read the same rows (texts that meet one image).
#[derive(Clone, Debug)]
pub struct Reach(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    segments: Vec<Segment>,
    /// Segments that read the same keys: their gradients add up, so one task takes them.
    groups: Vec<Vec<usize>>,
    query_rows: usize,
    key_rows: usize,
}

/// One sequence of queries and what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// Rows of the keys and values.
    pub keys: Range<usize>,
}

impl Reach {
    /// From (number of queries, rows of keys) of each sequence. Sequences without queries are left
    /// out. `key_rows`: rows of keys in all; those that nobody reads get no gradient.
    ///
    /// # Panics
    /// If a sequence with queries reads no keys or rows beyond `key_rows`, or if two sequences
    /// read ranges that overlap without being equal.
    pub fn new(
        sequences: impl IntoIterator<Item = (usize, Range<usize>)>,
        key_rows: usize,
    ) -> Self {
        let mut segments: Vec<Segment> = Vec::new();
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        let mut query_rows = 0;
        for (queries, keys) in sequences {
            if queries == 0 {
                continue;
            }
            assert!(
                keys.start < keys.end && keys.end <= key_rows,
                "keys {keys:?} of {key_rows}"
            );
            let rows = query_rows..query_rows + queries;
            query_rows = rows.end;
            // Neighbours that read the same keys are one sequence: one product instead of two.
            match segments.last_mut() {
                Some(Segment {
                    queries,
                    keys: last,
                }) if *last == keys => queries.end = rows.end,
                _ => {
                    let group = groups.entry((keys.start, keys.end)).or_default();
                    group.push(segments.len());
                    segments.push(Segment {
                        queries: rows,
                        keys,
                    });
                }
            }
        }
        let ranges: Vec<_> = groups.keys().collect();
        for pair in ranges.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "keys overlap: {pair:?}");
        }
        Self(Arc::new(Parts {
            segments,
            groups: groups.into_values().collect(),
            query_rows,
            key_rows,
        }))
    }

    /// `batch` sequences of equal length: the dense case.
    pub(super) fn dense(batch: usize, queries: usize, keys: usize) -> Self {
        if keys == 0 {
            return Self::new([], 0);
        }
        let sequences = (0..batch).map(|b| (queries, b * keys..(b + 1) * keys));
        Self::new(sequences, batch * keys)
    }

    /// The sequences that have queries, in order; neighbours with the same keys are one.
    pub fn segments(&self) -> &[Segment] {
        &self.0.segments
    }

    /// Rows of queries in all.
    pub fn query_rows(&self) -> usize {
        self.0.query_rows
    }

    /// Rows of keys in all.
    pub fn key_rows(&self) -> usize {
        self.0.key_rows
    }

    /// Whether every row of keys is read by some sequence.
    pub(super) fn reads_all_keys(&self) -> bool {
        let first = |group: &Vec<usize>| self.0.segments[group[0]].keys.len();
        // Ranges of different groups do not overlap.
        self.groups().iter().map(first).sum::<usize>() == self.0.key_rows
    }

    pub(super) fn groups(&self) -> &[Vec<usize>] {
        &self.0.groups
    }

    /// Queries times keys of the largest sequence.
    pub(super) fn most_scores(&self) -> usize {
        let scores = self
            .segments()
            .iter()
            .map(|s| s.queries.len() * s.keys.len());
        scores.max().unwrap_or(0)
    }

    /// Queries, `[query_rows, width]`, as `[segments, longest, width]`; what is added repeats a
    /// row and means nothing.
    pub fn pad_queries(&self, q: Tensor<2>) -> Tensor<3> {
        pad(q, self.segments().iter().map(|s| &s.queries))
    }

    /// Keys or values, `[key_rows, width]`, as `[segments, longest, width]`; what is added repeats
    /// a row and is hidden by [`Self::padding_mask`].
    pub fn pad_keys(&self, k: Tensor<2>) -> Tensor<3> {
        pad(k, self.segments().iter().map(|s| &s.keys))
    }

    /// Additive mask over padded keys, `[segments, 1, longest]`: 0, and -inf on padding.
    pub fn padding_mask(&self, device: &Device) -> Tensor<3> {
        let (_, longest) = self.longest();
        let row = |s: &Segment| {
            let real = s.keys.len();
            (0..longest).map(move |i| if i < real { 0.0 } else { f32::NEG_INFINITY })
        };
        let mask: Vec<f32> = self.segments().iter().flat_map(row).collect();
        let shape = [self.segments().len(), 1, longest];
        Tensor::from_data(TensorData::new(mask, shape), device)
    }

    /// The inverse of [`Self::pad_queries`].
    pub fn unpad(&self, padded: Tensor<3>) -> Tensor<2> {
        let [segments, longest, width] = padded.dims();
        let rows = self.segments().iter().enumerate();
        let rows = rows.flat_map(|(i, s)| (0..s.queries.len()).map(move |j| i * longest + j));
        let index = row_index(rows, &padded.device());
        padded.reshape([segments * longest, width]).select(0, index)
    }

    /// Most queries and most keys of a segment.
    pub(super) fn longest(&self) -> (usize, usize) {
        let segments = self.segments().iter();
        segments.fold((0, 0), |(queries, keys), s| {
            (queries.max(s.queries.len()), keys.max(s.keys.len()))
        })
    }
}

fn pad<'a>(
    rows: Tensor<2>,
    ranges: impl ExactSizeIterator<Item = &'a Range<usize>> + Clone,
) -> Tensor<3> {
    let (count, width) = (ranges.len(), rows.dims()[1]);
    let longest = ranges.clone().map(|r| r.len()).max().unwrap_or(0);
    let index = ranges.flat_map(|r| (0..longest).map(|i| r.start + i.min(r.len() - 1)));
    let index = row_index(index, &rows.device());
    rows.select(0, index).reshape([count, longest, width])
}

/// Indices as a tensor, `[count]`.
pub fn row_index(rows: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.map(|row| row as i64).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}
