//! Answers out of a fixed list (`rank_answer` of `models/model_vqa.py`): the likeliest first tokens
//! choose `k` answers, and those are ranked by their likelihood as a whole.

use burn::tensor::{Int, Tensor, activation};
use fitup_kernels::attention::row_index;

use super::{AlbefVqa, QuestionStates, predicting_rows};
use crate::layers::bert::SourceKeysValues;
use crate::layers::packing::Packing;
use crate::objectives::lm;
use crate::weights::host_values;

/// How often the first token counts in an answer's likelihood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstToken {
    /// Once, as the chain rule has it.
    #[default]
    Once,
    /// Twice, as in the original, which adds the logarithm that chose the answer to a likelihood
    /// that holds it already.
    Twice,
}

/// An answer of the list with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankedAnswer {
    /// Index into the list.
    pub answer: usize,
    /// Logarithm of the answer's likelihood.
    pub log_likelihood: f32,
    /// Softmax of the score over the question's `k` answers, `[0, 1]`.
    pub prob: f32,
}

impl AlbefVqa {
    /// The `k` best answers to each question, the best first; all of them when the list is shorter.
    /// `candidates`: the list's tokens, `[rows]`, `[CLS] pieces [SEP]` each, packed as `packing`.
    ///
    /// Of answers with the same first token, of which only some fit among the `k`, those that come
    /// later in the list are taken, as in the recorded runs (PyTorch leaves it open).
    ///
    /// # Panics
    /// If a candidate has fewer than two tokens.
    pub fn rank_answers(
        &self,
        questions: &QuestionStates,
        candidates: Tensor<1, Int>,
        packing: &Packing,
        k: usize,
        first_token: FirstToken,
    ) -> Vec<Vec<RankedAnswer>> {
        assert!(
            packing.lengths().iter().all(|length| *length >= 2),
            "an answer is [CLS], its pieces and [SEP]"
        );
        let count = packing.texts();
        if count == 0 {
            return vec![vec![]; questions.packing.texts()];
        }
        let first = host_values(self.first_token_log_probs(questions, candidates.clone(), packing));
        let source = self.source(questions);
        let all: Vec<_> = packing.ranges().collect();
        let rank = |question: usize| {
            let first = &first[question * count..(question + 1) * count];
            let chosen = likeliest(first, k);
            let rows = chosen.iter().flat_map(|answer| all[*answer].clone());
            let ids = candidates
                .clone()
                .select(0, row_index(rows, &candidates.device()));
            let rest = self.rest_log_likelihood(
                &source,
                ids,
                &packing.chosen(&chosen),
                &vec![question; chosen.len()],
            );
            let scored = chosen.iter().zip(rest).map(|(answer, rest)| {
                let log_likelihood = first[*answer] + rest;
                let score = match first_token {
                    FirstToken::Once => log_likelihood,
                    FirstToken::Twice => log_likelihood + first[*answer],
                };
                (*answer, log_likelihood, score)
            });
            ranked(scored.collect())
        };
        (0..questions.packing.texts()).map(rank).collect()
    }

    /// Logarithm of the probability that an answer begins as each candidate, `[questions,
    /// candidates]`.
    pub fn first_token_log_probs(
        &self,
        questions: &QuestionStates,
        candidates: Tensor<1, Int>,
        packing: &Packing,
    ) -> Tensor<2> {
        let device = candidates.device();
        let count = questions.packing.texts();
        let starts = candidates.clone().narrow(0, 0, 1).repeat_dim(0, count);
        let source = self.source(questions);
        let own: Vec<usize> = (0..count).collect();
        let one_each = Packing::new(vec![1; count]);
        let decoder = &self.text_decoder;
        let hidden = decoder.decode_rows(starts, &one_each, &source, &own, None);
        let log_probs = activation::log_softmax(decoder.mlm_logits(hidden), 1);
        let second = row_index(packing.ranges().map(|range| range.start + 1), &device);
        log_probs.select(1, candidates.select(0, second))
    }

    /// Logarithm of each answer's likelihood given its first token; arguments as for
    /// [`AlbefVqa::answer_logits`].
    fn rest_log_likelihood(
        &self,
        source: &SourceKeysValues,
        ids: Tensor<1, Int>,
        packing: &Packing,
        questions: &[usize],
    ) -> Vec<f32> {
        let device = ids.device();
        let decoder = &self.text_decoder;
        let predicted: Vec<usize> = packing.lengths().iter().map(|n| n - 2).collect();
        if predicted.iter().sum::<usize>() == 0 {
            return vec![0.0; packing.texts()];
        }
        let hidden = decoder.decode_rows(ids.clone(), packing, source, questions, None);
        let rows = row_index(predicting_rows(packing, 1), &device);
        let next = row_index(predicting_rows(packing, 1).map(|row| row + 1), &device);
        let logits = decoder.mlm_logits(hidden.select(0, rows));
        let losses = lm::token_losses(logits, ids.select(0, next), None, 0.0);
        host_values(lm::sequence_sums(losses, &predicted).neg())
    }
}

/// Indices of the `k` largest values, the largest first, of equal ones the later.
fn likeliest(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).rev().collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    order
}

/// From answer, likelihood and score; the largest score first.
fn ranked(mut scored: Vec<(usize, f32, f32)>) -> Vec<RankedAnswer> {
    scored.sort_by(|a, b| b.2.total_cmp(&a.2));
    let Some((_, _, best)) = scored.first().copied() else {
        return vec![];
    };
    let total: f32 = scored
        .iter()
        .map(|(_, _, score)| (score - best).exp())
        .sum();
    let answers = scored.into_iter();
    answers
        .map(|(answer, log_likelihood, score)| RankedAnswer {
            answer,
            log_likelihood,
            prob: (score - best).exp() / total,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_first_tokens_the_later() {
        assert_eq!(likeliest(&[0.1, 0.4, 0.1, 0.3], 3), [1, 3, 2]);
    }

    #[test]
    fn probabilities_over_the_chosen() {
        let answers = ranked(vec![(7, -2.0, 0.0), (4, -1.0, 3f32.ln())]);
        assert_eq!(answers[0].answer, 4);
        assert!((answers[0].prob - 0.75).abs() < 1e-6);
        assert!((answers[1].prob - 0.25).abs() < 1e-6);
        assert!(ranked(vec![]).is_empty());
    }
}
