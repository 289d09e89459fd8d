//! Karpathy's splits of COCO and Flickr30K: `dataset_coco.json`, `dataset_flickr30k.json`.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use super::captions::CaptionRecord;
use super::fields::Fields;
use super::{AnnotationError, Annotations, BadRecord, Collector, OnBad, read};

/// The part of the data that a picture belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KarpathySplit {
    /// To learn from.
    Train,
    /// Of COCO's `val2014`, beyond what is held out: everyone trains on it too.
    Restval,
    /// To choose by.
    Val,
    /// To report.
    Test,
}

impl KarpathySplit {
    const ALL: [Self; 4] = [Self::Train, Self::Restval, Self::Val, Self::Test];

    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Restval => "restval",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// Whether models are trained on it: `train` and `restval`.
    pub fn is_training(self) -> bool {
        matches!(self, Self::Train | Self::Restval)
    }
}

impl fmt::Display for KarpathySplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A picture with its captions and its split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KarpathyRecord {
    /// Its split.
    pub split: KarpathySplit,
    /// Path (`val2014/COCO_val2014_000000391895.jpg`; Flickr30K's has no folder), captions, and as identity COCO's
    /// id of the picture, or its number in the file for Flickr30K.
    pub picture: CaptionRecord,
}

/// Reads one file, all splits in its order.
///
/// # Errors
/// When the file cannot be read, has no list `images`, or holds a record that is not of its form and must be.
pub fn read(file: &Path, on_bad: OnBad) -> Result<Annotations<KarpathyRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let (mut pictures, mut sentences) = (HashSet::new(), HashSet::new());
    let [found] = read::lists_of(file, ["images"], |_, at, value| {
        collector.add(
            Fields::of(file, at, &value)
                .and_then(|fields| record(fields, &mut pictures, &mut sentences)),
        )
    })?;
    if !found {
        return Err(AnnotationError::malformed(
            file,
            "expected the list `images` of Karpathy's splits",
        ));
    }
    Ok(collector.finish())
}

fn record(
    fields: Fields<'_>,
    pictures: &mut HashSet<String>,
    sentences: &mut HashSet<u64>,
) -> Result<KarpathyRecord, BadRecord> {
    let name = fields.text("split")?;
    let Some(split) = KarpathySplit::ALL
        .into_iter()
        .find(|split| split.name() == name)
    else {
        return Err(fields.bad(
            "split",
            format!("expected train, restval, val or test, found {name:?}"),
        ));
    };
    let filename = fields.image("filename")?;
    let image = match fields.optional_text("filepath")? {
        Some(folder) => format!("{folder}/{filename}"),
        None => filename,
    };
    let id = if fields.get("cocoid").is_some() {
        fields.identity("cocoid")?
    } else {
        fields.identity("imgid")?
    };
    let mut captions = Vec::new();
    let mut new = Vec::new();
    for sentence in fields.parts("sentences")? {
        captions.push(sentence.text("raw")?);
        if sentence.get("sentid").is_some() {
            new.push(sentence.number("sentid")?);
        }
    }
    if captions.is_empty() {
        return Err(fields.bad("sentences", "expected at least one, found an empty list"));
    }
    if let Some(id) = new.iter().find(|&&id| sentences.contains(&id)) {
        return Err(fields.bad("sentid", format!("sentence {id} is there already")));
    }
    if !pictures.insert(id.clone()) {
        return Err(fields.bad("cocoid", format!("picture {id} is there already")));
    }
    sentences.extend(new);
    Ok(KarpathyRecord {
        split,
        picture: CaptionRecord {
            image,
            captions,
            image_id: Some(id),
        },
    })
}
