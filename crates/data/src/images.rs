//! From the bytes of a file to the `[3, size, size]` input of an image encoder.
//!
//! [`decode()`] reads a file defensively, [`TrainTransform`] and [`EvalTransform`] make model
//! inputs of it. Resizing equals Pillow's bit for bit, and the augmentations equal those of ALBEF's
//! code (OpenCV 4.5.5, NumPy), but for two slips that only [`RandAugment::parity`] reproduces.

mod affine;
pub mod augment;
pub mod block_masking;
mod color_jitter;
pub mod decode;
mod photometric;
pub mod randaugment;
pub mod resize;
mod transform;

pub use augment::{CropDraws, Normalize, RandomResizedCrop, flip_horizontal};
pub use block_masking::BlockMasking;
pub use color_jitter::ColorJitter;
pub use decode::{DecodeError, DecodeLimits, decode};
pub use photometric::{AutoContrastRule, SharpnessRule};
pub use randaugment::{Op, RandAugment};
pub use resize::{CropBox, crop_resize, resize};
pub use transform::{EvalTransform, Fit, InvalidTransform, TrainTransform, Transform};
