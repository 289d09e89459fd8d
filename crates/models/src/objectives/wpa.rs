//! Word-patch alignment: matched texts and images should be cheap to transport onto each other
//! (ViLT, section 3.2, after UNITER; `modules/objectives.py`, `compute_itm_wpa`).
//!
//! The plan is found by inexact proximal point iteration (IPOT; Xie et al. 2018, arXiv 1802.04307,
//! algorithm 1) with one inner iteration, the only number with which the original runs. No gradient
//! goes through the plan.

use burn::tensor::{Int, Tensor};

/// Weight of the loss beside matching and masked words in the original.
pub const WEIGHT: f64 = 0.1;

/// How the transport plan is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ipot {
    /// Strength of the proximal term, above 0.
    pub beta: f64,
    /// Outer iterations.
    pub iterations: usize,
}

impl Default for Ipot {
    /// The original's 0.5 and 50.
    fn default() -> Self {
        Self {
            beta: 0.5,
            iterations: 50,
        }
    }
}

/// A plan and what it costs.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Cosine distances, 0 where either side is masked, `[batch, words, patches]`.
    pub cost: Tensor<3>,
    /// Mass moved, no gradient, `[batch, patches, words]`; sums to 1 per pair.
    pub plan: Tensor<3>,
    /// Cost of the plan, `[batch]`.
    pub distance: Tensor<1>,
}

/// The loss with its transports.
#[derive(Clone, Debug)]
pub struct Wpa {
    /// Plans and distances of the batch.
    pub transport: Transport,
    /// Distances of matched pairs minus those of mismatched ones, over the batch size, `[1]`; not
    /// yet multiplied by [`WEIGHT`].
    pub loss: Tensor<1>,
}

/// The loss over a batch of matched and mismatched pairs.
///
/// `text_tokens`: `[batch, words, width]`, `image_tokens`: `[batch, patches, width]`, both with
/// their CLS first; `text_mask`: `[batch, words]`, `image_mask`: `[batch, patches]`, 1 for real
/// tokens; `labels`: `[batch]`, 1 where text and image match, 0 where not. `[CLS]`, `[SEP]` and
/// the image's CLS take no part.
pub fn wpa(
    text_tokens: Tensor<3>,
    image_tokens: Tensor<3>,
    text_mask: Tensor<2, Int>,
    image_mask: Tensor<2, Int>,
    labels: Tensor<1, Int>,
) -> Wpa {
    let transport = transport(
        text_tokens,
        image_tokens,
        words_alone(text_mask),
        without_first(image_mask),
        Ipot::default(),
    );
    let sign = labels.float().mul_scalar(2.0).sub_scalar(1.0);
    let loss = (transport.distance.clone() * sign).mean();
    Wpa { transport, loss }
}

/// A text mask without the first real token, `[CLS]`, and the last, `[SEP]`. `mask`: `[batch,
/// words]`, ones before zeros; same shape out.
pub fn words_alone(mask: Tensor<2, Int>) -> Tensor<2, Int> {
    let [batch, words] = mask.dims();
    let last = mask.clone().sum_dim(1).sub_scalar(1).expand([batch, words]);
    let place = Tensor::arange(0..words as i64, &mask.device());
    let before = place.unsqueeze_dim::<2>(0).expand([batch, words]);
    without_first(before.lower(last).int())
}

/// A mask whose first token, the image's CLS, takes no part. `mask`: `[batch, tokens]`; same
/// shape out.
pub fn without_first(mask: Tensor<2, Int>) -> Tensor<2, Int> {
    let [batch, tokens] = mask.dims();
    let place = Tensor::<1, Int>::arange(0..tokens as i64, &mask.device());
    let first = place.equal_elem(0).unsqueeze_dim::<2>(0);
    mask.mask_fill(first.expand([batch, tokens]), 0)
}

/// Moves the words of each pair onto its patches, each side's mass spread evenly over the tokens
/// whose mask is 1. A pair in which either side has no such token costs 0.
///
/// Shapes as for [`wpa`].
pub fn transport(
    text_tokens: Tensor<3>,
    image_tokens: Tensor<3>,
    text_mask: Tensor<2, Int>,
    image_mask: Tensor<2, Int>,
    ipot_config: Ipot,
) -> Transport {
    let cost = cosine_cost(text_tokens, image_tokens);
    let [batch, words, patches] = cost.dims();
    let text = text_mask.clone().unsqueeze_dim::<3>(2);
    let image = image_mask.clone().unsqueeze_dim::<3>(1);
    let masked = (text * image).equal_elem(0);
    let cost = cost.mask_fill(masked.expand([batch, words, patches]), 0.0);
    let plan = ipot(cost.clone().detach(), text_mask, image_mask, ipot_config);
    let distance = (cost.clone() * plan.clone().swap_dims(1, 2))
        .sum_dim(2)
        .sum_dim(1)
        .reshape([batch]);
    Transport {
        cost,
        plan,
        distance,
    }
}

/// `1 - cos` between every word and every patch. `text`: `[batch, words, width]`, `image`:
/// `[batch, patches, width]`; returns `[batch, words, patches]`.
fn cosine_cost(text: Tensor<3>, image: Tensor<3>) -> Tensor<3> {
    let normalize = |x: Tensor<3>| {
        let norm = x.clone().square().sum_dim(2).sqrt().clamp_min(1e-5);
        x / norm
    };
    let cosine = normalize(text).matmul(normalize(image).swap_dims(1, 2));
    cosine.neg().add_scalar(1.0)
}

/// The transport plan, `[batch, patches, words]`, zero where either side is masked.
///
/// `cost`: `[batch, words, patches]`, without gradient; masks as for [`transport`].
pub fn ipot(
    cost: Tensor<3>,
    text_mask: Tensor<2, Int>,
    image_mask: Tensor<2, Int>,
    config: Ipot,
) -> Tensor<3> {
    let [batch, words, patches] = cost.dims();
    let text = text_mask.float().unsqueeze_dim::<3>(1);
    let image = image_mask.float().unsqueeze_dim::<3>(1);
    let count = |mask: &Tensor<3>| mask.clone().sum_dim(2);
    let (words_left, patches_left) = (count(&text), count(&image));
    // Added to the denominators of masked tokens, whose mass then nearly vanishes.
    let penalty = |mask: &Tensor<3>| mask.clone().neg().add_scalar(1.0).mul_scalar(1e4);
    let (text_penalty, image_penalty) = (penalty(&text), penalty(&image));
    let both = image.swap_dims(1, 2) * text.clone();
    let masked = both.clone().equal_elem(0.0);

    let kernel = cost.swap_dims(1, 2).div_scalar(-config.beta).exp();
    let kernel = kernel.mask_fill(masked.clone(), 0.0);
    let mut plan = both;
    let mut sigma = words_left
        .clone()
        .recip()
        .expand([batch, 1, words])
        .mask_fill(text.equal_elem(0.0), 0.0);
    for _ in 0..config.iterations {
        let q = kernel.clone() * plan;
        let of_patches = q.clone().matmul(sigma.reshape([batch, words, 1]));
        let of_patches = of_patches.reshape([batch, 1, patches]) * patches_left.clone();
        let delta = (of_patches + image_penalty.clone()).recip();
        let of_words = delta.clone().matmul(q.clone()) * words_left.clone();
        sigma = (of_words + text_penalty.clone()).recip();
        plan = delta.reshape([batch, patches, 1]) * q * sigma.clone();
    }
    plan.mask_fill(masked, 0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::weights::host_integers;
    use burn::tensor::Device;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn equal_tokens_are_moved_onto_each_other_for_nothing() {
        let device = Device::flex();
        let text = Tensor::<3>::from_floats([[[1.0, 0.0], [0.0, 2.0]]], &device);
        let image = Tensor::<3>::from_floats([[[0.0, 1.0], [3.0, 0.0]]], &device);
        let ones = Tensor::<2, Int>::ones([1, 2], &device);
        let found = transport(text, image, ones.clone(), ones, Ipot::default());
        assert_eq!(values(found.cost), [1.0, 0.0, 0.0, 1.0]);
        for (got, want) in values(found.plan).iter().zip([0.0, 0.5, 0.5, 0.0]) {
            assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
        }
        assert!(values(found.distance)[0].abs() < 1e-6);
    }

    #[test]
    fn cls_and_sep_take_no_part() {
        let device = Device::flex();
        let mask = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]];
        let mask = Tensor::<2, Int>::from_ints(mask, &device);
        let words = host_integers(words_alone(mask.clone()));
        assert_eq!(words, [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let patches = host_integers(without_first(mask));
        assert_eq!(patches, [0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_empty_caption_costs_nothing_and_gives_no_nan() {
        let device = Device::flex().autodiff();
        let tokens = Tensor::<3>::ones([1, 3, 4], &device).require_grad();
        let mask = Tensor::<2, Int>::from_ints([[1, 1, 0]], &device);
        let ones = Tensor::<2, Int>::ones([1, 3], &device);
        let label = Tensor::<1, Int>::ones([1], &device);
        let found = wpa(tokens.clone(), tokens.clone(), mask, ones, label);
        assert_eq!(values(found.loss.clone().inner()), [0.0]);
        let gradient = tokens.grad(&found.loss.backward()).unwrap();
        assert!(values(gradient).iter().all(|v| *v == 0.0));
    }
}
