//! Captions: ALBEF's lists, and COCO's own files.
//!
//! ALBEF's lists come in three forms that differ in `caption` and `image_id` alone: pre-training (one caption or
//! several, of which one is drawn), retrieval training (one, with the picture's identity), retrieval evaluation (all
//! captions of a picture). Original: `dataset/caption_dataset.py`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fields::{Fields, named};
use super::{AnnotationError, Annotations, BadRecord, Collector, OnBad, read};
use crate::sources::{RecordTexts, RetrievalTexts, stable_hash};
use crate::text::pre_caption;

/// A picture with captions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionRecord {
    /// Path of the picture, as written.
    pub image: String,
    /// One or more, as written.
    pub captions: Vec<String>,
    /// The picture's identity, where the data set gives one.
    pub image_id: Option<String>,
}

impl CaptionRecord {
    /// The captions as ALBEF's model reads them; one that is empty after cleaning stays, so that scores are
    /// comparable.
    pub fn cleaned(&self, max_words: usize) -> impl Iterator<Item = String> {
        let captions = self.captions.iter();
        captions.map(move |caption| pre_caption(caption, max_words).unwrap_or_default())
    }

    fn of_list(fields: Fields<'_>) -> Result<Self, BadRecord> {
        let captions = match fields.required("caption")? {
            Value::String(caption) => vec![caption.clone()],
            Value::Array(_) => fields.texts("caption")?,
            other => {
                return Err(fields.bad(
                    "caption",
                    format!("expected a text or a list of texts, found {}", named(other)),
                ));
            }
        };
        if captions.is_empty() {
            return Err(fields.bad(
                "caption",
                "expected at least one caption, found an empty list",
            ));
        }
        Ok(Self {
            image: fields.image("image")?,
            captions,
            image_id: match fields.get("image_id") {
                Some(_) => Some(fields.identity("image_id")?),
                None => None,
            },
        })
    }
}

/// Reads ALBEF's lists, joined.
///
/// # Errors
/// When a file cannot be read, is no list, or holds a record that is not of its form and must be.
pub fn read_lists(
    files: &[PathBuf],
    on_bad: OnBad,
) -> Result<Annotations<CaptionRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    for file in files {
        read::list(file, |at, value| {
            collector.add(Fields::of(file, at, &value).and_then(CaptionRecord::of_list))
        })?;
    }
    Ok(collector.finish())
}

/// Reads COCO's own caption file (`captions_train2014.json`): pictures and captions in two lists. Pictures without a
/// caption are left out, as they are in every task. Order is that of the pictures.
///
/// # Errors
/// When the file cannot be read, lacks a list, or holds a record that is not of its form and must be.
pub fn read_coco(
    file: &Path,
    on_bad: OnBad,
) -> Result<Annotations<CaptionRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let mut pictures: Vec<(u64, CaptionRecord)> = Vec::new();
    let mut places = HashMap::new();
    let mut captions = Vec::new();
    let mut seen = HashSet::new();
    let found = read::lists_of(file, ["images", "annotations"], |list, at, value| {
        let bad = Fields::of(file, at, &value).and_then(|fields| {
            if list == 0 {
                let id = fields.number("id")?;
                if places.insert(id, pictures.len()).is_some() {
                    return Err(fields.bad("id", format!("picture {id} is there twice")));
                }
                let record = CaptionRecord {
                    image: fields.image("file_name")?,
                    captions: Vec::new(),
                    image_id: Some(id.to_string()),
                };
                pictures.push((id, record));
            } else {
                if !seen.insert(fields.number("id")?) {
                    return Err(fields.bad("id", "a caption of this id is there already"));
                }
                captions.push((at, fields.number("image_id")?, fields.text("caption")?));
            }
            Ok(())
        });
        bad.map_or_else(|bad| collector.skip(bad), Ok)
    })?;
    if found != [true; 2] {
        return Err(AnnotationError::malformed(
            file,
            "expected COCO's lists `images` and `annotations`",
        ));
    }
    for (record, image_id, caption) in captions {
        match places.get(&image_id).and_then(|&at| pictures.get_mut(at)) {
            Some((_, picture)) => picture.captions.push(caption),
            None => collector.skip(BadRecord {
                file: file.to_owned(),
                record,
                field: "image_id".to_owned(),
                problem: format!("no picture of id {image_id} in `images`"),
            })?,
        }
    }
    for (_, picture) in pictures {
        if !picture.captions.is_empty() {
            collector.add(Ok(picture))?;
        }
    }
    Ok(collector.finish())
}

/// A retrieval test set of records, one for each picture, as ALBEF's `re_eval_dataset` builds it.
pub fn retrieval_texts(records: &[CaptionRecord], max_words: usize) -> RetrievalTexts {
    let mut set = RetrievalTexts::default();
    for record in records {
        let identity = record.image_id.as_ref().unwrap_or(&record.image);
        set.add(
            RecordTexts {
                key: record.image.clone(),
                captions: record.captions.clone(),
                image_id: stable_hash(identity.as_bytes()),
            },
            max_words,
        );
    }
    set
}
