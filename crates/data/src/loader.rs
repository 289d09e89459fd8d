//! Feeds training: shuffles a [`Source`], prepares samples on worker threads and delivers full
//! batches in a fixed order.
//!
//! Every random choice is drawn from a generator seeded by (seed, epoch, position in the epoch), never
//! from one that threads share. So a batch depends on nothing but the configuration and its
//! [`Position`]: any number of workers, and a run resumed in the middle, give the same bits.
//!
//! A sample that cannot be used (unreadable, no picture, no words left) is replaced by another
//! record, drawn from the generator of its own position; batches stay full and the other samples do
//! not move. Each such case is counted in the [`SkipReport`], and too many of them end the run.

mod evaluation;
mod order;
mod pipeline;
mod report;
mod sample;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use evaluation::{LoadedImage, load_images};
pub use report::{SkipReason, SkipReport, SkippedSample};

use crate::annotations::vqa::ANSWER_END;
use crate::images::{DecodeLimits, Transform};
use crate::sources::Source;
use crate::text::{Tokenizer, pre_caption, pre_question};
use pipeline::{Delivery, Pipeline};
use sample::Preparation;

/// Below this many samples a share of skipped ones says nothing yet.
const SEEN_BEFORE_JUDGING: u64 = 100;

/// What of its records a loader delivers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Pictures with a caption each.
    #[default]
    Pairs,
    /// Pictures alone: a record needs no caption.
    Images,
    /// Captions alone: a record needs no picture, and one that is there is not read.
    Texts,
}

/// Which caption of a record is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptionChoice {
    /// One at random, drawn anew each epoch, as in ALBEF.
    #[default]
    Draw,
    /// The first.
    First,
}

/// How a text is cleaned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaning {
    /// As a caption or a sentence: [`pre_caption`]. One of which nothing is left is no record.
    #[default]
    Caption,
    /// As a question: [`pre_question`].
    Question,
}

impl Cleaning {
    /// The text as models read it; `None` where nothing is left of a caption.
    pub fn clean(self, text: &str, max_words: usize) -> Option<String> {
        match self {
            Self::Caption => pre_caption(text, max_words),
            Self::Question => Some(pre_question(text, max_words)),
        }
    }
}

/// How batches are made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// What of the records is delivered.
    pub part: Part,
    /// Records per batch.
    pub batch_size: usize,
    /// Threads that read, decode and augment. Changes speed only.
    pub workers: usize,
    /// Finished batches kept ready. Changes speed and memory only.
    pub queue: usize,
    /// Seed of the order, the captions drawn and the augmentation.
    pub seed: u64,
    /// Words of a caption that are kept.
    pub max_words: usize,
    /// Tokens of a caption that are kept, `[CLS]` included.
    pub max_tokens: usize,
    /// Tokens of an answer that are kept, `[CLS]` and `[SEP]` included.
    pub max_answer_tokens: usize,
    /// Which caption of a record is used.
    pub caption: CaptionChoice,
    /// How it is cleaned.
    pub cleaning: Cleaning,
    /// Share of skipped samples, in [0, 1], above which [`Loader::next_batch`] fails.
    pub max_skipped_share: f64,
    /// Limits on what is decoded.
    pub decode_limits: DecodeLimits,
}

impl Default for LoaderConfig {
    /// The text limits of ALBEF's pre-training.
    fn default() -> Self {
        Self {
            part: Part::Pairs,
            batch_size: 64,
            workers: 2,
            queue: 2,
            seed: 0,
            max_words: 30,
            max_tokens: 25,
            max_answer_tokens: usize::MAX,
            caption: CaptionChoice::Draw,
            cleaning: Cleaning::Caption,
            max_skipped_share: 0.05,
            decode_limits: DecodeLimits::default(),
        }
    }
}

/// Names a batch in the endless row of epochs. [`PairBatch::next`] is what a checkpoint stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Epochs completed.
    pub epoch: u64,
    /// Batches completed within the epoch.
    pub batch: u64,
}

/// An answer to learn.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedAnswer {
    /// As written.
    pub text: String,
    /// `[CLS] pieces [SEP]`.
    pub input_ids: Vec<i64>,
    /// What it counts: the share of people who gave it, `[0, 1]`.
    pub weight: f32,
}

impl EncodedAnswer {
    /// An answer with its tokens. One of more than `max_tokens`, which are at least two, is cut and still ends.
    pub fn new(text: &str, weight: f64, tokenizer: &Tokenizer, max_tokens: usize) -> Self {
        let mut input_ids = tokenizer.encode(&format!("{text}{ANSWER_END}"), max_tokens);
        if let Some(last) = input_ids.last_mut() {
            *last = tokenizer.special().sep;
        }
        Self {
            input_ids,
            text: text.to_owned(),
            weight: weight as f32,
        }
    }
}

/// Image-text pairs ready for a model. What [`LoaderConfig::part`] leaves out is empty: `images`
/// without pictures; `input_ids`, `attention_mask` and `captions` without texts.
#[derive(Debug, Clone, PartialEq)]
pub struct PairBatch {
    /// The epoch this batch belongs to.
    pub epoch: u64,
    /// Its place in the epoch, from 0.
    pub batch: u64,
    /// Number of pairs, always the configured batch size.
    pub size: usize,
    /// `[size, 3, image_size, image_size]`, as the transform normalised them.
    pub images: Vec<f32>,
    /// As `images`, the right picture of each two; empty but for tasks on two pictures.
    pub second_images: Vec<f32>,
    /// Side of the square pictures in pixels.
    pub image_size: u32,
    /// `[size, length]` token ids, padded with `[PAD]` to the longest text.
    pub input_ids: Vec<i64>,
    /// `[size, length]`: 1 on tokens, 0 on padding.
    pub attention_mask: Vec<i64>,
    /// Tokens per text, 0 without texts.
    pub length: usize,
    /// Keys of the records.
    pub keys: Vec<String>,
    /// The captions after cleaning.
    pub captions: Vec<String>,
    /// Identities of the images: equal ones show the same picture.
    pub image_ids: Vec<u64>,
    /// Class of each record; empty but for tasks with classes.
    pub classes: Vec<usize>,
    /// Answers to each record's question; empty but for questions.
    pub answers: Vec<Vec<EncodedAnswer>>,
    /// The position to resume from once this batch has been used.
    pub next: Position,
}

/// Why no batch can be delivered.
#[derive(Debug, Error)]
pub enum LoaderError {
    /// A setting is outside its range.
    #[error("{field} is {got}, expected {expected}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        got: String,
        /// Its range.
        expected: &'static str,
    },
    /// The source does not fill one batch.
    #[error(
        "{source_description}: fewer records than the batch size of {batch_size}; lower batch_size or add data"
    )]
    TooSmall {
        /// What the source says of itself.
        source_description: String,
        /// Pairs per batch.
        batch_size: usize,
    },
    /// The position to start from does not exist: the data or the batch size changed since it was
    /// saved.
    #[error(
        "cannot start at batch {batch}: an epoch has {batches_per_epoch}; resume with the data and batch size of the saved run"
    )]
    NoSuchBatch {
        /// The batch asked for.
        batch: u64,
        /// Batches there are.
        batches_per_epoch: u64,
    },
    /// Too many samples could not be used.
    #[error("more than {:.1} % of the samples cannot be used: {report}", 100.0 * max_share)]
    TooManySkipped {
        /// The share allowed.
        max_share: f64,
        /// What was skipped, and why.
        report: Box<SkipReport>,
    },
    /// A thread could not be started.
    #[error("cannot start a loader thread: {0}")]
    Thread(std::io::Error),
    /// The threads are gone, after an earlier error.
    #[error("the loader has stopped")]
    Stopped,
}

/// An endless row of batches, epoch after epoch; what does not fill a batch at the end of an epoch
/// is left out of it. Dropping it ends its threads once they are done with the sample at hand.
#[derive(Debug)]
pub struct Loader {
    pipeline: Pipeline,
    batches_per_epoch: u64,
    max_skipped_share: f64,
    report: SkipReport,
}

impl Loader {
    /// Starts the threads, which begin at once to prepare the batch at `start`.
    ///
    /// # Errors
    /// When a setting is out of range, the source is smaller than a batch, or `start` does not exist.
    pub fn new(
        source: Arc<dyn Source>,
        transform: Arc<dyn Transform>,
        tokenizer: Arc<Tokenizer>,
        config: LoaderConfig,
        start: Position,
    ) -> Result<Self, LoaderError> {
        check(&config)?;
        let batches_per_epoch = (source.len() / config.batch_size) as u64;
        if batches_per_epoch == 0 {
            return Err(LoaderError::TooSmall {
                source_description: source.describe(),
                batch_size: config.batch_size,
            });
        }
        let start = match start.batch.cmp(&batches_per_epoch) {
            std::cmp::Ordering::Less => start,
            // A checkpoint written after the last batch of an epoch.
            std::cmp::Ordering::Equal => Position {
                epoch: start.epoch + 1,
                batch: 0,
            },
            std::cmp::Ordering::Greater => {
                return Err(LoaderError::NoSuchBatch {
                    batch: start.batch,
                    batches_per_epoch,
                });
            }
        };
        let max_skipped_share = config.max_skipped_share;
        let preparation = Preparation {
            source,
            transform,
            tokenizer,
            config,
        };
        Ok(Self {
            pipeline: Pipeline::start(preparation, batches_per_epoch, start)?,
            batches_per_epoch,
            max_skipped_share,
            report: SkipReport::default(),
        })
    }

    /// Batches in one epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.batches_per_epoch
    }

    /// The next batch, waiting for it if need be.
    ///
    /// # Errors
    /// When more samples than allowed had to be skipped, with the report.
    pub fn next_batch(&mut self) -> Result<PairBatch, LoaderError> {
        let Delivery { batch, tally } = self.pipeline.receive().ok_or(LoaderError::Stopped)?;
        self.report.add(tally);
        match batch {
            Some(batch)
                if self.report.seen < SEEN_BEFORE_JUDGING
                    || self.report.share() <= self.max_skipped_share =>
            {
                Ok(batch)
            }
            _ => Err(LoaderError::TooManySkipped {
                max_share: self.max_skipped_share,
                report: Box::new(self.report.clone()),
            }),
        }
    }

    /// What was skipped in the batches delivered by this loader; a resumed run counts anew.
    pub fn report(&self) -> SkipReport {
        self.report.clone()
    }
}

fn check(config: &LoaderConfig) -> Result<(), LoaderError> {
    let counts = [
        ("batch_size", config.batch_size),
        ("workers", config.workers),
        ("queue", config.queue),
        ("max_words", config.max_words),
        ("max_tokens", config.max_tokens),
    ];
    for (field, got) in counts {
        if got == 0 {
            return Err(LoaderError::Config {
                field,
                got: got.to_string(),
                expected: "at least 1",
            });
        }
    }
    if !(0.0..=1.0).contains(&config.max_skipped_share) {
        return Err(LoaderError::Config {
            field: "max_skipped_share",
            got: config.max_skipped_share.to_string(),
            expected: "a share between 0 and 1",
        });
    }
    Ok(())
}
