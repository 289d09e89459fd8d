//! The attention weights of one cross-attention, laid open: for Grad-CAM, which wants their
//! gradient. Fused attention keeps no weights, so this one layer is composed of plain operators;
//! the layers around it stay as they are.

use std::ops::Range;

use burn::tensor::Tensor;
use fitup_kernels::attention::{attend, attention_probs};

use super::{Bert, ImageKeysValues};

/// Fusion stopped inside one layer, after the softmax of its cross-attention.
#[derive(Clone, Debug)]
pub struct OpenedCrossAttention {
    /// What each token takes from each image token, `[batch, heads, seq, image_tokens]`, rows
    /// summing to 1.
    pub probs: Tensor<4>,
    /// What the layer's cross-attention was given, `[batch, seq, hidden_size]`.
    text: Tensor<3>,
    layer: usize,
}

impl OpenedCrossAttention {
    /// The same on an autodiff device, with the weights as the only leaf: what is computed from
    /// here on gives a gradient to them and keeps no graph of what came before.
    pub fn tracked(self) -> Self {
        Self {
            probs: Tensor::from_inner(self.probs).require_grad(),
            text: Tensor::from_inner(self.text),
            layer: self.layer,
        }
    }
}

impl Bert {
    /// The layers that cross-attend to images, counted from the first text layer.
    pub fn fusion_layers(&self) -> Range<usize> {
        self.fusion_layer..self.layers.len()
    }

    /// As [`Bert::fusion`], up to the cross-attention weights of `layer`, counted from the first
    /// text layer.
    ///
    /// # Panics
    /// If `layer` is no fusion layer.
    pub fn open_cross_attention(
        &self,
        text_tokens: Tensor<3>,
        mask: &Tensor<3>,
        image: &ImageKeysValues,
        layer: usize,
    ) -> OpenedCrossAttention {
        assert!(
            self.fusion_layers().contains(&layer),
            "layer {layer} of {} is no fusion layer: they begin at {}",
            self.layers.len(),
            self.fusion_layer
        );
        let mut x = text_tokens;
        for (i, kv) in (self.fusion_layer..layer).zip(&image.layers) {
            x = self.layers[i].forward(x, mask.clone(), Some(kv), None);
        }
        let opened = &self.layers[layer];
        let [k, v] = opened.attention.keys_values(x.clone());
        let text = opened.attention.forward(x, k, v, Some(mask.clone()), None);
        let cross = opened.crossattention.as_ref().expect("a fusion layer");
        let kv = &image.layers[layer - self.fusion_layer];
        let q = cross.query.forward(text.clone());
        OpenedCrossAttention {
            probs: attention_probs(q, kv.keys.clone(), kv.mask.clone(), cross.heads),
            text,
            layer,
        }
    }

    /// The rest of the fusion after [`Bert::open_cross_attention`], `[batch, seq, hidden_size]`.
    pub fn close_cross_attention(
        &self,
        opened: OpenedCrossAttention,
        mask: &Tensor<3>,
        image: &ImageKeysValues,
    ) -> Tensor<3> {
        let layer = &self.layers[opened.layer];
        let cross = layer.crossattention.as_ref().expect("a fusion layer");
        let values = image.layers[opened.layer - self.fusion_layer]
            .values
            .clone();
        let x = cross.residual(attend(opened.probs, values), opened.text, None);
        let mut x = layer.mlp(x, None);
        let rest = opened.layer + 1..self.layers.len();
        for (i, kv) in rest
            .clone()
            .zip(&image.layers[rest.start - self.fusion_layer..])
        {
            x = self.layers[i].forward(x, mask.clone(), Some(kv), None);
        }
        x
    }
}
