//! The records of a task as an evaluation reads them: in order, each once, none left out.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::images::{DecodeLimits, EvalTransform};
use fitup_data::loader::{Cleaning, LoadedImage, load_images};
use fitup_data::sources::{Source, Target};
use fitup_data::text::Tokenizer;

use crate::recipe::Recipe;

/// Records at a time.
pub const CHUNK: usize = 64;

/// Why a task cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum ExampleError {
    /// A record that cannot be used; leaving it out would change the score.
    #[error(
        "{key}: {reason}; an evaluation needs every record: repair it or take it out of the list"
    )]
    Record {
        /// The record.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Records of another task.
    #[error("record {key}: it asks {got}, not {expected}; these are data of another task")]
    OtherTask {
        /// The record.
        key: String,
        /// What the model can say.
        expected: &'static str,
        /// What the record asks.
        got: &'static str,
    },
    /// Nothing to evaluate.
    #[error("{0}: no records")]
    Empty(String),
}

/// What texts and pictures are prepared with.
#[derive(Clone, Debug)]
pub struct Preparation<'a> {
    /// The model's.
    pub tokenizer: &'a Tokenizer,
    /// What is done to a picture.
    pub transform: EvalTransform,
    /// How a text is cleaned.
    pub cleaning: Cleaning,
    /// Words kept of it.
    pub max_words: usize,
    /// Tokens kept of it.
    pub max_tokens: usize,
    /// Compute device, not autodiff.
    pub device: &'a Device,
}

/// Pictures with a text each, on the plain device.
#[derive(Clone, Debug)]
pub struct Examples {
    /// `[n, 3, image_size, image_size]`, normalised.
    pub image: Tensor<4>,
    /// The right pictures, of tasks on two; as `image`.
    pub second_image: Option<Tensor<4>>,
    /// `[n, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[n, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
}

impl<'a> Preparation<'a> {
    /// As a recipe says.
    pub fn new(recipe: &Recipe, tokenizer: &'a Tokenizer, device: &'a Device) -> Self {
        Self {
            tokenizer,
            transform: recipe.eval_transform(),
            cleaning: recipe.cleaning(),
            max_words: recipe.data.max_words,
            max_tokens: recipe.data.max_tokens,
            device,
        }
    }

    /// Prepared pictures and texts as written. `images`, `second_images`: `[3, size, size]` each, as
    /// many as texts, of which there is at least one; no second images for tasks on one.
    pub fn examples(
        &self,
        images: &[&[f32]],
        second_images: &[&[f32]],
        texts: &[&str],
    ) -> Examples {
        let side = self.transform.size as usize;
        let stacked = |images: &[&[f32]]| {
            let data = TensorData::new(images.concat(), [images.len(), 3, side, side]);
            Tensor::<4>::from_data(data, self.device)
        };
        let cleaned: Vec<String> = texts
            .iter()
            .map(|text| {
                self.cleaning
                    .clean(text, self.max_words)
                    .unwrap_or_default()
            })
            .collect();
        let tokens = self.tokenizer.encode_batch(&cleaned, self.max_tokens);
        let ints = |values: Vec<i64>| {
            let data = TensorData::new(values, [tokens.size, tokens.length]);
            Tensor::<2, Int>::from_data(data, self.device)
        };
        Examples {
            image: stacked(images),
            second_image: (!second_images.is_empty()).then(|| stacked(second_images)),
            input_ids: ints(tokens.input_ids.clone()),
            attention_mask: ints(tokens.attention_mask.clone()),
        }
    }

    /// The records of `range`, with their keys and what is to be said of them.
    ///
    /// # Errors
    /// [`ExampleError::Record`] when one cannot be used.
    pub fn read(
        &self,
        source: &dyn Source,
        range: Range<usize>,
        workers: usize,
    ) -> Result<(Examples, Vec<(String, Target)>), ExampleError> {
        let bad = |key: String, reason: String| ExampleError::Record { key, reason };
        let limits = DecodeLimits::default();
        let loaded = load_images(source, range, &self.transform, &limits, workers);
        let loaded: Vec<LoadedImage> = loaded
            .into_iter()
            .map(|record| record.map_err(|skipped| bad(skipped.key, skipped.detail)))
            .collect::<Result<_, _>>()?;
        let mut targets = Vec::with_capacity(loaded.len());
        let mut texts = Vec::with_capacity(loaded.len());
        for record in &loaded {
            let (Some(text), Some(target)) = (record.captions.first(), &record.target) else {
                let reason = "it asks nothing: the data are pairs of pictures and captions";
                return Err(bad(record.key.clone(), reason.into()));
            };
            texts.push(text.as_str());
            targets.push((record.key.clone(), target.clone()));
        }
        let images: Vec<&[f32]> = loaded.iter().map(|record| &record.pixels[..]).collect();
        let second: Vec<&[f32]> = loaded
            .iter()
            .filter_map(|record| record.second_pixels.as_deref())
            .collect();
        Ok((self.examples(&images, &second, &texts), targets))
    }
}

/// Ranges of `CHUNK` records that cover `count` of them.
pub fn chunks(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count)
        .step_by(CHUNK)
        .map(move |start| start..(start + CHUNK).min(count))
}

/// What a record asks for, in words.
pub fn asks(target: &Target) -> &'static str {
    match target {
        Target::Answers(_) => "for an answer to a question",
        Target::Statement(_) => "whether a sentence is true of two pictures",
        Target::Hypothesis(_) => "whether a sentence follows from a picture",
    }
}
