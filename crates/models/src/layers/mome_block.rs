//! VLMo's Mixture-of-Modality-Experts block (`modules/multiway_transformer.py`; VLMo section 3.2):
//! one pre-norm self-attention that every modality shares, then an MLP of the modality's own, the
//! expert.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor};
use fitup_kernels::attention::{attention, attention_biased};

use super::block_compute::BlockCompute;
use super::dropout::DropoutSeed;
use super::vision_transformer::Mlp;
use super::{LayerNorm, Linear, linear, linear_without_bias};

/// Epsilon of every LayerNorm of the transformer.
pub const LAYER_NORM_EPS: f64 = 1e-6;

/// Initial value of LayerScale's factors.
const LAYER_SCALE: f64 = 0.1;

/// What a sequence holds, which chooses its expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// Text tokens alone: the text expert.
    Text,
    /// Image tokens alone: the image expert.
    Image,
    /// The vision-language expert where the block has one; else the first `text` tokens go to the
    /// text expert, the others to the image expert.
    Fused {
        /// Text tokens at the beginning of the sequence.
        text: usize,
    },
}

/// Sizes of one block.
#[derive(Clone, Debug, PartialEq)]
pub struct MomeBlockConfig {
    /// Width of a token; a multiple of `heads`.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the hidden layer of an expert, as a multiple of `width`.
    pub mlp_ratio: usize,
    /// Whether each residual branch is multiplied by learned factors, one per channel.
    pub layer_scale: bool,
    /// Whether the block has a vision-language expert.
    pub vl_expert: bool,
    /// Probability that a residual branch is left out for a sample, `[0, 1)`.
    pub drop_path: f64,
}

impl MomeBlockConfig {
    /// The block with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> MomeBlock {
        let norm = || LayerNorm::new(self.width, LAYER_NORM_EPS, device);
        let hidden = self.mlp_ratio * self.width;
        let mlp = || Mlp {
            fc1: linear(self.width, hidden, device),
            fc2: linear(hidden, self.width, device),
        };
        let constant = Initializer::Constant { value: LAYER_SCALE };
        let gamma = || {
            self.layer_scale
                .then(|| constant.init([self.width], device))
        };
        MomeBlock {
            norm1: norm(),
            attn: BiasedAttention {
                qkv: linear_without_bias(self.width, 3 * self.width, device),
                q_bias: Initializer::Zeros.init([self.width], device),
                v_bias: Initializer::Zeros.init([self.width], device),
                proj: linear(self.width, self.width, device),
                heads: self.heads,
            },
            gamma_1: gamma(),
            norm2_text: norm(),
            mlp_text: mlp(),
            norm2_imag: norm(),
            mlp_imag: mlp(),
            norm2_vl: self.vl_expert.then(norm),
            mlp_vl: self.vl_expert.then(mlp),
            gamma_2: gamma(),
            drop_path: self.drop_path,
            compute: BlockCompute::default(),
        }
    }
}

/// A block; field names follow the official state dict.
#[derive(Module, Debug)]
pub struct MomeBlock {
    /// Before attention.
    pub norm1: LayerNorm,
    /// Shared by all modalities.
    pub attn: BiasedAttention,
    /// LayerScale of the attention branch, `[width]`.
    pub gamma_1: Option<Param<Tensor<1>>>,
    /// Before the text expert.
    pub norm2_text: LayerNorm,
    /// Text expert.
    pub mlp_text: Mlp,
    /// Before the image expert.
    pub norm2_imag: LayerNorm,
    /// Image expert.
    pub mlp_imag: Mlp,
    /// Before the vision-language expert; in the upper blocks only.
    pub norm2_vl: Option<LayerNorm>,
    /// Vision-language expert; in the upper blocks only.
    pub mlp_vl: Option<Mlp>,
    /// LayerScale of the expert's branch, `[width]`.
    pub gamma_2: Option<Param<Tensor<1>>>,
    drop_path: f64,
    #[module(skip)]
    pub(crate) compute: BlockCompute,
}

impl MomeBlock {
    /// `x`: `[batch, tokens, width]`; `mask`: see [`key_mask`]; `bias`: `[heads, tokens, tokens]`,
    /// added to the attention scores, with gradient; `drop_path`: absent in inference. Same shape
    /// as `x` out.
    pub fn forward(
        &self,
        x: Tensor<3>,
        modality: Modality,
        mask: Option<&Tensor<3>>,
        bias: Option<&Tensor<3>>,
        drop_path: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let inputs: Vec<_> = std::iter::once(x).chain(bias.cloned()).collect();
        let mask = mask.map(|mask| mask.clone().inner());
        self.compute.run(self, &inputs, move |block, inputs| {
            let (x, bias) = (inputs[0].clone(), inputs.get(1));
            block.apply(x, modality, mask.as_ref(), bias, drop_path)
        })
    }

    fn apply(
        &self,
        x: Tensor<3>,
        modality: Modality,
        mask: Option<&Tensor<3>>,
        bias: Option<&Tensor<3>>,
        drop_path: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let attended = self.attn.forward(self.norm1.forward(x.clone()), mask, bias);
        let x = x + self.branch(attended, &self.gamma_1, drop_path.map(|d| d.at(0)));
        let text = |x, place| self.expert(x, &self.norm2_text, &self.mlp_text, place);
        let image = |x, place| self.expert(x, &self.norm2_imag, &self.mlp_imag, place);
        let (first, second) = (drop_path.map(|d| d.at(1)), drop_path.map(|d| d.at(2)));
        let tokens = x.dims()[1];
        match (modality, &self.norm2_vl, &self.mlp_vl) {
            (Modality::Text, ..) => text(x, first),
            (Modality::Image, ..) => image(x, first),
            (Modality::Fused { .. }, Some(norm), Some(mlp)) => self.expert(x, norm, mlp, first),
            (Modality::Fused { text: 0 }, ..) => image(x, first),
            (Modality::Fused { text: length }, ..) if length == tokens => text(x, first),
            (Modality::Fused { text: length }, ..) => {
                let texts = x.clone().narrow(1, 0, length);
                let images = x.narrow(1, length, tokens - length);
                Tensor::cat(vec![text(texts, first), image(images, second)], 1)
            }
        }
    }

    /// `x + gamma_2 * mlp(norm(x))`, `x`: `[batch, tokens, width]`.
    fn expert(
        &self,
        x: Tensor<3>,
        norm: &LayerNorm,
        mlp: &Mlp,
        drop_path: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let hidden = mlp.forward(norm.forward(x.clone()));
        x + self.branch(hidden, &self.gamma_2, drop_path)
    }

    /// What a residual branch adds: scaled per channel, and left out for whole samples.
    fn branch(
        &self,
        x: Tensor<3>,
        gamma: &Option<Param<Tensor<1>>>,
        drop_path: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let x = match gamma {
            Some(gamma) => x * gamma.val().unsqueeze(),
            None => x,
        };
        match drop_path {
            Some(seed) if self.drop_path > 0.0 => {
                let samples = Tensor::<3>::ones([x.dims()[0], 1, 1], &x.device());
                let factors = seed.apply(samples, self.drop_path).cast(x.dtype());
                x * factors
            }
            _ => x,
        }
    }
}

/// Self-attention whose keys have no bias and whose scores may have one per pair of positions.
#[derive(Module, Debug)]
pub struct BiasedAttention {
    /// `width -> 3 * width`, no bias: queries, keys, values.
    pub qkv: Linear,
    /// Added to the queries, `[width]`.
    pub q_bias: Param<Tensor<1>>,
    /// Added to the values, `[width]`.
    pub v_bias: Param<Tensor<1>>,
    /// `width -> width`.
    pub proj: Linear,
    heads: usize,
}

impl BiasedAttention {
    /// Arguments as for [`MomeBlock::forward`].
    fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<&Tensor<3>>,
        bias: Option<&Tensor<3>>,
    ) -> Tensor<3> {
        let width = x.dims()[2];
        let qkv = self.qkv.forward(x);
        let part = |i: usize| qkv.clone().narrow(2, i * width, width);
        let q = part(0) + self.q_bias.val().unsqueeze();
        let v = part(2) + self.v_bias.val().unsqueeze();
        let context = match bias {
            None => attention(q, part(1), v, mask.cloned(), self.heads),
            Some(bias) => attention_biased(q, part(1), v, bias.clone(), mask.cloned(), self.heads),
        };
        self.proj.forward(context)
    }
}

/// Additive attention mask: 0 for real tokens, minus infinity for padding, as the original fills.
///
/// `attention_mask`: `[batch, seq]` of 0 and 1, with a 1 in every row; returns `[batch, 1, seq]`.
pub fn key_mask(attention_mask: Tensor<2, Int>) -> Tensor<3> {
    let padding = attention_mask.equal_elem(0);
    let zeros = Tensor::<2>::zeros(padding.shape(), &padding.device());
    zeros.mask_fill(padding, f32::NEG_INFINITY).unsqueeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::initialize;

    fn block(vl_expert: bool, drop_path: f64) -> MomeBlock {
        let config = MomeBlockConfig {
            width: 8,
            heads: 2,
            mlp_ratio: 2,
            layer_scale: true,
            vl_expert,
            drop_path,
        };
        initialize(config.init(&Device::flex()), 0.5, 1)
    }

    fn input() -> Tensor<3> {
        let values = Tensor::arange(0..2 * 5 * 8, &Device::flex()).float();
        values.reshape([2, 5, 8]).sin()
    }

    fn difference(a: Tensor<3>, b: Tensor<3>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn a_fused_sequence_of_one_modality_is_that_modality_below_the_vl_blocks() {
        let block = block(false, 0.0);
        let run = |modality| block.forward(input(), modality, None, None, None);
        let [text, image] = [Modality::Text, Modality::Image].map(run);
        assert_eq!(
            difference(run(Modality::Fused { text: 5 }), text.clone()),
            0.0
        );
        assert_eq!(
            difference(run(Modality::Fused { text: 0 }), image.clone()),
            0.0
        );
        assert!(difference(text, image) > 0.01);
    }

    #[test]
    fn the_cut_sends_each_part_to_its_expert() {
        let block = block(false, 0.0);
        let run = |modality| block.forward(input(), modality, None, None, None);
        let fused = run(Modality::Fused { text: 2 });
        let parts = vec![
            run(Modality::Text).narrow(1, 0, 2),
            run(Modality::Image).narrow(1, 2, 3),
        ];
        assert!(difference(fused, Tensor::cat(parts, 1)) < 1e-6);
    }

    #[test]
    fn the_vl_expert_takes_all() {
        let block = block(true, 0.0);
        let run = |text| block.forward(input(), Modality::Fused { text }, None, None, None);
        assert_eq!(difference(run(0), run(3)), 0.0);
    }

    #[test]
    fn padding_changes_nothing() {
        let device = Device::flex();
        let block = block(true, 0.0);
        let mask = Tensor::from_data([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]], &device);
        let mask = key_mask(mask);
        for bias in [None, Some(Tensor::<3>::zeros([2, 5, 5], &device))] {
            let padded = block.forward(input(), Modality::Text, Some(&mask), bias.as_ref(), None);
            let short = input().narrow(1, 0, 3);
            let alone = block.forward(short, Modality::Text, None, None, None);
            assert!(difference(padded.narrow(1, 0, 3), alone) < 1e-6);
        }
    }

    #[test]
    fn drop_path_leaves_out_whole_branches() {
        let block = block(true, 0.5);
        let mut seen = [false; 2];
        for seed in 0..16 {
            let seed = Some(DropoutSeed::new(seed));
            let out = block.forward(input(), Modality::Text, None, None, seed);
            for sample in 0..2 {
                let moved = difference(
                    out.clone().narrow(0, sample, 1),
                    input().narrow(0, sample, 1),
                );
                seen[usize::from(moved > 0.0)] = true;
            }
        }
        assert_eq!(seen, [true, true], "some samples untouched, some not");
    }
}
