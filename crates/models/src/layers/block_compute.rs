//! How a transformer block is computed in training: choices that leave the function as it is and
//! trade time, memory and precision.

use burn::module::Module;
use burn::tensor::Tensor;
use fitup_kernels::gradient_checkpointing::checkpointed;

/// The choices; by default everything is kept for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCompute {
    /// A block keeps its inputs alone for the backward pass, which computes the rest again
    /// ([`fitup_kernels::gradient_checkpointing`]).
    pub checkpointing: bool,
}

impl BlockCompute {
    /// `forward(block, inputs)`, computed as chosen where `inputs` are on an autodiff device; for
    /// `forward` see [`checkpointed`].
    pub(crate) fn run<M, F, const D: usize>(
        self,
        block: &M,
        inputs: &[Tensor<D>],
        forward: F,
    ) -> Tensor<D>
    where
        M: Module + Sync + 'static,
        F: Fn(&M, &[Tensor<D>]) -> Tensor<D> + Send + Sync + 'static,
    {
        match self.checkpointing {
            true => checkpointed(block, inputs, forward),
            false => forward(block, inputs),
        }
    }
}
