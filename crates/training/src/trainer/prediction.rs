//! What runs that predict masked parts have in common.

use burn::tensor::{Int, Tensor, TensorData};
use fitup_data::images::BlockMasking;
use fitup_models::objectives::cross_entropy;
use fitup_models::objectives::mlm::MaskedPositions;
use rand_chacha::ChaCha8Rng;

use super::batch::greatest;

/// Predictions of masked parts, against what was there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predictions {
    /// How many are right.
    pub right: usize,
    /// Mean cross-entropy in nats.
    pub loss: f64,
}

impl Predictions {
    /// `logits`: `[masked, classes]`, at least one row; `targets`: `[masked]`.
    pub fn of(logits: Tensor<2>, targets: &[i64]) -> Self {
        let logits = logits.inner();
        let loss = masked_loss(logits.clone(), targets);
        Self {
            right: right(logits, targets),
            loss: f64::from(loss.into_scalar::<f32>()),
        }
    }
}

/// How many of the greatest logits are at their targets. `logits`: `[masked, classes]`; `targets`:
/// `[masked]`.
pub(super) fn right(logits: Tensor<2>, targets: &[i64]) -> usize {
    let best = greatest(logits);
    best.iter().zip(targets).filter(|(a, b)| a == b).count()
}

/// Mean cross-entropy, `[1]`. `logits`: `[masked, classes]`, at least one row; `targets`:
/// `[masked]`.
pub fn masked_loss(logits: Tensor<2>, targets: &[i64]) -> Tensor<1> {
    let targets = TensorData::new(targets.to_vec(), [targets.len()]);
    let targets: Tensor<1, Int> = Tensor::from_data(targets, &logits.device());
    cross_entropy(logits, targets)
}

/// Which patches of a batch are masked, and their visual tokens. `tokens`: `[batch * patches]`.
pub fn masked_patches(
    masking: &BlockMasking,
    tokens: &[i64],
    rng: &mut ChaCha8Rng,
) -> MaskedPositions {
    let (mut index, mut token) = (Vec::new(), Vec::new());
    let patches = masking.rows * masking.columns;
    for (image, tokens) in tokens.chunks(patches).enumerate() {
        for (place, hidden) in masking.draw(rng).into_iter().enumerate() {
            if hidden {
                index.push((image * patches + place) as i64);
                token.push(tokens[place]);
            }
        }
    }
    MaskedPositions { index, token }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use rand::SeedableRng;

    #[test]
    fn right_ones_and_their_loss_by_hand() {
        let logits = Tensor::from_floats([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]], &Device::flex());
        let got = Predictions::of(logits, &[0, 1, 0]);
        assert_eq!(got.right, 1);
        let losses = [
            (1.0 + (-2f64).exp()).ln(),
            2f64.ln(),
            (1.0 + 1f64.exp()).ln(),
        ];
        assert!((got.loss - losses.iter().sum::<f64>() / 3.0).abs() < 1e-6);
    }

    #[test]
    fn each_image_has_a_mask_of_its_own() {
        let masking = BlockMasking::square(6, 0.4);
        let tokens: Vec<i64> = (0..3 * 36).collect();
        let masked = masked_patches(&masking, &tokens, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(masked.index, masked.token);
        let of = |image: i64| -> Vec<i64> {
            let places = masked.index.iter().map(|i| i - 36 * image);
            places.filter(|place| (0..36).contains(place)).collect()
        };
        assert!((0..3).all(|image| !of(image).is_empty()));
        assert!(of(0) != of(1) && of(1) != of(2));
    }
}
