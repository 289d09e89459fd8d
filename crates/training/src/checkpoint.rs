//! Checkpoints: one safetensors file that holds weights, momentum weights, queue and optimizer
//! state, with the resolved recipe, the vocabulary and the position of the run in its metadata.
//! Written to a temporary name and renamed, so a killed run leaves whole files only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fitup_data::loader::Position;
use fitup_models::objectives::itc::PairId;
use fitup_models::weights::{self, Precision, TensorMap, WeightsError};
use serde::{Deserialize, Serialize};

use crate::recipe::{Recipe, RecipeError};

/// Version of the layout described here.
const FORMAT: &str = "fitup-checkpoint-1";

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read or written, or its tensors do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The metadata lacks a field or holds something else.
    #[error("{path}: not a fitup checkpoint: metadata field {field} {reason}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The metadata field.
        field: &'static str,
        /// Missing, or what is wrong.
        reason: String,
    },
    /// The recipe in the file is not one that this version reads.
    #[error("{path}: {source}")]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecipeError,
    },
    /// The folder of checkpoints cannot be read or cleaned.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: u64,
    /// The next batch.
    pub position: Position,
    /// Where the queue's next entries go.
    pub queue_pointer: usize,
    /// Pairs behind the queue's entries.
    pub queue_ids: Vec<Option<PairId>>,
}

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The resolved recipe of the run.
    pub recipe: Recipe,
    /// The tokenizer's vocabulary in id order.
    pub vocabulary: Vec<String>,
    /// Where the run stands; absent in files written for use alone.
    pub progress: Option<Progress>,
    /// All tensors under official names; the optimizer's under `optimizer.*`.
    pub tensors: TensorMap,
}

impl Checkpoint {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file and the field.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let (tensors, metadata) = weights::read(path)?;
        let problem = |field: &'static str, reason: String| CheckpointError::Metadata {
            path: path.to_owned(),
            field,
            reason,
        };
        let field = |name: &'static str| {
            let value = metadata.get(name);
            value.ok_or_else(|| problem(name, "is missing".into()))
        };
        let format = field("fitup.format")?;
        if format != FORMAT {
            return Err(problem(
                "fitup.format",
                format!("is {format}, expected {FORMAT}"),
            ));
        }
        let origin = format!("{} (recipe inside)", path.display());
        let recipe = Recipe::parse(field("fitup.recipe")?, &origin, &[]);
        let recipe = recipe.map_err(|source| CheckpointError::Recipe {
            path: path.to_owned(),
            source,
        })?;
        let vocabulary = field("fitup.vocabulary")?.split('\n').map(str::to_owned);
        let progress = metadata
            .get("fitup.progress")
            .map(|text| {
                serde_json::from_str(text).map_err(|e| problem("fitup.progress", e.to_string()))
            })
            .transpose()?;
        Ok(Self {
            recipe,
            vocabulary: vocabulary.collect(),
            progress,
            tensors,
        })
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError::Weights`], naming the file, for example when the disk is full.
    pub fn write(&self, path: &Path, precision: Precision) -> Result<(), CheckpointError> {
        let mut metadata = HashMap::from([
            ("fitup.format".to_owned(), FORMAT.to_owned()),
            ("fitup.recipe".to_owned(), self.recipe.to_toml()),
            ("fitup.vocabulary".to_owned(), self.vocabulary.join("\n")),
        ]);
        if let Some(progress) = &self.progress {
            let progress = serde_json::to_string(progress).expect("plain numbers");
            metadata.insert("fitup.progress".to_owned(), progress);
        }
        weights::write(path, &self.tensors, metadata, precision)?;
        Ok(())
    }

    /// What is needed to use the model: no optimizer state, no queue, no progress.
    pub fn for_use(mut self) -> Self {
        self.tensors
            .retain(|name, _| !name.starts_with("optimizer.") && !name.ends_with("_queue"));
        self.progress = None;
        self
    }
}

/// Whether metadata are those of a checkpoint, of this version or another.
pub fn is_checkpoint(metadata: &HashMap<String, String>) -> bool {
    metadata.contains_key("fitup.format")
}

/// The file of a step's checkpoint inside a run's `checkpoints` folder.
pub fn path_of_step(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:08}.safetensors"))
}

/// Checkpoints in a folder, oldest first, with their steps.
///
/// # Errors
/// When the folder cannot be read; a folder that does not exist holds none.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let io = |source: std::io::Error| CheckpointError::Io {
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        let step = name
            .strip_prefix("step-")
            .and_then(|n| n.strip_suffix(".safetensors"))
            .and_then(|n| n.parse().ok());
        if let Some(step) = step {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes all but the newest `keep` checkpoints of a folder.
///
/// # Errors
/// When the folder cannot be read or a file not deleted.
pub fn prune(folder: &Path, keep: usize) -> Result<(), CheckpointError> {
    let found = list(folder)?;
    let old = found.len().saturating_sub(keep.max(1));
    for (_, path) in &found[..old] {
        std::fs::remove_file(path).map_err(|source| CheckpointError::Io {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}
