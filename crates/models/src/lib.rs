//! Vision-language systems: encoders, fusion, objectives, and the layouts of official weights.
//!
//! One system a file ([`albef`], [`clip`], [`vilt`], [`vlmo`]; [`image_tokenizer`] gives VLMo's image
//! stage its targets), read top to bottom: config, outputs, module, `forward`. Systems are built from [`layers`] and trained with [`objectives`], which are
//! pure functions: the momentum update, the queue and every random draw are inputs, which is what
//! makes a step reproducible and comparable with recorded tensors. [`weights`] reads and writes
//! checkpoints under the official parameter names; [`system`] is what a trained system can be
//! asked. [`sentence`] puts a published BERT of full size to use as it is.

pub mod albef;
pub mod clip;
pub mod image_tokenizer;
pub mod layers;
pub mod objectives;
pub mod sentence;
pub mod system;
pub mod vilt;
pub mod vlmo;
pub mod weights;
pub mod zero_shot;
