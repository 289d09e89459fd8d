//! Image-text matching: which negatives a pair meets, and the two-way loss (ALBEF, equation 5;
//! section 3.2 for hard negatives).

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::itc::PairId;

/// How a text's negative image, and an image's negative text, is chosen in the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HardNegatives {
    /// Uniformly: the ablation without hard negatives.
    Off,
    /// In proportion to the softmax of the contrastive similarity: the original.
    #[default]
    Sample,
    /// The most similar one: the lecture's wording.
    Hardest,
}

/// One negative per image and per text, as indices into the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negatives {
    /// For text `i`, the image it is wrongly paired with.
    pub image_idx: Vec<usize>,
    /// For image `i`, the text it is wrongly paired with.
    pub text_idx: Vec<usize>,
}

/// Where the step's negatives come from.
#[derive(Clone, Debug)]
pub enum NegativeDraw {
    /// Fixed beforehand (recorded runs).
    Given(Negatives),
    /// Chosen by the similarities of this step.
    Choose {
        /// The rule.
        how: HardNegatives,
        /// One number in `[0, 1)` per text: the draw of its negative image.
        image: Vec<f64>,
        /// One number in `[0, 1)` per image: the draw of its negative text.
        text: Vec<f64>,
        /// Ids of the batch, where the same pair must not be a negative; empty to forbid only
        /// the pair itself, as the original.
        ids: Vec<PairId>,
    },
}

impl NegativeDraw {
    /// The negatives. `similarities`: similarity / temperature inside the batch, image to text and
    /// text to image, each row-major `[batch, batch]`; called only where the rule looks at them.
    pub fn negatives(&self, similarities: impl FnOnce() -> (Vec<f32>, Vec<f32>)) -> Negatives {
        let (how, image, text, ids) = match self {
            Self::Given(negatives) => return negatives.clone(),
            Self::Choose {
                how,
                image,
                text,
                ids,
            } => (*how, image, text, ids),
        };
        let batch = image.len();
        let (i2t, t2i) = match how {
            HardNegatives::Off => (vec![0.0; batch * batch], vec![0.0; batch * batch]),
            HardNegatives::Sample | HardNegatives::Hardest => similarities(),
        };
        let same = |i: usize, j: usize| i == j || (!ids.is_empty() && ids[i].is_same(ids[j]));
        Negatives {
            image_idx: choose(&t2i, batch, how, image, same),
            text_idx: choose(&i2t, batch, how, text, same),
        }
    }
}

/// Chooses one negative for each row.
///
/// `sim`: similarity / temperature inside the batch, row-major `[batch, batch]`; `forbidden(i,
/// j)`: `j` matches `i` (the diagonal, and equal image ids where ids are known); `uniform`: one
/// number in `[0, 1)` per row, the step's draw. A row with nothing left to choose (batch 1, or
/// every id equal) takes its right neighbour, as no better choice exists; the original crashes
/// there.
pub fn choose(
    sim: &[f32],
    batch: usize,
    how: HardNegatives,
    uniform: &[f64],
    forbidden: impl Fn(usize, usize) -> bool,
) -> Vec<usize> {
    (0..batch)
        .map(|i| {
            let row = &sim[i * batch..(i + 1) * batch];
            let allowed: Vec<usize> = (0..batch).filter(|j| !forbidden(i, *j)).collect();
            let Some(max) = allowed.iter().map(|j| row[*j]).reduce(f32::max) else {
                return (i + 1) % batch;
            };
            let weight = |j: usize| match how {
                HardNegatives::Off => 1.0,
                HardNegatives::Sample => f64::from(row[j] - max).exp(),
                HardNegatives::Hardest => f64::from(u8::from(row[j] == max)),
            };
            draw(&allowed, weight, uniform[i])
        })
        .collect()
}

/// The candidate at share `uniform` of the cumulated weights.
fn draw(candidates: &[usize], weight: impl Fn(usize) -> f64, uniform: f64) -> usize {
    let total: f64 = candidates.iter().map(|j| weight(*j)).sum();
    let mut left = uniform * total;
    for j in candidates {
        left -= weight(*j);
        if left < 0.0 {
            return *j;
        }
    }
    candidates[candidates.len() - 1]
}

/// Labels of the batch order that ALBEF uses: positives, then (text, negative image), then
/// (negative text, image): `[1] * batch + [0] * 2 batch`.
pub fn labels(batch: usize) -> TensorData {
    let labels: Vec<i64> = (0..3 * batch).map(|i| i64::from(i < batch)).collect();
    TensorData::new(labels, [3 * batch])
}

/// The loss, and the share of pairs it classifies rightly.
#[derive(Clone, Debug)]
pub struct Itm {
    /// `[3 * batch, 2]`; column 1 is "they match".
    pub logits: Tensor<2>,
    /// Mean cross-entropy, `[1]`.
    pub loss: Tensor<1>,
}

/// Two-way cross-entropy. `logits`: `[3 * batch, 2]`, `labels`: `[3 * batch]`.
pub fn itm(logits: Tensor<2>, labels: Tensor<1, Int>) -> Itm {
    Itm {
        loss: super::cross_entropy(logits.clone(), labels),
        logits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIM: [f32; 9] = [9.0, 1.0, 2.0, 0.0, 9.0, 5.0, 3.0, 3.0, 9.0];

    #[test]
    fn the_pair_itself_is_never_its_negative() {
        for how in [
            HardNegatives::Off,
            HardNegatives::Sample,
            HardNegatives::Hardest,
        ] {
            for u in [0.0, 0.3, 0.7, 0.999_999] {
                let chosen = choose(&SIM, 3, how, &[u; 3], |i, j| i == j);
                assert!(chosen.iter().enumerate().all(|(i, j)| i != *j));
            }
        }
    }

    #[test]
    fn hardest_takes_the_most_similar() {
        let chosen = choose(&SIM, 3, HardNegatives::Hardest, &[0.9; 3], |i, j| i == j);
        assert_eq!(chosen[..2], [2, 2]);
    }

    #[test]
    fn sampling_follows_the_softmax() {
        // Row 0: weights e^1 and e^2 over candidates 1 and 2: the first takes 0.2689 of the draw.
        let at = |u| choose(&SIM, 3, HardNegatives::Sample, &[u; 3], |i, j| i == j)[0];
        assert_eq!((at(0.26), at(0.28)), (1, 2));
    }

    #[test]
    fn nothing_left_to_choose() {
        assert_eq!(
            choose(&[1.0], 1, HardNegatives::Sample, &[0.5], |i, j| i == j),
            [0]
        );
        let all_equal = choose(&SIM, 3, HardNegatives::Sample, &[0.5; 3], |_, _| true);
        assert_eq!(all_equal, [1, 2, 0]);
    }
}
