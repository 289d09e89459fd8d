//! The arithmetic of one head, and the loop over batch and heads.

use std::marker::PhantomData;

use gemm::Parallelism;
use multiversion::multiversion;
use rayon::prelude::*;

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

// SAFETY: tasks write disjoint blocks: a block is one (batch, head), and `Problem::backward`
// hands each pair to one task.
unsafe impl Send for RowsMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for RowsMut<'_> {}

impl<'a> RowsMut<'a> {
    pub(super) fn new(data: &'a mut [f32], stride: usize, offset: usize) -> Self {
        Self {
            data: data.as_mut_ptr(),
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
}

impl Target {
    fn dense(data: &mut [f32], columns: usize) -> Self {
        Self {
            data: data.as_mut_ptr(),
            row_stride: columns as isize,
        }
    }
}

/// `target = alpha * a b`, with `a: [m, k]` and `b: [k, n]`, on this thread.
fn matmul(target: Target, a: Matrix<'_>, b: Matrix<'_>, [m, k, n]: [usize; 3], alpha: f32) {
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
            false,
            a.data.as_ptr(),
            a.column_stride,
            a.row_stride,
            b.data.as_ptr(),
            b.column_stride,
            b.row_stride,
            0.0,
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
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f32,
    /// Elements, and whether there is a row per query.
    pub(super) mask: Option<(&'a [f32], bool)>,
}

impl Problem<'_> {
    pub(super) fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn mask_row(&self, batch: usize, query: usize) -> Option<&[f32]> {
        self.mask.map(|(mask, per_query)| {
            let row = if per_query {
                batch * self.queries + query
            } else {
                batch
            };
            &mask[row * self.keys..(row + 1) * self.keys]
        })
    }

    /// Unmasked scores of one head into `scores`, `[queries, keys]`.
    fn scores(&self, q: Matrix<'_>, k: Matrix<'_>, scores: &mut [f32]) {
        let shape = [self.queries, self.head_dim, self.keys];
        let target = Target::dense(scores, self.keys);
        matmul(target, q, k.transposed(), shape, self.scale);
    }

    /// Returns the output `[batch, queries, width]` and the log-sum-exp `[batch, heads, queries]`.
    pub(super) fn forward(&self, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>) -> (Vec<f32>, Vec<f32>) {
        let mut output = vec![0.0; self.batch * self.queries * self.width()];
        let mut log_sum_exp = vec![0.0; self.batch * self.heads * self.queries];
        if self.queries == 0 || self.keys == 0 {
            return (output, log_sum_exp);
        }
        let rows = RowsMut::new(&mut output, self.width(), 0);
        log_sum_exp
            .par_chunks_mut(self.queries)
            .enumerate()
            .for_each_init(
                || vec![0.0; self.queries * self.keys],
                |scores, (task, lse)| {
                    let (b, column) = (task / self.heads, task % self.heads * self.head_dim);
                    let q = q.block(b * self.queries, column, self.queries, self.head_dim);
                    let k = k.block(b * self.keys, column, self.keys, self.head_dim);
                    let v = v.block(b * self.keys, column, self.keys, self.head_dim);
                    self.scores(q, k, scores);
                    for (i, (row, lse)) in scores.chunks_mut(self.keys).zip(lse).enumerate() {
                        *lse = softmax_row(row, self.mask_row(b, i));
                    }
                    matmul(
                        rows.block(b * self.queries, column, self.queries, self.head_dim),
                        Matrix::dense(scores, self.keys),
                        v,
                        [self.queries, self.keys, self.head_dim],
                        1.0,
                    );
                },
            );
        (output, log_sum_exp)
    }

    /// Writes the gradients of q, k and v.
    pub(super) fn backward(
        &self,
        [q, k, v]: [Rows<'_>; 3],
        output: &[f32],
        log_sum_exp: &[f32],
        grad: &[f32],
        [dq, dk, dv]: [RowsMut<'_>; 3],
    ) {
        if self.queries == 0 || self.keys == 0 {
            return;
        }
        let (n, m, d) = (self.queries, self.keys, self.head_dim);
        let output = Rows::new(output, self.width(), 0);
        let grad = Rows::new(grad, self.width(), 0);
        (0..self.batch * self.heads).into_par_iter().for_each_init(
            || (vec![0.0; n * m], vec![0.0; n * m]),
            |(probs, dprobs), task| {
                let (b, column) = (task / self.heads, task % self.heads * d);
                let q = q.block(b * n, column, n, d);
                let k = k.block(b * m, column, m, d);
                let v = v.block(b * m, column, m, d);
                let g = grad.block(b * n, column, n, d);
                let o = output.block(b * n, column, n, d);
                self.scores(q, k, probs);
                for (i, row) in probs.chunks_mut(m).enumerate() {
                    probs_row(row, self.mask_row(b, i), log_sum_exp[task * n + i]);
                }
                let p = Matrix::dense(probs, m);
                matmul(
                    dv.block(b * m, column, m, d),
                    p.transposed(),
                    g,
                    [m, n, d],
                    1.0,
                );
                matmul(Target::dense(dprobs, m), g, v.transposed(), [n, d, m], 1.0);
                for (i, (dp, p)) in dprobs.chunks_mut(m).zip(probs.chunks(m)).enumerate() {
                    let at = i * self.width();
                    let delta = vector::dot(&g.data[at..at + d], &o.data[at..at + d]);
                    dscores_row(dp, p, delta, self.scale);
                }
                let ds = Matrix::dense(dprobs, m);
                matmul(dq.block(b * n, column, n, d), ds, k, [n, m, d], 1.0);
                matmul(
                    dk.block(b * m, column, m, d),
                    ds.transposed(),
                    q,
                    [m, n, d],
                    1.0,
                );
            },
        );
    }
}

/// Scores to probabilities in place; returns the log-sum-exp.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn softmax_row(row: &mut [f32], mask: Option<&[f32]>) -> f32 {
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
        *s = vector::exp(*s - max);
    }
    let sum = vector::sum_slice(row);
    let inverse = 1.0 / sum;
    for s in row.iter_mut() {
        *s *= inverse;
    }
    max + sum.ln()
}

/// Scores to probabilities in place, from the forward pass's log-sum-exp.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn probs_row(row: &mut [f32], mask: Option<&[f32]>, log_sum_exp: f32) {
    if log_sum_exp == f32::INFINITY {
        row.fill(0.0);
        return;
    }
    if let Some(mask) = mask {
        for (s, m) in row.iter_mut().zip(mask) {
            *s = vector::exp(*s + m - log_sum_exp);
        }
    } else {
        for s in row.iter_mut() {
            *s = vector::exp(*s - log_sum_exp);
        }
    }
}

/// Gradient of the probabilities to gradient of the unscaled scores, in place.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2", "aarch64+neon"))]
fn dscores_row(dprobs: &mut [f32], probs: &[f32], delta: f32, scale: f32) {
    for (d, p) in dprobs.iter_mut().zip(probs) {
        *d = p * (*d - delta) * scale;
    }
}
