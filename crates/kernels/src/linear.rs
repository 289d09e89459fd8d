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
use gemm::Parallelism;
use rayon::prelude::*;

use crate::flex::{elements, from_vec};
use crate::vector;

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

/// A strided matrix to read, `[rows, columns]`.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    strides: [isize; 2],
}

impl<'a> Matrix<'a> {
    /// Row-major.
    fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Self {
            data,
            rows,
            columns,
            strides: [columns as isize, 1],
        }
    }

    fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            strides: [self.strides[1], self.strides[0]],
            ..self
        }
    }
}

/// Rows that one task fills or adds up: fixed, so that sums do not depend on the number of threads.
const ROWS_PER_TASK: usize = 128;

/// Products below this many multiplications run on one thread: starting others takes longer.
const PARALLEL_FROM: usize = 1 << 20;

/// `a b`, row-major; each row starts from `bias` where that is not empty.
fn product(a: Matrix<'_>, b: Matrix<'_>, bias: &[f32]) -> Vec<f32> {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "inner dimensions");
    assert!(bias.is_empty() || bias.len() == n, "length of the bias");
    let mut output: Vec<f32> = Vec::with_capacity(m * n);
    let adds = !bias.is_empty();
    if m * n == 0 {
        return output;
    }
    if adds {
        let rows = &mut output.spare_capacity_mut()[..m * n];
        rows.par_chunks_mut(ROWS_PER_TASK * n).for_each(|rows| {
            for row in rows.chunks_exact_mut(n) {
                for (value, bias) in row.iter_mut().zip(bias) {
                    value.write(*bias);
                }
            }
        });
    }
    if k == 0 {
        output.resize(m * n, 0.0);
        return output;
    }
    let parallelism = if m * k * n < PARALLEL_FROM {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    // SAFETY: the output has room for `m * n` values, all of which the product writes (it reads
    // them first only where the bias has filled them); `Matrix` holds as many values as its rows
    // and columns say, at row-major strides or those transposed.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            output.as_mut_ptr(),
            1,
            n as isize,
            adds,
            a.data.as_ptr(),
            a.strides[1],
            a.strides[0],
            b.data.as_ptr(),
            b.strides[1],
            b.strides[0],
            if adds { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
        output.set_len(m * n);
    }
    output
}

/// The sum of all rows of `[rows, n]`.
fn column_sums(data: &[f32], n: usize) -> Vec<f32> {
    let parts = data.par_chunks(ROWS_PER_TASK * n).map(|rows| {
        let mut sum = vec![0.0; n];
        for row in rows.chunks_exact(n) {
            for (s, x) in sum.iter_mut().zip(row) {
                *s += x;
            }
        }
        sum
    });
    vector::add_up(parts.collect(), n)
}

fn leading(shape: &Shape) -> (usize, usize) {
    let last = shape[shape.num_dims() - 1];
    (shape.num_elements() / last.max(1), last)
}

fn with_last(shape: &Shape, last: usize) -> Shape {
    let mut dims = shape.to_vec();
    if let Some(end) = dims.last_mut() {
        *end = last;
    }
    Shape::from(dims)
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
