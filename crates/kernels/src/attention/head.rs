//! The arithmetic of one head, and the loop over segments and heads.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use gemm::Parallelism;
use multiversion::multiversion;
use multiversion::target::match_target;
use rayon::prelude::*;

use super::dropout::AttentionDropout;
use super::reach::{Reach, Segment};
use crate::flex::filled;
use crate::vector;

/// Rows of a `[rows, stride]` matrix, read from column `offset` on.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
    offset: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(data: &'a [f32], stride: usize, offset: usize) -> Self {
        Self {
            data,
            stride,
            offset,
        }
    }

    /// `rows` rows of `columns` columns, from row `row` and column `column` on.
    fn block(&self, row: usize, column: usize, rows: usize, columns: usize) -> Matrix<'a> {
        let start = row * self.stride + self.offset + column;
        let end = start + (rows - 1) * self.stride + columns;
        Matrix {
            data: &self.data[start..end],
            row_stride: self.stride as isize,
            column_stride: 1,
        }
    }
}

/// Rows written by several tasks at once, each to its own rows and columns.
#[derive(Clone, Copy)]
pub(super) struct RowsMut<'a> {
    data: *mut f32,
    len: usize,
    stride: usize,
    offset: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: tasks write disjoint blocks: a block is one (segment, head), or for keys and values one
// (group, head); `Problem` hands each to one task, and segments and groups share no rows.
unsafe impl Send for RowsMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    /// The values need not be initialised where they are written before they are added to.
    pub(super) fn new(data: &'a mut [MaybeUninit<f32>], stride: usize, offset: usize) -> Self {
        Self {
            data: data.as_mut_ptr().cast(),
            len: data.len(),
            stride,
            offset,
            lifetime: PhantomData,
        }
    }

    /// The same rows, `columns` further to the right.
    pub(super) fn shifted(&self, columns: usize) -> Self {
        Self {
            offset: self.offset + columns,
            ..*self
        }
    }

    fn block(&self, row: usize, column: usize, rows: usize, columns: usize) -> Target {
        let start = row * self.stride + self.offset + column;
        assert!(start + (rows - 1) * self.stride + columns <= self.len);
        Target {
            // SAFETY: within the buffer, by the assertion above.
            data: unsafe { self.data.add(start) },
            row_stride: self.stride as isize,
            columns,
        }
    }
}

/// A strided matrix to read.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    row_stride: isize,
    column_stride: isize,
}

impl<'a> Matrix<'a> {
    fn dense(data: &'a [f32], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns as isize,
            column_stride: 1,
        }
    }

    fn transposed(self) -> Self {
        Self {
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A strided matrix to write.
struct Target {
    data: *mut f32,
    row_stride: isize,
    columns: usize,
}

impl Target {
    fn dense(data: &mut [f32], columns: usize) -> Self {
        Self {
            data: data.as_mut_ptr(),
            row_stride: columns as isize,
            columns,
        }
    }

    /// Adds to the first row, which must be initialised.
    fn add(&mut self, values: &[f32]) {
        assert!(values.len() <= self.columns);
        for (i, value) in values.iter().enumerate() {
            // SAFETY: within the block, by the assertion above; the block is this task's alone.
            unsafe { *self.data.add(i) += value }
        }
    }

    /// Writes column `i` of the first row.
    fn set(&mut self, i: usize, value: f32) {
        assert!(i < self.columns);
        // SAFETY: within the block, by the assertion above; the block is this task's alone.
        unsafe { *self.data.add(i) = value }
    }
}

/// What becomes of the values that a product finds in its target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Overwrite,
    Add,
}

/// `target = alpha * a b` or `target += alpha * a b`, with `a: [m, k]` and `b: [k, n]`, on this
/// thread.
fn matmul(
    target: Target,
    a: Matrix<'_>,
    b: Matrix<'_>,
    [m, k, n]: [usize; 3],
    alpha: f32,
    store: Store,
) {
    let reach = |x: &Matrix<'_>, rows: usize, columns: usize| {
        (rows as isize - 1) * x.row_stride + (columns as isize - 1) * x.column_stride
    };
    assert!(reach(&a, m, k) < a.data.len() as isize && reach(&b, k, n) < b.data.len() as isize);
    // SAFETY: the reads stay inside `a` and `b` by the assertion; `target` was cut from a buffer
    // that holds `m` rows of `n` columns at its stride, and nobody else writes that block.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.data,
            1,
            target.row_stride,
            store == Store::Add,
            a.data.as_ptr(),
            a.column_stride,
            a.row_stride,
            b.data.as_ptr(),
            b.column_stride,
            b.row_stride,
            if store == Store::Add { 1.0 } else { 0.0 },
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Sizes and mask of one attention.
pub(super) struct Problem<'a> {
    pub(super) reach: &'a Reach,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f32,
    /// Added to the scores, `[heads, queries, keys]`. Only where all segments are of one size.
    pub(super) bias: Option<&'a [f32]>,
    /// Elements, and whether there is a row per query or one per segment. Only where all segments
    /// have the same number of keys.
    pub(super) mask: Option<(&'a [f32], bool)>,
    pub(super) dropout: Option<AttentionDropout>,
}

impl Problem<'_> {
    pub(super) fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn mask_row(&self, segment: usize, query: usize) -> Option<&[f32]> {
        self.mask.map(|(mask, per_query)| {
            let keys = self.reach.segments()[segment].keys.len();
            let row = if per_query {
                self.reach.segments()[segment].queries.start + query
            } else {
                segment
            };
            &mask[row * keys..(row + 1) * keys]
        })
    }

    /// Returns the output `[query rows, width]` and the log-sum-exp `[heads, query rows]`.
    pub(super) fn forward(&self, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>) -> (Vec<f32>, Vec<f32>) {
        let rows = self.reach.query_rows();
        let mut log_sum_exp = Vec::new();
        // SAFETY: every query row belongs to one segment, which reads at least one key: each of its
        // heads' columns is written, and so is the head's log-sum-exp of that row.
        let output = unsafe {
            filled(rows * self.width(), |output| {
                log_sum_exp = filled(self.heads * rows, |log_sum_exp| {
                    let output = RowsMut::new(output, self.width(), 0);
                    self.forward_into(q, k, v, output, RowsMut::new(log_sum_exp, rows, 0));
                });
            })
        };
        (output, log_sum_exp)
    }

    /// `output`: `[query rows, width]`, `log_sum_exp`: `[heads, query rows]`.
    fn forward_into(
        &self,
        q: Rows<'_>,
        k: Rows<'_>,
        v: Rows<'_>,
        output: RowsMut<'_>,
        log_sum_exp: RowsMut<'_>,
    ) {
        let segments = self.reach.segments();
        (0..segments.len() * self.heads)
            .into_par_iter()
            .for_each_init(
                || vec![0.0; self.reach.most_scores()],
                |scratch, task| {
                    let (index, head) = (task / self.heads, task % self.heads);
                    let Segment { queries, keys } = &segments[index];
                    let (n, m, d) = (queries.len(), keys.len(), self.head_dim);
                    let column = head * d;
                    let scores = &mut scratch[..n * m];
                    matmul(
                        Target::dense(scores, m),
                        q.block(queries.start, column, n, d),
                        k.block(keys.start, column, m, d).transposed(),
                        [n, d, m],
                        self.scale,
                        Store::Overwrite,
                    );
                    self.add_bias(scores, head);
                    let mut lse = log_sum_exp.block(head, queries.start, 1, n);
                    for (i, row) in scores.chunks_mut(m).enumerate() {
                        lse.set(i, softmax_row(row, self.mask_row(index, i)));
                    }
                    self.drop_weights(scores, m, head, queries.start);
                    matmul(
                        output.block(queries.start, column, n, d),
                        Matrix::dense(scores, m),
                        v.block(keys.start, column, m, d),
                        [n, m, d],
                        1.0,
                        Store::Overwrite,
                    );
                },
            );
    }

    /// Writes the gradients of q, k and v; rows of k and v that nobody reads are left as they are.
    pub(super) fn backward(
        &self,
        inputs: [Rows<'_>; 3],
        output: &[f32],
        log_sum_exp: &[f32],
        grad: &[f32],
        gradients: [RowsMut<'_>; 3],
        bias_gradient: Option<RowsMut<'_>>,
    ) {
        let pass = BackwardPass {
            inputs,
            output: Rows::new(output, self.width(), 0),
            log_sum_exp,
            grad: Rows::new(grad, self.width(), 0),
            gradients,
            bias_gradient,
        };
        let groups = self.reach.groups();
        let most = self.reach.most_scores();
        let scratch = || (vec![0.0; most], vec![0.0; most]);
        let whole_group = |(probs, dprobs): &mut (Vec<f32>, Vec<f32>), group: &[usize], head| {
            for (place, &index) in group.iter().enumerate() {
                let store = match place {
                    0 => Store::Overwrite,
                    _ => Store::Add,
                };
                self.backward_segment(&pass, (index, head), store, probs, dprobs);
            }
        };
        // A task is what adds to the same gradients, in order: those of keys and values are a
        // group's, that of the bias is a head's.
        if bias_gradient.is_some() {
            (0..self.heads)
                .into_par_iter()
                .for_each_init(scratch, |scratch, head| {
                    for group in groups {
                        whole_group(scratch, group, head);
                    }
                });
        } else {
            (0..groups.len() * self.heads)
                .into_par_iter()
                .for_each_init(scratch, |scratch, task| {
                    whole_group(scratch, &groups[task / self.heads], task % self.heads);
                });
        }
    }

    /// Adds the bias of one head to its scores.
    fn add_bias(&self, scores: &mut [f32], head: usize) {
        if let Some(bias) = self.bias {
            let bias = &bias[head * scores.len()..(head + 1) * scores.len()];
            for (score, bias) in scores.iter_mut().zip(bias) {
                *score += bias;
            }
        }
    }

    /// One head of one segment. `store`: what becomes of the gradients of keys and values; `probs`,
    /// `dprobs`: room for the scores.
    fn backward_segment(
        &self,
        pass: &BackwardPass<'_>,
        (index, head): (usize, usize),
        store: Store,
        probs: &mut [f32],
        dprobs: &mut [f32],
    ) {
        let Segment { queries, keys } = &self.reach.segments()[index];
        let (n, m, d) = (queries.len(), keys.len(), self.head_dim);
        let column = head * d;
        let (probs, dprobs) = (&mut probs[..n * m], &mut dprobs[..n * m]);
        let [q, k, v] = pass.inputs;
        let q = q.block(queries.start, column, n, d);
        let k = k.block(keys.start, column, m, d);
        let v = v.block(keys.start, column, m, d);
        let g = pass.grad.block(queries.start, column, n, d);
        let o = pass.output.block(queries.start, column, n, d);
        let [dq, dk, dv] = pass.gradients;
        let dq = dq.block(queries.start, column, n, d);
        let dk = dk.block(keys.start, column, m, d);
        let dv = dv.block(keys.start, column, m, d);
        let overwrite = Store::Overwrite;

        let scores = Target::dense(probs, m);
        matmul(scores, q, k.transposed(), [n, d, m], self.scale, overwrite);
        self.add_bias(probs, head);
        let first = head * self.reach.query_rows() + queries.start;
        let log_sum_exp = &pass.log_sum_exp[first..first + n];
        for (i, row) in probs.chunks_mut(m).enumerate() {
            probs_row(row, self.mask_row(index, i), log_sum_exp[i]);
        }

        let kept = match self.dropout {
            None => &*probs,
            Some(_) => {
                dprobs.copy_from_slice(probs);
                self.drop_weights(dprobs, m, head, queries.start);
                &*dprobs
            }
        };
        let kept = Matrix::dense(kept, m).transposed();
        matmul(dv, kept, g, [m, n, d], 1.0, store);

        let target = Target::dense(dprobs, m);
        matmul(target, g, v.transposed(), [n, d, m], 1.0, overwrite);
        self.drop_weights(dprobs, m, head, queries.start);
        for (i, (dp, p)) in dprobs.chunks_mut(m).zip(probs.chunks(m)).enumerate() {
            let at = i * self.width();
            dscores_row(dp, p, &g.data[at..at + d], &o.data[at..at + d]);
        }
        if let Some(bias) = pass.bias_gradient {
            bias.block(head, 0, 1, n * m).add(dprobs);
        }
        let ds = Matrix::dense(dprobs, m);
        matmul(dq, ds, k, [n, m, d], self.scale, overwrite);
        matmul(dk, ds.transposed(), q, [m, n, d], self.scale, store);
    }

    /// Dropout on rows of `keys` weights, from query row `first` on.
    fn drop_weights(&self, rows: &mut [f32], keys: usize, head: usize, first: usize) {
        if let Some(dropout) = self.dropout {
            for (i, row) in rows.chunks_mut(keys).enumerate() {
                dropout.apply(row, head, first + i);
            }
        }
    }
}

/// What the backward pass reads and writes.
struct BackwardPass<'a> {
    /// q, k, v.
    inputs: [Rows<'a>; 3],
    output: Rows<'a>,
    /// `[heads, query rows]`.
    log_sum_exp: &'a [f32],
    /// Of the output.
    grad: Rows<'a>,
    /// Of q, k, v.
    gradients: [RowsMut<'a>; 3],
    /// `[heads, queries * keys]`.
    bias_gradient: Option<RowsMut<'a>>,
}

/// Scores to probabilities in place; returns the log-sum-exp.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn softmax_row(row: &mut [f32], mask: Option<&[f32]>) -> f32 {
    match_target! {
        "x86_64+avx2+fma" => softmax::<true>(row, mask),
        "aarch64+neon" => softmax::<true>(row, mask),
        _ => softmax::<false>(row, mask),
    }
}

#[inline(always)]
fn softmax<const FMA: bool>(row: &mut [f32], mask: Option<&[f32]>) -> f32 {
    if let Some(mask) = mask {
        for (s, m) in row.iter_mut().zip(mask) {
            *s += m;
        }
    }
    let max = vector::max(row);
    if max == f32::NEG_INFINITY {
        // Every key is masked out by -inf: attend to nothing rather than produce NaN.
        row.fill(0.0);
        return f32::INFINITY;
    }
    for s in row.iter_mut() {
        *s = vector::exp::<FMA>(*s - max);
    }
    let sum = vector::sum_slice(row);
    let inverse = 1.0 / sum;
    for s in row.iter_mut() {
        *s *= inverse;
    }
    max + sum.ln()
}

/// Scores to probabilities in place, from the forward pass's log-sum-exp.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn probs_row(row: &mut [f32], mask: Option<&[f32]>, log_sum_exp: f32) {
    match_target! {
        "x86_64+avx2+fma" => probs::<true>(row, mask, log_sum_exp),
        "aarch64+neon" => probs::<true>(row, mask, log_sum_exp),
        _ => probs::<false>(row, mask, log_sum_exp),
    }
}

#[inline(always)]
fn probs<const FMA: bool>(row: &mut [f32], mask: Option<&[f32]>, log_sum_exp: f32) {
    if log_sum_exp == f32::INFINITY {
        row.fill(0.0);
        return;
    }
    if let Some(mask) = mask {
        for (s, m) in row.iter_mut().zip(mask) {
            *s = vector::exp::<FMA>(*s + m - log_sum_exp);
        }
    } else {
        for s in row.iter_mut() {
            *s = vector::exp::<FMA>(*s - log_sum_exp);
        }
    }
}

/// Gradients of a row's probabilities to those of its scores, in place. `grad`, `output`: of the
/// row, `[head_dim]`.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn dscores_row(dprobs: &mut [f32], probs: &[f32], grad: &[f32], output: &[f32]) {
    match_target! {
        "x86_64+avx2+fma" => dscores::<true>(dprobs, probs, grad, output),
        "aarch64+neon" => dscores::<true>(dprobs, probs, grad, output),
        _ => dscores::<false>(dprobs, probs, grad, output),
    }
}

#[inline(always)]
fn dscores<const FMA: bool>(dprobs: &mut [f32], probs: &[f32], grad: &[f32], output: &[f32]) {
    let delta = vector::dot::<FMA>(grad, output);
    for (d, p) in dprobs.iter_mut().zip(probs) {
        *d = p * (*d - delta);
    }
}
