//! What a trained model is used for, and how well it does it.

pub mod grounding;
pub mod masked;
pub mod retrieval;
pub mod zero_shot;
