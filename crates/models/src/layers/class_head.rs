//! ALBEF's head for a fine-tuned classification (`cls_head` of `models/model_ve.py` and
//! `models/model_nlvr.py`).

use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};

use super::{Linear, linear};

/// `output(relu(hidden(x)))`.
#[derive(Module, Debug)]
pub struct ClassHead {
    /// `width -> width`.
    pub hidden: Linear,
    /// `width -> classes`.
    pub output: Linear,
}

impl ClassHead {
    /// All zero.
    pub fn new(width: usize, classes: usize, device: &Device) -> Self {
        Self {
            hidden: linear(width, width, device),
            output: linear(width, classes, device),
        }
    }

    /// `x`: `[batch, width]`; returns `[batch, classes]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.output
            .forward(activation::relu(self.hidden.forward(x)))
    }
}
