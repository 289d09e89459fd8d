//! A split in numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::graph::Scene;
use super::lexicon::Lexicon;
use super::texts::Texts;

/// What a split holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Pictures.
    pub scenes: usize,
    /// Of these, with a curtain.
    pub curtained: usize,
    /// Things in all pictures.
    pub objects: usize,
    /// Different names of these.
    pub names: usize,
    /// Different drawings of these.
    pub pictograms: usize,
    /// Drawings there were to choose from.
    pub pictograms_known: usize,
    /// Of these, with a clear colour.
    pub pictograms_coloured: usize,
    /// Captions.
    pub captions: usize,
    /// Captions that another picture of the split has word for word.
    pub captions_shared: usize,
    /// Noisy captions by kind of noise.
    pub noise: BTreeMap<String, usize>,
    /// Questions by template and answer.
    pub questions: BTreeMap<String, BTreeMap<String, usize>>,
    /// Hypotheses by label.
    pub hypotheses: BTreeMap<String, usize>,
    /// Statements on pairs of pictures by label.
    pub pairs: BTreeMap<String, usize>,
    /// Referring expressions.
    pub referring: usize,
    /// Size of all pictures in bytes.
    pub bytes: u64,
}

impl SplitReport {
    pub(super) fn of(scenes: &[Scene], texts: &Texts, lexicon: &Lexicon, bytes: u64) -> Self {
        let objects = || scenes.iter().flat_map(|scene| &scene.objects);
        let known = || {
            lexicon
                .drawings
                .iter()
                .filter(|drawing| drawing.variant == 0)
        };
        let mut report = Self {
            scenes: scenes.len(),
            curtained: scenes
                .iter()
                .filter(|scene| scene.curtain.is_some())
                .count(),
            objects: objects().count(),
            names: objects()
                .map(|object| &object.name)
                .collect::<BTreeSet<_>>()
                .len(),
            pictograms: objects()
                .map(|object| &object.pictogram)
                .collect::<BTreeSet<_>>()
                .len(),
            pictograms_known: known().count(),
            pictograms_coloured: known().filter(|drawing| drawing.colour.is_some()).count(),
            referring: texts.referring.len(),
            bytes,
            ..Self::default()
        };
        let mut bearers: BTreeMap<&str, usize> = BTreeMap::new();
        for caption in texts.captions.iter().flatten() {
            report.captions += 1;
            *bearers.entry(&caption.text).or_default() += 1;
            if let Some(noise) = caption.noise {
                *report.noise.entry(label(&noise)).or_default() += 1;
            }
        }
        report.captions_shared = bearers.into_values().filter(|&count| count > 1).sum();
        for question in &texts.questions {
            let answers = report
                .questions
                .entry(label(&question.template))
                .or_default();
            *answers.entry(question.answer.clone()).or_default() += 1;
        }
        for hypothesis in &texts.hypotheses {
            *report
                .hypotheses
                .entry(label(&hypothesis.label))
                .or_default() += 1;
        }
        for pair in &texts.pairs {
            *report.pairs.entry(pair.label.to_string()).or_default() += 1;
        }
        report
    }
}

/// The name that a value has in JSON.
fn label(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}
