//! Attention on the CPU backend: its tensors as rows, and back.

use std::mem::MaybeUninit;

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

/// Memory of a gradient that is being written.
struct Room {
    values: Vec<f32>,
    shape: Shape,
}

impl Room {
    /// `cleared`: for gradients that are added to, or of which a part is never written.
    fn new(shape: Shape, cleared: bool) -> Self {
        let len = shape.num_elements();
        let mut values = Vec::with_capacity(len);
        if cleared {
            values.spare_capacity_mut()[..len].fill(MaybeUninit::new(0.0));
        }
        Self { values, shape }
    }

    /// As rows of `width`.
    fn rows(&mut self, width: usize) -> RowsMut<'_> {
        let len = self.shape.num_elements();
        RowsMut::new(&mut self.values.spare_capacity_mut()[..len], width, 0)
    }

    /// # Safety
    /// Every value has been written.
    unsafe fn filled(mut self) -> FlexTensor {
        // SAFETY: there is room for as many values as the shape has, all of them written.
        unsafe { self.values.set_len(self.shape.num_elements()) };
        from_vec(self.values, self.shape)
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
        let unread = !resolved.reach.reads_all_keys();
        let mut found = [
            Room::new(q.shape(), false),
            Room::new(k.shape(), unread),
            Room::new(v.shape(), unread),
        ];
        let mut dbias = resolved.bias.as_ref().map(|b| Room::new(b.shape(), true));
        let scores = problem.bias.map_or(0, <[f32]>::len) / heads;
        problem.backward(
            [&q, &k, &v].map(|x| Rows::new(elements(x), width, 0)),
            elements(&forward.output),
            elements(&forward.log_sum_exp),
            elements(&grad),
            found.each_mut().map(|x| x.rows(width)),
            dbias.as_mut().map(|x| x.rows(scores)),
        );
        // SAFETY: all rows of q are written, and those of k and v that are read; the others and
        // the bias were cleared.
        let [q, k, v] = found.map(|x| unsafe { x.filled() });
        AttentionGrads {
            q,
            k,
            v,
            // SAFETY: as above.
            bias: dbias.map(|x| unsafe { x.filled() }),
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
        let mut dqkv = Room::new(qkv.shape(), false);
        let whole = dqkv.rows(wide);
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
        // SAFETY: every row is read as query, key and value, so all three parts are written.
        unsafe { dqkv.filled() }
    }
}
