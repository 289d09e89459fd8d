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

mod dropout;
mod head;
mod reach;

pub use dropout::AttentionDropout;
use head::{Problem, Rows, RowsMut};
pub use reach::{Reach, Segment};

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

/// Attention of sequences that stand one after another without padding: the rows of each segment
/// of `reach` read the rows of keys and values that it names. `dropout` falls on the weights.
///
/// `q`: `[query_rows, heads * head_dim]`, `k`, `v`: `[key_rows, heads * head_dim]`; returns
/// `[query_rows, heads * head_dim]`. On the CPU fused, on other devices [`attention_rows_plain`].
pub fn attention_rows(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    reach: &Reach,
    heads: usize,
    dropout: Option<AttentionDropout>,
) -> Tensor<2> {
    if !crate::is_fused(&q) {
        return attention_rows_plain(q, k, v, reach, heads, dropout);
    }
    Tensor::from_dispatch(<Dispatch as FusedAttention>::fused_attention_rows(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        reach.clone(),
        heads,
        dropout,
    ))
}

/// The same with padding, from Burn's own operators: the reference, and the fallback on other
/// devices.
pub fn attention_rows_plain(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    reach: &Reach,
    heads: usize,
    dropout: Option<AttentionDropout>,
) -> Tensor<2> {
    if reach.query_rows() == 0 {
        return q;
    }
    let device = q.device();
    let mask = reach.padding_mask(&device);
    let [q, k, v] = [reach.pad_queries(q), reach.pad_keys(k), reach.pad_keys(v)];
    let [segments, queries, width] = q.dims();
    let probs = attention_probs(q, k, Some(mask), heads);
    let probs = match dropout {
        Some(dropout) => probs * dropout.factors(reach, heads, &device),
        None => probs,
    };
    let context = probs.matmul(split_heads(v, heads)).swap_dims(1, 2);
    reach.unpad(context.reshape([segments, queries, width]))
}

/// What the forward pass leaves for the backward one.
pub struct AttentionForward<B: Backend> {
    /// `[batch, queries, heads * head_dim]`, or `[query_rows, heads * head_dim]`.
    pub output: FloatTensor<B>,
    /// Logarithm of each row's sum of exponentials, `[heads, query_rows]`.
    pub log_sum_exp: FloatTensor<B>,
}

/// Gradients of the operator's inputs, of their shapes.
pub struct AttentionGrads<B: Backend> {
    /// Of the queries.
    pub q: FloatTensor<B>,
    /// Of the keys.
    pub k: FloatTensor<B>,
    /// Of the values.
    pub v: FloatTensor<B>,
}

/// What is attended to.
#[derive(Clone, Debug)]
pub enum Attended<T> {
    /// Batches of equal length, with an additive mask (empty: none).
    Dense(T),
    /// Rows without padding, with dropout on the weights.
    Rows(Reach, Option<AttentionDropout>),
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
    /// See [`attention_rows`].
    fn fused_attention_rows(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        reach: Reach,
        heads: usize,
        dropout: Option<AttentionDropout>,
    ) -> FloatTensor<Self>;
}

/// The passes that training needs; the `Autodiff` operators are built on them.
pub trait AttentionKernel: FusedAttention {
    /// Forward that keeps the rows' log-sum-exp.
    fn attention_forward(
        qkv: [FloatTensor<Self>; 3],
        attended: Attended<FloatTensor<Self>>,
        heads: usize,
    ) -> AttentionForward<Self>;
    /// Backward: recomputes the scores.
    fn attention_backward(
        qkv: [FloatTensor<Self>; 3],
        attended: Attended<FloatTensor<Self>>,
        forward: AttentionForward<Self>,
        grad: FloatTensor<Self>,
        heads: usize,
    ) -> AttentionGrads<Self>;
    /// Forward that keeps the rows' log-sum-exp.
    fn attention_qkv_forward(qkv: FloatTensor<Self>, heads: usize) -> AttentionForward<Self>;
    /// Backward: the gradient of `qkv`.
    fn attention_qkv_backward(
        qkv: FloatTensor<Self>,
        forward: AttentionForward<Self>,
        grad: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
}

/// [`Attended`] with the dense case written as rows.
struct Resolved {
    reach: Reach,
    mask: Option<FlexTensor>,
    dropout: Option<AttentionDropout>,
}

fn resolved(q_shape: &Shape, k_shape: &Shape, attended: Attended<FlexTensor>) -> Resolved {
    match attended {
        Attended::Dense(mask) => {
            let [batch, queries, width] = q_shape.dims();
            let [k_batch, keys, k_width] = k_shape.dims();
            assert_eq!(
                (batch, width),
                (k_batch, k_width),
                "q and k: batch and width"
            );
            let [masked, rows, _] = mask.shape().dims();
            assert!(
                masked == 0 || rows == 1 || rows == queries,
                "mask rows: expected 1 or {queries}, got {rows}"
            );
            Resolved {
                reach: Reach::dense(batch, queries, keys),
                mask: (masked > 0).then(|| mask.to_contiguous()),
                dropout: None,
            }
        }
        Attended::Rows(reach, dropout) => {
            let ([queries, width], [keys, k_width]) = (q_shape.dims(), k_shape.dims());
            assert_eq!(
                (queries, keys, width),
                (reach.query_rows(), reach.key_rows(), k_width),
                "q and k: rows and width"
            );
            Resolved {
                reach,
                mask: None,
                dropout,
            }
        }
    }
}

impl<'a> Problem<'a> {
    fn new(reach: &'a Reach, mask: Option<&'a FlexTensor>, width: usize, heads: usize) -> Self {
        assert_eq!(
            width % heads,
            0,
            "width {width} is not a multiple of {heads} heads"
        );
        Self {
            reach,
            heads,
            head_dim: width / heads,
            scale: scale(width / heads),
            mask: mask.map(|mask| {
                let [_, rows, _] = mask.shape().dims();
                (elements(mask), rows != 1)
            }),
            dropout: None,
        }
    }

    fn of(resolved: &'a Resolved, width: usize, heads: usize) -> Self {
        Self {
            dropout: resolved.dropout,
            ..Self::new(&resolved.reach, resolved.mask.as_ref(), width, heads)
        }
    }

    /// The forward pass, its output in `shape`.
    fn run(&self, [q, k, v]: [Rows<'_>; 3], shape: Shape) -> AttentionForward<Flex> {
        let (output, log_sum_exp) = self.forward(q, k, v);
        AttentionForward {
            output: from_vec(output, shape),
            log_sum_exp: from_vec(
                log_sum_exp,
                Shape::new([self.heads, self.reach.query_rows()]),
            ),
        }
    }
}

fn last(shape: &Shape) -> usize {
    shape[shape.num_dims() - 1]
}

impl FusedAttention for Flex {
    fn fused_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        mask: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        Self::attention_forward([q, k, v], Attended::Dense(mask), heads).output
    }

    fn fused_attention_qkv(qkv: FlexTensor, heads: usize) -> FlexTensor {
        Self::attention_qkv_forward(qkv, heads).output
    }

    fn fused_attention_rows(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        reach: Reach,
        heads: usize,
        dropout: Option<AttentionDropout>,
    ) -> FlexTensor {
        Self::attention_forward([q, k, v], Attended::Rows(reach, dropout), heads).output
    }
}

impl AttentionKernel for Flex {
    fn attention_forward(
        qkv: [FlexTensor; 3],
        attended: Attended<FlexTensor>,
        heads: usize,
    ) -> AttentionForward<Flex> {
        let [q, k, v] = qkv.map(|x| x.to_contiguous());
        let resolved = resolved(&q.shape(), &k.shape(), attended);
        let width = last(&q.shape());
        let problem = Problem::of(&resolved, width, heads);
        let rows = [&q, &k, &v].map(|x| Rows::new(elements(x), width, 0));
        problem.run(rows, q.shape())
    }

    fn attention_backward(
        qkv: [FlexTensor; 3],
        attended: Attended<FlexTensor>,
        forward: AttentionForward<Flex>,
        grad: FlexTensor,
        heads: usize,
    ) -> AttentionGrads<Flex> {
        let [q, k, v] = qkv.map(|x| x.to_contiguous());
        let grad = grad.to_contiguous();
        let resolved = resolved(&q.shape(), &k.shape(), attended);
        let width = last(&q.shape());
        let problem = Problem::of(&resolved, width, heads);
        let mut found = [&q, &k, &v].map(|x| vec![0.0; x.shape().num_elements()]);
        problem.backward(
            [&q, &k, &v].map(|x| Rows::new(elements(x), width, 0)),
            elements(&forward.output),
            elements(&forward.log_sum_exp),
            elements(&grad),
            found.each_mut().map(|x| RowsMut::new(x, width, 0)),
        );
        let [dq, dk, dv] = found;
        AttentionGrads {
            q: from_vec(dq, q.shape()),
            k: from_vec(dk, k.shape()),
            v: from_vec(dv, v.shape()),
        }
    }

    fn attention_qkv_forward(qkv: FlexTensor, heads: usize) -> AttentionForward<Flex> {
        let qkv = qkv.to_contiguous();
        let [batch, seq, wide] = qkv.shape().dims();
        let reach = Reach::dense(batch, seq, seq);
        let problem = Problem::new(&reach, None, wide / 3, heads);
        let part = |i: usize| Rows::new(elements(&qkv), wide, i * wide / 3);
        problem.run(
            [part(0), part(1), part(2)],
            Shape::new([batch, seq, wide / 3]),
        )
    }

    fn attention_qkv_backward(
        qkv: FlexTensor,
        forward: AttentionForward<Flex>,
        grad: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        let qkv = qkv.to_contiguous();
        let grad = grad.to_contiguous();
        let [batch, seq, wide] = qkv.shape().dims();
        let reach = Reach::dense(batch, seq, seq);
        let problem = Problem::new(&reach, None, wide / 3, heads);
        let part = |i: usize| Rows::new(elements(&qkv), wide, i * wide / 3);
        let mut dqkv = vec![0.0; batch * seq * wide];
        let whole = RowsMut::new(&mut dqkv, wide, 0);
        problem.backward(
            [part(0), part(1), part(2)],
            elements(&forward.output),
            elements(&forward.log_sum_exp),
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

/// The node of [`attention`] and [`attention_rows`] in the autodiff graph.
#[derive(Debug)]
struct AttentionNode;

impl<B: AttentionKernel> Backward<B, 3> for AttentionNode {
    /// q, k, v; what is attended to; output, log-sum-exp; number of heads.
    type State = (
        [B::FloatTensorPrimitive; 3],
        Attended<B::FloatTensorPrimitive>,
        [B::FloatTensorPrimitive; 2],
        usize,
    );

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [q_node, k_node, v_node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (qkv, attended, [output, log_sum_exp], heads) = ops.state;
        let forward = AttentionForward {
            output,
            log_sum_exp,
        };
        let found = B::attention_backward(qkv, attended, forward, grad, heads);
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

/// Both forms of attention on an autodiff device.
fn tracked<B: AttentionKernel, C: CheckpointStrategy>(
    [q, k, v]: [FloatTensor<Autodiff<B, C>>; 3],
    attended: Attended<B::FloatTensorPrimitive>,
    heads: usize,
) -> FloatTensor<Autodiff<B, C>> {
    match AttentionNode
        .prepare::<C>([q.node(), k.node(), v.node()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => {
            let qkv = [q, k, v].map(|x| x.into_primitive());
            let forward = B::attention_forward(qkv.clone(), attended.clone(), heads);
            let output = forward.output;
            let left = [output.clone(), forward.log_sum_exp];
            prep.finish((qkv, attended, left, heads), output)
        }
        OpsKind::UnTracked(prep) => {
            let qkv = [q, k, v].map(|x| x.into_primitive());
            prep.finish(B::attention_forward(qkv, attended, heads).output)
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
        tracked::<B, C>([q, k, v], Attended::Dense(mask.into_primitive()), heads)
    }

    fn fused_attention_rows(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        reach: Reach,
        heads: usize,
        dropout: Option<AttentionDropout>,
    ) -> FloatTensor<Self> {
        tracked::<B, C>([q, k, v], Attended::Rows(reach, dropout), heads)
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
                    let forward = AttentionForward {
                        output,
                        log_sum_exp,
                    };
                    let found = B::attention_qkv_backward(qkv, forward, grad, heads);
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
