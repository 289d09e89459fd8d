//! Masked language modelling: which tokens are hidden, and behind what. ALBEF's rule
//! (`models/model_pretrain.py`, `mask`) as a pure function of its random draws, so that a training
//! step can be repeated, and checked against recorded ones.
//!
//! A text in which no token was drawn stays as it is and contributes nothing to the loss; no token
//! is forced, so the share of masked tokens is the same for short and long texts.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::tokenizer::SpecialIds;

/// Label of positions the loss leaves out.
pub const IGNORED: i64 = -100;

/// Of the masked tokens, this share becomes `[MASK]`.
const MASK_SHARE: f64 = 0.8;
/// Of those that do not, this share becomes a random token; the others stay and are still predicted.
const RANDOM_SHARE: f64 = 0.5;

/// The draws behind one masking, one of each per token position; all are made at every position,
/// used or not, as in the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskDraws {
    /// Bernoulli(probability): the token is to be predicted.
    pub masked: Vec<bool>,
    /// Bernoulli(0.8): it becomes `[MASK]`.
    pub replaced: Vec<bool>,
    /// Bernoulli(0.5): if it did not become `[MASK]`, it becomes the random id.
    pub randomised: Vec<bool>,
    /// Uniform over the whole vocabulary, special tokens included.
    pub random_ids: Vec<i64>,
}

/// Masked inputs and what to predict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedTokens {
    /// The ids to feed, same shape as the input.
    pub input_ids: Vec<i64>,
    /// The original id where the token was masked, [`IGNORED`] elsewhere.
    pub labels: Vec<i64>,
}

/// Draws for `count` token positions. ALBEF's probability is 0.15.
///
/// # Panics
/// When `vocab_size` is 0 or `probability` is outside [0, 1].
pub fn draw(count: usize, probability: f64, vocab_size: usize, rng: &mut ChaCha8Rng) -> MaskDraws {
    let mut draws = MaskDraws {
        masked: Vec::with_capacity(count),
        replaced: Vec::with_capacity(count),
        randomised: Vec::with_capacity(count),
        random_ids: Vec::with_capacity(count),
    };
    for _ in 0..count {
        draws.masked.push(rng.random_bool(probability));
        draws.replaced.push(rng.random_bool(MASK_SHARE));
        draws.randomised.push(rng.random_bool(RANDOM_SHARE));
        draws
            .random_ids
            .push(rng.random_range(0..vocab_size as i64));
    }
    draws
}

/// Masks tokens by the draws. `[PAD]` and `[CLS]` are never masked; every other token may be,
/// `[SEP]` included.
///
/// # Panics
/// When the draws are not one per token.
pub fn apply(input_ids: &[i64], draws: &MaskDraws, special: &SpecialIds) -> MaskedTokens {
    let count = input_ids.len();
    assert!(
        [
            draws.masked.len(),
            draws.replaced.len(),
            draws.randomised.len(),
            draws.random_ids.len(),
        ] == [count; 4],
        "one draw of each kind per token: {count} tokens"
    );
    let mut masked = MaskedTokens {
        input_ids: input_ids.to_vec(),
        labels: vec![IGNORED; count],
    };
    for (at, &id) in input_ids.iter().enumerate() {
        if !draws.masked[at] || id == special.pad || id == special.cls {
            continue;
        }
        masked.labels[at] = id;
        if draws.replaced[at] {
            masked.input_ids[at] = special.mask;
        } else if draws.randomised[at] {
            masked.input_ids[at] = draws.random_ids[at];
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_shares_are_those_of_the_rule() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let count = 40_000;
        let draws = draw(count, 0.15, 50, &mut rng);
        let special = SpecialIds {
            pad: 0,
            unk: 1,
            cls: 2,
            sep: 3,
            mask: 4,
        };
        let masked = apply(&vec![49; count], &draws, &special);

        let share = |n: usize| n as f64 / count as f64;
        let labelled = masked.labels.iter().filter(|&&l| l == 49).count();
        let hidden = masked.input_ids.iter().filter(|&&id| id == 4).count();
        let kept = masked.input_ids.iter().filter(|&&id| id == 49).count();
        assert!((share(labelled) - 0.15).abs() < 0.01);
        assert!((share(hidden) - 0.15 * 0.802).abs() < 0.01);
        assert!((share(kept) - (0.85 + 0.15 * 0.102)).abs() < 0.01);
        assert!(draws.random_ids.iter().all(|id| (0..50).contains(id)));
        assert!((0..50).all(|id| draws.random_ids.contains(&id)));
    }

    #[test]
    fn padding_and_cls_stay_even_when_drawn() {
        let special = SpecialIds {
            pad: 0,
            unk: 1,
            cls: 2,
            sep: 3,
            mask: 4,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let draws = draw(4, 1.0, 10, &mut rng);
        let masked = apply(&[2, 3, 9, 0], &draws, &special);
        assert_eq!(masked.labels, [IGNORED, 3, 9, IGNORED]);
        assert_eq!((masked.input_ids[0], masked.input_ids[3]), (2, 0));
    }
}
