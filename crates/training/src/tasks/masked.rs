//! How well masked patches and masked words are predicted, and what an image tokenizer keeps of its
//! images: measured on the records of a validation source, in order, the same in every run.

use burn::tensor::{Int, Tensor, TensorData};
use fitup_data::images::DecodeLimits;
use fitup_data::loader::load_images;
use fitup_data::text::{pre_caption, whole_word};
use fitup_models::image_tokenizer::ImageTokenizer;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::vlmo::encoder::TextBatch;
use fitup_models::vlmo::image_stage::VlmoImageStage;
use fitup_models::vlmo::text_stage::VlmoTextStage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::trainer::{Predictions, Validation, masked_patches};

/// Images or texts at a time.
const CHUNK: usize = 64;

/// Seed of the patches that an evaluation masks: the same in every run, so that runs can be
/// compared.
const MASK_SEED: u64 = 0;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum MaskedError {
    /// A record that cannot be used; leaving it out would change the score.
    #[error(
        "validation record {key}: {reason}; an evaluation needs every record: repair it or take it out"
    )]
    Record {
        /// The record.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to predict.
    #[error("{0}: nothing to predict: no records, or no words in them")]
    Empty(String),
}

/// Predictions of what is masked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskedScores {
    /// What was masked how.
    pub protocol: String,
    /// Patches or pieces of words predicted.
    pub items: usize,
    /// Share of them that are right, `[0, 1]`.
    pub accuracy: f64,
    /// The share that always answering the most frequent of them would get right.
    pub majority: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
}

/// What an image tokenizer keeps of its images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerScores {
    /// Images read.
    pub images: usize,
    /// Mean squared error of the normalised pixels.
    pub reconstruction: f64,
    /// Entries of the codebook.
    pub codes: usize,
    /// Those that stand for a patch at least.
    pub codes_used: usize,
    /// As many equally frequent tokens would have the same entropy.
    pub perplexity: f64,
}

/// The visual tokens of the validation images at patches masked by the recipe's rule.
///
/// `model`: on the plain device.
///
/// # Errors
/// When an image cannot be used.
pub fn patches(
    model: &VlmoImageStage,
    tokenizer: &ImageTokenizer,
    validation: &Validation<'_>,
) -> Result<MaskedScores, MaskedError> {
    let masking = validation.recipe.block_masking();
    let mut rng = ChaCha8Rng::seed_from_u64(MASK_SEED);
    let mut tally = Tally::default();
    for image in image_chunks(validation) {
        let image = image?;
        let tokens = tokenizer.tokens(image.clone());
        let masked = masked_patches(&masking, &tokens, &mut rng);
        if masked.index.is_empty() {
            continue;
        }
        let logits = model.masked_logits(image, &masked, None);
        tally.add(logits, &masked.token);
    }
    let share = validation.recipe.data.patch_mask_share;
    let of = format!(
        "{} images, {share} of the patches masked in blocks",
        validation.count()
    );
    tally.scores(of, validation)
}

/// The words of the validation texts (the first of each record), each masked in turn as a whole
/// while the others are seen; words that the vocabulary does not know are left out.
///
/// `model`: on the plain device.
///
/// # Errors
/// When a record has no text.
pub fn words(
    model: &VlmoTextStage,
    validation: &Validation<'_>,
) -> Result<MaskedScores, MaskedError> {
    let rows = masked_words(validation)?;
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // Rows of like length together: less padding.
    order.sort_by_key(|row| rows[*row].input_ids.len());
    let mut tally = Tally::default();
    for chunk in order.chunks(CHUNK) {
        let ids: Vec<&[i64]> = chunk
            .iter()
            .map(|r| rows[*r].input_ids.as_slice())
            .collect();
        let batch = validation.tokenizer.pad(&ids, 0);
        let ints = |values: Vec<i64>| -> Tensor<2, Int> {
            let data = TensorData::new(values, [batch.size, batch.length]);
            Tensor::from_data(data, validation.device)
        };
        let text = TextBatch {
            input_ids: ints(batch.input_ids),
            attention_mask: ints(batch.attention_mask),
        };
        let places = (0..).zip(chunk).flat_map(|(at, row)| {
            let start = at * batch.length;
            rows[*row]
                .places
                .iter()
                .map(move |(place, id)| ((start + place) as i64, *id))
        });
        let (index, token) = places.unzip();
        let masked = MaskedPositions { index, token };
        tally.add(model.masked_logits(&text, &masked, None), &masked.token);
    }
    let of = format!(
        "{} texts (first caption of each), every word masked in turn",
        validation.count()
    );
    tally.scores(of, validation)
}

/// Reconstruction of the validation images and use of the codebook. `model`: on the plain device.
///
/// # Errors
/// When an image cannot be used.
pub fn tokenizer(
    model: &ImageTokenizer,
    validation: &Validation<'_>,
) -> Result<TokenizerScores, MaskedError> {
    let [codes] = model.codebook.usage.dims();
    let mut counts = vec![0usize; codes];
    let mut error = 0.0;
    for image in image_chunks(validation) {
        let image = image?;
        let [images, ..] = image.dims();
        let output = model.losses(image);
        error += images as f64 * f64::from(output.reconstruction.into_scalar::<f32>());
        for token in output.tokens {
            counts[token as usize] += 1;
        }
    }
    let images = validation.count();
    let total = counts.iter().sum::<usize>() as f64;
    if images == 0 {
        return Err(MaskedError::Empty(validation.source.describe()));
    }
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f64 / total)
        .map(|share| -share * share.ln())
        .sum();
    Ok(TokenizerScores {
        images,
        reconstruction: error / images as f64,
        codes,
        codes_used: counts.iter().filter(|count| **count > 0).count(),
        perplexity: entropy.exp(),
    })
}

/// The validation images, `[n, 3, size, size]` at a time, in order.
fn image_chunks(
    validation: &Validation<'_>,
) -> impl Iterator<Item = Result<Tensor<4>, MaskedError>> {
    let transform = validation.recipe.eval_transform();
    let count = validation.count();
    (0..count).step_by(CHUNK).map(move |start| {
        let range = start..(start + CHUNK).min(count);
        let limits = DecodeLimits::default();
        let workers = validation.recipe.data.workers;
        let loaded = load_images(
            validation.source,
            range.clone(),
            &transform,
            &limits,
            workers,
        );
        let mut pixels = Vec::new();
        for image in loaded {
            let image = image.map_err(|skipped| MaskedError::Record {
                key: skipped.key,
                reason: skipped.detail,
            })?;
            pixels.extend(image.pixels);
        }
        let side = transform.size as usize;
        let data = TensorData::new(pixels, [range.len(), 3, side, side]);
        Ok(Tensor::from_data(data, validation.device))
    })
}

/// A text with one word masked.
struct MaskedWord {
    input_ids: Vec<i64>,
    /// Where the word was, and its pieces.
    places: Vec<(usize, i64)>,
}

fn masked_words(validation: &Validation<'_>) -> Result<Vec<MaskedWord>, MaskedError> {
    let data = &validation.recipe.data;
    let tokenizer = validation.tokenizer;
    let special = tokenizer.special();
    let continues = |id| {
        tokenizer
            .token(id)
            .is_some_and(|piece| piece.starts_with("##"))
    };
    let mut rows = Vec::new();
    for index in 0..validation.count() {
        let texts = validation.source.texts(index);
        let texts = texts.map_err(|error| MaskedError::Record {
            key: index.to_string(),
            reason: error.to_string(),
        })?;
        let mut cleaned = texts.captions.iter();
        let cleaned = cleaned.find_map(|caption| pre_caption(caption, data.max_words));
        let cleaned = cleaned.ok_or_else(|| MaskedError::Record {
            key: texts.key,
            reason: "no caption is left after cleaning".to_owned(),
        })?;
        let ids = tokenizer.encode(&cleaned, data.max_tokens);
        for word in whole_word::words(&ids, continues, &special) {
            if ids[word.clone()].contains(&special.unk) {
                continue;
            }
            let mut input_ids = ids.clone();
            input_ids[word.clone()].fill(special.mask);
            rows.push(MaskedWord {
                places: word.map(|at| (at, ids[at])).collect(),
                input_ids,
            });
        }
    }
    Ok(rows)
}

/// Predictions counted.
#[derive(Default)]
struct Tally {
    right: usize,
    loss: f64,
    targets: Vec<i64>,
}

impl Tally {
    /// `logits`: `[items, classes]`.
    fn add(&mut self, logits: Tensor<2>, targets: &[i64]) {
        let predictions = Predictions::of(logits, targets);
        self.right += predictions.right;
        self.loss += predictions.loss * targets.len() as f64;
        self.targets.extend(targets);
    }

    fn scores(
        mut self,
        protocol: String,
        validation: &Validation<'_>,
    ) -> Result<MaskedScores, MaskedError> {
        let items = self.targets.len();
        if items == 0 {
            return Err(MaskedError::Empty(validation.source.describe()));
        }
        self.targets.sort_unstable();
        let runs = self.targets.chunk_by(|a, b| a == b).map(<[i64]>::len);
        let share = |count: usize| count as f64 / items as f64;
        Ok(MaskedScores {
            protocol: format!("{protocol}; {items} predictions"),
            items,
            accuracy: share(self.right),
            majority: share(runs.max().unwrap_or(0)),
            loss: self.loss / items as f64,
        })
    }
}
