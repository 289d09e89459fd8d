//! The attention weights of one block, laid open: for Grad-CAM, which wants their gradient. Fused
//! attention keeps no weights, so this one block is composed of plain operators; the blocks around
//! it stay as they are.

use burn::tensor::Tensor;
use fitup_kernels::attention::{attend, attention_probs};

use super::VisionTransformer;

/// The encoder stopped inside one block, after the softmax of its attention.
#[derive(Clone, Debug)]
pub struct OpenedAttention {
    /// What each token takes from each other, `[batch, heads, tokens, tokens]`, rows summing to 1.
    pub probs: Tensor<4>,
    /// `[batch, tokens, width]`.
    values: Tensor<3>,
    /// What the block was given, `[batch, tokens, width]`.
    x: Tensor<3>,
    block: usize,
}

impl OpenedAttention {
    /// The same on an autodiff device, with the weights as the only leaf: what is computed from
    /// here on gives a gradient to them and keeps no graph of what came before.
    pub fn tracked(self) -> Self {
        Self {
            probs: Tensor::from_inner(self.probs).require_grad(),
            values: Tensor::from_inner(self.values),
            x: Tensor::from_inner(self.x),
            block: self.block,
        }
    }
}

impl VisionTransformer {
    /// As [`VisionTransformer::forward`], up to the attention weights of block number `block`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn open_attention(&self, image: Tensor<4>, block: usize) -> OpenedAttention {
        let mut x = self.embed(image);
        for before in &self.blocks[..block] {
            x = before.forward(x);
        }
        let opened = &self.blocks[block];
        let qkv = opened.attn.qkv.forward(opened.norm1.forward(x.clone()));
        let width = x.dims()[2];
        let part = |i: usize| qkv.clone().narrow(2, i * width, width);
        OpenedAttention {
            probs: attention_probs(part(0), part(1), None, opened.attn.heads),
            values: part(2),
            x,
            block,
        }
    }

    /// The rest of the encoder after [`VisionTransformer::open_attention`], `[batch, 1 + patches,
    /// width]`.
    pub fn close_attention(&self, opened: OpenedAttention) -> Tensor<3> {
        let block = &self.blocks[opened.block];
        let context = attend(opened.probs, opened.values);
        let x = opened.x + block.attn.proj.forward(context);
        let mut x = x.clone() + block.mlp.forward(block.norm2.forward(x));
        for after in &self.blocks[opened.block + 1..] {
            x = after.forward(x);
        }
        self.norm.forward(x)
    }
}
