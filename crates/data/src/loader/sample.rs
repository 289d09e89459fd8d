//! One sample from record to numbers.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::order::{Purpose, generator};
use super::report::Tally;
use super::{CaptionChoice, EncodedAnswer, LoaderConfig, Part, SkipReason, SkippedSample};
use crate::images::{DecodeLimits, Transform, decode};
use crate::sources::{Record, Source, SourceError, Target};
use crate::text::Tokenizer;

/// Records tried for one place in a batch. With this many bad ones in a row, the next would hardly
/// be good.
const ATTEMPTS: u32 = 100;

/// Everything a sample is prepared with; shared by the workers.
pub(super) struct Preparation {
    pub(super) source: Arc<dyn Source>,
    pub(super) transform: Arc<dyn Transform>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) config: LoaderConfig,
}

/// A pair ready to be put in a batch, or the part of one that is asked for.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// `[3, size, size]`; empty without pictures.
    pub(super) image: Vec<f32>,
    /// Empty without texts.
    pub(super) input_ids: Vec<i64>,
    pub(super) key: String,
    pub(super) caption: Option<String>,
    pub(super) image_id: u64,
    /// `[3, size, size]`; empty where there is one picture.
    pub(super) second_image: Vec<f32>,
    pub(super) class: Option<usize>,
    pub(super) answers: Option<Vec<EncodedAnswer>>,
}

impl Preparation {
    /// The pair for one position of an epoch: the record at `index` or, when it cannot be used, the
    /// first usable one of a reserve that belongs to this position alone. No pair when all fail.
    pub(super) fn pair(&self, epoch: u64, position: u64, index: usize) -> (Option<Pair>, Tally) {
        let seed = self.config.seed;
        let mut reserve = generator(Purpose::Reserve, seed, epoch, position, 0);
        let mut tally = Tally::default();
        let mut index = index;
        for attempt in 0..ATTEMPTS {
            tally.seen += 1;
            let mut rng = generator(Purpose::Sample, seed, epoch, position, attempt);
            match guarded(index, || self.try_pair(index, &mut rng)) {
                Ok(pair) => return (Some(pair), tally),
                Err(skipped) => tally.skipped.push(skipped),
            }
            index = reserve.random_range(0..self.source.len());
        }
        (None, tally)
    }

    fn try_pair(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Pair, SkippedSample> {
        match self.config.part {
            Part::Pairs => {
                let record = read(&*self.source, index)?;
                // The text first: it is cheap, and a record without words need not be decoded.
                let caption = self.caption(&record.key, &record.captions, rng)?;
                let (class, answers) = self.target(&record)?;
                let image = self.picture(&record.key, &record.image, rng)?;
                let second_image = match &record.second_image {
                    Some(second) => self.picture(&record.key, second, rng)?,
                    None => Vec::new(),
                };
                Ok(Pair {
                    image,
                    input_ids: self.tokens(&caption),
                    key: record.key,
                    caption: Some(caption),
                    image_id: record.image_id,
                    second_image,
                    class,
                    answers,
                })
            }
            Part::Images => {
                let record = read(&*self.source, index)?;
                Ok(Pair {
                    image: self.picture(&record.key, &record.image, rng)?,
                    key: record.key,
                    image_id: record.image_id,
                    ..Pair::default()
                })
            }
            Part::Texts => {
                let texts = self.source.texts(index).map_err(unreadable(index))?;
                let caption = self.caption(&texts.key, &texts.captions, rng)?;
                Ok(Pair {
                    input_ids: self.tokens(&caption),
                    key: texts.key,
                    caption: Some(caption),
                    image_id: texts.image_id,
                    ..Pair::default()
                })
            }
        }
    }

    /// The caption that is used of a record, cleaned.
    fn caption(
        &self,
        key: &str,
        captions: &[String],
        rng: &mut ChaCha8Rng,
    ) -> Result<String, SkippedSample> {
        let chosen = match (self.config.caption, captions.len()) {
            (CaptionChoice::Draw, 2..) => captions.get(rng.random_range(0..captions.len())),
            _ => captions.first(),
        };
        let caption =
            chosen.and_then(|text| self.config.cleaning.clean(text, self.config.max_words));
        caption.ok_or_else(|| SkippedSample {
            key: key.to_owned(),
            reason: SkipReason::EmptyCaption,
            detail: match chosen {
                Some(text) => format!("nothing is left of {text:?}"),
                None => "the record has no caption".to_owned(),
            },
        })
    }

    fn tokens(&self, caption: &str) -> Vec<i64> {
        self.tokenizer.encode(caption, self.config.max_tokens)
    }

    /// What is to be said of the record: its class, or the answers with their tokens.
    fn target(
        &self,
        record: &Record,
    ) -> Result<(Option<usize>, Option<Vec<EncodedAnswer>>), SkippedSample> {
        match &record.target {
            None => Ok((None, None)),
            Some(target @ (Target::Statement(_) | Target::Hypothesis(_))) => {
                Ok((target.class(), None))
            }
            Some(Target::Answers(question)) if question.answers.is_empty() => Err(SkippedSample {
                key: record.key.clone(),
                reason: SkipReason::NoAnswer,
                detail: "the question has no answer: those of a test part are not public".into(),
            }),
            Some(Target::Answers(question)) => {
                let most = self.config.max_answer_tokens;
                let encoded = question.weighted_answers().into_iter().map(|answer| {
                    EncodedAnswer::new(&answer.text, answer.weight, &self.tokenizer, most)
                });
                Ok((None, Some(encoded.collect())))
            }
        }
    }

    fn picture(
        &self,
        key: &str,
        image: &[u8],
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<f32>, SkippedSample> {
        let limits = &self.config.decode_limits;
        picture(key, image, &*self.transform, limits, rng)
    }
}

/// Runs a preparation and turns a panic into a skipped sample: decoders meet every kind of file.
pub(super) fn guarded<T>(
    index: usize,
    prepare: impl FnOnce() -> Result<T, SkippedSample>,
) -> Result<T, SkippedSample> {
    catch_unwind(AssertUnwindSafe(prepare)).unwrap_or_else(|panic| {
        Err(SkippedSample {
            key: format!("record {index}"),
            reason: SkipReason::Panicked,
            detail: message(&*panic),
        })
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

pub(super) fn read(source: &dyn Source, index: usize) -> Result<Record, SkippedSample> {
    source.get(index).map_err(unreadable(index))
}

fn unreadable(index: usize) -> impl FnOnce(SourceError) -> SkippedSample {
    move |error| SkippedSample {
        key: format!("record {index}"),
        reason: SkipReason::Unreadable,
        detail: error.to_string(),
    }
}

/// Decodes and transforms a picture of the record of this key: `[3, size, size]`.
pub(super) fn picture(
    key: &str,
    image: &[u8],
    transform: &dyn Transform,
    limits: &DecodeLimits,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<f32>, SkippedSample> {
    let image = decode(image, limits).map_err(|error| SkippedSample {
        key: key.to_owned(),
        reason: SkipReason::BadImage,
        detail: error.to_string(),
    })?;
    let pixels = transform.apply(&image, rng);
    let size = transform.size() as usize;
    assert_eq!(
        pixels.len(),
        3 * size * size,
        "a transform to {size} pixels gives [3, {size}, {size}]"
    );
    Ok(pixels)
}
