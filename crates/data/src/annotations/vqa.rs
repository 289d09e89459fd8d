//! VQAv2: questions and annotations as published, and ALBEF's merged list, which holds Visual Genome's questions too.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fields::{Fields, named};
use super::{AnnotationError, Annotations, BadRecord, Collector, OnBad, read};
use crate::text::pre_question;

/// What ALBEF sets behind an answer before it is made into tokens.
pub const ANSWER_END: &str = "[SEP]";
/// What ALBEF weighs an answer of Visual Genome by: one person gave it and no one checked it.
const VISUAL_GENOME_WEIGHT: f64 = 0.5;

/// Whose pictures a question is about. The two have image roots of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collection {
    /// COCO's pictures.
    Vqa,
    /// Visual Genome's.
    VisualGenome,
}

/// A question with the answers people gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VqaRecord {
    /// Unique within its collection.
    pub question_id: u64,
    /// As written.
    pub question: String,
    /// Path of the picture in the collection's image root.
    pub image: String,
    /// Whose picture it is.
    pub collection: Collection,
    /// As written, one a person; none where they are not public.
    pub answers: Vec<String>,
    /// The first words, `what color is the`; of VQAv2's annotations.
    pub question_type: Option<String>,
    /// `yes/no`, `number` or `other`; of VQAv2's annotations.
    pub answer_type: Option<String>,
}

/// An answer to learn, and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedAnswer {
    /// As written.
    pub text: String,
    /// Share of the people who gave it; a half for Visual Genome's.
    pub weight: f64,
}

impl VqaRecord {
    /// The question as ALBEF's model reads it.
    pub fn cleaned(&self, max_words: usize) -> String {
        pre_question(&self.question, max_words)
    }

    /// The different answers in the order in which they come first, with ALBEF's weights.
    pub fn weighted_answers(&self) -> Vec<WeightedAnswer> {
        let each = match self.collection {
            Collection::Vqa => 1.0 / self.answers.len() as f64,
            Collection::VisualGenome => VISUAL_GENOME_WEIGHT,
        };
        let mut weighted: Vec<WeightedAnswer> = Vec::new();
        for answer in &self.answers {
            match weighted.iter_mut().find(|known| known.text == *answer) {
                // Shares are summed one by one, as the original does: 0.1 + 0.1 + 0.1 is not 0.3.
                Some(known) => known.weight += each,
                None => weighted.push(WeightedAnswer {
                    text: answer.clone(),
                    weight: each,
                }),
            }
        }
        weighted
    }

    fn of_list(
        fields: Fields<'_>,
        seen: &mut HashSet<(Collection, u64)>,
    ) -> Result<Self, BadRecord> {
        let collection = match fields.text("dataset")?.as_str() {
            "vqa" => Collection::Vqa,
            "vg" => Collection::VisualGenome,
            other => {
                return Err(fields.bad("dataset", format!("expected vqa or vg, found {other:?}")));
            }
        };
        let answers = match (collection, fields.get("answer")) {
            // Test lists hold none.
            (_, None) => Vec::new(),
            (Collection::VisualGenome, Some(Value::String(answer))) => vec![answer.clone()],
            (Collection::Vqa, Some(Value::Array(_))) => fields.texts("answer")?,
            (Collection::VisualGenome, Some(other)) => {
                return Err(fields.bad(
                    "answer",
                    format!("expected a text, as vg has, found {}", named(other)),
                ));
            }
            (Collection::Vqa, Some(other)) => {
                return Err(fields.bad(
                    "answer",
                    format!(
                        "expected a list of texts, as vqa has, found {}",
                        named(other)
                    ),
                ));
            }
        };
        let record = Self {
            question_id: fields.number("question_id")?,
            question: fields.text("question")?,
            image: fields.image("image")?,
            collection,
            answers,
            question_type: None,
            answer_type: None,
        };
        unique(fields, seen.insert((collection, record.question_id)))?;
        Ok(record)
    }
}

fn unique(fields: Fields<'_>, new: bool) -> Result<(), BadRecord> {
    if new {
        return Ok(());
    }
    let id = fields.number("question_id")?;
    Err(fields.bad("question_id", format!("question {id} is there already")))
}

/// Reads ALBEF's lists (`vqa_train.json`, `vg_qa.json`), joined.
///
/// # Errors
/// When a file cannot be read, is no list, or holds a record that is not of its form and must be.
pub fn read_lists(
    files: &[PathBuf],
    on_bad: OnBad,
) -> Result<Annotations<VqaRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let mut seen = HashSet::new();
    for file in files {
        read::list(file, |at, value| {
            collector.add(
                Fields::of(file, at, &value)
                    .and_then(|fields| VqaRecord::of_list(fields, &mut seen)),
            )
        })?;
    }
    Ok(collector.finish())
}

/// Reads ALBEF's list of the answers that are ranked (`answer_list.json`).
///
/// # Errors
/// When the file cannot be read, is no list of texts, or names an answer twice.
pub fn read_answer_list(file: &Path) -> Result<Vec<String>, AnnotationError> {
    let mut answers: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    read::list(file, |at, value| {
        let bad = |problem: String| BadRecord {
            file: file.to_owned(),
            record: at,
            field: "-".to_owned(),
            problem,
        };
        match value {
            Value::String(answer) if seen.insert(answer.clone()) => answers.push(answer),
            Value::String(answer) => {
                return Err(bad(format!("the answer {answer:?} is there already")).into());
            }
            other => return Err(bad(format!("expected a text, found {}", named(&other))).into()),
        }
        Ok(())
    })?;
    Ok(answers)
}

/// Where a record stands: which file, which number.
#[derive(Clone, Copy)]
struct Place {
    file: usize,
    record: usize,
}

/// A question before its annotation is found.
struct Asked {
    place: Place,
    image_id: u64,
    question: VqaRecord,
}

/// Reads files as published, told apart by what they hold: questions
/// (`v2_OpenEnded_mscoco_train2014_questions.json`) and annotations (`v2_mscoco_train2014_annotations.json`), of one
/// or more parts of the data. Without annotations questions have no answers, as those of the test part.
///
/// # Errors
/// When a file cannot be read or is of neither form, or when a record is not of its form, has no counterpart or
/// contradicts it, and must not.
pub fn read_official(
    files: &[PathBuf],
    on_bad: OnBad,
) -> Result<Annotations<VqaRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let mut asked: Vec<Asked> = Vec::new();
    let mut places = HashMap::new();
    let mut answered = Vec::new();
    let mut annotations = false;
    for (number, file) in files.iter().enumerate() {
        let first = asked.len();
        let (found, [kind, part]) = read::lists_and_texts(
            file,
            ["questions", "annotations"],
            ["data_type", "data_subtype"],
            |list, at, value| {
                let read = Fields::of(file, at, &value).and_then(|fields| {
                    let place = Place {
                        file: number,
                        record: at,
                    };
                    if list == 1 {
                        answered.push(Answered::of(fields, place)?);
                        return Ok(());
                    }
                    let question = Asked::of(fields, place)?;
                    match places.entry(question.question.question_id) {
                        Entry::Occupied(_) => unique(fields, false),
                        Entry::Vacant(free) => {
                            free.insert(asked.len());
                            asked.push(question);
                            Ok(())
                        }
                    }
                });
                read.map_or_else(|bad| collector.skip(bad), Ok)
            },
        )?;
        if found == [false; 2] {
            return Err(AnnotationError::malformed(
                file,
                "expected VQAv2's list `questions` or `annotations`",
            ));
        }
        annotations |= found[1];
        if found[0] {
            for asked in &mut asked[first..] {
                asked.question.image =
                    picture(kind.as_deref(), part.as_deref(), asked.image_id, file)?;
            }
        }
    }
    let mut matched = HashSet::new();
    for answered in answered {
        let id = answered.question_id;
        let problem = match places.get(&id).and_then(|&at| asked.get_mut(at)) {
            None => (
                "question_id",
                format!("no question of id {id} in the files of questions"),
            ),
            Some(asked) if asked.image_id != answered.image_id => (
                "image_id",
                format!(
                    "question {id} is about picture {}, its annotation about {}",
                    asked.image_id, answered.image_id
                ),
            ),
            Some(_) if !matched.insert(id) => (
                "question_id",
                format!("an annotation of question {id} is there already"),
            ),
            Some(asked) => {
                asked.question.answers = answered.answers;
                asked.question.question_type = answered.question_type;
                asked.question.answer_type = answered.answer_type;
                continue;
            }
        };
        collector.skip(BadRecord {
            file: files[answered.place.file].clone(),
            record: answered.place.record,
            field: problem.0.to_owned(),
            problem: problem.1,
        })?;
    }
    for asked in asked {
        let id = asked.question.question_id;
        collector.add(if annotations && !matched.contains(&id) {
            Err(BadRecord {
                file: files[asked.place.file].clone(),
                record: asked.place.record,
                field: "question_id".to_owned(),
                problem: format!("question {id} has no usable annotation"),
            })
        } else {
            Ok(asked.question)
        })?;
    }
    Ok(collector.finish())
}

impl Asked {
    fn of(fields: Fields<'_>, place: Place) -> Result<Self, BadRecord> {
        Ok(Self {
            place,
            image_id: fields.number("image_id")?,
            question: VqaRecord {
                question_id: fields.number("question_id")?,
                question: fields.text("question")?,
                // Follows from the file's part of the data, which may stand behind the questions.
                image: String::new(),
                collection: Collection::Vqa,
                answers: Vec::new(),
                question_type: None,
                answer_type: None,
            },
        })
    }
}

/// Path of a picture of COCO; of scenes, whose files say so.
fn picture(
    kind: Option<&str>,
    part: Option<&str>,
    image_id: u64,
    file: &Path,
) -> Result<String, AnnotationError> {
    let Some(part) = part else {
        return Err(AnnotationError::malformed(
            file,
            "expected `data_subtype`, which tells where the pictures are (train2014, val2014, test2015)",
        ));
    };
    if kind == Some("scenes") {
        return Ok(format!("images/{part}_{image_id}.jpg"));
    }
    // The questions of test-dev are about pictures of the test part.
    let part = if part == "test-dev2015" {
        "test2015"
    } else {
        part
    };
    Ok(format!("{part}/COCO_{part}_{image_id:012}.jpg"))
}

/// An annotation before its question is found.
struct Answered {
    place: Place,
    question_id: u64,
    image_id: u64,
    answers: Vec<String>,
    question_type: Option<String>,
    answer_type: Option<String>,
}

impl Answered {
    fn of(fields: Fields<'_>, place: Place) -> Result<Self, BadRecord> {
        let answers: Vec<String> = fields
            .parts("answers")?
            .iter()
            .map(|answer| answer.text("answer"))
            .collect::<Result<_, _>>()?;
        if answers.is_empty() {
            return Err(fields.bad("answers", "expected at least one, found an empty list"));
        }
        Ok(Self {
            place,
            question_id: fields.number("question_id")?,
            image_id: fields.number("image_id")?,
            answers,
            question_type: fields.optional_text("question_type")?,
            answer_type: fields.optional_text("answer_type")?,
        })
    }
}
