//! Masking of whole words, as ViLT and VLMo pre-train: a word's pieces are hidden together, so
//! that "##affe" alone does not give away "gir" (Hugging Face's `DataCollatorForWholeWordMask`).
//!
//! Words are taken in random order until a share of the row's tokens is covered; a word that
//! would exceed it is passed over. Each hidden piece then draws for itself what stands in its
//! place, as in [`masking`]. Padding counts as words of its own and uses up its part of the share,
//! so a short text in a long row may stay whole.

use std::ops::Range;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::masking::{self, MaskDraws};
use super::tokenizer::SpecialIds;

/// The words of one row, as ranges of positions: a piece and those after it that continue it.
/// `[CLS]` and `[SEP]` belong to none; each `[PAD]` is one.
pub fn words(
    input_ids: &[i64],
    continues: impl Fn(i64) -> bool,
    special: &SpecialIds,
) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for (at, &id) in input_ids.iter().enumerate() {
        if id == special.cls || id == special.sep {
            continue;
        }
        match words.last_mut() {
            Some(word) if continues(id) && word.end == at => word.end += 1,
            _ => words.push(at..at + 1),
        }
    }
    words
}

/// Which positions of a row are to be predicted when its `words` are taken in the order given:
/// as many tokens as `probability` times the row's length, at least one, whole words only.
/// `[PAD]` and `[UNK]` are covered but never predicted. ViLT's probability is 0.15.
pub fn choose(
    input_ids: &[i64],
    words: &[Range<usize>],
    probability: f64,
    special: &SpecialIds,
) -> Vec<bool> {
    // Python rounds halves to even, and so decides 1.5 and 4.5 tokens of rows of 10 and 30.
    let budget = (input_ids.len() as f64 * probability).round_ties_even() as usize;
    let budget = budget.max(1);
    let mut masked = vec![false; input_ids.len()];
    let mut covered = 0;
    for word in words {
        if covered + word.len() > budget {
            continue;
        }
        covered += word.len();
        for at in word.clone() {
            masked[at] = input_ids[at] != special.pad && input_ids[at] != special.unk;
        }
    }
    masked
}

/// Draws for rows of `length` tokens, row by row in `input_ids`; [`masking::apply`] masks by them.
/// `continues`: whether a token continues the word before it, which WordPiece writes `##`.
///
/// # Panics
/// When `length` or `vocab_size` is 0, or `probability` is outside [0, 1].
pub fn draw(
    input_ids: &[i64],
    length: usize,
    probability: f64,
    continues: impl Fn(i64) -> bool,
    special: &SpecialIds,
    vocab_size: usize,
    rng: &mut ChaCha8Rng,
) -> MaskDraws {
    let mut draws = masking::draw(input_ids.len(), probability, vocab_size, rng);
    draws.masked.clear();
    for row in input_ids.chunks(length) {
        let mut words = words(row, &continues, special);
        words.shuffle(rng);
        draws
            .masked
            .extend(choose(row, &words, probability, special));
    }
    draws
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    const SPECIAL: SpecialIds = SpecialIds {
        pad: 0,
        unk: 1,
        cls: 2,
        sep: 3,
        mask: 4,
    };

    /// Ids from 100 on continue a word.
    fn continues(id: i64) -> bool {
        id >= 100
    }

    #[test]
    fn words_by_hand() {
        // [CLS] gir ##affe in [UNK] [SEP] [PAD] [PAD]
        let row = [2, 10, 100, 11, 1, 3, 0, 0];
        let found = words(&row, continues, &SPECIAL);
        assert_eq!(found, [1..3, 3..4, 4..5, 6..7, 7..8]);
        // A piece with no word before it begins one.
        assert_eq!(words(&[2, 100, 101, 9], continues, &SPECIAL), [1..3, 3..4]);
    }

    #[test]
    fn words_are_taken_while_they_fit() {
        // 20 tokens at 0.15: a budget of 3.
        let mut row = vec![11; 20];
        (row[1], row[2], row[3]) = (100, 101, 1);
        let positions = |words: &[Range<usize>]| -> Vec<usize> {
            let masked = choose(&row, words, 0.15, &SPECIAL);
            (0..20).filter(|at| masked[*at]).collect()
        };
        assert_eq!(positions(&[0..3, 4..5]), [0, 1, 2]);
        // The second word no longer fits, the third does, the fourth finds nothing left.
        assert_eq!(positions(&[5..7, 0..3, 7..8, 8..9]), [5, 6, 7]);
        // [UNK] uses up its part.
        assert_eq!(positions(&[3..4, 9..10, 10..11, 11..12]), [9, 10]);
    }

    #[test]
    fn half_tokens_round_to_even_and_one_is_always_allowed() {
        let masked = |length: usize| {
            let row = vec![11; length];
            let words: Vec<Range<usize>> = (0..length).map(|at| at..at + 1).collect();
            let masked = choose(&row, &words, 0.15, &SPECIAL);
            masked.iter().filter(|m| **m).count()
        };
        assert_eq!([2, 10, 30, 40].map(masked), [1, 2, 4, 6]);
    }

    #[test]
    fn a_word_is_hidden_wholly_or_not_at_all() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let (length, rows) = (40, 2000);
        let ids: Vec<i64> = (0..rows * length)
            .map(|at| match at % length {
                0 => SPECIAL.cls,
                39 => SPECIAL.sep,
                _ if rng.random_bool(0.3) => rng.random_range(100..200),
                _ => rng.random_range(5..100),
            })
            .collect();
        let draws = draw(&ids, length, 0.15, continues, &SPECIAL, 200, &mut rng);
        let mut hidden = 0;
        for (row, masked) in ids.chunks(length).zip(draws.masked.chunks(length)) {
            for word in words(row, continues, &SPECIAL) {
                let count = masked[word.clone()].iter().filter(|m| **m).count();
                assert!(count == 0 || count == word.len());
            }
            let count = masked.iter().filter(|m| **m).count();
            assert!((1..=6).contains(&count), "{count} of 40 hidden");
            hidden += count;
        }
        // Nearly always the six tokens of the budget: single-piece words fill what is left.
        let share = hidden as f64 / ids.len() as f64;
        assert!((0.145..=0.15).contains(&share), "{share}");

        let masked = masking::apply(&ids, &draws, &SPECIAL);
        let labelled = masked.labels.iter().filter(|l| **l >= 0).count();
        assert_eq!(labelled, hidden);
        let replaced = masked.input_ids.iter().filter(|id| **id == 4).count();
        assert!((replaced as f64 / hidden as f64 - 0.8).abs() < 0.02);
    }

    #[test]
    fn the_same_seed_gives_the_same_draws() {
        let ids: Vec<i64> = (0..40).map(|at| 5 + at).collect();
        let drawn = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            draw(&ids, 20, 0.15, continues, &SPECIAL, 200, &mut rng)
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1).masked, drawn(2).masked);
    }
}
