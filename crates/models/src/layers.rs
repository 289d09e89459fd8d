//! The parts that systems are built of.

pub mod bert;
pub mod block_compute;
pub mod class_head;
pub mod dropout;
pub mod mome_block;
pub mod packing;
pub mod patch_embed;
pub mod patch_selection;
pub mod position;
pub mod relative_position;
pub mod vision_transformer;

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};
use fitup_kernels::attention::attention;
use fitup_kernels::mlp::LinearParts;

/// LayerNorm over the last dimension, with the originals' parameter names.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[width]`.
    pub bias: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    /// Scale 1, shift 0.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([width], device),
            bias: Initializer::Zeros.init([width], device),
            epsilon,
        }
    }

    /// `x`: `[.., width]`; same shape out.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        fitup_kernels::layer_norm::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// A linear layer, `[.., input] -> [.., output]`, with the originals' parameter names.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[input, output]`; the official checkpoints hold its transpose.
    pub weight: Param<Tensor<2>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `x`: `[.., input]`; returns `[.., output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        fitup_kernels::linear::linear(x, self.weight.val(), bias)
    }
}

impl Linear {
    /// `width` columns of [`Self::forward`] from `start` on. `x`: `[.., input]`; returns `[..,
    /// width]`.
    fn forward_columns<const D: usize>(
        &self,
        x: Tensor<D>,
        start: usize,
        width: usize,
    ) -> Tensor<D> {
        let weight = self.weight.val().narrow(1, start, width);
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| bias.val().narrow(0, start, width));
        fitup_kernels::linear::linear(x, weight, bias)
    }
}

/// Self-attention of the first token alone. `x`: `[batch, tokens, width]`, `qkv`: `width -> 3
/// width`; returns `[batch, width]`.
pub(crate) fn attend_first(qkv: &Linear, x: Tensor<3>, heads: usize) -> Tensor<2> {
    let width = x.dims()[2];
    let q = qkv.forward_columns(x.clone().narrow(1, 0, 1), 0, width);
    let k = qkv.forward_columns(x.clone(), width, width);
    let v = qkv.forward_columns(x, 2 * width, width);
    attention(q, k, v, None, heads).squeeze_dim(1)
}

/// A linear layer, zero until weights are initialised or loaded.
pub(crate) fn linear(input: usize, output: usize, device: &Device) -> Linear {
    Linear {
        bias: Some(Initializer::Zeros.init([output], device)),
        ..linear_without_bias(input, output, device)
    }
}

/// As [`linear`], without a bias.
pub(crate) fn linear_without_bias(input: usize, output: usize, device: &Device) -> Linear {
    Linear {
        weight: Initializer::Zeros.init([input, output], device),
        bias: None,
    }
}

/// `gelu(linear(x))` in one pass after the product. `x`: `[.., input]`; returns `[.., output]`.
pub(crate) fn linear_gelu<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let product = fitup_kernels::linear::linear(x, layer.weight.val(), None);
    match &layer.bias {
        Some(bias) => fitup_kernels::gelu::bias_gelu(product, bias.val()),
        None => burn::tensor::activation::gelu(product),
    }
}

/// `fc2(gelu(fc1(x)))`; keeps no hidden layer for the backward pass. `x`: `[.., input]`; returns
/// `[.., output]`.
pub(crate) fn mlp<const D: usize>(fc1: &Linear, fc2: &Linear, x: Tensor<D>) -> Tensor<D> {
    let parts = |layer: &Linear| {
        let bias = layer.bias.as_ref()?.val();
        let weight = layer.weight.val();
        Some(LinearParts { weight, bias })
    };
    match (parts(fc1), parts(fc2)) {
        (Some(fc1), Some(fc2)) => fitup_kernels::mlp::mlp(x, fc1, fc2),
        _ => fc2.forward(linear_gelu(fc1, x)),
    }
}

/// The first rows of `[batch, seq, width]`: `[batch, width]`.
pub(crate) fn first_token(tokens: &Tensor<3>) -> Tensor<2> {
    tokens.clone().narrow(1, 0, 1).squeeze_dim(1)
}

/// Divides the rows of `x`, `[rows, width]`, by their Euclidean norm (at least 1e-12, as
/// `torch.nn.functional.normalize`).
pub fn l2_normalize(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}
