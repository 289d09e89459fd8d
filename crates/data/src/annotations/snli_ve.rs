//! SNLI-VE: whether a sentence follows from a picture of Flickr30K. Lines as published, and ALBEF's list.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::fields::Fields;
use super::{AnnotationError, Annotations, BadRecord, Collector, OnBad, read};
use crate::text::pre_caption;

/// What a picture says of a sentence. The values are the classes of ALBEF's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entailment {
    /// It cannot be true.
    Contradiction = 0,
    /// It may be true.
    Neutral = 1,
    /// It must be true.
    Entailment = 2,
}

impl Entailment {
    /// All three, by class.
    pub const ALL: [Self; 3] = [Self::Contradiction, Self::Neutral, Self::Entailment];

    /// The name in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contradiction => "contradiction",
            Self::Neutral => "neutral",
            Self::Entailment => "entailment",
        }
    }

    /// The class of ALBEF's head.
    pub fn class(self) -> usize {
        self as usize
    }
}

/// A sentence about a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnliVeRecord {
    /// `Flickr30K_ID.jpg#CAPTIONrPAIR`; ALBEF's list has none.
    pub pair_id: Option<String>,
    /// File of the picture, with its ending, which neither form writes.
    pub image: String,
    /// The hypothesis, as written.
    pub sentence: String,
    /// What most people said.
    pub label: Entailment,
}

impl SnliVeRecord {
    /// The sentence as ALBEF's model reads it.
    pub fn cleaned(&self, max_words: usize) -> String {
        pre_caption(&self.sentence, max_words).unwrap_or_default()
    }
}

/// Reads ALBEF's lists, joined.
///
/// # Errors
/// When a file cannot be read, is no list, or holds a record that is not of its form and must be.
pub fn read_lists(
    files: &[PathBuf],
    on_bad: OnBad,
) -> Result<Annotations<SnliVeRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    for file in files {
        read::list(file, |at, value| {
            collector.add(Fields::of(file, at, &value).and_then(|fields| {
                Ok(SnliVeRecord {
                    pair_id: None,
                    image: format!("{}.jpg", fields.image("image")?),
                    sentence: fields.text("sentence")?,
                    label: label(fields, "label")?,
                })
            }))
        })?;
    }
    Ok(collector.finish())
}

/// Reads lines as published (`snli_ve_dev.jsonl`). A label `-`, on which people did not agree, is none: such a line
/// is not of its form.
///
/// # Errors
/// When the file cannot be read, a line is no JSON, or a record is not of its form and must be.
pub fn read_lines(
    file: &Path,
    on_bad: OnBad,
) -> Result<Annotations<SnliVeRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let mut seen = HashSet::new();
    read::lines(file, |at, value| {
        collector.add(Fields::of(file, at, &value).and_then(|fields| {
            let pair_id = fields.text("pairID")?;
            let record = SnliVeRecord {
                image: format!("{}.jpg", fields.identity("Flickr30K_ID")?),
                sentence: fields.text("sentence2")?,
                label: label(fields, "gold_label")?,
                pair_id: Some(pair_id.clone()),
            };
            if !seen.insert(pair_id.clone()) {
                return Err(fields.bad("pairID", format!("{pair_id} is there already")));
            }
            Ok(record)
        }))
    })?;
    Ok(collector.finish())
}

fn label(fields: Fields<'_>, field: &str) -> Result<Entailment, BadRecord> {
    let name = fields.text(field)?;
    let known = Entailment::ALL
        .into_iter()
        .find(|label| label.name() == name);
    known.ok_or_else(|| {
        fields.bad(
            field,
            match name.as_str() {
                "-" => "no label: the people asked did not agree".to_owned(),
                _ => format!("expected entailment, neutral or contradiction, found {name:?}"),
            },
        )
    })
}
