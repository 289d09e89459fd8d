//! The parts that systems are built of.

pub mod bert;
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

/// Divides the rows of `x`, `[rows, width]`, by their Euclidean norm (at least 1e-12, as
/// `torch.nn.functional.normalize`).
pub fn l2_normalize(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}
