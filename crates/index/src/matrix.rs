//! Dense score matrices, one row a query.

/// Scores `[rows, columns]`, row-major: one row a query, one column a candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreMatrix {
    values: Vec<f32>,
    columns: usize,
}

impl ScoreMatrix {
    /// Takes `values` as `[values.len() / columns, columns]`.
    ///
    /// # Panics
    /// If `columns` is 0 or does not divide the number of values.
    pub fn new(values: Vec<f32>, columns: usize) -> Self {
        assert!(columns > 0, "a score matrix needs at least one column");
        assert!(
            values.len().is_multiple_of(columns),
            "{} scores are no whole number of rows of {columns}",
            values.len()
        );
        Self { values, columns }
    }

    /// A matrix `[rows, columns]` with one value everywhere.
    ///
    /// # Panics
    /// If `columns` is 0.
    pub fn filled(rows: usize, columns: usize, value: f32) -> Self {
        Self::new(vec![value; rows * columns], columns)
    }

    /// Number of queries.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Number of candidates.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The scores of one query, `[columns]`.
    ///
    /// # Panics
    /// If `row` is not below [`ScoreMatrix::rows`].
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// All scores, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The matrix with queries and candidates exchanged: `sims_matrix.t()` of the official
    /// evaluation, `[columns, rows]`.
    ///
    /// # Panics
    /// If the matrix has no rows, since the result would have no columns.
    pub fn transposed(&self) -> Self {
        let rows = self.rows();
        let mut values = Vec::with_capacity(self.values.len());
        for column in 0..self.columns {
            values.extend((0..rows).map(|row| self.values[row * self.columns + column]));
        }
        Self::new(values, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_exchanges_queries_and_candidates() {
        let matrix = ScoreMatrix::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3);
        let transposed = matrix.transposed();
        assert_eq!(transposed.values(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!((transposed.rows(), transposed.columns()), (3, 2));
        assert_eq!(transposed.transposed(), matrix);
    }
}
