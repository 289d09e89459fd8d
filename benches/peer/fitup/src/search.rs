//! Exact search by inner product.

use std::path::Path;

use fitup_index::{FeatureView, Hit, search};
use serde::Deserialize;

use crate::Work;
use crate::tensors::{Inputs, Outputs};

/// What the driver chooses.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// Hits per query.
    k: usize,
}

/// A collection in memory, and queries.
pub struct Search {
    dim: usize,
    rows: Vec<f32>,
    queries: Vec<f32>,
    k: usize,
    hits: Vec<Vec<Hit>>,
}

impl Search {
    /// Reads `inputs.safetensors`.
    pub fn new(settings: Settings, folder: &Path) -> anyhow::Result<Self> {
        let mut inputs = Inputs::read(&folder.join("inputs.safetensors"))?;
        let (shape, rows) = inputs.floats("rows")?;
        Ok(Self {
            dim: shape[1],
            rows,
            queries: inputs.floats("queries")?.1,
            k: settings.k,
            hits: Vec::new(),
        })
    }
}

impl Work for Search {
    fn run(&mut self) -> anyhow::Result<()> {
        let rows = FeatureView::f32(&self.rows, self.dim);
        self.hits = search(rows, &self.queries, self.k);
        Ok(())
    }

    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        let shape = [self.hits.len(), self.k];
        let hits = || self.hits.iter().flatten();
        let rows: Vec<i64> = hits().map(|hit| hit.row as i64).collect();
        let scores: Vec<f32> = hits().map(|hit| hit.score).collect();
        outputs.integers("found", &shape, &rows);
        outputs.floats("scores", &shape, &scores);
        outputs
    }
}
