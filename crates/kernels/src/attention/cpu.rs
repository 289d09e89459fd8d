//! Attention on the CPU backend: its tensors as rows, and back.

use burn::backend::{Flex, TensorMetadata};
use burn::tensor::Shape;
use burn_flex::FlexTensor;

use super::head::{Problem, Rows, RowsMut};
use super::{
    Attended, AttentionDropout, AttentionForward, AttentionGrads, AttentionKernel, FusedAttention,
    Reach, scale,
};
use crate::flex::{elements, from_vec};

/// [`Attended`] with the dense case written as rows.
struct Resolved {
    reach: Reach,
    bias: Option<FlexTensor>,
    mask: Option<FlexTensor>,
    dropout: Option<AttentionDropout>,
}

fn resolved(
    q_shape: &Shape,
    k_shape: &Shape,
    attended: Attended<FlexTensor>,
    heads: usize,
) -> Resolved {
    match attended {
        Attended::Dense { bias, mask } => {
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
            let biases = bias.shape().num_elements();
            assert!(
                biases == 0 || bias.shape().dims() == [heads, queries, keys],
                "bias: expected {heads} x {queries} x {keys}, got {:?}",
                bias.shape()
            );
            Resolved {
                reach: Reach::dense(batch, queries, keys),
                bias: (biases > 0).then(|| bias.to_contiguous()),
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
                bias: None,
                mask: None,
                dropout,
            }
        }
    }
}

impl<'a> Problem<'a> {
    fn new(reach: &'a Reach, width: usize, heads: usize) -> Self {
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
            bias: None,
            mask: None,
            dropout: None,
        }
    }

    fn of(resolved: &'a Resolved, width: usize, heads: usize) -> Self {
        Self {
            bias: resolved.bias.as_ref().map(elements),
            mask: resolved.mask.as_ref().map(|mask| {
                let [_, rows, _] = mask.shape().dims();
                (elements(mask), rows != 1)
            }),
            dropout: resolved.dropout,
            ..Self::new(&resolved.reach, width, heads)
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
        bias: FlexTensor,
        mask: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        Self::attention_forward([q, k, v], Attended::Dense { bias, mask }, heads).output
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
        let resolved = resolved(&q.shape(), &k.shape(), attended, heads);
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
        let resolved = resolved(&q.shape(), &k.shape(), attended, heads);
        let width = last(&q.shape());
        let problem = Problem::of(&resolved, width, heads);
        let mut found = [&q, &k, &v].map(|x| vec![0.0; x.shape().num_elements()]);
        let mut dbias = problem.bias.map(|bias| vec![0.0; bias.len()]);
        problem.backward(
            [&q, &k, &v].map(|x| Rows::new(elements(x), width, 0)),
            elements(&forward.output),
            elements(&forward.log_sum_exp),
            elements(&grad),
            found.each_mut().map(|x| RowsMut::new(x, width, 0)),
            dbias
                .as_mut()
                .map(|x| RowsMut::new(x, problem.bias.map_or(0, <[f32]>::len) / heads, 0)),
        );
        let [dq, dk, dv] = found;
        AttentionGrads {
            q: from_vec(dq, q.shape()),
            k: from_vec(dk, k.shape()),
            v: from_vec(dv, v.shape()),
            bias: dbias
                .zip(resolved.bias.as_ref())
                .map(|(values, bias)| from_vec(values, bias.shape())),
        }
    }

    fn attention_qkv_forward(qkv: FlexTensor, heads: usize) -> AttentionForward<Flex> {
        let qkv = qkv.to_contiguous();
        let [batch, seq, wide] = qkv.shape().dims();
        let reach = Reach::dense(batch, seq, seq);
        let problem = Problem::new(&reach, wide / 3, heads);
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
        let problem = Problem::new(&reach, wide / 3, heads);
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
            None,
        );
        from_vec(dqkv, qkv.shape())
    }
}
