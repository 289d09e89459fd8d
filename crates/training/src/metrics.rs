//! The log of a run: one JSON object per line in `metrics.jsonl`, numbers as measured.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::write_whole;
use serde::{Deserialize, Serialize};

use crate::tasks::classes::ClassScores;
use crate::tasks::masked::{MaskedScores, TokenizerScores};
use crate::tasks::retrieval::RetrievalResult;
use crate::tasks::vqa::AnswerScores;
use crate::trainer::{Scores, StepNumbers};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What a run starts from, where that is not the seed alone.
    Start {
        /// 0.
        step: u64,
        /// The file of initial weights.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        init_weights: Option<PathBuf>,
        /// What became of its tensors, where not all are taken as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<InitialReport>,
        /// Parameters that the run leaves as they are.
        frozen: Vec<String>,
    },
    /// A training step.
    Step {
        /// Optimizer steps taken, this one included.
        step: u64,
        /// Epoch it belongs to, from 0.
        epoch: u64,
        /// Losses and rates.
        #[serde(flatten)]
        numbers: StepNumbers,
        /// Learning rate used.
        lr: f64,
        /// Share of the momentum model in the targets.
        alpha: f64,
        /// Norm of all gradients; only where it was computed for clipping.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gradient_norm: Option<f64>,
        /// Pairs per second since the last line.
        pairs_per_second: f64,
        /// Seconds of training so far, over all resumptions.
        seconds: f64,
    },
    /// An evaluation on the validation set.
    Evaluation {
        /// Optimizer steps taken.
        step: u64,
        /// Scores with their protocol.
        #[serde(flatten)]
        result: Box<RetrievalResult>,
        /// Seconds the evaluation took.
        seconds: f64,
    },
    /// Predictions of what is masked on the validation set.
    MaskedPrediction {
        /// Optimizer steps taken.
        step: u64,
        /// Scores with their protocol.
        #[serde(flatten)]
        scores: MaskedScores,
        /// Seconds the evaluation took.
        seconds: f64,
    },
    /// What an image tokenizer keeps of the validation set.
    Tokenization {
        /// Optimizer steps taken.
        step: u64,
        /// Scores.
        #[serde(flatten)]
        scores: TokenizerScores,
        /// Seconds the evaluation took.
        seconds: f64,
    },
    /// Answers to the questions of the validation set.
    Answers {
        /// Optimizer steps taken.
        step: u64,
        /// Scores with their protocol.
        #[serde(flatten)]
        scores: AnswerScores,
        /// Seconds the evaluation took.
        seconds: f64,
    },
    /// A classification of the validation set.
    Classes {
        /// Optimizer steps taken.
        step: u64,
        /// Scores with their protocol.
        #[serde(flatten)]
        scores: ClassScores,
        /// Seconds the evaluation took.
        seconds: f64,
    },
    /// Samples skipped so far in this process.
    Skipped {
        /// Optimizer steps taken.
        step: u64,
        /// Samples skipped.
        skipped: u64,
        /// Samples tried.
        seen: u64,
        /// Reasons and examples, in words.
        report: String,
    },
}

impl Event {
    /// An evaluation after `step` steps that took `seconds`.
    pub fn evaluation(step: u64, scores: Scores, seconds: f64) -> Self {
        match scores {
            Scores::Retrieval(result) => Self::Evaluation {
                step,
                result,
                seconds,
            },
            Scores::Masked(scores) => Self::MaskedPrediction {
                step,
                scores,
                seconds,
            },
            Scores::Tokenizer(scores) => Self::Tokenization {
                step,
                scores,
                seconds,
            },
            Scores::Answers(scores) => Self::Answers {
                step,
                scores,
                seconds,
            },
            Scores::Classes(scores) => Self::Classes {
                step,
                scores,
                seconds,
            },
        }
    }

    /// The step the event belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Event::Start { step, .. }
            | Event::Step { step, .. }
            | Event::Evaluation { step, .. }
            | Event::MaskedPrediction { step, .. }
            | Event::Tokenization { step, .. }
            | Event::Answers { step, .. }
            | Event::Classes { step, .. }
            | Event::Skipped { step, .. } => *step,
        }
    }
}

/// The log file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct MetricsError {
    path: PathBuf,
    source: std::io::Error,
}

/// Appends events to a file.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: std::fs::File,
}

impl MetricsLog {
    /// Opens the log for appending. What an earlier process wrote after `step` is dropped: a
    /// resumed run writes it again.
    ///
    /// # Errors
    /// When the file cannot be read, rewritten or opened.
    pub fn open(path: &Path, step: u64) -> Result<Self, MetricsError> {
        let error = |source: std::io::Error| MetricsError {
            path: path.to_owned(),
            source,
        };
        let kept: Vec<Event> = read(path)?
            .into_iter()
            .filter(|event| event.step() <= step)
            .collect();
        let lines: String = kept.iter().map(line).collect();
        write_whole(path, lines.as_bytes()).map_err(error)?;
        let file = OpenOptions::new().append(true).open(path).map_err(error)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends one event.
    ///
    /// # Errors
    /// When the file cannot be written, for example when the disk is full.
    pub fn write(&mut self, event: &Event) -> Result<(), MetricsError> {
        self.file
            .write_all(line(event).as_bytes())
            .map_err(|source| MetricsError {
                path: self.path.clone(),
                source,
            })
    }
}

fn line(event: &Event) -> String {
    let json = serde_json::to_string(event).expect("numbers and strings");
    format!("{json}\n")
}

/// All events of a log; none when there is no file. A last line cut off by a killed process is
/// left out.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<Event>, MetricsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(MetricsError {
            path: path.to_owned(),
            source,
        }),
    }
}
