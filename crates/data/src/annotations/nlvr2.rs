//! NLVR2: a sentence about two pictures, true or false. Lines as published (`dev.json`, `test1.json`: one object a
//! line in spite of the name), and ALBEF's list.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fields::{Fields, named};
use super::{AnnotationError, Annotations, BadRecord, Collector, OnBad, read};
use crate::text::pre_caption;

/// A sentence about two pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nlvr2Record {
    /// `SPLIT-SET-PAIR-SENTENCE`; ALBEF's list has none.
    pub identifier: Option<String>,
    /// Paths of the left and the right picture.
    pub images: [String; 2],
    /// As written.
    pub sentence: String,
    /// Whether it is true.
    pub label: bool,
}

impl Nlvr2Record {
    /// The sentence as ALBEF's model reads it.
    pub fn cleaned(&self, max_words: usize) -> String {
        pre_caption(&self.sentence, max_words).unwrap_or_default()
    }

    /// What consistency is counted over: equal for the pairs of pictures that share one sentence. As the official
    /// script has it, the identifier without the pair; without an identifier the sentence itself.
    pub fn sentence_key(&self) -> String {
        match &self.identifier {
            Some(identifier) => {
                let mut parts: Vec<&str> = identifier.split('-').collect();
                if let Some(pair) = parts.get_mut(2) {
                    *pair = "";
                }
                parts.join("-")
            }
            None => self.sentence.clone(),
        }
    }
}

/// Reads ALBEF's lists, joined.
///
/// # Errors
/// When a file cannot be read, is no list, or holds a record that is not of its form and must be.
pub fn read_lists(
    files: &[PathBuf],
    on_bad: OnBad,
) -> Result<Annotations<Nlvr2Record>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    for file in files {
        read::list(file, |at, value| {
            collector.add(Fields::of(file, at, &value).and_then(|fields| {
                let images = fields.texts("images")?;
                let images = <[String; 2]>::try_from(images).map_err(|images| {
                    fields.bad(
                        "images",
                        format!("expected two pictures, found {}", images.len()),
                    )
                })?;
                Ok(Nlvr2Record {
                    identifier: fields.optional_text("identifier")?,
                    images,
                    sentence: fields.text("sentence")?,
                    label: label(fields)?,
                })
            }))
        })?;
    }
    Ok(collector.finish())
}

/// Reads lines as published. The pictures' paths follow from identifier and folder, as the authors' archives unpack
/// (`train/32/train-10171-0-img0.png`, `dev/dev-0-0-img0.png`); where `left_url` is a path and no address, it is the
/// picture's.
///
/// # Errors
/// When the file cannot be read, a line is no JSON, or a record is not of its form and must be.
pub fn read_lines(file: &Path, on_bad: OnBad) -> Result<Annotations<Nlvr2Record>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let mut seen = HashSet::new();
    read::lines(file, |at, value| {
        collector.add(Fields::of(file, at, &value).and_then(|fields| line(fields, &mut seen)))
    })?;
    Ok(collector.finish())
}

fn line(fields: Fields<'_>, seen: &mut HashSet<String>) -> Result<Nlvr2Record, BadRecord> {
    let identifier = fields.text("identifier")?;
    let parts: Vec<&str> = identifier.split('-').collect();
    let [split, set, pair, _] = parts.as_slice() else {
        return Err(fields.bad(
            "identifier",
            format!("expected SPLIT-SET-PAIR-SENTENCE, found {identifier:?}"),
        ));
    };
    let folder = match fields.get("directory") {
        Some(_) => format!("{split}/{}", fields.identity("directory")?),
        None => (*split).to_owned(),
    };
    let mut images = [
        format!("{folder}/{split}-{set}-{pair}-img0.png"),
        format!("{folder}/{split}-{set}-{pair}-img1.png"),
    ];
    for (image, field) in images.iter_mut().zip(["left_url", "right_url"]) {
        if let Some(path) = fields.optional_text(field)?
            && !path.is_empty()
            && !path.contains("://")
        {
            *image = path;
        }
    }
    let record = Nlvr2Record {
        images,
        sentence: fields.text("sentence")?,
        label: label(fields)?,
        identifier: Some(identifier.clone()),
    };
    if !seen.insert(identifier.clone()) {
        return Err(fields.bad("identifier", format!("{identifier} is there already")));
    }
    Ok(record)
}

fn label(fields: Fields<'_>) -> Result<bool, BadRecord> {
    match fields.required("label")? {
        Value::Bool(label) => Ok(*label),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(fields.bad(
            "label",
            format!("expected \"True\" or \"False\", found {}", named(other)),
        )),
    }
}
