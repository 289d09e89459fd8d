//! The annotation files of a split, in the formats in which the data sets of these tasks are published and in the
//! lists that ALBEF's code reads.

mod captions;
mod entailment;
mod grounding;
mod nlvr2;
mod questions;

use std::collections::HashSet;

use serde_json::{Value, json};

use super::graph::{Scene, Split};
use super::texts::Texts;

/// What is written about: one split.
#[derive(Clone, Copy)]
pub(super) struct Annotated<'a> {
    pub(super) split: Split,
    pub(super) seed: u64,
    pub(super) scenes: &'a [Scene],
    pub(super) texts: &'a Texts,
}

impl Annotated<'_> {
    /// Path of a scene's picture inside the folder of its split, without its ending.
    pub(super) fn stem(&self, scene: usize) -> String {
        format!(
            "images/{}_{}",
            self.split.name(),
            self.scenes[scene].image_id
        )
    }

    /// Path of a scene's picture inside the folder of its split.
    pub(super) fn file(&self, scene: usize) -> String {
        format!("{}.jpg", self.stem(scene))
    }

    /// COCO's list of pictures.
    fn images(&self) -> Vec<Value> {
        self.scenes
            .iter()
            .enumerate()
            .map(|(at, scene)| {
                json!({
                    "id": scene.image_id,
                    "file_name": self.file(at),
                    "width": scene.side,
                    "height": scene.side,
                })
            })
            .collect()
    }

    fn info(&self) -> Value {
        json!({ "description": "scenes composed of pictograms", "split": self.split.name() })
    }
}

/// All annotation files of a split: names and contents.
pub(super) fn files(annotated: Annotated<'_>) -> Vec<(&'static str, String)> {
    let mut files = vec![("scenes.json", graphs(annotated))];
    files.extend(captions::files(annotated));
    files.extend(questions::files(annotated));
    files.extend(entailment::files(annotated));
    files.extend(nlvr2::files(annotated));
    files.extend(grounding::files(annotated));
    files.push(("texts.txt", sentences(annotated)));
    files
}

/// Every different text of the split, one a line: what a vocabulary is built from.
fn sentences(annotated: Annotated<'_>) -> String {
    let texts = annotated.texts;
    let captions = texts.captions.iter().flatten().map(|c| &c.text);
    let questions = texts.questions.iter().flat_map(|q| [&q.text, &q.answer]);
    let mut seen = HashSet::new();
    captions
        .chain(questions)
        .chain(texts.hypotheses.iter().map(|h| &h.text))
        .chain(texts.pairs.iter().map(|p| &p.text))
        .chain(texts.referring.iter().map(|r| &r.text))
        .filter(|text| seen.insert(text.as_str()))
        .map(|text| format!("{text}\n"))
        .collect()
}

/// What a shard's `key.json` says of a scene.
pub(super) fn shard_metadata(annotated: Annotated<'_>) -> Vec<Value> {
    let mut metadata: Vec<Value> = annotated
        .scenes
        .iter()
        .map(|scene| {
            json!({
                "image_id": scene.image_id,
                "scene": scene,
                "questions": [],
                "hypotheses": [],
                "referring": [],
            })
        })
        .collect();
    let mut add = |scene: usize, field: &str, value: Value| {
        if let Some(Value::Array(list)) = metadata[scene].get_mut(field) {
            list.push(value);
        }
    };
    for question in &annotated.texts.questions {
        let value = json!({ "question": question.text, "answer": question.answer });
        add(question.scene, "questions", value);
    }
    for hypothesis in &annotated.texts.hypotheses {
        let value = json!({ "sentence": hypothesis.text, "label": hypothesis.label });
        add(hypothesis.scene, "hypotheses", value);
    }
    for referring in &annotated.texts.referring {
        let object = &annotated.scenes[referring.scene].objects[referring.object];
        let value = json!({ "text": referring.text, "box": object.region });
        add(referring.scene, "referring", value);
    }
    metadata
}

/// The scene graphs with their captions and what is wrong with these.
fn graphs(annotated: Annotated<'_>) -> String {
    let entries = annotated.scenes.iter().enumerate().map(|(at, scene)| {
        let mut entry = json!(scene);
        entry["image"] = annotated.file(at).into();
        entry["captions"] = json!(annotated.texts.captions[at]);
        entry
    });
    list(entries)
}

/// A JSON list with an entry a line: as easy to read as it is to parse.
fn list(entries: impl Iterator<Item = Value>) -> String {
    let lines: Vec<String> = entries.map(|entry| entry.to_string()).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// JSON documents, one a line.
fn lines(entries: impl Iterator<Item = Value>) -> String {
    entries.map(|entry| format!("{entry}\n")).collect()
}
