//! The Vision Transformer of ALBEF (`models/vit.py`, after timm): pre-norm, fused qkv with bias,
//! exact GELU, LayerNorm epsilon 1e-6, no dropout.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};
use fitup_kernels::attention::{attention, attention_qkv};
use serde::{Deserialize, Serialize};

use super::block_compute::BlockCompute;
use super::dropout::DropoutSeed;
use super::patch_embed::PatchEmbed;
use super::{LayerNorm, Linear, attend_first, first_token, linear, linear_gelu, mlp};
use crate::system::no_multiple;

mod opened;

pub use opened::OpenedAttention;

/// Sizes of a Vision Transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionTransformerConfig {
    /// Side of the square input image in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of a token; a multiple of `heads`.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of the hidden layer of a block's MLP, as a multiple of `width`.
    #[serde(default = "four")]
    pub mlp_ratio: usize,
}

fn four() -> usize {
    4
}

impl VisionTransformerConfig {
    /// What does not fit together, as a sentence that names the fields of the table `field`; `None`
    /// when all does.
    pub(crate) fn problem(&self, field: &str) -> Option<String> {
        let name = |part: &str| format!("{field}.{part}");
        let (image, patch) = (name("image_size"), name("patch_size"));
        let (width, heads) = (name("width"), name("heads"));
        no_multiple(&image, self.image_size, &patch, self.patch_size)
            .or_else(|| no_multiple(&width, self.width, &heads, self.heads))
    }

    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of one image: the patches and CLS.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }

    /// The model with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> VisionTransformer {
        VisionTransformer {
            cls_token: Initializer::Zeros.init([1, 1, self.width], device),
            pos_embed: Initializer::Zeros.init([1, self.tokens(), self.width], device),
            patch_embed: PatchEmbed::new(self.patch_size, self.width, device),
            blocks: (0..self.depth)
                .map(|_| TransformerBlock::new(self, device))
                .collect(),
            norm: LayerNorm::new(self.width, 1e-6, device),
        }
    }
}

/// Image encoder; field names follow the official state dict.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    /// `[1, 1, width]`.
    pub cls_token: Param<Tensor<3>>,
    /// `[1, 1 + patches, width]`.
    pub pos_embed: Param<Tensor<3>>,
    /// Image to patch tokens.
    pub patch_embed: PatchEmbed,
    /// The blocks, in order.
    pub blocks: Vec<TransformerBlock>,
    /// Over all tokens, after the last block.
    pub norm: LayerNorm,
}

impl VisionTransformer {
    /// `image`: `[batch, 3, image_size, image_size]`, normalised; returns all tokens after the
    /// final norm, `[batch, 1 + patches, width]`, CLS first.
    pub fn forward(&self, image: Tensor<4>) -> Tensor<3> {
        let mut x = self.embed(image);
        for block in &self.blocks {
            x = block.forward(x);
        }
        self.norm.forward(x)
    }

    /// The first row of [`Self::forward`] of each image, `[batch, width]`, without what the last
    /// block computes for the others: of 12 blocks 7 % of the work.
    pub fn forward_first(&self, image: Tensor<4>) -> Tensor<2> {
        let mut x = self.embed(image);
        let Some((last, others)) = self.blocks.split_last() else {
            return self.norm.forward(first_token(&x));
        };
        for block in others {
            x = block.forward(x);
        }
        self.norm.forward(last.forward_first(x))
    }

    /// How the blocks are computed in training.
    pub fn set_block_compute(&mut self, compute: BlockCompute) {
        for block in &mut self.blocks {
            block.compute = compute;
        }
    }

    /// Patch tokens with CLS in front and positions added, `[batch, 1 + patches, width]`.
    pub fn embed(&self, image: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embed.forward(image);
        let [batch, _, width] = patches.dims();
        let cls = self.cls_token.val().expand([batch, 1, width]);
        Tensor::cat(vec![cls, patches], 1) + self.pos_embed.val()
    }
}

/// A pre-norm transformer block.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    /// Before attention.
    pub norm1: LayerNorm,
    /// Self-attention.
    pub attn: SelfAttention,
    /// Before the MLP.
    pub norm2: LayerNorm,
    /// Two linear layers with GELU between.
    pub mlp: Mlp,
    #[module(skip)]
    compute: BlockCompute,
}

impl TransformerBlock {
    fn new(config: &VisionTransformerConfig, device: &Device) -> Self {
        let width = config.width;
        Self {
            norm1: LayerNorm::new(width, 1e-6, device),
            attn: SelfAttention {
                qkv: linear(width, 3 * width, device),
                proj: linear(width, width, device),
                heads: config.heads,
            },
            norm2: LayerNorm::new(width, 1e-6, device),
            mlp: Mlp {
                fc1: linear(width, config.mlp_ratio * width, device),
                fc2: linear(config.mlp_ratio * width, width, device),
            },
            compute: BlockCompute::default(),
        }
    }

    /// `x`: `[batch, tokens, width]`; same shape out.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let compute = self.compute;
        compute.run(self, &[x], |block, x| block.apply(x[0].clone()))
    }

    fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.norm1.forward(x));
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }

    /// The first token of [`Self::forward`] alone: `[batch, tokens, width]` to `[batch, width]`.
    pub fn forward_first(&self, x: Tensor<3>) -> Tensor<2> {
        let normed = self.norm1.forward(x.clone());
        let attended = attend_first(&self.attn.qkv, normed, self.attn.heads);
        let x = first_token(&x) + self.attn.proj.forward(attended);
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }

    /// As [`Self::forward`], with `mask` added to the attention scores, `[batch, 1 or tokens,
    /// tokens]`, and dropout at the given rate after every linear layer but qkv (ViLT's
    /// `drop_rate`).
    pub fn forward_masked(
        &self,
        x: Tensor<3>,
        mask: Tensor<3>,
        dropout: Option<(DropoutSeed, f64)>,
    ) -> Tensor<3> {
        let mask = mask.inner();
        self.compute.run(self, &[x], move |block, x| {
            block.apply_masked(x[0].clone(), mask.clone(), dropout)
        })
    }

    fn apply_masked(
        &self,
        x: Tensor<3>,
        mask: Tensor<3>,
        dropout: Option<(DropoutSeed, f64)>,
    ) -> Tensor<3> {
        let drop = |x: Tensor<3>, place| match dropout {
            Some((seed, rate)) => seed.at(place).apply(x, rate),
            None => x,
        };
        let attended = self
            .attn
            .forward_masked(self.norm1.forward(x.clone()), mask);
        let x = x + drop(attended, 0);
        let hidden = linear_gelu(&self.mlp.fc1, self.norm2.forward(x.clone()));
        let hidden = self.mlp.fc2.forward(drop(hidden, 1));
        x + drop(hidden, 2)
    }
}

/// Self-attention with one projection for queries, keys and values.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// `width -> 3 * width`: queries, keys, values.
    pub qkv: Linear,
    /// `width -> width`.
    pub proj: Linear,
    heads: usize,
}

impl SelfAttention {
    /// `x`: `[batch, tokens, width]`; same shape out.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.proj
            .forward(attention_qkv(self.qkv.forward(x), self.heads))
    }

    /// As [`Self::forward`], with `mask` added to the scores, `[batch, 1 or tokens, tokens]`.
    pub fn forward_masked(&self, x: Tensor<3>, mask: Tensor<3>) -> Tensor<3> {
        let width = x.dims()[2];
        let qkv = self.qkv.forward(x);
        let part = |i: usize| qkv.clone().narrow(2, i * width, width);
        let context = attention(part(0), part(1), part(2), Some(mask), self.heads);
        self.proj.forward(context)
    }
}

/// `fc2(gelu(fc1(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `width -> mlp_ratio * width`.
    pub fc1: Linear,
    /// `mlp_ratio * width -> width`.
    pub fc2: Linear,
}

impl Mlp {
    /// `x`: `[.., width]`; same shape out.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        mlp(&self.fc1, &self.fc2, x)
    }
}
