//! How a transformer block is computed in training: choices that leave the function as it is and
//! trade time, memory and precision.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{FloatDType, Tensor};
use fitup_kernels::gradient_checkpointing::checkpointed;

/// The choices; by default everything is kept for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCompute {
    /// A block keeps its inputs alone for the backward pass, which computes the rest again
    /// ([`fitup_kernels::gradient_checkpointing`]).
    pub checkpointing: bool,
    /// A block computes in bfloat16, from its inputs and its float32 parameters rounded to that, and
    /// gives float32 back; so do the gradients. Inside, what norms and attention weights sum is
    /// float32.
    pub bf16: bool,
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
        if !inputs[0].device().is_autodiff() {
            return forward(block, inputs);
        }
        match (self.checkpointing, self.bf16) {
            (false, false) => forward(block, inputs),
            (false, true) => in_bf16(block, inputs, &forward),
            (true, false) => checkpointed(block, inputs, forward),
            (true, true) => checkpointed(block, inputs, move |block, inputs| {
                in_bf16(block, inputs, &forward)
            }),
        }
    }
}

fn in_bf16<M: Module, const D: usize>(
    block: &M,
    inputs: &[Tensor<D>],
    forward: &impl Fn(&M, &[Tensor<D>]) -> Tensor<D>,
) -> Tensor<D> {
    let block = block.clone().map(&mut ToBf16);
    let inputs: Vec<Tensor<D>> = inputs.iter().map(rounded).collect();
    forward(&block, &inputs).cast(FloatDType::F32)
}

fn rounded<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().cast(FloatDType::BF16)
}

struct ToBf16;

impl ModuleMapper for ToBf16 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| rounded(&x))
    }
}
