//! Scaled dot-product attention over heads laid side by side, `[batch, seq, heads * head_dim]`:
//! no transposed copies, and no score matrix is kept; the backward pass recomputes the scores
//! from one number per row.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor, activation};
use burn_flex::FlexTensor;

use crate::flex::{elements, from_vec};

mod head;
use head::{Problem, Rows, RowsMut};

/// `softmax(q k^T / sqrt(head_dim) + mask) v`, per head.
///
/// `q`: `[batch, queries, heads * head_dim]`, `k`, `v`: `[batch, keys, heads * head_dim]`,
/// `mask` (added to the scores; no gradient): `[batch, 1 or queries, keys]`; returns
/// `[batch, queries, heads * head_dim]`. On the CPU fused, on other devices [`attention_plain`].
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<3> {
    if !crate::is_fused(&q) {
        return attention_plain(q, k, v, mask, heads);
    }
    // An absent mask is an empty tensor: every input of the extension is then a plain tensor.
    let mask = mask.unwrap_or_else(|| Tensor::zeros([0, 0, 0], &q.device()));
    Tensor::from_dispatch(<Dispatch as FusedAttention>::fused_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        mask.into_dispatch(),
        heads,
    ))
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn attention_plain(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<3> {
    let [batch, queries, width] = q.dims();
    let probs = attention_probs(q, k, mask, heads);
    probs
        .matmul(split_heads(v, heads))
        .swap_dims(1, 2)
        .reshape([batch, queries, width])
}

/// The attention weights alone, `[batch, heads, queries, keys]`: for dropout on them, and for
/// Grad-CAM. Arguments as for [`attention`].
pub fn attention_probs(
    q: Tensor<3>,
    k: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<4> {
    let scale = scale(q.dims()[2] / heads);
    let scores = split_heads(q, heads)
        .matmul(split_heads(k, heads).swap_dims(2, 3))
        .mul_scalar(scale);
    let scores = match mask {
        Some(mask) => scores + mask.unsqueeze_dim::<4>(1),
        None => scores,
    };
    activation::softmax(scores, 3)
}

/// `[batch, seq, heads * head_dim]` to `[batch, heads, seq, head_dim]`.
pub fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, seq, width] = x.dims();
    x.reshape([batch, seq, heads, width / heads])
        .swap_dims(1, 2)
}

fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// Self-attention on the fused projection: `qkv` is `[batch, seq, 3 * heads * head_dim]`, queries
/// first, then keys, then values, as in timm's ViT; returns `[batch, seq, heads * head_dim]`.
///
/// One operator instead of three slices and an attention: the slices would be copied, and their
/// gradients padded and added.
pub fn attention_qkv(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    if !crate::is_fused(&qkv) {
        let width = qkv.dims()[2] / 3;
        let part = |i: usize| qkv.clone().narrow(2, i * width, width);
        return attention_plain(part(0), part(1), part(2), None, heads);
    }
    Tensor::from_dispatch(<Dispatch as FusedAttention>::fused_attention_qkv(
        qkv.into_dispatch(),
        heads,
    ))
}

/// What the forward pass leaves for the backward one.
pub struct AttentionForward<B: Backend> {
    /// `[batch, queries, heads * head_dim]`.
    pub output: FloatTensor<B>,
    /// Logarithm of each row's sum of exponentials, `[batch, heads, queries]`.
    pub log_sum_exp: FloatTensor<B>,
}

/// Gradients of the operator's inputs.
pub struct AttentionGrads<B: Backend> {
    /// `[batch, queries, heads * head_dim]`.
    pub q: FloatTensor<B>,
    /// `[batch, keys, heads * head_dim]`.
    pub k: FloatTensor<B>,
    /// `[batch, keys, heads * head_dim]`.
    pub v: FloatTensor<B>,
}

/// The operators as a backend extension. An empty `mask` means none.
#[backend_extension(Flex, Autodiff)]
pub trait FusedAttention: Backend {
    /// See [`attention`].
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
    /// See [`attention_qkv`].
    fn fused_attention_qkv(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
}

/// The passes that training needs; the `Autodiff` operators are built on them.
pub trait AttentionKernel: FusedAttention {
    /// Forward that keeps the rows' log-sum-exp.
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        heads: usize,
    ) -> AttentionForward<Self>;
    /// Backward: recomputes the scores.
    #[allow(clippy::too_many_arguments)] // the operator's inputs, its output and one gradient
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        heads: usize,
    ) -> AttentionGrads<Self>;
    /// Forward that keeps the rows' log-sum-exp.
    fn attention_qkv_forward(qkv: FloatTensor<Self>, heads: usize) -> AttentionForward<Self>;
    /// Backward: the gradient of `qkv`.
    fn attention_qkv_backward(
        qkv: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
}

/// The mask's elements and whether it has a row per query.
fn mask_rows(mask: &FlexTensor, queries: usize) -> Option<(&[f32], bool)> {
    let [batch, rows, _] = mask.shape().dims();
    (batch > 0).then(|| {
        assert!(
            rows == 1 || rows == queries,
            "mask rows: expected 1 or {queries}, got {rows}"
        );
        (elements(mask), rows != 1)
    })
}

fn problem<'a>(
    q_shape: &Shape,
    k_shape: &Shape,
    heads: usize,
    mask: Option<(&'a [f32], bool)>,
) -> Problem<'a> {
    let [batch, queries, width] = q_shape.dims();
    let [k_batch, keys, k_width] = k_shape.dims();
    assert_eq!(
        (batch, width),
        (k_batch, k_width),
        "q and k: batch and width"
    );
    assert_eq!(
        width % heads,
        0,
        "width {width} is not a multiple of {heads} heads"
    );
    Problem {
        batch,
        heads,
        queries,
        keys,
        head_dim: width / heads,
        scale: scale(width / heads),
        mask,
    }
}

impl FusedAttention for Flex {
    fn fused_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        mask: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        Self::attention_forward(q, k, v, mask, heads).output
    }

    fn fused_attention_qkv(qkv: FlexTensor, heads: usize) -> FlexTensor {
        Self::attention_qkv_forward(qkv, heads).output
    }
}

impl AttentionKernel for Flex {
    fn attention_forward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        mask: FlexTensor,
        heads: usize,
    ) -> AttentionForward<Flex> {
        let (q, k, v, mask) = (
            q.to_contiguous(),
            k.to_contiguous(),
            v.to_contiguous(),
            mask.to_contiguous(),
        );
        let problem = problem(
            &q.shape(),
            &k.shape(),
            heads,
            mask_rows(&mask, q.shape()[1]),
        );
        let width = problem.width();
        let (output, log_sum_exp) = problem.forward(
            Rows::new(elements(&q), width, 0),
            Rows::new(elements(&k), width, 0),
            Rows::new(elements(&v), width, 0),
        );
        problem.wrap(output, log_sum_exp)
    }

    fn attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        mask: FlexTensor,
        output: FlexTensor,
        log_sum_exp: FlexTensor,
        grad: FlexTensor,
        heads: usize,
    ) -> AttentionGrads<Flex> {
        let (q, k, v, mask) = (
            q.to_contiguous(),
            k.to_contiguous(),
            v.to_contiguous(),
            mask.to_contiguous(),
        );
        let grad = grad.to_contiguous();
        let problem = problem(
            &q.shape(),
            &k.shape(),
            heads,
            mask_rows(&mask, q.shape()[1]),
        );
        let width = problem.width();
        let mut dq = vec![0.0; q.shape().num_elements()];
        let mut dk = vec![0.0; k.shape().num_elements()];
        let mut dv = vec![0.0; v.shape().num_elements()];
        problem.backward(
            [
                Rows::new(elements(&q), width, 0),
                Rows::new(elements(&k), width, 0),
                Rows::new(elements(&v), width, 0),
            ],
            elements(&output),
            elements(&log_sum_exp),
            elements(&grad),
            [
                RowsMut::new(&mut dq, width, 0),
                RowsMut::new(&mut dk, width, 0),
                RowsMut::new(&mut dv, width, 0),
            ],
        );
        AttentionGrads {
            q: from_vec(dq, q.shape()),
            k: from_vec(dk, k.shape()),
            v: from_vec(dv, v.shape()),
        }
    }

    fn attention_qkv_forward(qkv: FlexTensor, heads: usize) -> AttentionForward<Flex> {
        let qkv = qkv.to_contiguous();
        let [batch, seq, wide] = qkv.shape().dims();
        let shape = Shape::new([batch, seq, wide / 3]);
        let problem = problem(&shape, &shape, heads, None);
        let part = |i: usize| Rows::new(elements(&qkv), wide, i * wide / 3);
        let (output, log_sum_exp) = problem.forward(part(0), part(1), part(2));
        problem.wrap(output, log_sum_exp)
    }

    fn attention_qkv_backward(
        qkv: FlexTensor,
        output: FlexTensor,
        log_sum_exp: FlexTensor,
        grad: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        let qkv = qkv.to_contiguous();
        let grad = grad.to_contiguous();
        let [batch, seq, wide] = qkv.shape().dims();
        let shape = Shape::new([batch, seq, wide / 3]);
        let problem = problem(&shape, &shape, heads, None);
        let part = |i: usize| Rows::new(elements(&qkv), wide, i * wide / 3);
        let mut dqkv = vec![0.0; batch * seq * wide];
        let whole = RowsMut::new(&mut dqkv, wide, 0);
        problem.backward(
            [part(0), part(1), part(2)],
            elements(&output),
            elements(&log_sum_exp),
            elements(&grad),
            [
                whole.shifted(0),
                whole.shifted(wide / 3),
                whole.shifted(2 * wide / 3),
            ],
        );
        from_vec(dqkv, qkv.shape())
    }
}

impl Problem<'_> {
    fn wrap(&self, output: Vec<f32>, log_sum_exp: Vec<f32>) -> AttentionForward<Flex> {
        AttentionForward {
            output: from_vec(output, Shape::new([self.batch, self.queries, self.width()])),
            log_sum_exp: from_vec(
                log_sum_exp,
                Shape::new([self.batch, self.heads, self.queries]),
            ),
        }
    }
}

impl<B: AttentionKernel, C: CheckpointStrategy> FusedAttention for Autodiff<B, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct AttentionNode;
        impl<B: AttentionKernel> Backward<B, 3> for AttentionNode {
            /// q, k, v, mask, output, log-sum-exp; number of heads.
            type State = ([B::FloatTensorPrimitive; 6], usize);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [q_node, k_node, v_node] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let ([q, k, v, mask, output, log_sum_exp], heads) = ops.state;
                let found = B::attention_backward(q, k, v, mask, output, log_sum_exp, grad, heads);
                if let Some(node) = q_node {
                    grads.register::<B>(node.id, found.q);
                }
                if let Some(node) = k_node {
                    grads.register::<B>(node.id, found.k);
                }
                if let Some(node) = v_node {
                    grads.register::<B>(node.id, found.v);
                }
            }
        }
        match AttentionNode
            .prepare::<C>([q.node(), k.node(), v.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
                let mask = mask.into_primitive();
                let forward =
                    B::attention_forward(q.clone(), k.clone(), v.clone(), mask.clone(), heads);
                let output = forward.output;
                let state = [q, k, v, mask, output.clone(), forward.log_sum_exp];
                prep.finish((state, heads), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_attention(
                q.into_primitive(),
                k.into_primitive(),
                v.into_primitive(),
                mask.into_primitive(),
                heads,
            )),
        }
    }

    fn fused_attention_qkv(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct AttentionQkvNode;
        impl<B: AttentionKernel> Backward<B, 1> for AttentionQkvNode {
            /// qkv, output, log-sum-exp; number of heads.
            type State = ([B::FloatTensorPrimitive; 3], usize);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [node] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let ([qkv, output, log_sum_exp], heads) = ops.state;
                if let Some(node) = node {
                    let found = B::attention_qkv_backward(qkv, output, log_sum_exp, grad, heads);
                    grads.register::<B>(node.id, found);
                }
            }
        }
        match AttentionQkvNode
            .prepare::<C>([qkv.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let qkv = qkv.into_primitive();
                let forward = B::attention_qkv_forward(qkv.clone(), heads);
                let output = forward.output;
                let state = [qkv, output.clone(), forward.log_sum_exp];
                prep.finish((state, heads), output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_attention_qkv(qkv.into_primitive(), heads))
            }
        }
    }
}
