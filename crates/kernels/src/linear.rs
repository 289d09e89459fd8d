//! Linear layers as one matrix product each way.
//!
//! Burn's own composition multiplies a batch of matrices by the broadcast weight; its backward
//! pass then makes one weight gradient per batch entry and adds them up. Here leading dimensions
//! are rows: one product forward, one for each gradient.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};
use burn_flex::FlexTensor;

use crate::flex::{elements, from_vec, leading, with_last};
use crate::product::{Matrix, column_sums, product};

/// `x weight + bias`.
///
/// `x`: `[.., input]`, `weight`: `[input, output]`, `bias`: `[output]`; returns `[.., output]`. On
/// the CPU fused, on other devices [`linear_plain`].
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if !crate::is_fused(&x) {
        return linear_plain(x, weight, bias);
    }
    // An absent bias is an empty tensor: every input of the extension is then a plain tensor.
    let bias = bias.unwrap_or_else(|| Tensor::zeros([0], &x.device()));
    Tensor::from_dispatch(<Dispatch as FusedLinear>::fused_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn linear_plain<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    burn::tensor::module::linear(x, weight, bias)
}

/// Gradients of the operator's inputs; those that nobody needs are absent.
pub struct LinearGrads<B: Backend> {
    /// `[.., input]`.
    pub x: Option<FloatTensor<B>>,
    /// `[input, output]`.
    pub weight: Option<FloatTensor<B>>,
    /// `[output]`.
    pub bias: Option<FloatTensor<B>>,
}

/// Which inputs need a gradient: x, weight, bias.
type Needed = [bool; 3];

/// The operator as a backend extension. An empty `bias` means none.
#[backend_extension(Flex, Autodiff)]
pub trait FusedLinear: Backend {
    /// See [`linear`].
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The pass that training needs; the `Autodiff` operator is built on it.
pub trait LinearKernel: FusedLinear {
    /// Backward from the inputs and the output's gradient.
    fn linear_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needed: Needed,
    ) -> LinearGrads<Self>;
}

impl FusedLinear for Flex {
    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (
            x.to_contiguous(),
            weight.to_contiguous(),
            bias.to_contiguous(),
        );
        let (rows, input) = leading(&x.shape());
        let [weight_input, output] = weight.shape().dims();
        assert_eq!(input, weight_input, "width of x and of the weight");
        let values = product(
            Matrix::new(elements(&x), rows, input),
            Matrix::new(elements(&weight), input, output),
            elements(&bias),
        );
        from_vec(values, with_last(&x.shape(), output))
    }
}

impl LinearKernel for Flex {
    fn linear_backward(
        x: FlexTensor,
        weight: FlexTensor,
        grad: FlexTensor,
        [needs_x, needs_weight, needs_bias]: Needed,
    ) -> LinearGrads<Flex> {
        let (x, weight, grad) = (
            x.to_contiguous(),
            weight.to_contiguous(),
            grad.to_contiguous(),
        );
        let (rows, input) = leading(&x.shape());
        let [_, output] = weight.shape().dims();
        let g = Matrix::new(elements(&grad), rows, output);
        let (dx, dweight) = rayon::join(
            || {
                needs_x.then(|| {
                    let weight = Matrix::new(elements(&weight), input, output);
                    product(g, weight.transposed(), &[])
                })
            },
            || {
                needs_weight.then(|| {
                    let x = Matrix::new(elements(&x), rows, input);
                    product(x.transposed(), g, &[])
                })
            },
        );
        LinearGrads {
            x: dx.map(|values| from_vec(values, x.shape())),
            weight: dweight.map(|values| from_vec(values, weight.shape())),
            bias: needs_bias
                .then(|| from_vec(column_sums(elements(&grad), output), Shape::new([output]))),
        }
    }
}

impl<B: LinearKernel, C: CheckpointStrategy> FusedLinear for Autodiff<B, C> {
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LinearNode;
        impl<B: LinearKernel> Backward<B, 3> for LinearNode {
            /// x, weight.
            type State = [B::FloatTensorPrimitive; 2];

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let grad = grads.consume::<B>(&ops.node);
                let [x, weight] = ops.state;
                let needed = ops.parents.each_ref().map(Option::is_some);
                let found = B::linear_backward(x, weight, grad, needed);
                let found = [found.x, found.weight, found.bias];
                for (node, gradient) in ops.parents.into_iter().zip(found) {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }
        match LinearNode
            .prepare::<C>([x.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (x.into_primitive(), weight.into_primitive());
                let output = B::fused_linear(x.clone(), weight.clone(), bias.into_primitive());
                prep.finish([x, weight], output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_linear(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
            )),
        }
    }
}
