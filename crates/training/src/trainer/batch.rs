//! What every system makes of a batch of pairs.

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::loader::PairBatch;
use fitup_data::sources::stable_hash;
use fitup_data::text::{SpecialIds, masking};
use fitup_models::objectives::itc::PairId;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::weights::host_values;
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
    /// Probability that a token is masked, `[0, 1]`.
    pub probability: f64,
    /// Tokens in the vocabulary, of which replacements are drawn.
    pub vocab_size: usize,
    /// Ids that are never masked, and the mask.
    pub special: SpecialIds,
}

impl WordMasking {
    /// The batch's tokens with some replaced, `[batch, seq]`, and which.
    pub fn draw(
        &self,
        batch: &PairBatch,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> (Tensor<2, Int>, MaskedPositions) {
        let count = batch.input_ids.len();
        let draws = masking::draw(count, self.probability, self.vocab_size, rng);
        let masked = masking::apply(&batch.input_ids, &draws, &self.special);
        let ids = TensorData::new(masked.input_ids, [batch.size, batch.length]);
        let positions = MaskedPositions::from_labels(&masked.labels);
        (Tensor::from_data(ids, device), positions)
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

/// Share of images whose best text inside the batch is their own, `[0, 1]`. `sim`: `[batch,
/// batch or more]`, the batch's own texts first.
pub fn batch_r1(sim: Tensor<2>) -> f64 {
    let [batch, _] = sim.dims();
    let best: Vec<i64> = sim
        .narrow(1, 0, batch)
        .argmax(1)
        .into_data()
        .convert::<i64>()
        .try_to_vec()
        .expect("converted to int64 the line before");
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
