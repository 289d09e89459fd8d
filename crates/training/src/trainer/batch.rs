//! What every system makes of a batch of pairs.

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::loader::PairBatch;
use fitup_data::sources::stable_hash;
use fitup_data::text::masking::{self, MaskedTokens};
use fitup_data::text::{SpecialIds, Tokenizer, whole_word};
use fitup_models::objectives::itc::PairId;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::weights::{host_integers, host_values};
use rand_chacha::ChaCha8Rng;

use crate::recipe::ItcTargets;

/// A batch on the device.
#[derive(Clone, Debug)]
pub struct PairTensors {
    /// `[batch, 3, image_size, image_size]`, normalised.
    pub image: Tensor<4>,
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
}

impl PairTensors {
    /// Copies a batch from the host.
    pub fn new(batch: &PairBatch, device: &Device) -> Self {
        let tokens = |values: &[i64]| {
            let data = TensorData::new(values.to_vec(), [batch.size, batch.length]);
            Tensor::from_data(data, device)
        };
        Self {
            image: image_tensor(batch, device),
            input_ids: tokens(&batch.input_ids),
            attention_mask: tokens(&batch.attention_mask),
        }
    }
}

/// The images of a batch on the device, `[batch, 3, image_size, image_size]`, normalised.
pub fn image_tensor(batch: &PairBatch, device: &Device) -> Tensor<4> {
    let side = batch.image_size as usize;
    let images = TensorData::new(batch.images.clone(), [batch.size, 3, side, side]);
    Tensor::from_data(images, device)
}

/// How the words of a batch are masked.
#[derive(Clone, Debug)]
pub struct WordMasking {
    probability: f64,
    vocab_size: usize,
    special: SpecialIds,
    /// Whether each id continues the word before it, where words are masked as a whole.
    continuations: Option<Vec<bool>>,
}

impl WordMasking {
    /// Every token by itself with `probability`, `[0, 1]`, as ALBEF. Replacements are drawn from
    /// `vocab_size` ids.
    pub fn of_tokens(probability: f64, vocab_size: usize, tokenizer: &Tokenizer) -> Self {
        Self {
            probability,
            vocab_size,
            special: tokenizer.special(),
            continuations: None,
        }
    }

    /// Whole words until the share `probability` of a row is covered, as ViLT and VLMo
    /// ([`whole_word`]).
    pub fn of_whole_words(probability: f64, vocab_size: usize, tokenizer: &Tokenizer) -> Self {
        Self {
            continuations: Some(tokenizer.continuations()),
            ..Self::of_tokens(probability, vocab_size, tokenizer)
        }
    }

    /// The batch's tokens with some replaced, `[batch, seq]`, and which.
    pub fn draw(
        &self,
        batch: &PairBatch,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> (Tensor<2, Int>, MaskedPositions) {
        let masked = self.draw_rows(&batch.input_ids, batch.length, rng);
        let ids = TensorData::new(masked.input_ids, [batch.size, batch.length]);
        let positions = MaskedPositions::from_labels(&masked.labels);
        (Tensor::from_data(ids, device), positions)
    }

    /// `input_ids`: rows of `length`, one after the other.
    fn draw_rows(&self, input_ids: &[i64], length: usize, rng: &mut ChaCha8Rng) -> MaskedTokens {
        let (probability, vocab_size) = (self.probability, self.vocab_size);
        let draws = match &self.continuations {
            None => masking::draw(input_ids.len(), probability, vocab_size, rng),
            Some(continuations) => {
                let continues = |id: i64| {
                    let id = usize::try_from(id).unwrap_or(usize::MAX);
                    continuations.get(id).copied().unwrap_or(false)
                };
                let special = &self.special;
                whole_word::draw(
                    input_ids,
                    length,
                    probability,
                    continues,
                    special,
                    vocab_size,
                    rng,
                )
            }
        };
        masking::apply(input_ids, &draws, &self.special)
    }
}

/// What counts as the same pair, for every pair of the batch.
pub fn pair_ids(targets: ItcTargets, batch: &PairBatch) -> Vec<PairId> {
    let captions = targets == ItcTargets::ImageOrCaption;
    let pairs = batch.image_ids.iter().zip(&batch.captions);
    pairs
        .map(|(&image, caption)| PairId {
            image,
            caption: captions.then(|| stable_hash(caption.as_bytes())),
        })
        .collect()
}

/// Column of the greatest value of each row. `rows`: `[n, columns]`.
pub(super) fn greatest(rows: Tensor<2>) -> Vec<i64> {
    host_integers(rows.argmax(1))
}

/// Share of images whose best text inside the batch is their own, `[0, 1]`. `sim`: `[batch,
/// batch or more]`, the batch's own texts first.
pub fn batch_r1(sim: Tensor<2>) -> f64 {
    let [batch, _] = sim.dims();
    let best = greatest(sim.narrow(1, 0, batch));
    let right = best.iter().enumerate().filter(|(i, j)| *i as i64 == **j);
    right.count() as f64 / batch as f64
}

/// Share of matching logits, `[n, 2]`, on the right side, `[0, 1]`. `matches`: which pairs belong
/// together; absent, the first third do ([`fitup_models::objectives::itm::labels`]).
pub fn itm_accuracy(logits: Tensor<2>, matches: Option<&[i64]>) -> f64 {
    let rows = logits.dims()[0];
    let values = host_values(logits);
    let right = values.chunks(2).enumerate().filter(|(i, logit)| {
        let belongs = matches.map_or(*i < rows / 3, |labels| labels[*i] == 1);
        (logit[1] > logit[0]) == belongs
    });
    right.count() as f64 / rows as f64
}

/// A loss of one element as a number.
pub fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().inner().into_scalar::<f32>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use fitup_data::text::tokenizer::SPECIAL_TOKENS;
    use rand::SeedableRng;

    /// Rows of "[CLS] gir ##af ##fe in un ##do the sun", 9 tokens of which two words have pieces.
    fn rows(count: usize) -> (Tokenizer, Vec<i64>) {
        let words = ["gir", "##af", "##fe", "in", "un", "##do", "the", "sun"];
        let vocabulary = SPECIAL_TOKENS.iter().chain(&words);
        let vocabulary = vocabulary.map(|token| (*token).to_owned()).collect();
        let tokenizer = Tokenizer::from_vocabulary(vocabulary).unwrap();
        let row = tokenizer.encode("giraffe in undo the sun", usize::MAX);
        assert_eq!(row, [2, 5, 6, 7, 8, 9, 10, 11, 12]);
        (tokenizer, row.repeat(count))
    }

    #[test]
    fn pieces_are_masked_together_only_where_whole_words_are() {
        let (tokenizer, ids) = rows(500);
        let vocab_size = tokenizer.vocab_size();
        let broken = |masking: &WordMasking| {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let masked = masking.draw_rows(&ids, 9, &mut rng);
            let rows = masked.labels.chunks(9);
            rows.filter(|row| {
                let hidden: Vec<bool> = row.iter().map(|label| *label >= 0).collect();
                hidden[1] != hidden[2] || hidden[2] != hidden[3] || hidden[5] != hidden[6]
            })
            .count()
        };
        assert_eq!(
            broken(&WordMasking::of_whole_words(0.4, vocab_size, &tokenizer)),
            0
        );
        assert!(broken(&WordMasking::of_tokens(0.4, vocab_size, &tokenizer)) > 300);
    }

    #[test]
    fn single_tokens_are_drawn_as_ever() {
        let (tokenizer, ids) = rows(20);
        let vocab_size = tokenizer.vocab_size();
        let masking = WordMasking::of_tokens(0.15, vocab_size, &tokenizer);
        let got = masking.draw_rows(&ids, 9, &mut ChaCha8Rng::seed_from_u64(3));
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let draws = masking::draw(ids.len(), 0.15, vocab_size, &mut rng);
        let want = masking::apply(&ids, &draws, &tokenizer.special());
        assert_eq!(got, want);
    }
}
