//! What ALBEF looks at: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) on attention weights, as
//! ALBEF grounds expressions without boxes to learn from (`Grounding.py`, `visualization.ipynb`).
//!
//! A weight counts as far as more of it would raise the score: weight times the positive part of
//! the score's gradient. Only the layers above the one that is looked at are differentiated.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use fitup_kernels::attention::row_index;

use super::{Albef, first_token};
use crate::layers::bert::{ImageKeysValues, ImageTokens, padding_mask};
use crate::layers::l2_normalize;
use crate::system::{Grounding, MatchingCam};

/// Where the image encoder looks for what makes an image and its text alike.
#[derive(Clone, Debug)]
pub struct ContrastCam {
    /// Similarity over temperature of every image and text, `[batch, batch]`; the sum over the pairs
    /// is the score that is differentiated.
    pub similarities: Tensor<2>,
    /// `[batch, grid, grid]`, 0 or more.
    pub map: Tensor<3>,
}

impl Albef {
    /// Grad-CAM of image-text matching on the cross-attention of `layer`, counted from the first
    /// text layer (8 of 12 in the original, the third fusion layer). Pairs: `image`: `[batch, 3,
    /// image_size, image_size]`, normalised; `input_ids`, `attention_mask`: `[batch, seq]`. All on
    /// the plain device, the results too; the model may be on either.
    ///
    /// # Panics
    /// If `layer` is no fusion layer.
    pub fn matching_cam(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        layer: usize,
    ) -> MatchingCam {
        let image = self.image_parts_of(image);
        self.fusion_cam(&image, input_ids, attention_mask, layer)
    }

    /// Keys and values of images, `[n, 3, image_size, image_size]`, on the plain device.
    fn image_parts_of(&self, image: Tensor<4>) -> ImageKeysValues {
        let encoders = self.valid().encoders;
        let tokens = encoders.visual_encoder.forward(image);
        let tokens = ImageTokens { tokens, mask: None };
        encoders.text_encoder.image_keys_values(&[tokens])
    }

    /// As [`Self::matching_cam`], from the keys and values of each text's image.
    fn fusion_cam(
        &self,
        image: &ImageKeysValues,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        layer: usize,
    ) -> MatchingCam {
        let model = self.valid();
        let bert = &model.encoders.text_encoder;
        let mask = padding_mask(attention_mask.clone());
        let text = bert.text(input_ids, mask.clone(), None);
        let opened = bert
            .open_cross_attention(text, &mask, image, layer)
            .tracked();

        let above = self.valid().no_grad().train();
        let probs = opened.probs.clone();
        let fused = above.encoders.text_encoder.close_cross_attention(
            opened,
            &Tensor::from_inner(mask),
            &image.map(Tensor::from_inner),
        );
        let itm_logits = above.itm_head.forward(first_token(&fused));
        let gradients = itm_logits.clone().narrow(1, 1, 1).sum().backward();
        let gradient = probs
            .grad(&gradients)
            .expect("the score depends on the weights");

        let real = attention_mask.float();
        let on_patches = |of_tokens: Tensor<4>| {
            let [batch, seq] = real.dims();
            of_tokens * real.clone().reshape([batch, 1, seq, 1])
        };
        MatchingCam {
            itm_logits: itm_logits.inner(),
            weights: as_grid(on_patches(probs.inner())),
            gradients: as_grid(on_patches(gradient.clamp_min(0.0))),
        }
    }

    /// Grad-CAM of the contrastive similarity on CLS in the attention of `block` of the image encoder
    /// (8 of 12 in the original). Arguments as for [`Self::matching_cam`].
    ///
    /// # Panics
    /// If there is no such block.
    pub fn contrast_cam(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        block: usize,
    ) -> ContrastCam {
        let model = self.valid();
        let encoders = &model.encoders;
        let text = encoders.encode_text(input_ids, attention_mask, None);
        let opened = encoders
            .visual_encoder
            .open_attention(image, block)
            .tracked();

        let above = self.valid().no_grad().train();
        let probs = opened.probs.clone();
        let tokens = above.encoders.visual_encoder.close_attention(opened);
        let image = l2_normalize(above.encoders.vision_proj.forward(first_token(&tokens)));
        let text = Tensor::from_inner(text.embed);
        let temp = above.temp.val();
        // The pairs' own similarities: the diagonal.
        let score = (image.clone() * text.clone()).sum() / temp.clone();
        let gradients = score.backward();
        let gradient = probs
            .grad(&gradients)
            .expect("the score depends on the weights");

        let of_cls = |x: Tensor<4>| x.narrow(2, 0, 1);
        let weighted = of_cls(probs.inner()) * of_cls(gradient.clamp_min(0.0));
        let similarities = image.matmul(text.transpose()) / temp.unsqueeze();
        ContrastCam {
            similarities: similarities.inner(),
            map: as_grid(weighted)
                .mean_dim(1)
                .squeeze_dim::<4>(1)
                .squeeze_dim(1),
        }
    }
}

impl Grounding for Albef {
    fn layers(&self) -> Range<usize> {
        self.encoders.text_encoder.fusion_layers()
    }

    /// The third fusion layer, as in the original (8 of 12), but below the last: there matching
    /// reads `[CLS]` alone, and the words have no gradient.
    fn default_layer(&self) -> usize {
        let layers = self.layers();
        let below_last = layers.end.saturating_sub(2);
        (layers.start + 2).min(below_last).max(layers.start)
    }

    fn pair_cam(
        &self,
        images: Tensor<4>,
        image_of: &[usize],
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        layer: usize,
    ) -> MatchingCam {
        let index = row_index(image_of.iter().copied(), &images.device());
        let parts = self.image_parts_of(images);
        let chosen = parts.map(|part| part.select(0, index.clone()));
        self.fusion_cam(&chosen, input_ids, attention_mask, layer)
    }
}

/// What falls on the patches of a square image, CLS left out: `[batch, heads, seq, 1 + patches]` to
/// `[batch, heads, seq, grid, grid]`.
fn as_grid(x: Tensor<4>) -> Tensor<5> {
    let [batch, heads, seq, tokens] = x.dims();
    let grid = (tokens - 1).isqrt();
    x.narrow(3, 1, tokens - 1)
        .reshape([batch, heads, seq, grid, grid])
}
