//! Scaled dot-product attention over heads laid side by side, `[batch, seq, heads * head_dim]`:
//! no transposed copies, and no score matrix is kept; the backward pass recomputes the scores
//! from one number per row.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{FloatDType, Tensor, activation};

mod autodiff;
mod cpu;
mod dropout;
mod head;
mod reach;

pub use dropout::AttentionDropout;
pub use reach::{Reach, Segment, row_index};

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
    let bias = Tensor::zeros([0, 0, 0], &q.device());
    fused([q, k, v], bias, mask, heads)
}

fn fused(
    [q, k, v]: [Tensor<3>; 3],
    bias: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<3> {
    // An absent mask is an empty tensor: every input of the extension is then a plain tensor.
    let mask = mask.unwrap_or_else(|| Tensor::zeros([0, 0, 0], &q.device()));
    Tensor::from_dispatch(<Dispatch as FusedAttention>::fused_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        bias.into_dispatch(),
        mask.into_dispatch(),
        heads,
    ))
}

/// As [`attention`] with a bias on the scores that is trained, `[heads, queries, keys]`: relative
/// positions. On the CPU fused, on other devices [`attention_biased_plain`].
pub fn attention_biased(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    bias: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<3> {
    if !crate::is_fused(&q) {
        return attention_biased_plain(q, k, v, bias, mask, heads);
    }
    fused([q, k, v], bias, mask, heads)
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn attention_biased_plain(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    bias: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<3> {
    attend(probs(q, k, Some(bias), mask, heads), v)
}

/// The same from Burn's own operators: the reference, and the fallback on other devices.
pub fn attention_plain(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<3> {
    attend(attention_probs(q, k, mask, heads), v)
}

/// The attention weights alone, `[batch, heads, queries, keys]`, always float32: for dropout on
/// them, and for Grad-CAM. Arguments as for [`attention`].
pub fn attention_probs(
    q: Tensor<3>,
    k: Tensor<3>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<4> {
    probs(q, k, None, mask, heads)
}

/// What weights make of the values. `probs`: `[batch, heads, queries, keys]`, `v`: `[batch, keys,
/// heads * head_dim]`; returns `[batch, queries, heads * head_dim]`.
pub fn attend(probs: Tensor<4>, v: Tensor<3>) -> Tensor<3> {
    let [batch, heads, queries, _] = probs.dims();
    let width = v.dims()[2];
    probs
        .cast(v.dtype())
        .matmul(split_heads(v, heads))
        .swap_dims(1, 2)
        .reshape([batch, queries, width])
}

/// As [`attention_probs`], with `bias` of [`attention_biased`].
fn probs(
    q: Tensor<3>,
    k: Tensor<3>,
    bias: Option<Tensor<3>>,
    mask: Option<Tensor<3>>,
    heads: usize,
) -> Tensor<4> {
    let scale = scale(q.dims()[2] / heads);
    let scores = split_heads(q, heads)
        .matmul(split_heads(k, heads).swap_dims(2, 3))
        .cast(FloatDType::F32)
        .mul_scalar(scale);
    let scores = match bias {
        Some(bias) => scores + bias.cast(FloatDType::F32).unsqueeze_dim::<4>(0),
        None => scores,
    };
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
    let probs = attention_probs(q, k, Some(mask), heads);
    let probs = match dropout {
        Some(dropout) => probs * dropout.factors(reach, heads, &device),
        None => probs,
    };
    reach.unpad(attend(probs, v))
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
    /// Of the bias, where there is one.
    pub bias: Option<FloatTensor<B>>,
}

/// What is attended to.
#[derive(Clone, Debug)]
pub enum Attended<T> {
    /// Batches of equal length.
    Dense {
        /// Added to the scores, trained; empty: none.
        bias: T,
        /// Added to the scores; empty: none.
        mask: T,
    },
    /// Rows without padding, with dropout on the weights.
    Rows(Reach, Option<AttentionDropout>),
}

/// The operators as a backend extension. An empty `bias` or `mask` means none.
#[backend_extension(Flex, Autodiff)]
pub trait FusedAttention: Backend {
    /// See [`attention`] and [`attention_biased`].
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
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
