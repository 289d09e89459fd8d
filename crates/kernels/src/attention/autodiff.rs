//! Attention in the autodiff graph.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::{Attended, AttentionDropout, AttentionForward, AttentionKernel, FusedAttention, Reach};

/// The node of attention in the autodiff graph. Parents: q, k, v, and in the dense form the bias.
#[derive(Debug)]
struct AttentionNode;

impl<B: AttentionKernel, const N: usize> Backward<B, N> for AttentionNode {
    /// q, k, v; what is attended to; output, log-sum-exp; number of heads.
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (qkv, attended, [output, log_sum_exp], heads) = ops.state;
        let forward = AttentionForward {
            output,
            log_sum_exp,
        };
        let found = B::attention_backward(qkv, attended, forward, grad, heads);
        let found = [Some(found.q), Some(found.k), Some(found.v), found.bias];
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

/// What [`AttentionNode`] keeps for its backward pass.
type Kept<B> = (
    [FloatTensor<B>; 3],
    Attended<FloatTensor<B>>,
    [FloatTensor<B>; 2],
    usize,
);

/// Runs either form of attention, and keeps what the backward pass needs where there is one.
fn run<B: AttentionKernel, C: CheckpointStrategy, const N: usize>(
    kind: OpsKind<AttentionNode, B, Kept<B>, C, N>,
    qkv: [FloatTensor<B>; 3],
    attended: Attended<FloatTensor<B>>,
    heads: usize,
) -> FloatTensor<Autodiff<B, C>> {
    match kind {
        OpsKind::Tracked(prep) => {
            let forward = B::attention_forward(qkv.clone(), attended.clone(), heads);
            let output = forward.output;
            let left = [output.clone(), forward.log_sum_exp];
            prep.finish((qkv, attended, left, heads), output)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::attention_forward(qkv, attended, heads).output),
    }
}

impl<B: AttentionKernel, C: CheckpointStrategy> FusedAttention for Autodiff<B, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node(), bias.node()];
        let kind = AttentionNode.prepare::<C>(nodes).compute_bound().stateful();
        let qkv = [q, k, v].map(|x| x.into_primitive());
        let attended = Attended::Dense {
            bias: bias.into_primitive(),
            mask: mask.into_primitive(),
        };
        run(kind, qkv, attended, heads)
    }

    fn fused_attention_rows(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        reach: Reach,
        heads: usize,
        dropout: Option<AttentionDropout>,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let kind = AttentionNode.prepare::<C>(nodes).compute_bound().stateful();
        let qkv = [q, k, v].map(|x| x.into_primitive());
        run(kind, qkv, Attended::Rows(reach, dropout), heads)
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
