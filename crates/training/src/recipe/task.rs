//! The task that a pre-trained model is fine-tuned for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fitup_data::annotations::vqa::read_answer_list;
use fitup_data::loader::Cleaning;
use fitup_data::sources::SourceSpec;
use fitup_data::sources::annotated;
use fitup_index::metrics::answers::normalise;
use fitup_models::albef::vqa::FirstToken;
use serde::{Deserialize, Serialize};

use super::{Recipe, RecipeError, Stage, SystemKind};

/// The tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Image-text retrieval: contrast and matching, with targets that know the images.
    Retrieval,
    /// Questions about a picture.
    Vqa,
    /// Sentences about two pictures, true or false.
    Nlvr2,
    /// Whether a sentence follows from a picture.
    Entailment,
    /// Which of two pictures a text belongs to: what NLVR2 starts from, on image-text pairs.
    TextAssignment,
}

impl TaskKind {
    /// Whether the records of a source are what it is about.
    fn reads(self, source: &SourceSpec) -> bool {
        let task = match source {
            SourceSpec::Vqa(_) => Some(Self::Vqa),
            SourceSpec::Nlvr2(_) => Some(Self::Nlvr2),
            SourceSpec::Entailment(_) => Some(Self::Entailment),
            _ => None,
        };
        match self {
            Self::Retrieval | Self::TextAssignment => task.is_none(),
            Self::Vqa | Self::Nlvr2 | Self::Entailment => task == Some(self),
        }
    }
}

impl std::fmt::Display for TaskKind {
    /// As a recipe writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Retrieval => "retrieval",
            Self::Vqa => "vqa",
            Self::Nlvr2 => "nlvr2",
            Self::Entailment => "entailment",
            Self::TextAssignment => "text-assignment",
        })
    }
}

/// The task of a run and its switches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRecipe {
    /// Which one.
    pub kind: TaskKind,
    /// Momentum distillation, with `objectives.alpha` and `objectives.momentum`; of an ALBEF.
    #[serde(default = "yes")]
    pub distill: bool,
    /// The answers that questions are answered with; filled in from what follows, and kept in the
    /// checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// Where they are listed (`answer_list.json`); absent: taken from the training annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_from: Option<PathBuf>,
    /// How many questions must have an answer as their most frequent one for it to be taken.
    #[serde(default = "nine")]
    pub min_answer_count: usize,
    /// Answers that are ranked by their whole likelihood, chosen by that of their first token.
    #[serde(default = "hundred_twenty_eight")]
    pub k: usize,
    /// How often the first token counts; `twice` is the original's.
    #[serde(default)]
    pub first_token: FirstTokenCount,
}

/// How often an answer's first token counts in its score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstTokenCount {
    /// Once, as the chain rule has it.
    #[default]
    Once,
    /// Twice, as in the original.
    Twice,
}

impl From<FirstTokenCount> for FirstToken {
    fn from(count: FirstTokenCount) -> Self {
        match count {
            FirstTokenCount::Once => Self::Once,
            FirstTokenCount::Twice => Self::Twice,
        }
    }
}

fn yes() -> bool {
    true
}
fn nine() -> usize {
    9
}
fn hundred_twenty_eight() -> usize {
    128
}

impl Recipe {
    /// The kind of its task; `None` for pre-training.
    pub fn task_kind(&self) -> Option<TaskKind> {
        self.task.as_ref().map(|task| task.kind)
    }

    /// Whether it trains on image-text pairs with the objectives of pre-training.
    pub(super) fn has_objectives(&self) -> bool {
        matches!(self.task_kind(), None | Some(TaskKind::Retrieval))
    }

    /// How its texts are cleaned.
    pub fn cleaning(&self) -> Cleaning {
        match self.task_kind() {
            Some(TaskKind::Vqa) => Cleaning::Question,
            _ => Cleaning::Caption,
        }
    }

    /// Fills in the answers of a question task.
    ///
    /// # Errors
    /// [`RecipeError::Value`] when the list or the annotations cannot be read, or hold no answer.
    pub fn with_answers(mut self) -> Result<Self, RecipeError> {
        let train = self.data.train.clone();
        let Some(task) = self.task.as_mut().filter(|t| t.kind == TaskKind::Vqa) else {
            return Ok(self);
        };
        if !task.answers.is_empty() {
            return Ok(self);
        }
        let value = |field, reason| RecipeError::Value { field, reason };
        task.answers = match (&task.answers_from, &train) {
            (Some(file), _) => read_answer_list(file)
                .map_err(|error| value("task.answers_from", error.to_string()))?,
            (None, SourceSpec::Vqa(spec)) => {
                let questions = annotated::questions(spec)
                    .map_err(|error| value("data.train", error.to_string()))?;
                let people = questions.records.iter().map(|record| &record.answers[..]);
                frequent(people, task.min_answer_count)
            }
            (None, _) => vec![],
        };
        if task.answers.is_empty() {
            let reason = format!(
                "no answer is the most frequent one of {} questions: lower it, or name a list in task.answers_from",
                task.min_answer_count
            );
            return Err(value("task.min_answer_count", reason));
        }
        Ok(self)
    }

    /// The field of a task that cannot work, and why.
    pub(super) fn task_problem(&self) -> Option<(&'static str, String)> {
        let task = self.task.as_ref()?;
        let (system, kind) = (self.model.system, task.kind);
        let can = match kind {
            TaskKind::Retrieval => matches!(
                system,
                SystemKind::Albef | SystemKind::Clip | SystemKind::Vlmo
            ),
            TaskKind::TextAssignment => system == SystemKind::Albef,
            TaskKind::Vqa | TaskKind::Nlvr2 | TaskKind::Entailment => {
                system != SystemKind::ImageTokenizer
            }
        };
        if !can {
            return Some((
                "task.kind",
                format!("a {system} is not fine-tuned for {kind} here"),
            ));
        }
        if self.model.stage != Stage::Pairs {
            let reason =
                "must be pairs: a task needs a model that has read pictures and texts together";
            return Some(("model.stage", reason.into()));
        }
        let sources = [
            ("data.train", Some(&self.data.train)),
            ("data.validation", self.data.validation.as_ref()),
        ];
        for (field, source) in sources {
            if source.is_some_and(|source| !kind.reads(source)) {
                let wanted = match kind {
                    TaskKind::Retrieval | TaskKind::TextAssignment => {
                        "image-text pairs, for example kind = \"albef-json\"".to_owned()
                    }
                    _ => format!("kind = \"{kind}\""),
                };
                return Some((field, format!("{kind} needs {wanted}")));
            }
        }
        if kind == TaskKind::TextAssignment && self.data.validation.is_some() {
            let reason = "text assignment has no score of its own: leave it out";
            return Some(("data.validation", reason.into()));
        }
        if kind == TaskKind::Retrieval && self.objectives.mlm {
            let reason = "retrieval has no masked words: set it to false";
            return Some(("objectives.mlm", reason.into()));
        }
        if task.distill && system != SystemKind::Albef {
            let reason = format!("a {system} has no momentum model: set it to false");
            return Some(("task.distill", reason));
        }
        if kind == TaskKind::Vqa && task.k == 0 {
            return Some(("task.k", "must be at least 1".into()));
        }
        None
    }
}

/// Answers that at least `least` questions have as their most frequent one, in the order of how many have; spelt
/// as the official accuracy compares them.
fn frequent<'a>(people: impl Iterator<Item = &'a [String]>, least: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answers in people {
        let mut of_question: BTreeMap<String, usize> = BTreeMap::new();
        for answer in answers {
            *of_question.entry(normalise(answer)).or_default() += 1;
        }
        // Of equally frequent ones the first by spelling.
        let best = of_question
            .into_iter()
            .rev()
            .max_by_key(|(_, count)| *count);
        if let Some((answer, _)) = best.filter(|(answer, _)| !answer.is_empty()) {
            *counts.entry(answer).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.retain(|(_, count)| *count >= least);
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().map(|(answer, _)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_by_how_many_questions_have_them_most_often() {
        let texts = |answers: &[&str]| answers.iter().map(|a| (*a).to_owned()).collect();
        let people: Vec<Vec<String>> = vec![
            texts(&["Yes", "yes", "no"]),
            texts(&["no", "no"]),
            texts(&["the red", "red", "blue"]),
            texts(&["yes."]),
            texts(&[]),
        ];
        let of = |least| frequent(people.iter().map(Vec::as_slice), least);
        assert_eq!(of(1), ["yes", "no", "red"]);
        assert_eq!(of(2), ["yes"]);
        assert!(of(3).is_empty());
    }
}
