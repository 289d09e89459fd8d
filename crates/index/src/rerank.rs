//! The second step of a two-step ranking, as ALBEF evaluates retrieval: the contrastive
//! similarity picks k candidates a query, the image-text matching head scores those, and every
//! other pair keeps [`OUTSIDE`].
//!
//! The functions are pure bookkeeping; the matching scores come in through a closure, which may
//! batch, cache or fail as it likes.
//!
//! Source: `evaluation` in ALBEF's `Retrieval.py` (matching score alone) and in BLIP's
//! `train_retrieval.py` (matching score plus similarity).

use thiserror::Error;

use crate::matrix::ScoreMatrix;
use crate::search::TopK;

/// The score of a pair that is no candidate.
pub const OUTSIDE: f32 = -100.0;

/// What a candidate's final score is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FinalScore {
    /// The matching score alone: ALBEF's code.
    #[default]
    Matching,
    /// The matching score plus the contrastive similarity: BLIP's code.
    MatchingPlusSimilarity,
}

/// Why candidates could not be scored again; `E` is the scorer's own error.
#[derive(Debug, Error)]
pub enum RescoreError<E: std::error::Error + 'static> {
    /// The scorer failed.
    #[error("the candidates of query {query} could not be scored")]
    Scorer {
        /// The row of the similarity matrix.
        query: usize,
        /// What the scorer said.
        #[source]
        source: E,
    },
    /// The scorer gave too few or too many scores.
    #[error("query {query} has {expected} candidates, the scorer returned {got} scores")]
    Count {
        /// The row of the similarity matrix.
        query: usize,
        /// Number of candidates.
        expected: usize,
        /// Number of scores.
        got: usize,
    },
    /// A final score is NaN, infinite, or not above [`OUTSIDE`]: the candidate would rank among
    /// the pairs that were never scored.
    #[error(
        "query {query}, candidate {candidate}: the score {score} is not a finite number above -100"
    )]
    OutOfRange {
        /// The row of the similarity matrix.
        query: usize,
        /// The column.
        candidate: usize,
        /// The final score.
        score: f32,
    },
}

/// The `min(k, columns)` most similar columns of every row, best first; equal similarities by
/// the lower column, NaN after every number.
///
/// The official k is 256 for COCO and 128 for Flickr30K.
pub fn candidates(similarity: &ScoreMatrix, k: usize) -> Vec<Vec<usize>> {
    (0..similarity.rows())
        .map(|query| {
            let mut best = TopK::new(k.min(similarity.columns()));
            best.extend(0, similarity.row(query));
            best.into_sorted().into_iter().map(|hit| hit.row).collect()
        })
        .collect()
}

/// The final score matrix, of the shape of `similarity`: [`OUTSIDE`] everywhere but at the
/// candidates, which get what `matching` returns for them, in the order given, and with
/// [`FinalScore::MatchingPlusSimilarity`] their similarity on top.
///
/// `matching` is called once a query, in order, and not at all for a query without candidates.
/// For the other direction, call again with [`ScoreMatrix::transposed`] similarities: the
/// candidates differ, so the two results are no transposes of each other.
///
/// # Errors
/// [`RescoreError`]: the scorer failed, gave another number of scores than candidates, or one
/// that cannot rank.
///
/// # Panics
/// If there is not one candidate list a row, or a candidate is not a column.
pub fn rescore<E, F>(
    similarity: &ScoreMatrix,
    candidates: &[Vec<usize>],
    final_score: FinalScore,
    mut matching: F,
) -> Result<ScoreMatrix, RescoreError<E>>
where
    E: std::error::Error + 'static,
    F: FnMut(usize, &[usize]) -> Result<Vec<f32>, E>,
{
    assert_eq!(
        candidates.len(),
        similarity.rows(),
        "one list of candidates per row of the similarity matrix"
    );
    let mut scores = ScoreMatrix::filled(similarity.rows(), similarity.columns(), OUTSIDE);
    for (query, chosen) in candidates.iter().enumerate() {
        if chosen.is_empty() {
            continue;
        }
        let matched =
            matching(query, chosen).map_err(|source| RescoreError::Scorer { query, source })?;
        if matched.len() != chosen.len() {
            return Err(RescoreError::Count {
                query,
                expected: chosen.len(),
                got: matched.len(),
            });
        }
        let row = scores.row_mut(query);
        for (&candidate, &matched) in chosen.iter().zip(&matched) {
            let score = match final_score {
                FinalScore::Matching => matched,
                FinalScore::MatchingPlusSimilarity => matched + similarity.row(query)[candidate],
            };
            if !(score.is_finite() && score > OUTSIDE) {
                return Err(RescoreError::OutOfRange {
                    query,
                    candidate,
                    score,
                });
            }
            row[candidate] = score;
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::convert::Infallible;

    fn similarity() -> ScoreMatrix {
        ScoreMatrix::new(vec![0.1, 0.4, 0.4, -0.2, 0.9, 0.3], 3)
    }

    #[test]
    fn candidates_come_best_first_and_ties_by_column() {
        assert_eq!(candidates(&similarity(), 2), [[1, 2], [1, 2]]);
        assert_eq!(candidates(&similarity(), 9), [[1, 2, 0], [1, 2, 0]]);
        assert_eq!(candidates(&similarity(), 0), [[0usize; 0], []]);
    }

    #[test]
    fn only_candidates_are_scored() {
        let similarity = similarity();
        let chosen = candidates(&similarity, 2);
        let score = |query: usize, chosen: &[usize]| {
            Ok::<_, Infallible>(chosen.iter().map(|&c| (10 * query + c) as f32).collect())
        };
        let plain = rescore(&similarity, &chosen, FinalScore::Matching, score).unwrap();
        assert_eq!(plain.values(), [-100.0, 1.0, 2.0, -100.0, 11.0, 12.0]);
        let both = rescore(
            &similarity,
            &chosen,
            FinalScore::MatchingPlusSimilarity,
            score,
        )
        .unwrap();
        assert_eq!(both.values(), [-100.0, 1.4, 2.4, -100.0, 11.9, 12.3]);
    }

    #[test]
    fn a_scorer_that_misbehaves_is_named() {
        let similarity = similarity();
        let chosen = candidates(&similarity, 2);
        let run = |reply: fn(usize) -> Result<Vec<f32>, std::fmt::Error>| {
            rescore(&similarity, &chosen, FinalScore::Matching, |query, _| {
                reply(query)
            })
            .unwrap_err()
        };
        assert!(matches!(
            run(|_| Ok(vec![1.0])),
            RescoreError::Count {
                query: 0,
                expected: 2,
                got: 1
            }
        ));
        assert!(matches!(
            run(|query| if query == 1 {
                Err(std::fmt::Error)
            } else {
                Ok(vec![0.0; 2])
            }),
            RescoreError::Scorer { query: 1, .. }
        ));
        for bad in [f32::NAN, f32::INFINITY, -100.0] {
            let error = rescore(&similarity, &chosen, FinalScore::Matching, |_, _| {
                Ok::<_, Infallible>(vec![0.0, bad])
            })
            .unwrap_err();
            assert!(matches!(
                error,
                RescoreError::OutOfRange {
                    query: 0,
                    candidate: 2,
                    ..
                }
            ));
        }
    }
}
