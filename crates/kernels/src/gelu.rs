//! `gelu(h + bias)` with the exact (erf) GELU, as the originals use it.

use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor, activation};
use burn_flex::FlexTensor;
use multiversion::multiversion;
use multiversion::target::match_target;
use rayon::prelude::*;

use crate::flex::{elements, filled, from_vec, owned};
use crate::product::ROWS_PER_TASK;
use crate::vector;

/// `gelu(h + bias)`.
///
/// `h`: `[.., n]`, `bias`: `[n]`; returns `[.., n]`. On the CPU one pass, on other devices
/// [`bias_gelu_plain`].
pub fn bias_gelu<const D: usize>(h: Tensor<D>, bias: Tensor<1>) -> Tensor<D> {
    if !crate::is_fused(&h) {
        return bias_gelu_plain(h, bias);
    }
    Tensor::from_dispatch(<Dispatch as BiasGelu>::bias_gelu(
        h.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn bias_gelu_plain<const D: usize>(h: Tensor<D>, bias: Tensor<1>) -> Tensor<D> {
    activation::gelu(h + bias.unsqueeze())
}

/// What the forward pass leaves for the backward one.
pub struct BiasGeluForward<B: Backend> {
    /// `gelu(h + bias)`, `[.., n]`.
    pub output: FloatTensor<B>,
    /// `h + bias`, `[.., n]`.
    pub pre_activation: FloatTensor<B>,
}

/// Gradients of the operator's inputs.
pub struct BiasGeluGrads<B: Backend> {
    /// `[.., n]`.
    pub h: FloatTensor<B>,
    /// `[n]`.
    pub bias: FloatTensor<B>,
}

/// The operator as a backend extension.
#[backend_extension(Flex, Autodiff)]
pub trait BiasGelu: Backend {
    /// See [`bias_gelu`].
    fn bias_gelu(h: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The passes that training needs; the `Autodiff` operator is built on them.
pub trait BiasGeluKernel: BiasGelu {
    /// Forward that keeps the pre-activation.
    fn bias_gelu_forward(h: FloatTensor<Self>, bias: FloatTensor<Self>) -> BiasGeluForward<Self>;
    /// Backward from the pre-activation and the output's gradient.
    fn bias_gelu_backward(
        pre_activation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> BiasGeluGrads<Self>;
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn forward_row(h: &mut [f32], bias: &[f32], output: &mut [MaybeUninit<f32>]) {
    match_target! {
        "x86_64+avx2+fma" => forward::<true>(h, bias, output),
        "aarch64+neon" => forward::<true>(h, bias, output),
        _ => forward::<false>(h, bias, output),
    }
}

#[inline(always)]
fn forward<const FMA: bool>(h: &mut [f32], bias: &[f32], output: &mut [MaybeUninit<f32>]) {
    for ((h, b), o) in h.iter_mut().zip(bias).zip(output) {
        let x = *h + b;
        *h = x;
        o.write(x * vector::normal_cdf::<FMA>(x).0);
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn forward_row_in_place(h: &mut [f32], bias: &[f32]) {
    match_target! {
        "x86_64+avx2+fma" => forward_in_place::<true>(h, bias),
        "aarch64+neon" => forward_in_place::<true>(h, bias),
        _ => forward_in_place::<false>(h, bias),
    }
}

#[inline(always)]
fn forward_in_place<const FMA: bool>(h: &mut [f32], bias: &[f32]) {
    for (h, b) in h.iter_mut().zip(bias) {
        let x = *h + b;
        *h = x * vector::normal_cdf::<FMA>(x).0;
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn backward_row(pre_activation: &mut [f32], grad: &mut [f32], bias_grad: &mut [f32]) {
    match_target! {
        "x86_64+avx2+fma" => backward::<true>(pre_activation, grad, bias_grad),
        "aarch64+neon" => backward::<true>(pre_activation, grad, bias_grad),
        _ => backward::<false>(pre_activation, grad, bias_grad),
    }
}

#[inline(always)]
fn backward<const FMA: bool>(pre_activation: &mut [f32], grad: &mut [f32], bias_grad: &mut [f32]) {
    for ((g, x), a) in grad.iter_mut().zip(pre_activation).zip(bias_grad) {
        let (cdf, e) = vector::normal_cdf::<FMA>(*x);
        let d = *g * vector::multiply_add::<FMA>(*x * INV_SQRT_2PI, e, cdf);
        *g = d;
        *a += d;
        *x *= cdf;
    }
}

/// `1 / sqrt(2 pi)`.
const INV_SQRT_2PI: f32 = 0.398_942_3;

/// `gelu(h + bias)` in place of `h`, rows of the bias' length.
pub(crate) fn gelu_in_place(h: &mut [f32], bias: &[f32]) {
    h.par_chunks_mut(bias.len())
        .for_each(|row| forward_row_in_place(row, bias));
}

/// Adds the bias to the rows of `h` and returns the GELU of the sums.
pub(crate) fn gelu(h: &mut [f32], bias: &[f32]) -> Vec<f32> {
    let len = h.len();
    // SAFETY: both are cut at the same places, and `forward` writes each row.
    unsafe {
        filled(len, |output| {
            h.par_chunks_mut(bias.len())
                .zip(output.par_chunks_mut(bias.len()))
                .for_each(|(row, output)| forward_row(row, bias, output));
        })
    }
}

/// The output's gradient becomes that of `pre_activation`, in rows of `n`, and `pre_activation` the
/// output; returns the gradient of the bias.
pub(crate) fn gelu_backward(pre_activation: &mut [f32], grad: &mut [f32], n: usize) -> Vec<f32> {
    let rows = grad
        .par_chunks_mut(ROWS_PER_TASK * n)
        .zip(pre_activation.par_chunks_mut(ROWS_PER_TASK * n));
    let parts = rows.map(|(grad, pre_activation)| {
        let mut sum = vec![0.0; n];
        for (g, x) in grad.chunks_mut(n).zip(pre_activation.chunks_mut(n)) {
            backward_row(x, g, &mut sum);
        }
        sum
    });
    vector::add_up(parts.collect(), n)
}

impl BiasGelu for Flex {
    fn bias_gelu(h: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let bias = bias.to_contiguous();
        let bias = elements(&bias);
        let mut h = owned(h);
        gelu_in_place(h.storage_mut::<f32>(), bias);
        h
    }
}

impl BiasGeluKernel for Flex {
    fn bias_gelu_forward(h: FlexTensor, bias: FlexTensor) -> BiasGeluForward<Flex> {
        let bias = bias.to_contiguous();
        let bias = elements(&bias);
        let mut h = owned(h);
        let output = gelu(h.storage_mut::<f32>(), bias);
        BiasGeluForward {
            output: from_vec(output, h.shape()),
            pre_activation: h,
        }
    }

    fn bias_gelu_backward(pre_activation: FlexTensor, grad: FlexTensor) -> BiasGeluGrads<Flex> {
        let shape = pre_activation.shape();
        let n = shape[shape.num_dims() - 1];
        let (mut pre_activation, mut grad) = (owned(pre_activation), owned(grad));
        let bias = gelu_backward(
            pre_activation.storage_mut::<f32>(),
            grad.storage_mut::<f32>(),
            n,
        );
        BiasGeluGrads {
            h: grad,
            bias: from_vec(bias, Shape::new([n])),
        }
    }
}

impl<B: BiasGeluKernel, C: CheckpointStrategy> BiasGelu for Autodiff<B, C> {
    fn bias_gelu(h: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct BiasGeluNode;
        impl<B: BiasGeluKernel> Backward<B, 2> for BiasGeluNode {
            type State = B::FloatTensorPrimitive;

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [h, bias] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let found = B::bias_gelu_backward(ops.state, grad);
                if let Some(node) = bias {
                    grads.register::<B>(node.id, found.bias);
                }
                if let Some(node) = h {
                    grads.register::<B>(node.id, found.h);
                }
            }
        }
        match BiasGeluNode
            .prepare::<C>([h.node(), bias.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let forward = B::bias_gelu_forward(h.into_primitive(), bias.into_primitive());
                prep.finish(forward.pre_activation, forward.output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::bias_gelu(h.into_primitive(), bias.into_primitive()))
            }
        }
    }
}
