//! Question answering as classification: every answer of a fixed list is right to a degree
//! (ViLT and VLMo, `compute_vqa`).

use burn::tensor::{Tensor, TensorData, activation};

/// Degrees as a matrix, 0 for answers not named. `answers`: per question, index and degree in
/// `[0, 1]`, the last where one is named twice; those not below `count` are left out, as answers
/// outside the list are. Returns `[questions, count]`, row-major.
pub fn soft_targets(answers: &[Vec<(usize, f32)>], count: usize) -> TensorData {
    let mut targets = vec![0.0f32; answers.len() * count];
    for (row, answers) in targets.chunks_mut(count).zip(answers) {
        for (answer, degree) in answers.iter().filter(|(answer, _)| *answer < count) {
            row[*answer] = *degree;
        }
    }
    TensorData::new(targets, [answers.len(), count])
}

/// Binary cross-entropy, summed over answers, mean over questions. `logits`, `targets`:
/// `[questions, answers]`; returns `[1]`.
pub fn vqa(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    // -t log s(x) - (1 - t) log s(-x) = -log s(-x) - t x
    let loss = activation::log_sigmoid(logits.clone().neg()).neg() - logits * targets;
    loss.sum_dim(1).mean()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn targets_by_hand() {
        let targets = soft_targets(&[vec![(2, 0.3), (0, 1.0), (3, 1.0)], vec![]], 3);
        let values: Vec<f32> = targets.try_to_vec().unwrap();
        assert_eq!(values, [1.0, 0.0, 0.3, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn large_logits_stay_finite() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_floats([[1000.0, -1000.0, 0.0]], &device);
        let targets = Tensor::<2>::from_floats([[0.0, 1.0, 0.5]], &device);
        let loss: f32 = vqa(logits, targets).into_scalar();
        assert!((loss - (2000.0 + 2f32.ln())).abs() < 1e-3, "{loss}");
    }
}
