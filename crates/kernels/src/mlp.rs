//! The two linear layers of a transformer block with GELU between, as one operator that keeps the
//! input and the pre-activation alone: the hidden layer, four times as wide as the block, is
//! computed again in the backward pass, beside the derivative that needs the same exponential.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};
use burn_flex::FlexTensor;

use crate::flex::{elements, from_vec, leading, owned, with_last};
use crate::gelu::{bias_gelu_plain, gelu, gelu_backward, gelu_in_place};
use crate::linear::linear_plain;
use crate::product::{Matrix, column_sums, product};

/// Weight `[input, output]` and bias `[output]` of a linear layer.
#[derive(Clone, Debug)]
pub struct LinearParts {
    /// `[input, output]`.
    pub weight: Tensor<2>,
    /// `[output]`.
    pub bias: Tensor<1>,
}

/// `gelu(x fc1.weight + fc1.bias) fc2.weight + fc2.bias`.
///
/// `x`: `[.., input]`, `fc1`: `input -> hidden`, `fc2`: `hidden -> output`; returns `[.., output]`.
/// On the CPU fused, on other devices [`mlp_plain`].
pub fn mlp<const D: usize>(x: Tensor<D>, fc1: LinearParts, fc2: LinearParts) -> Tensor<D> {
    if !crate::is_fused(&x) {
        return mlp_plain(x, fc1, fc2);
    }
    Tensor::from_dispatch(<Dispatch as FusedMlp>::fused_mlp(
        x.into_dispatch(),
        fc1.weight.into_dispatch(),
        fc1.bias.into_dispatch(),
        fc2.weight.into_dispatch(),
        fc2.bias.into_dispatch(),
    ))
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn mlp_plain<const D: usize>(x: Tensor<D>, fc1: LinearParts, fc2: LinearParts) -> Tensor<D> {
    let hidden = bias_gelu_plain(linear_plain(x, fc1.weight, None), fc1.bias);
    linear_plain(hidden, fc2.weight, Some(fc2.bias))
}

/// What the forward pass leaves for the backward one.
pub struct MlpForward<B: Backend> {
    /// `[.., output]`.
    pub output: FloatTensor<B>,
    /// `x fc1.weight + fc1.bias`, `[.., hidden]`.
    pub pre_activation: FloatTensor<B>,
}

/// Which inputs need a gradient: x, weight and bias of fc1, weight and bias of fc2.
type Needed = [bool; 5];

/// The operator as a backend extension.
#[backend_extension(Flex, Autodiff)]
pub trait FusedMlp: Backend {
    /// See [`mlp`].
    fn fused_mlp(
        x: FloatTensor<Self>,
        weight1: FloatTensor<Self>,
        bias1: FloatTensor<Self>,
        weight2: FloatTensor<Self>,
        bias2: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The passes that training needs; the `Autodiff` operator is built on them.
pub trait MlpKernel: FusedMlp {
    /// Forward that keeps the pre-activation.
    fn mlp_forward(
        x: FloatTensor<Self>,
        weights: [FloatTensor<Self>; 2],
        biases: [FloatTensor<Self>; 2],
    ) -> MlpForward<Self>;
    /// Gradients of x, weight and bias of fc1, weight and bias of fc2; those not `needed` may be absent.
    fn mlp_backward(
        x: FloatTensor<Self>,
        weights: [FloatTensor<Self>; 2],
        pre_activation: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needed: Needed,
    ) -> [Option<FloatTensor<Self>>; 5];
}

impl FusedMlp for Flex {
    fn fused_mlp(
        x: FlexTensor,
        weight1: FlexTensor,
        bias1: FlexTensor,
        weight2: FlexTensor,
        bias2: FlexTensor,
    ) -> FlexTensor {
        let [x, weight1, bias1, weight2, bias2] =
            [x, weight1, bias1, weight2, bias2].map(|t| t.to_contiguous());
        let (mut hidden, sizes) = first_product(&x, &weight1, &weight2);
        gelu_in_place(&mut hidden, elements(&bias1));
        let output = second_product(&hidden, &weight2, &bias2, sizes);
        from_vec(output, with_last(&x.shape(), sizes.output))
    }
}

/// Of one call.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    input: usize,
    hidden: usize,
    output: usize,
}

fn sizes(x: &FlexTensor, weight1: &FlexTensor, weight2: &FlexTensor) -> Sizes {
    let (rows, input) = leading(&x.shape());
    let [weight_input, hidden] = weight1.shape().dims();
    let [weight_hidden, output] = weight2.shape().dims();
    assert_eq!(input, weight_input, "width of x and of fc1");
    assert_eq!(hidden, weight_hidden, "width of fc1 and of fc2");
    Sizes {
        rows,
        input,
        hidden,
        output,
    }
}

fn first_product(x: &FlexTensor, weight1: &FlexTensor, weight2: &FlexTensor) -> (Vec<f32>, Sizes) {
    let sizes = sizes(x, weight1, weight2);
    let values = product(
        Matrix::new(elements(x), sizes.rows, sizes.input),
        Matrix::new(elements(weight1), sizes.input, sizes.hidden),
        &[],
    );
    (values, sizes)
}

fn second_product(
    hidden: &[f32],
    weight2: &FlexTensor,
    bias2: &FlexTensor,
    sizes: Sizes,
) -> Vec<f32> {
    product(
        Matrix::new(hidden, sizes.rows, sizes.hidden),
        Matrix::new(elements(weight2), sizes.hidden, sizes.output),
        elements(bias2),
    )
}

impl MlpKernel for Flex {
    fn mlp_forward(
        x: FlexTensor,
        weights: [FlexTensor; 2],
        biases: [FlexTensor; 2],
    ) -> MlpForward<Flex> {
        let x = x.to_contiguous();
        let [weight1, weight2] = weights.map(|t| t.to_contiguous());
        let [bias1, bias2] = biases.map(|t| t.to_contiguous());
        let (mut pre_activation, sizes) = first_product(&x, &weight1, &weight2);
        let hidden = gelu(&mut pre_activation, elements(&bias1));
        let output = second_product(&hidden, &weight2, &bias2, sizes);
        MlpForward {
            output: from_vec(output, with_last(&x.shape(), sizes.output)),
            pre_activation: from_vec(pre_activation, with_last(&x.shape(), sizes.hidden)),
        }
    }

    fn mlp_backward(
        x: FlexTensor,
        weights: [FlexTensor; 2],
        pre_activation: FlexTensor,
        grad: FlexTensor,
        [
            needs_x,
            needs_weight1,
            needs_bias1,
            needs_weight2,
            needs_bias2,
        ]: Needed,
    ) -> [Option<FlexTensor>; 5] {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let [weight1, weight2] = weights.map(|t| t.to_contiguous());
        let Sizes {
            rows,
            input,
            hidden,
            output,
        } = sizes(&x, &weight1, &weight2);
        let g = Matrix::new(elements(&grad), rows, output);

        let mut dhidden = product(
            g,
            Matrix::new(elements(&weight2), hidden, output).transposed(),
            &[],
        );
        let mut pre_activation = owned(pre_activation);
        let dbias1 = gelu_backward(pre_activation.storage_mut::<f32>(), &mut dhidden, hidden);
        let activation = Matrix::new(elements(&pre_activation), rows, hidden);
        let dh = Matrix::new(&dhidden, rows, hidden);
        let (dweight2, (dweight1, dx)) = rayon::join(
            || needs_weight2.then(|| product(activation.transposed(), g, &[])),
            || {
                rayon::join(
                    || {
                        let x = Matrix::new(elements(&x), rows, input).transposed();
                        needs_weight1.then(|| product(x, dh, &[]))
                    },
                    || {
                        let weight1 = Matrix::new(elements(&weight1), input, hidden).transposed();
                        needs_x.then(|| product(dh, weight1, &[]))
                    },
                )
            },
        );
        [
            dx.map(|values| from_vec(values, x.shape())),
            dweight1.map(|values| from_vec(values, weight1.shape())),
            needs_bias1.then(|| from_vec(dbias1, Shape::new([hidden]))),
            dweight2.map(|values| from_vec(values, weight2.shape())),
            needs_bias2
                .then(|| from_vec(column_sums(elements(&grad), output), Shape::new([output]))),
        ]
    }
}

impl<B: MlpKernel, C: CheckpointStrategy> FusedMlp for Autodiff<B, C> {
    fn fused_mlp(
        x: FloatTensor<Self>,
        weight1: FloatTensor<Self>,
        bias1: FloatTensor<Self>,
        weight2: FloatTensor<Self>,
        bias2: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MlpNode;
        impl<B: MlpKernel> Backward<B, 5> for MlpNode {
            /// x, weights, pre-activation.
            type State = (
                B::FloatTensorPrimitive,
                [B::FloatTensorPrimitive; 2],
                B::FloatTensorPrimitive,
            );

            fn backward(
                self,
                ops: Ops<Self::State, 5>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, weights, pre_activation) = ops.state;
                let needed = ops.parents.each_ref().map(Option::is_some);
                let found = B::mlp_backward(x, weights, pre_activation, grad, needed);
                for (node, gradient) in ops.parents.into_iter().zip(found) {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }
        let nodes = [&x, &weight1, &bias1, &weight2, &bias2].map(|t| t.node());
        let [x, weight1, bias1, weight2, bias2] =
            [x, weight1, bias1, weight2, bias2].map(|t| t.into_primitive());
        match MlpNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let weights = [weight1, weight2];
                let forward = B::mlp_forward(x.clone(), weights.clone(), [bias1, bias2]);
                prep.finish((x, weights, forward.pre_activation), forward.output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_mlp(x, weight1, bias1, weight2, bias2))
            }
        }
    }
}
