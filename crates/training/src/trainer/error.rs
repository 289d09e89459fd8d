//! Why a run stops before its end.

use std::path::PathBuf;

use fitup_data::loader::LoaderError;
use fitup_data::sources::SourceError;
use fitup_data::text::TokenizerError;
use fitup_models::weights::WeightsError;

use crate::checkpoint::CheckpointError;
use crate::frozen::FrozenError;
use crate::metrics::MetricsError;
use crate::tasks::examples::ExampleError;
use crate::tasks::masked::MaskedError;
use crate::tasks::retrieval::RetrievalError;

/// Why a run stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Too many bad samples, or a setting that does not fit the data.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights to start or to go on from cannot be read, or do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Two vocabularies for one table of word embeddings.
    #[error(
        "data.vocabulary = {path}: not the vocabulary that the word embeddings in model.init_weights belong to; leave the field out to use that one"
    )]
    OtherVocabulary {
        /// The recipe's.
        path: PathBuf,
    },
    /// The device lacks a type that the recipe wants.
    #[error("run.bf16: the device {device} cannot compute in bfloat16; set it to false")]
    NoBf16 {
        /// As Burn calls it.
        device: String,
    },
    /// What is to be frozen does not fit the model.
    #[error(transparent)]
    Frozen(#[from] FrozenError),
    /// The log cannot be written.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The evaluation failed.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    /// The evaluation of masked words or patches failed.
    #[error(transparent)]
    Masked(#[from] MaskedError),
    /// The evaluation of a task failed.
    #[error("validation: {0}")]
    Examples(#[from] ExampleError),
    /// An evaluation that there is nothing to score by.
    #[error(
        "{0}: it tells no truth to score by; leave data.validation out, or set run.evaluate_every = 0"
    )]
    Unscored(String),
    /// The run folder cannot be used.
    #[error("{path}: {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A file that a part of the model cannot start from.
    #[error("{path}: {reason}")]
    Encoder {
        /// The file.
        path: PathBuf,
        /// What it holds, or what does not fit.
        reason: String,
    },
    /// A loss that is not a number.
    #[error(
        "step {step}: the loss is {loss}; lower schedule.lr, or set optimizer.clip_norm = 1.0 and resume from the last checkpoint"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
    },
    /// The vocabulary is larger than the model's.
    #[error("vocabulary: {got} tokens, but the model has rows for {expected}")]
    VocabularySize {
        /// `vocab_size` of the recipe.
        expected: usize,
        /// Tokens in the vocabulary.
        got: usize,
    },
}
