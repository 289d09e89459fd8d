//! Tasks with a few classes: visual entailment, and statements on two pictures (NLVR2).

use burn::tensor::{Tensor, activation};
use fitup_data::sources::{Source, Target};
use fitup_index::metrics::pairs::{Judged, PairAccuracy};
use fitup_models::albef::entailment::AlbefEntailment;
use fitup_models::albef::nlvr2::AlbefNlvr2;
use fitup_models::layers::packing::Packing;
use fitup_models::weights::host_values;
use serde::{Deserialize, Serialize};

use super::examples::{ExampleError, Examples, Preparation, asks, chunks};
use crate::recipe::TaskKind;

/// A model that sorts pictures with texts into classes.
pub trait Classifying {
    /// `[n, classes]`.
    fn class_logits(&self, examples: Examples) -> Tensor<2>;
}

impl Classifying for AlbefEntailment {
    fn class_logits(&self, examples: Examples) -> Tensor<2> {
        let packing = Packing::from_mask(examples.attention_mask);
        let ids = packing.pack(examples.input_ids);
        self.forward(examples.image, ids, &packing, None)
    }
}

impl Classifying for AlbefNlvr2 {
    fn class_logits(&self, examples: Examples) -> Tensor<2> {
        let packing = Packing::from_mask(examples.attention_mask);
        let ids = packing.pack(examples.input_ids);
        let second = examples
            .second_image
            .unwrap_or_else(|| examples.image.clone());
        self.forward([examples.image, second], ids, &packing, None)
    }
}

/// The classes of a task, in the order of its logits; none for tasks without.
pub fn class_names(task: TaskKind) -> &'static [&'static str] {
    match task {
        TaskKind::Entailment => &["contradiction", "neutral", "entailment"],
        TaskKind::Nlvr2 => &["false", "true"],
        TaskKind::Retrieval | TaskKind::Vqa | TaskKind::TextAssignment => &[],
    }
}

/// How many of one class are right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassScore {
    /// The class.
    pub class: String,
    /// Records of it.
    pub records: usize,
    /// Of these, recognised.
    pub right: usize,
}

/// Scores of a classification, in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// What was judged.
    pub protocol: String,
    /// Records.
    pub records: usize,
    /// Share that is right.
    pub accuracy: f64,
    /// By true class.
    pub by_class: Vec<ClassScore>,
    /// Share of sentences that are judged rightly about all their pairs of pictures; of NLVR2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<f64>,
}

/// What the model says of a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// The record.
    pub key: String,
    /// The likeliest class.
    pub predicted: &'static str,
    /// Its probability, `[0, 1]`.
    pub probability: f32,
}

/// What an evaluation gives.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassResult {
    /// Scores.
    pub scores: ClassScores,
    /// Of every record, in order.
    pub judgements: Vec<Judgement>,
}

/// Probabilities of the classes, `[n][classes]`.
pub fn probabilities(model: &dyn Classifying, examples: Examples) -> Vec<Vec<f32>> {
    let logits = model.class_logits(examples);
    let classes = logits.dims()[1];
    let values = host_values(activation::softmax(logits, 1));
    values.chunks(classes).map(<[f32]>::to_vec).collect()
}

/// Index and value of the greatest, the first of equal ones.
pub fn likeliest(probabilities: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, probability) in probabilities.iter().enumerate() {
        if *probability > best.1 {
            best = (class, *probability);
        }
    }
    best
}

/// Judges the first `count` records of a source for `task`, which has classes, and scores that.
///
/// `progress` is told how many are done.
///
/// # Errors
/// When a record cannot be used.
pub fn evaluate(
    model: &dyn Classifying,
    task: TaskKind,
    source: &dyn Source,
    count: usize,
    preparation: &Preparation<'_>,
    workers: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<ClassResult, ExampleError> {
    if count == 0 {
        return Err(ExampleError::Empty(source.describe()));
    }
    let names = class_names(task);
    let mut by_class: Vec<ClassScore> = names
        .iter()
        .map(|name| ClassScore {
            class: (*name).to_owned(),
            records: 0,
            right: 0,
        })
        .collect();
    let mut judgements = Vec::with_capacity(count);
    // Sentence, what the model says, what is true: of NLVR2.
    let mut statements = Vec::new();
    for range in chunks(count) {
        let end = range.end;
        let (examples, targets) = preparation.read(source, range, workers)?;
        let found = probabilities(model, examples);
        for ((key, target), probabilities) in targets.into_iter().zip(found) {
            let (predicted, probability) = likeliest(&probabilities);
            let class = match (&target, task) {
                (Target::Hypothesis(label), TaskKind::Entailment) => label.class(),
                (Target::Statement(record), TaskKind::Nlvr2) => {
                    statements.push((record.sentence_key(), predicted == 1, record.label));
                    usize::from(record.label)
                }
                _ => {
                    return Err(ExampleError::OtherTask {
                        key,
                        expected: match task {
                            TaskKind::Nlvr2 => "whether a sentence is true of two pictures",
                            _ => "whether a sentence follows from a picture",
                        },
                        got: asks(&target),
                    });
                }
            };
            by_class[class].records += 1;
            by_class[class].right += usize::from(predicted == class);
            judgements.push(Judgement {
                key,
                predicted: names[predicted],
                probability,
            });
        }
        progress(end);
    }
    let right: usize = by_class.iter().map(|class| class.right).sum();
    let judged = statements
        .iter()
        .map(|(sentence, predicted, label)| Judged {
            sentence,
            predicted: *predicted,
            label: *label,
        });
    let consistency = PairAccuracy::of(judged).consistency();
    let what = match task {
        TaskKind::Nlvr2 => "statements on two pictures",
        _ => "hypotheses",
    };
    Ok(ClassResult {
        scores: ClassScores {
            protocol: format!("{count} {what}"),
            records: count,
            accuracy: 100.0 * right as f64 / count as f64,
            by_class,
            consistency: (task == TaskKind::Nlvr2).then_some(100.0 * consistency),
        },
        judgements,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fitup_data::annotations::snli_ve::Entailment;

    #[test]
    fn classes_are_named_in_the_order_of_the_head() {
        for label in Entailment::ALL {
            assert_eq!(
                class_names(TaskKind::Entailment)[label.class()],
                label.name()
            );
        }
        assert_eq!(
            class_names(TaskKind::Entailment),
            fitup_models::albef::entailment::CLASSES
        );
    }

    #[test]
    fn the_first_of_the_likeliest() {
        assert_eq!(likeliest(&[0.2, 0.4, 0.4]), (1, 0.4));
    }
}
