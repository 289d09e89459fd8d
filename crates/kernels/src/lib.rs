//! Fused CPU operators, forward and backward, as Burn backend extensions.
//!
//! Burn's CPU backend multiplies matrices at full speed, but in training everything around the
//! products is unfused, single-threaded and allocating. Each module here replaces one such
//! composition by one pass with a hand-written backward:
//!
//! | module | operator |
//! |---|---|
//! | [`gelu`] | bias + exact GELU |
//! | [`layer_norm`] | LayerNorm over the last dimension |
//! | [`attention`] | scaled dot-product attention that keeps no score matrix, dense or over rows |
//! | [`linear`] | linear layers: one product forward, one for each gradient |
//! | [`mlp`] | linear, GELU, linear; the hidden layer is not kept |
//! | [`parameter_update`] | AdamW and the momentum model's move, one pass over memory each |
//!
//! Each has a plain composition beside it (`*_plain`): the reference in tests, and what runs on
//! every device but the CPU. Results do not depend on the number of threads: partial sums are
//! combined in a fixed order, which is what makes a resumed run bit-identical.
//!
//! [`gradient_checkpointing`] is for any operators: a part of a model that keeps its inputs alone for
//! its backward pass, on every device. [`allocation`] keeps the memory of one step for the next.
//!
//! This is the only crate of the workspace with `unsafe` code.

pub mod allocation;
pub mod attention;
mod flex;
pub mod gelu;
pub mod gradient_checkpointing;
pub mod layer_norm;
pub mod linear;
pub mod mlp;
pub mod parameter_update;
mod product;
mod vector;

use std::sync::OnceLock;

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Tensor};

/// The environment variable that turns the fused operators off: `FITUP_OPERATORS=plain`. For
/// checking one against the other; read once.
pub const SWITCH: &str = "FITUP_OPERATORS";

fn switched_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os(SWITCH).is_none_or(|value| value != "plain"))
}

/// Runs `work` on a thread of the pool that the CPU operators share. From any other thread each
/// operator wakes the pool and sleeps until it is done: thousands of times in a training step.
pub fn on_workers<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Whether the fused CPU operators serve this tensor: it lives on the `flex` CPU backend, in
/// float32, and they are not switched off. Everything else takes the plain composition.
fn is_fused<const D: usize>(tensor: &Tensor<D>) -> bool {
    switched_on()
        && tensor.dtype() == DType::F32
        && matches!(
            tensor.device().inner().as_dispatch(),
            DispatchDevice::Flex(_)
        )
}
