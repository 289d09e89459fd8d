//! Language modelling: each token of a sequence predicted from those before it (ALBEF's answers;
//! `BertLMHeadModel` of `models/xbert.py` with `reduction = "none"`).

use burn::tensor::{Int, Tensor, TensorData, activation};

/// Loss of each predicted token: `(1 - alpha) * cross-entropy + alpha * cross-entropy against the
/// teacher's softmax`.
///
/// `logits`: `[rows, vocab]`; `next`: the token that follows each row, `[rows]`; `teacher`: `[rows,
/// vocab]` logits, on the same device, without gradient; ignored when `alpha` is 0. Returns
/// `[rows]`.
pub fn token_losses(
    logits: Tensor<2>,
    next: Tensor<1, Int>,
    teacher: Option<Tensor<2>>,
    alpha: f64,
) -> Tensor<1> {
    let log_probs = activation::log_softmax(logits, 1);
    let hard = log_probs.clone().gather(1, next.unsqueeze_dim(1)).neg();
    let loss = match teacher {
        Some(teacher) if alpha > 0.0 => {
            let soft = (log_probs * activation::softmax(teacher, 1)).sum_dim(1);
            hard.mul_scalar(1.0 - alpha) - soft.mul_scalar(alpha)
        }
        _ => hard,
    };
    loss.squeeze_dim(1)
}

/// Sums over sequences that stand one after another, `lengths` tokens each. `losses`: `[rows]`;
/// returns `[sequences]`, 0 for a sequence without tokens.
pub fn sequence_sums(losses: Tensor<1>, lengths: &[usize]) -> Tensor<1> {
    let device = losses.device();
    let rows: usize = lengths.iter().sum();
    let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
    // What a shorter sequence lacks reads a zero behind the last row.
    let mut start = 0;
    let mut places = Vec::with_capacity(lengths.len() * longest);
    for length in lengths {
        places.extend((0..longest).map(|i| if i < *length { start + i } else { rows } as i64));
        start += length;
    }
    let index = TensorData::new(places, [lengths.len() * longest]);
    let index = Tensor::<1, Int>::from_data(index, &device);
    Tensor::cat(vec![losses, Tensor::zeros([1], &device)], 0)
        .select(0, index)
        .reshape([lengths.len(), longest])
        .sum_dim(1)
        .squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::host_values;
    use burn::tensor::Device;

    #[test]
    fn sums_of_sequences() {
        let losses = Tensor::from_data([1.0, 2.0, 4.0, 8.0], &Device::flex());
        assert_eq!(
            host_values(sequence_sums(losses, &[1, 0, 3])),
            [1.0, 0.0, 14.0]
        );
    }

    #[test]
    fn token_losses_by_hand() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_data([[3f32.ln(), 0.0], [0.0, 0.0]], &device);
        let next = Tensor::<1, Int>::from_data([0, 1], &device);
        let (three_quarters, half) = ((4.0f32 / 3.0).ln(), 2.0f32.ln());
        let hard = host_values(token_losses(logits.clone(), next.clone(), None, 0.4));
        assert!((hard[0] - three_quarters).abs() < 1e-6 && (hard[1] - half).abs() < 1e-6);
        // A teacher that is sure of the second word.
        let teacher = Tensor::<2>::from_data([[-100.0, 0.0], [-100.0, 0.0]], &device);
        let soft = host_values(token_losses(logits, next, Some(teacher), 0.25));
        let want = 0.75 * three_quarters + 0.25 * 4f32.ln();
        assert!((soft[0] - want).abs() < 1e-6, "{soft:?}, by hand {want}");
    }
}
