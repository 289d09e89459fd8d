//! LayerNorm over the last dimension.

use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor};
use burn_flex::FlexTensor;
use multiversion::multiversion;
use multiversion::target::match_target;
use rayon::prelude::*;

use crate::flex::{elements, filled, from_vec};
use crate::product::ROWS_PER_TASK;
use crate::vector::{self, LANES};

/// `(x - mean) / sqrt(var + epsilon) * gamma + beta`, mean and (biased) variance over the last
/// dimension.
///
/// `x`: `[.., n]`, `gamma`, `beta`: `[n]`; returns `[.., n]`. On the CPU one pass, on other
/// devices [`layer_norm_plain`].
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    if !crate::is_fused(&x) {
        return layer_norm_plain(x, gamma, beta, epsilon);
    }
    Tensor::from_dispatch(<Dispatch as FusedLayerNorm>::fused_layer_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon,
    ))
}

/// The same from Burn's own operators: the reference, and the fallback on other devices. Rows of
/// fewer bits are computed in float32.
pub fn layer_norm_plain<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let dtype = x.dtype();
    let [gamma, beta] = [gamma, beta].map(|x| x.cast(FloatDType::F32).unsqueeze());
    let x = x.cast(FloatDType::F32);
    let mean = x.clone().mean_dim(D - 1);
    let centred = x - mean;
    let variance = centred.clone().square().mean_dim(D - 1);
    (centred / (variance + epsilon).sqrt() * gamma + beta).cast(dtype)
}

/// What the forward pass leaves for the backward one.
pub struct LayerNormForward<B: Backend> {
    /// `[.., n]`.
    pub output: FloatTensor<B>,
    /// Mean and reciprocal standard deviation of each row, `[rows, 2]`.
    pub statistics: FloatTensor<B>,
}

/// Gradients of the operator's inputs.
pub struct LayerNormGrads<B: Backend> {
    /// `[.., n]`.
    pub x: FloatTensor<B>,
    /// `[n]`.
    pub gamma: FloatTensor<B>,
    /// `[n]`.
    pub beta: FloatTensor<B>,
}

/// The operator as a backend extension.
#[backend_extension(Flex, Autodiff)]
pub trait FusedLayerNorm: Backend {
    /// See [`layer_norm`].
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
}

/// The passes that training needs; the `Autodiff` operator is built on them.
pub trait LayerNormKernel: FusedLayerNorm {
    /// Forward that keeps each row's statistics.
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> LayerNormForward<Self>;
    /// Backward from the input, its statistics and the output's gradient.
    fn layer_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> LayerNormGrads<Self>;
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn forward_row(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    out: &mut [MaybeUninit<f32>],
) -> [f32; 2] {
    match_target! {
        "x86_64+avx2+fma" => forward::<true>(x, gamma, beta, epsilon, out),
        "aarch64+neon" => forward::<true>(x, gamma, beta, epsilon, out),
        _ => forward::<false>(x, gamma, beta, epsilon, out),
    }
}

#[inline(always)]
fn forward<const FMA: bool>(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    out: &mut [MaybeUninit<f32>],
) -> [f32; 2] {
    let n = x.len() as f32;
    let mean = vector::sum_slice(x) / n;
    let variance = vector::squares_around::<FMA>(mean, x) / n;
    let rstd = 1.0 / (variance + epsilon).sqrt();
    for (((o, x), g), b) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
        o.write(vector::multiply_add::<FMA>((x - mean) * rstd, *g, *b));
    }
    [mean, rstd]
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
#[allow(clippy::too_many_arguments)] // one call site; a struct would be built per row
fn backward_row(
    x: &[f32],
    gamma: &[f32],
    statistics: [f32; 2],
    grad: &[f32],
    dx: &mut [MaybeUninit<f32>],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    match_target! {
        "x86_64+avx2+fma" => backward::<true>(x, gamma, statistics, grad, dx, dgamma, dbeta),
        "aarch64+neon" => backward::<true>(x, gamma, statistics, grad, dx, dgamma, dbeta),
        _ => backward::<false>(x, gamma, statistics, grad, dx, dgamma, dbeta),
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)] // as above
fn backward<const FMA: bool>(
    x: &[f32],
    gamma: &[f32],
    [mean, rstd]: [f32; 2],
    grad: &[f32],
    dx: &mut [MaybeUninit<f32>],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let n = x.len();
    let (gamma, grad, dx) = (&gamma[..n], &grad[..n], &mut dx[..n]);
    let (dgamma, dbeta) = (&mut dgamma[..n], &mut dbeta[..n]);
    let (mut sums, mut weighted) = ([0.0f32; LANES], [0.0f32; LANES]);
    let mut add = |i: usize, lane: usize| {
        let normalised = (x[i] - mean) * rstd;
        let g = grad[i] * gamma[i];
        dgamma[i] = vector::multiply_add::<FMA>(grad[i], normalised, dgamma[i]);
        dbeta[i] += grad[i];
        sums[lane] += g;
        weighted[lane] = vector::multiply_add::<FMA>(g, normalised, weighted[lane]);
    };
    let whole = n - n % LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            add(start + lane, lane);
        }
    }
    for i in whole..n {
        add(i, i - whole);
    }
    let mean_g = sums.iter().sum::<f32>() / n as f32;
    let mean_gx = weighted.iter().sum::<f32>() / n as f32;
    for i in 0..n {
        let normalised = (x[i] - mean) * rstd;
        let around = vector::multiply_add::<FMA>(normalised, -mean_gx, grad[i] * gamma[i] - mean_g);
        dx[i].write(rstd * around);
    }
}

impl FusedLayerNorm for Flex {
    fn fused_layer_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        Self::layer_norm_forward(x, gamma, beta, epsilon).output
    }
}

impl LayerNormKernel for Flex {
    fn layer_norm_forward(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f64,
    ) -> LayerNormForward<Flex> {
        let shape = x.shape();
        let n = shape[shape.num_dims() - 1];
        let rows = shape.num_elements() / n.max(1);
        let (x, gamma, beta) = (
            x.to_contiguous(),
            gamma.to_contiguous(),
            beta.to_contiguous(),
        );
        let (x, gamma, beta) = (elements(&x), elements(&gamma), elements(&beta));
        let mut statistics = vec![0.0; rows * 2];
        let parts = x
            .par_chunks(ROWS_PER_TASK * n)
            .zip(statistics.par_chunks_mut(ROWS_PER_TASK * 2));
        // SAFETY: all are cut into the same rows, and `forward` writes each.
        let output = unsafe {
            filled(x.len(), |output| {
                parts
                    .zip(output.par_chunks_mut(ROWS_PER_TASK * n))
                    .for_each(|((x, statistics), out)| {
                        let rows = x.chunks(n).zip(statistics.as_chunks_mut().0);
                        for ((x, statistics), out) in rows.zip(out.chunks_mut(n)) {
                            *statistics = forward_row(x, gamma, beta, epsilon as f32, out);
                        }
                    });
            })
        };
        LayerNormForward {
            output: from_vec(output, shape),
            statistics: from_vec(statistics, Shape::new([rows, 2])),
        }
    }

    fn layer_norm_backward(
        x: FlexTensor,
        gamma: FlexTensor,
        statistics: FlexTensor,
        grad: FlexTensor,
    ) -> LayerNormGrads<Flex> {
        let shape = x.shape();
        let n = shape[shape.num_dims() - 1];
        let (x, gamma, statistics, grad) = (
            x.to_contiguous(),
            gamma.to_contiguous(),
            statistics.to_contiguous(),
            grad.to_contiguous(),
        );
        let (x, gamma, grad) = (elements(&x), elements(&gamma), elements(&grad));
        let mut parts: Vec<(Vec<f32>, Vec<f32>)> = Vec::new();
        let rows = x
            .par_chunks(ROWS_PER_TASK * n)
            .zip(grad.par_chunks(ROWS_PER_TASK * n))
            .zip(elements(&statistics).par_chunks(ROWS_PER_TASK * 2));
        // SAFETY: all are cut into the same rows, and `backward` writes each.
        let dx = unsafe {
            filled(x.len(), |dx| {
                rows.zip(dx.par_chunks_mut(ROWS_PER_TASK * n))
                    .map(|(((x, grad), statistics), dx)| {
                        let (mut dgamma, mut dbeta) = (vec![0.0; n], vec![0.0; n]);
                        let rows = x.chunks(n).zip(grad.chunks(n)).zip(dx.chunks_mut(n));
                        for (((x, grad), dx), of_row) in rows.zip(statistics.as_chunks().0) {
                            backward_row(x, gamma, *of_row, grad, dx, &mut dgamma, &mut dbeta);
                        }
                        (dgamma, dbeta)
                    })
                    .collect_into_vec(&mut parts);
            })
        };
        let (dgamma, dbeta): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        LayerNormGrads {
            x: from_vec(dx, shape),
            gamma: from_vec(vector::add_up(dgamma, n), Shape::new([n])),
            beta: from_vec(vector::add_up(dbeta, n), Shape::new([n])),
        }
    }
}

impl<B: LayerNormKernel, C: CheckpointStrategy> FusedLayerNorm for Autodiff<B, C> {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LayerNormNode;
        impl<B: LayerNormKernel> Backward<B, 3> for LayerNormNode {
            /// Input, gamma, statistics.
            type State = (
                B::FloatTensorPrimitive,
                B::FloatTensorPrimitive,
                B::FloatTensorPrimitive,
            );

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [x_node, gamma_node, beta_node] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let (x, gamma, statistics) = ops.state;
                let found = B::layer_norm_backward(x, gamma, statistics, grad);
                if let Some(node) = x_node {
                    grads.register::<B>(node.id, found.x);
                }
                if let Some(node) = gamma_node {
                    grads.register::<B>(node.id, found.gamma);
                }
                if let Some(node) = beta_node {
                    grads.register::<B>(node.id, found.beta);
                }
            }
        }
        match LayerNormNode
            .prepare::<C>([x.node(), gamma.node(), beta.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
                let forward =
                    B::layer_norm_forward(x.clone(), gamma.clone(), beta.into_primitive(), epsilon);
                prep.finish((x, gamma, forward.statistics), forward.output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_layer_norm(
                x.into_primitive(),
                gamma.into_primitive(),
                beta.into_primitive(),
                epsilon,
            )),
        }
    }
}
