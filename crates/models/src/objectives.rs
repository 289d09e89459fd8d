//! Training objectives: pure functions of a model's outputs and of the step's draws.

pub mod assignment;
pub mod contrastive;
pub mod itc;
pub mod itm;
pub mod lm;
pub mod mlm;
pub mod vqa;
pub mod wpa;

use burn::tensor::{Int, Tensor, activation};

/// Mean over rows of `-sum(targets * log_softmax(logits))`: cross-entropy with soft targets.
///
/// `logits`, `targets`: `[n, classes]`, rows of `targets` summing to 1; returns `[1]`.
pub fn soft_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    (activation::log_softmax(logits, 1) * targets)
        .sum_dim(1)
        .mean()
        .neg()
}

/// Mean cross-entropy with class indices. `logits`: `[n, classes]`, `targets`: `[n]`, each in
/// `0..classes`; returns `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let picked = activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1));
    picked.mean().neg()
}

/// `(1 - alpha) * cross-entropy + alpha * cross-entropy against the teacher's softmax`, each the
/// mean over rows.
///
/// `logits`: `[n, classes]`; `targets`: `[n]`; `teacher`: `[n, classes]` logits, on the same
/// device, without gradient; ignored when `alpha` is 0. Returns `[1]`.
pub fn distilled_cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    teacher: Option<Tensor<2>>,
    alpha: f64,
) -> Tensor<1> {
    lm::token_losses(logits, targets, teacher, alpha).mean()
}
