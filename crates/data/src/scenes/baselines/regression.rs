//! Multinomial logistic regression on sparse features, trained with AdaGrad: small, fast, and the same on every run.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Features of an example: index and value.
pub(super) type Features = Vec<(u32, f32)>;

const EPOCHS: usize = 12;
const RATE: f32 = 0.1;
/// Weight of the squared weights in the loss, without which words seen once are learned by heart.
const DECAY: f32 = 1e-3;
const SEED: u64 = 0;

/// A trained model: for every class a weight per feature and a bias at the end.
pub(super) struct Regression {
    weights: Vec<Vec<f32>>,
}

impl Regression {
    /// Fits `examples` of features below `width` to `labels` below `classes`.
    pub(super) fn fit(
        examples: &[&Features],
        labels: &[usize],
        width: usize,
        classes: usize,
    ) -> Self {
        let mut model = Self {
            weights: vec![vec![0.0; width + 1]; classes],
        };
        let mut squares = vec![vec![1e-6f32; width + 1]; classes];
        let mut order: Vec<usize> = (0..examples.len()).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        for _ in 0..EPOCHS {
            order.shuffle(&mut rng);
            for &at in &order {
                let shares = model.shares(examples[at]);
                for (class, share) in shares.into_iter().enumerate() {
                    let error = share - f32::from(u8::from(class == labels[at]));
                    let (weights, squares) = (&mut model.weights[class], &mut squares[class]);
                    let mut step = |index: usize, gradient: f32, decay: f32| {
                        let gradient = gradient + decay * weights[index];
                        squares[index] += gradient * gradient;
                        weights[index] -= RATE * gradient / squares[index].sqrt();
                    };
                    for &(index, value) in examples[at] {
                        step(index as usize, error * value, DECAY);
                    }
                    step(width, error, 0.0);
                }
            }
        }
        model
    }

    /// The most probable class.
    pub(super) fn predict(&self, example: &Features) -> usize {
        let logits = self.logits(example);
        (0..logits.len())
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap_or_default()
    }

    fn logits(&self, example: &Features) -> Vec<f32> {
        self.weights
            .iter()
            .map(|weights| {
                let bias = weights.last().copied().unwrap_or_default();
                example
                    .iter()
                    .map(|&(index, value)| weights[index as usize] * value)
                    .sum::<f32>()
                    + bias
            })
            .collect()
    }

    fn shares(&self, example: &Features) -> Vec<f32> {
        let mut shares = self.logits(example);
        let largest = shares.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for share in &mut shares {
            *share = (*share - largest).exp();
            sum += *share;
        }
        for share in &mut shares {
            *share /= sum;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_tells_the_label_is_found_and_a_coin_is_not_learned() {
        // Feature 0 tells the label, feature 1 is always there, feature 2 alternates.
        let examples: Vec<Features> = (0..200u32)
            .map(|at| {
                let mut features = vec![(1, 1.0)];
                if at % 4 < 2 {
                    features.push((0, 1.0));
                }
                if at % 2 == 0 {
                    features.push((2, 1.0));
                }
                features
            })
            .collect();
        let labels: Vec<usize> = (0..200).map(|at| usize::from(at % 4 < 2)).collect();
        let borrowed: Vec<&Features> = examples.iter().collect();
        let model = Regression::fit(&borrowed, &labels, 3, 2);
        assert!(
            examples
                .iter()
                .zip(&labels)
                .all(|(example, &label)| model.predict(example) == label)
        );
    }
}
