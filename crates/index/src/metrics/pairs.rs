//! Accuracy and consistency of NLVR2, as the authors' script counts them (`metrics.py`).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// One statement about two pictures.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Equal for all pairs of pictures that share one sentence.
    pub sentence: &'a str,
    /// What the model says.
    pub predicted: bool,
    /// What is true.
    pub label: bool,
}

/// How many statements were judged rightly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairAccuracy {
    /// Statements.
    pub statements: usize,
    /// Of these, judged rightly.
    pub right: usize,
    /// Sentences, each about several pairs.
    pub sentences: usize,
    /// Of these, judged rightly about all their pairs.
    pub consistent: usize,
}

impl PairAccuracy {
    /// Counts statements.
    pub fn of<'a>(judged: impl IntoIterator<Item = Judged<'a>>) -> Self {
        let mut accuracy = Self::default();
        let mut sentences: HashMap<&str, bool> = HashMap::new();
        for statement in judged {
            let right = statement.predicted == statement.label;
            accuracy.statements += 1;
            accuracy.right += usize::from(right);
            *sentences.entry(statement.sentence).or_insert(true) &= right;
        }
        accuracy.sentences = sentences.len();
        accuracy.consistent = sentences.into_values().filter(|&right| right).count();
        accuracy
    }

    /// Share of statements that are right, 0 to 1; 0 without any. The script calls it precision.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.statements.max(1) as f64
    }

    /// Share of sentences that are right throughout, 0 to 1; 0 without any.
    pub fn consistency(&self) -> f64 {
        self.consistent as f64 / self.sentences.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slip_makes_a_sentence_inconsistent() {
        let judged = |sentence, predicted, label| Judged {
            sentence,
            predicted,
            label,
        };
        let accuracy = PairAccuracy::of([
            judged("dev-0--0", true, true),
            judged("dev-0--1", true, true),
            judged("dev-0--0", true, false),
            judged("dev-1--0", false, false),
        ]);
        assert_eq!((accuracy.accuracy(), accuracy.right), (0.75, 3));
        assert_eq!((accuracy.consistency(), accuracy.sentences), (2.0 / 3.0, 3));
        assert_eq!(PairAccuracy::of([]).consistency(), 0.0);
    }
}
