//! Masked language modelling with momentum distillation (ALBEF, equations 4 and 7).

use burn::tensor::{Int, Tensor};

use super::distilled_cross_entropy;

/// Where a batch is masked and what stood there: only these positions need vocabulary logits.
#[derive(Clone, Debug)]
pub struct MaskedPositions {
    /// Indices into the flattened `[batch * seq]` tokens.
    pub index: Vec<i64>,
    /// The tokens that were there.
    pub token: Vec<i64>,
}

impl MaskedPositions {
    /// From labels, row-major `[batch, seq]`, -100 where nothing is masked.
    pub fn from_labels(labels: &[i64]) -> Self {
        let masked = labels.iter().enumerate().filter(|(_, label)| **label >= 0);
        let (index, token) = masked.map(|(i, label)| (i as i64, *label)).unzip();
        Self { index, token }
    }
}

/// `(1 - alpha) * cross-entropy + alpha * cross-entropy against the momentum model's softmax`,
/// mean over masked tokens.
///
/// `logits`: `[masked, vocab]`; `tokens`: `[masked]`; `momentum_logits`: `[masked, vocab]`, on
/// the same device, without gradient; ignored when `alpha` is 0. Returns `[1]`.
pub fn mlm(
    logits: Tensor<2>,
    tokens: Tensor<1, Int>,
    momentum_logits: Option<Tensor<2>>,
    alpha: f64,
) -> Tensor<1> {
    distilled_cross_entropy(logits, tokens, momentum_logits, alpha)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_labels() {
        let masked = MaskedPositions::from_labels(&[-100, 5, -100, -100, 0, 7]);
        assert_eq!(masked.index, [1, 4, 5]);
        assert_eq!(masked.token, [5, 0, 7]);
    }
}
