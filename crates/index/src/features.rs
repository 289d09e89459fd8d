//! A borrowed view of feature rows, whatever number type they are kept in.

use std::borrow::Cow;

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

/// How a feature value is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit IEEE float, little-endian.
    F32,
    /// 16-bit IEEE float, little-endian: half the space, 11 significant bits.
    F16,
}

impl Dtype {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

/// Feature rows `[rows, dim]`, borrowed from memory or from a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct FeatureView<'a> {
    values: Values<'a>,
    dim: usize,
}

impl<'a> FeatureView<'a> {
    /// Views `values` as rows `[values.len() / dim, dim]`.
    ///
    /// # Panics
    /// If `dim` is 0 or does not divide the number of values.
    pub fn f32(values: &'a [f32], dim: usize) -> Self {
        check_shape(values.len(), dim);
        Self {
            values: Values::F32(values),
            dim,
        }
    }

    /// Views half-precision `values` as rows `[values.len() / dim, dim]`.
    ///
    /// # Panics
    /// If `dim` is 0 or does not divide the number of values.
    pub fn f16(values: &'a [f16], dim: usize) -> Self {
        check_shape(values.len(), dim);
        Self {
            values: Values::F16(values),
            dim,
        }
    }

    /// Values in one row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        let values = match self.values {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
        };
        values / self.dim
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// One row, `[dim]`: borrowed when kept as `f32`, converted otherwise.
    ///
    /// # Panics
    /// If `row` is not below [`FeatureView::rows`].
    pub fn row(&self, row: usize) -> Cow<'a, [f32]> {
        let range = row * self.dim..(row + 1) * self.dim;
        match self.values {
            Values::F32(values) => Cow::Borrowed(&values[range]),
            Values::F16(values) => Cow::Owned(values[range].to_f32_vec()),
        }
    }

    /// Rows `[first, last)` as `f32`; `scratch` is where half-precision rows are converted to,
    /// so that a scan over many blocks allocates once.
    pub(crate) fn block<'b>(
        &self,
        first: usize,
        last: usize,
        scratch: &'b mut Vec<f32>,
    ) -> &'b [f32]
    where
        'a: 'b,
    {
        let range = first * self.dim..last * self.dim;
        match self.values {
            Values::F32(values) => &values[range],
            Values::F16(values) => {
                let values = &values[range];
                scratch.resize(values.len(), 0.0);
                values.convert_to_f32_slice(scratch);
                scratch
            }
        }
    }
}

fn check_shape(values: usize, dim: usize) {
    assert!(dim > 0, "a feature row needs at least one value, got dim 0");
    assert!(
        values.is_multiple_of(dim),
        "{values} values are no whole number of rows of {dim}"
    );
}
