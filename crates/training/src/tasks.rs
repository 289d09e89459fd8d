//! What a trained model is used for, and how well it does it.

pub mod classes;
pub mod examples;
pub mod grounding;
pub mod masked;
pub mod query_cost;
pub mod retrieval;
pub mod vqa;
pub mod zero_shot;
