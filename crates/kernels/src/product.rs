//! Matrix products of whole tensors, on all threads.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::vector;

/// A strided matrix to read, `[rows, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    strides: [isize; 2],
}

impl<'a> Matrix<'a> {
    /// Row-major.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Self {
            data,
            rows,
            columns,
            strides: [columns as isize, 1],
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            strides: [self.strides[1], self.strides[0]],
            ..self
        }
    }
}

/// Rows that one task fills or adds up: fixed, so that sums do not depend on the number of threads.
pub(crate) const ROWS_PER_TASK: usize = 128;

/// Products below this many multiplications run on one thread: starting others takes longer.
const PARALLEL_FROM: usize = 1 << 20;

/// `a b`, row-major; each row starts from `bias` where that is not empty.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, bias: &[f32]) -> Vec<f32> {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "inner dimensions");
    assert!(bias.is_empty() || bias.len() == n, "length of the bias");
    let mut output: Vec<f32> = Vec::with_capacity(m * n);
    let adds = !bias.is_empty();
    if m * n == 0 {
        return output;
    }
    if adds {
        let rows = &mut output.spare_capacity_mut()[..m * n];
        rows.par_chunks_mut(ROWS_PER_TASK * n).for_each(|rows| {
            for row in rows.chunks_exact_mut(n) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    value.write(*bias);
                }
            }
        });
    }
    if k == 0 {
        output.resize(m * n, 0.0);
        return output;
    }
    let parallelism = if m * k * n < PARALLEL_FROM {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    // SAFETY: the output has room for `m * n` values, all of which the product writes (it reads
    // them first only where the bias has filled them); `Matrix` holds as many values as its rows
    // and columns say, at row-major strides or those transposed.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            output.as_mut_ptr(),
            1,
            n as isize,
            adds,
            a.data.as_ptr(),
            a.strides[1],
            a.strides[0],
            b.data.as_ptr(),
            b.strides[1],
            b.strides[0],
            if adds { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
        output.set_len(m * n);
    }
    output
}

/// The sum of all rows of `[rows, n]`.
pub(crate) fn column_sums(data: &[f32], n: usize) -> Vec<f32> {
    let parts = data.par_chunks(ROWS_PER_TASK * n).map(|rows| {
        let mut sum = vec![0.0; n];
        for row in rows.chunks_exact(n) {
            for (s, x) in sum.iter_mut().zip(row) {
                *s += x;
            }
        }
        sum
    });
    vector::add_up(parts.collect(), n)
}
