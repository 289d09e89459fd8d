//! The symmetric contrastive loss inside a batch (CLIP, figure 3; `ClipLoss` of open_clip).

use burn::tensor::Tensor;

use super::soft_cross_entropy;

/// Mean of the image-to-text and the text-to-image cross-entropy, `[1]`.
///
/// `logits`: scaled cosines, `[batch, batch]`, images down, texts across; `targets`: `[batch,
/// batch]`, row `i` says which partners are right for item `i` and sums to 1, for images and texts
/// alike: [`super::itc::identity_targets`] as in the paper, or [`super::itc::id_targets`] where an
/// image or a caption may come twice.
pub fn contrastive(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let of_images = soft_cross_entropy(logits.clone(), targets.clone());
    let of_texts = soft_cross_entropy(logits.transpose(), targets);
    (of_images + of_texts).div_scalar(2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::itc::{PairId, id_targets, identity_targets};
    use burn::tensor::Device;

    fn loss(logits: [[f32; 2]; 2], targets: burn::tensor::TensorData) -> f32 {
        let device = Device::flex();
        let logits = Tensor::from_data(logits, &device);
        contrastive(logits, Tensor::from_data(targets, &device)).into_scalar()
    }

    #[test]
    fn both_directions_by_hand() {
        // Rows: ln(1 + 1/3) and ln 2; columns: ln(1 + 1/3) and ln 2.
        let three = 3.0f32.ln();
        let want = ((4.0f32 / 3.0).ln() + 2.0f32.ln()) / 2.0;
        let got = loss([[three, 0.0], [0.0, 0.0]], identity_targets(2, 2));
        assert!((got - want).abs() < 1e-6, "{got}, by hand {want}");
        // Columns differ from rows: (ln 4/3 + ln 4/3) and (ln 2 + ln 2), each over 2.
        let got = loss([[three, 0.0], [three, three]], identity_targets(2, 2));
        let rows = ((4.0f32 / 3.0).ln() + 2.0f32.ln()) / 2.0;
        let columns = (2.0f32.ln() + (4.0f32 / 3.0).ln()) / 2.0;
        assert!((got - (rows + columns) / 2.0).abs() < 1e-6, "{got}");
    }

    #[test]
    fn an_image_seen_twice_is_no_negative_of_itself() {
        let twice = [PairId {
            image: 4,
            caption: None,
        }; 2];
        // Both partners are right for both items: the loss is least where all logits are equal.
        let even = loss([[1.0, 1.0], [1.0, 1.0]], id_targets(&twice, &[]));
        let picky = loss([[5.0, 1.0], [1.0, 5.0]], id_targets(&twice, &[]));
        assert!((even - 2.0f32.ln()).abs() < 1e-6, "{even}");
        assert!(picky > even, "{picky} > {even}");
    }
}
