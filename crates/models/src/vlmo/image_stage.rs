//! VLMo's first stage, images alone: masked image modelling as BEiT's (Bao et al. 2021, arXiv
//! 2106.08254; `beit/modeling_pretrain.py`). Some patches are replaced by one learned vector; a head
//! predicts their visual tokens, which an image tokenizer gives ([`crate::image_tokenizer`]). It
//! trains the attention, the image experts and the image embeddings.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor, TensorData};

use super::encoder::VlmoEncoder;
use super::{VlmoConfig, int_vector};
use crate::layers::dropout::DropoutSeed;
use crate::layers::{Linear, linear};
use crate::objectives::mlm::MaskedPositions;

impl VlmoConfig {
    /// The model of the image stage with all weights zero; usually of
    /// [`Self::without_vl_experts`]. `codes`: visual tokens there are.
    pub fn init_image_stage(&self, codes: usize, device: &Device) -> VlmoImageStage {
        VlmoImageStage {
            encoder: self.init_encoder(device),
            mask_token: Initializer::Zeros.init([1, 1, self.width], device),
            lm_head: linear(self.width, codes, device),
        }
    }
}

/// The model of the image stage.
#[derive(Module, Debug)]
pub struct VlmoImageStage {
    /// Of which the image runs alone.
    pub encoder: VlmoEncoder,
    /// Stands in for a masked patch, `[1, 1, width]`.
    pub mask_token: Param<Tensor<3>>,
    /// `width -> codes`: hidden vectors to logits of the visual tokens.
    pub lm_head: Linear,
}

impl VlmoImageStage {
    /// Logits of the visual tokens at masked patches, `[masked, codes]`.
    ///
    /// `image`: `[batch, 3, image_size, image_size]`, normalised with mean and deviation 0.5;
    /// `masked`: at least one patch, by its index into the flattened `[batch * patches]`.
    pub fn masked_logits(
        &self,
        image: Tensor<4>,
        masked: &MaskedPositions,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let patches = self.encoder.transformer.patch_embed.forward(image);
        let [batch, count, width] = patches.dims();
        let device = patches.device();
        let mut hidden = vec![0.0f32; batch * count];
        for index in &masked.index {
            hidden[*index as usize] = 1.0;
        }
        let hidden: Tensor<3> =
            Tensor::from_data(TensorData::new(hidden, [batch, count, 1]), &device);
        let shown = hidden.clone().neg().add_scalar(1.0);
        let patches = patches * shown + self.mask_token.val() * hidden;
        let tokens = self.encoder.image_of_patches(patches, dropout).tokens;
        let tokens = tokens.narrow(1, 1, count).reshape([batch * count, width]);
        let index = int_vector(&masked.index, &device);
        self.lm_head.forward(tokens.select(0, index))
    }
}

/// Whether the image stage trains the parameter of this official name: all of its model but what
/// belongs to texts and to pairs. Its checkpoint holds these alone.
pub fn in_image_stage(name: &str) -> bool {
    const OTHERS: [&str; 4] = ["text_embeddings.", "mlp_text.", "norm2_text.", "pooler."];
    !OTHERS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::cross_entropy;
    use crate::vlmo::Positions;
    use crate::weights::{export_gradients, host_values, initialize, vlmo_name};

    fn config(positions: Positions) -> VlmoConfig {
        VlmoConfig {
            image_size: 8,
            patch_size: 2,
            width: 8,
            depth: 2,
            heads: 2,
            mlp_ratio: 2,
            vl_start_layer: 1,
            max_text_len: 4,
            vocab_size: 10,
            positions,
            layer_scale: true,
            drop_path: 0.0,
        }
        .without_vl_experts()
    }

    fn stage(device: &Device) -> VlmoImageStage {
        let relative = Positions::Relative { table_text_len: 4 };
        initialize(config(relative).init_image_stage(5, device), 0.5, 1)
    }

    fn image(device: &Device) -> Tensor<4> {
        let values = Tensor::arange(0..2 * 3 * 8 * 8, device).float();
        values.reshape([2, 3, 8, 8]).sin()
    }

    fn masked(index: &[i64]) -> MaskedPositions {
        MaskedPositions {
            index: index.to_vec(),
            token: vec![3; index.len()],
        }
    }

    #[test]
    fn a_masked_patch_is_not_seen_and_the_others_are() {
        let device = Device::flex();
        let stage = stage(&device);
        let logits =
            |image, masked: &MaskedPositions| host_values(stage.masked_logits(image, masked, None));
        let masked = masked(&[0, 5]);
        let before = logits(image(&device), &masked);
        // Pixel (0, 0) belongs to patch 0, pixel (4, 4) to patch 10.
        let changed = |y: usize, x: usize| {
            let place = TensorData::new(vec![9.0f32; 3], [1, 3, 1, 1]);
            image(&device).slice_assign(
                [0..1, 0..3, y..y + 1, x..x + 1],
                Tensor::from_data(place, &device),
            )
        };
        assert_eq!(logits(changed(0, 0), &masked), before);
        assert_ne!(logits(changed(4, 4), &masked), before);
    }

    #[test]
    fn a_batch_equals_its_singles() {
        let device = Device::flex();
        let stage = stage(&device);
        let both = stage.masked_logits(image(&device), &masked(&[2, 3, 16 + 7]), None);
        let second = image(&device).narrow(0, 1, 1);
        let second = stage.masked_logits(second, &masked(&[7]), None);
        let difference = (both.narrow(0, 2, 1) - second).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn the_stage_trains_what_it_says() {
        for positions in [
            Positions::Absolute,
            Positions::Relative { table_text_len: 4 },
        ] {
            let device = Device::flex().autodiff();
            let stage = initialize(config(positions).init_image_stage(5, &device), 0.5, 1);
            let masked = masked(&[2, 3]);
            let targets = int_vector(&masked.token, &device);
            let loss = cross_entropy(stage.masked_logits(image(&device), &masked, None), targets);
            let gradients = loss.backward();
            let found = export_gradients(&stage, &gradients, vlmo_name);
            for name in crate::weights::export(&stage, vlmo_name).keys() {
                assert_eq!(found.contains_key(name), in_image_stage(name), "{name}");
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let device = Device::flex().autodiff();
        let stage = stage(&device);
        let masked = masked(&[2, 3, 20]);
        let targets = int_vector(&masked.token, &device);
        let loss = |stage: &VlmoImageStage| {
            let logits = stage.masked_logits(image(&device), &masked, None);
            cross_entropy(logits, targets.clone())
        };
        let gradients = loss(&stage).backward();
        let gradients = export_gradients(&stage, &gradients, |path| path.to_owned());
        let number = |loss: Tensor<1>| f64::from(loss.inner().into_scalar::<f32>());
        let step = 1e-2;
        for at in 0..8 {
            let moved = |by: f64| {
                let mut stage = stage.clone();
                stage.mask_token = stage.mask_token.map(|token| {
                    let mut by_place = vec![0.0f32; 8];
                    by_place[at] = by as f32;
                    let by = Tensor::from_data(TensorData::new(by_place, [1, 1, 8]), &device);
                    (token + by).detach()
                });
                number(loss(&stage))
            };
            let expected = (moved(step) - moved(-step)) / (2.0 * step);
            let got = f64::from(gradients["mask_token"].values[at]);
            assert!((got - expected).abs() < 2e-3, "{at}: {got}, {expected}");
        }
    }
}
