//! CLIP: *Learning Transferable Visual Models From Natural Language Supervision* (Radford et al.
//! 2021, arXiv 2103.00020).
//!
//! An image tower and a causal text tower, trained so that the embeddings of a picture and of its
//! caption point the same way ([`crate::objectives::contrastive`]). Nothing is fused: both sides
//! can be computed ahead, which is what zero-shot classification ([`crate::zero_shot`]) and search
//! live on. Exact against OpenAI's and open_clip's `model.py` and Hugging Face's
//! `modeling_clip.py`; field names are those of OpenAI's state dict where the module's type allows
//! it ([`crate::weights::clip_name`]).

pub mod downstream;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Int, Tensor, activation};
use fitup_kernels::attention::{attention, attention_qkv};
use serde::{Deserialize, Serialize};

use crate::layers::bert::causal_mask;
use crate::layers::block_compute::BlockCompute;
use crate::layers::packing::Packing;
use crate::layers::patch_embed::PatchEmbed;
use crate::layers::{LayerNorm, Linear, attend_first, first_token, l2_normalize, linear, mlp};
use crate::system::{
    EncodedImages, EncodedTexts, MaskedWords, Matching, System, SystemConfig, no_multiple,
};

/// Epsilon of every LayerNorm.
const EPSILON: f64 = 1e-5;

/// Largest `logit_scale`, ln 100: the training step clamps to it after each update (section 2.5);
/// `forward` does not.
pub const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// Sizes of a CLIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Image tower.
    pub vision: ClipVisionConfig,
    /// Text tower.
    pub text: ClipTextConfig,
    /// Width of the embeddings that are compared.
    pub embed_dim: usize,
    /// Between the two linear layers of every block.
    #[serde(default)]
    pub activation: Activation,
    /// Initial logarithm of the factor on cosines; ln(1 / 0.07) in the paper.
    #[serde(default = "initial_logit_scale")]
    pub logit_scale: f64,
}

/// Sizes of the image tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipVisionConfig {
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
    /// Width of the hidden layer of a block's MLP.
    pub mlp_width: usize,
}

/// Sizes of the text tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Width of a token; a multiple of `heads`.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of the hidden layer of a block's MLP.
    pub mlp_width: usize,
    /// How the token is found that stands for the text.
    #[serde(default)]
    pub end_of_text: EndOfText,
}

/// Activation of the MLPs, under the names of Hugging Face's `hidden_act`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's weights.
    #[default]
    QuickGelu,
    /// Exact GELU: most of open_clip's weights.
    Gelu,
}

/// How the end-of-text token is found, whose state stands for the text. Of several, the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndOfText {
    /// The largest id of the text: OpenAI and open_clip, whose end token is the last of the
    /// vocabulary.
    #[default]
    ArgMax,
    /// The last real token, for tokenizers without an end token: the causal mask lets it see the
    /// whole text.
    Last,
    /// This id; a text without it is represented by its first token, as in Hugging Face.
    Id(i64),
}

fn initial_logit_scale() -> f64 {
    (1.0f64 / 0.07).ln()
}

impl ClipConfig {
    /// The model with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> Clip {
        let (vision, text) = (&self.vision, &self.text);
        let zeros = |shape: [usize; 2]| Initializer::Zeros.init(shape, device);
        let grid = vision.image_size / vision.patch_size;
        let blocks = |depth: usize, width: usize, heads: usize, mlp_width: usize| {
            (0..depth)
                .map(|_| ClipBlock::new(width, heads, mlp_width, self.activation, device))
                .collect()
        };
        Clip {
            visual: ClipVision {
                patch_embed: PatchEmbed::without_bias(vision.patch_size, vision.width, device),
                class_embedding: Initializer::Zeros.init([vision.width], device),
                positional_embedding: zeros([1 + grid * grid, vision.width]),
                ln_pre: LayerNorm::new(vision.width, EPSILON, device),
                blocks: blocks(vision.depth, vision.width, vision.heads, vision.mlp_width),
                ln_post: LayerNorm::new(vision.width, EPSILON, device),
                proj: zeros([vision.width, self.embed_dim]),
            },
            text: ClipText {
                token_embedding: EmbeddingConfig::new(text.vocab_size, text.width)
                    .with_initializer(Initializer::Zeros)
                    .init(device),
                positional_embedding: zeros([text.context_length, text.width]),
                blocks: blocks(text.depth, text.width, text.heads, text.mlp_width),
                ln_final: LayerNorm::new(text.width, EPSILON, device),
                proj: zeros([text.width, self.embed_dim]),
                end_of_text: text.end_of_text,
            },
            logit_scale: Initializer::Constant {
                value: self.logit_scale,
            }
            .init([1], device),
        }
    }
}

impl SystemConfig for ClipConfig {
    fn image_size(&self) -> usize {
        self.vision.image_size
    }

    fn vocab_size(&self) -> usize {
        self.text.vocab_size
    }

    fn max_tokens(&self) -> usize {
        self.text.context_length
    }

    fn problem(&self) -> Option<String> {
        let (vision, text) = (&self.vision, &self.text);
        let pairs = [
            (
                ("vision.image_size", vision.image_size),
                ("vision.patch_size", vision.patch_size),
            ),
            (
                ("vision.width", vision.width),
                ("vision.heads", vision.heads),
            ),
            (("text.width", text.width), ("text.heads", text.heads)),
        ];
        pairs
            .into_iter()
            .find_map(|((name, value), (of, unit))| no_multiple(name, value, of, unit))
    }
}

/// An encoded batch of images.
#[derive(Clone, Debug)]
pub struct ClipImageFeatures {
    /// After the last block, before any norm, `[batch, 1 + patches, vision.width]`, CLS first.
    pub tokens: Tensor<3>,
    /// Normed and projected CLS, `[batch, embed_dim]`.
    pub pooled: Tensor<2>,
    /// `pooled` as unit rows, `[batch, embed_dim]`.
    pub embed: Tensor<2>,
}

/// An encoded batch of texts.
#[derive(Clone, Debug)]
pub struct ClipTextFeatures {
    /// After the final norm, `[batch, seq, text.width]`.
    pub tokens: Tensor<3>,
    /// Projected end-of-text token, `[batch, embed_dim]`.
    pub pooled: Tensor<2>,
    /// `pooled` as unit rows, `[batch, embed_dim]`.
    pub embed: Tensor<2>,
}

/// The model: both towers and the learnable factor on their cosines.
#[derive(Module, Debug)]
pub struct Clip {
    /// Images to embeddings.
    pub visual: ClipVision,
    /// Texts to embeddings.
    pub text: ClipText,
    /// `[1]`; cosines are multiplied by its exponential. Kept at most [`MAX_LOGIT_SCALE`] by the
    /// training step.
    pub logit_scale: Param<Tensor<1>>,
}

impl Clip {
    /// How the blocks are computed in training.
    pub fn set_block_compute(&mut self, compute: BlockCompute) {
        for block in self.visual.blocks.iter_mut().chain(&mut self.text.blocks) {
            block.compute = compute;
        }
    }

    /// `image`: `[batch, 3, image_size, image_size]`, normalised with CLIP's mean and deviation.
    pub fn encode_image(&self, image: Tensor<4>) -> ClipImageFeatures {
        let tokens = self.visual.forward(image);
        let pooled = self.visual.pooled(first_token(&tokens));
        ClipImageFeatures {
            tokens,
            embed: l2_normalize(pooled.clone()),
            pooled,
        }
    }

    /// The embeddings of [`Self::encode_image`] alone, `[batch, embed_dim]`.
    pub fn embed_image(&self, image: Tensor<4>) -> Tensor<2> {
        l2_normalize(self.visual.pooled(self.visual.forward_first(image)))
    }

    /// `input_ids`: `[batch, seq]`, at most `context_length` tokens; `attention_mask`: `[batch,
    /// seq]`, 1 for real tokens. Without a mask padding is read like any token, as OpenAI and
    /// open_clip do: it stands behind the end-of-text token, which the causal mask keeps from
    /// seeing it, so the embeddings are the same either way.
    pub fn encode_text(
        &self,
        input_ids: Tensor<2, Int>,
        attention_mask: Option<Tensor<2, Int>>,
    ) -> ClipTextFeatures {
        let ends = self.text.end_positions(&input_ids, attention_mask.as_ref());
        let tokens = self.text.forward(input_ids, attention_mask);
        let [batch, seq, width] = tokens.dims();
        let starts =
            Tensor::<1, Int>::arange(0..batch as i64, &tokens.device()).mul_scalar(seq as i64);
        let pooled = tokens
            .clone()
            .reshape([batch * seq, width])
            .select(0, starts + ends)
            .matmul(self.text.proj.val());
        ClipTextFeatures {
            tokens,
            embed: l2_normalize(pooled.clone()),
            pooled,
        }
    }

    /// The factor on cosines, `exp(logit_scale)`, `[1]`.
    pub fn scale(&self) -> Tensor<1> {
        self.logit_scale.val().exp()
    }

    /// Scaled cosines of unit rows: `[images, embed_dim]` against `[texts, embed_dim]` gives
    /// `[images, texts]`.
    pub fn logits(&self, image_embed: Tensor<2>, text_embed: Tensor<2>) -> Tensor<2> {
        image_embed.matmul(text_embed.transpose()) * self.scale().unsqueeze::<2>()
    }
}

/// Image tower: a Vision Transformer with a norm before the first block.
#[derive(Module, Debug)]
pub struct ClipVision {
    /// Image to patch tokens, without bias.
    pub patch_embed: PatchEmbed,
    /// CLS, `[width]`.
    pub class_embedding: Param<Tensor<1>>,
    /// `[1 + patches, width]`.
    pub positional_embedding: Param<Tensor<2>>,
    /// Before the first block.
    pub ln_pre: LayerNorm,
    /// The blocks, in order.
    pub blocks: Vec<ClipBlock>,
    /// Over CLS, before the projection.
    pub ln_post: LayerNorm,
    /// `[width, embed_dim]`.
    pub proj: Param<Tensor<2>>,
}

impl ClipVision {
    /// `image`: `[batch, 3, image_size, image_size]`; returns all tokens after the last block,
    /// `[batch, 1 + patches, width]`, CLS first.
    pub fn forward(&self, image: Tensor<4>) -> Tensor<3> {
        let mut x = self.embed(image);
        for block in &self.blocks {
            x = block.forward(x, None);
        }
        x
    }

    /// The first row of [`Self::forward`] of each image, `[batch, width]`, without what the last
    /// block computes for the others.
    pub fn forward_first(&self, image: Tensor<4>) -> Tensor<2> {
        let mut x = self.embed(image);
        let Some((last, others)) = self.blocks.split_last() else {
            return first_token(&x);
        };
        for block in others {
            x = block.forward(x, None);
        }
        last.forward_first(x)
    }

    /// Patch tokens with CLS in front, positions added and normalised, `[batch, 1 + patches,
    /// width]`.
    fn embed(&self, image: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embed.forward(image);
        let [batch, _, width] = patches.dims();
        let cls = self.class_embedding.val().reshape([1, 1, width]);
        let x = Tensor::cat(vec![cls.expand([batch, 1, width]), patches], 1);
        let x = x + self.positional_embedding.val().unsqueeze_dim(0);
        self.ln_pre.forward(x)
    }

    /// CLS after the last block, `[batch, width]`, to `[batch, embed_dim]`.
    fn pooled(&self, first: Tensor<2>) -> Tensor<2> {
        self.ln_post.forward(first).matmul(self.proj.val())
    }
}

/// Text tower: a causal transformer.
#[derive(Module, Debug)]
pub struct ClipText {
    /// `[vocab_size, width]`.
    pub token_embedding: Embedding,
    /// `[context_length, width]`.
    pub positional_embedding: Param<Tensor<2>>,
    /// The blocks, in order.
    pub blocks: Vec<ClipBlock>,
    /// Over all tokens, after the last block.
    pub ln_final: LayerNorm,
    /// `[width, embed_dim]`.
    pub proj: Param<Tensor<2>>,
    #[module(skip)]
    end_of_text: EndOfText,
}

impl ClipText {
    /// Arguments as for [`Clip::encode_text`]; returns all tokens after the final norm, `[batch,
    /// seq, width]`.
    pub fn forward(
        &self,
        input_ids: Tensor<2, Int>,
        attention_mask: Option<Tensor<2, Int>>,
    ) -> Tensor<3> {
        let [batch, seq] = input_ids.dims();
        let device = input_ids.device();
        let mask = causal_mask(
            attention_mask.unwrap_or_else(|| Tensor::<2, Int>::ones([batch, seq], &device)),
        );
        let positions = self.positional_embedding.val().narrow(0, 0, seq);
        let mut x = self.token_embedding.forward(input_ids) + positions.unsqueeze_dim::<3>(0);
        for block in &self.blocks {
            x = block.forward(x, Some(mask.clone()));
        }
        self.ln_final.forward(x)
    }

    /// Place of the token that stands for each text; `[batch, seq]` ids to `[batch]`.
    fn end_positions(
        &self,
        input_ids: &Tensor<2, Int>,
        attention_mask: Option<&Tensor<2, Int>>,
    ) -> Tensor<1, Int> {
        let [batch, seq] = input_ids.dims();
        let is_end = match self.end_of_text {
            EndOfText::Last => {
                let lengths = attention_mask.map(|mask| mask.clone().sum_dim(1).squeeze_dim(1));
                let all = || Tensor::full([batch], seq as i64, &input_ids.device());
                return lengths.unwrap_or_else(all).sub_scalar(1);
            }
            EndOfText::Id(id) => input_ids.clone().equal_elem(id),
            EndOfText::ArgMax => {
                let largest = input_ids.clone().max_dim(1).expand([batch, seq]);
                input_ids.clone().equal(largest)
            }
        };
        // Counting tokens from the end, the first end token has the largest count; a text without
        // one has count 0 and, by the remainder, position 0.
        let length = seq as i64;
        let from_end = Tensor::<1, Int>::arange(0..length, &input_ids.device())
            .neg()
            .add_scalar(length);
        (is_end.int() * from_end.unsqueeze::<2>())
            .max_dim(1)
            .squeeze_dim::<1>(1)
            .neg()
            .add_scalar(length)
            .remainder_scalar(length)
    }
}

/// A pre-norm transformer block.
#[derive(Module, Debug)]
pub struct ClipBlock {
    /// Before attention.
    pub ln_1: LayerNorm,
    /// Self-attention.
    pub attn: ClipAttention,
    /// Before the MLP.
    pub ln_2: LayerNorm,
    /// Two linear layers with the activation between.
    pub mlp: ClipMlp,
    #[module(skip)]
    compute: BlockCompute,
}

impl ClipBlock {
    fn new(
        width: usize,
        heads: usize,
        mlp_width: usize,
        activation: Activation,
        device: &Device,
    ) -> Self {
        Self {
            ln_1: LayerNorm::new(width, EPSILON, device),
            attn: ClipAttention {
                qkv: linear(width, 3 * width, device),
                out_proj: linear(width, width, device),
                heads,
            },
            ln_2: LayerNorm::new(width, EPSILON, device),
            mlp: ClipMlp {
                c_fc: linear(width, mlp_width, device),
                c_proj: linear(mlp_width, width, device),
                activation,
            },
            compute: BlockCompute::default(),
        }
    }

    /// `x`: `[batch, seq, width]`, `mask`: additive, `[batch, seq, seq]`; same shape out.
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<3> {
        let mask = mask.map(Tensor::inner);
        self.compute.run(self, &[x], move |block, x| {
            block.apply(x[0].clone(), mask.clone())
        })
    }

    fn apply(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x), mask);
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }
}

impl ClipBlock {
    /// The first token of [`Self::forward`] without a mask: `[batch, seq, width]` to `[batch,
    /// width]`.
    pub fn forward_first(&self, x: Tensor<3>) -> Tensor<2> {
        let attn = &self.attn;
        let attended = attend_first(&attn.qkv, self.ln_1.forward(x.clone()), attn.heads);
        let x = first_token(&x) + attn.out_proj.forward(attended);
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }
}

/// Self-attention with one projection for queries, keys and values.
#[derive(Module, Debug)]
pub struct ClipAttention {
    /// `width -> 3 * width`: queries, keys, values.
    pub qkv: Linear,
    /// `width -> width`.
    pub out_proj: Linear,
    heads: usize,
}

impl ClipAttention {
    /// `x`: `[batch, seq, width]`, `mask`: additive, `[batch, seq, seq]`; same shape out.
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<3>>) -> Tensor<3> {
        let width = x.dims()[2];
        let qkv = self.qkv.forward(x);
        let context = match mask {
            None => attention_qkv(qkv, self.heads),
            Some(mask) => {
                let part = |i: usize| qkv.clone().narrow(2, i * width, width);
                attention(part(0), part(1), part(2), Some(mask), self.heads)
            }
        };
        self.out_proj.forward(context)
    }
}

/// `c_proj(activation(c_fc(x)))`.
#[derive(Module, Debug)]
pub struct ClipMlp {
    /// `width -> mlp_width`.
    pub c_fc: Linear,
    /// `mlp_width -> width`.
    pub c_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl ClipMlp {
    /// `x`: `[.., width]`; same shape out.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.activation {
            Activation::Gelu => mlp(&self.c_fc, &self.c_proj, x),
            Activation::QuickGelu => {
                let x = self.c_fc.forward(x);
                let hidden = x.clone() * activation::sigmoid(x.mul_scalar(1.702));
                self.c_proj.forward(hidden)
            }
        }
    }
}

impl System for Clip {
    fn encode_images(&self, image: Tensor<4>) -> EncodedImages {
        let features = self.encode_image(image);
        EncodedImages {
            tokens: features.tokens,
            embed: Some(features.embed),
        }
    }

    fn embed_images(&self, image: Tensor<4>) -> Option<Tensor<2>> {
        Some(self.embed_image(image))
    }

    fn encode_texts(&self, input_ids: Tensor<1, Int>, packing: &Packing) -> EncodedTexts {
        let (input_ids, attention_mask) = packing.pad_ids(input_ids);
        let features = self.encode_text(input_ids, Some(attention_mask));
        EncodedTexts {
            tokens: packing.pack_rows(features.tokens),
            packing: packing.clone(),
            embed: Some(features.embed),
        }
    }

    fn embed_dim(&self) -> Option<usize> {
        Some(self.text.proj.dims()[1])
    }

    fn logit_scale(&self) -> f32 {
        self.scale().into_scalar()
    }

    fn matching(&self) -> Option<&dyn Matching> {
        None
    }

    fn masked_words(&self) -> Option<&dyn MaskedWords> {
        None
    }
}
