//! The annotations of a task as a [`Source`]: a picture, or two, a text about it, and what is to be said. Files as
//! published or ALBEF's lists ([`crate::annotations`]), told apart by their beginning.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Record, RecordTexts, Source, SourceError, glob, stable_hash};
use crate::annotations::check::Kind;
use crate::annotations::nlvr2::Nlvr2Record;
use crate::annotations::pictures::ImageRoots;
use crate::annotations::snli_ve::Entailment;
use crate::annotations::vqa::VqaRecord;
use crate::annotations::{
    Annotations, OnBad, Skipped, by_shape, karpathy, nlvr2, refcoco, snli_ve, visual_genome, vqa,
};

/// What is to be said of a picture and a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// What people answered the question.
    Answers(VqaRecord),
    /// Whether the sentence is true of two pictures.
    Statement(Nlvr2Record),
    /// Whether the sentence follows from the picture.
    Hypothesis(Entailment),
}

impl Target {
    /// The class of ALBEF's head; `None` for questions.
    pub fn class(&self) -> Option<usize> {
        match self {
            Self::Answers(_) => None,
            Self::Statement(record) => Some(usize::from(record.label)),
            Self::Hypothesis(label) => Some(label.class()),
        }
    }
}

/// The annotation files of a task and where their pictures are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnotationSpec {
    /// The files, joined in order; `*` in a file name stands for anything.
    pub files: Vec<PathBuf>,
    /// Folders in which pictures are looked for, also in the folders that the authors' archives unpack into.
    pub image_roots: Vec<PathBuf>,
    /// What a record that is not of its form does.
    #[serde(default)]
    pub on_bad: OnBad,
    /// Only the first so many records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// A record before its pictures are read.
#[derive(Debug)]
struct Entry {
    key: String,
    images: [Option<String>; 2],
    texts: Vec<String>,
    target: Option<Target>,
    image_id: u64,
}

/// The records of a task.
#[derive(Debug)]
pub struct Annotated {
    entries: Vec<Entry>,
    files: String,
    roots: ImageRoots,
    described: String,
    warnings: Vec<String>,
}

impl Annotated {
    /// Questions of VQAv2 or Visual Genome with the people's answers. An official list of questions needs its
    /// annotations beside it.
    ///
    /// # Errors
    /// When a file cannot be read, or a record is not of its form and must be.
    pub fn vqa(spec: &AnnotationSpec) -> Result<Self, SourceError> {
        let folders = [Kind::Vqa.folders(), Kind::VisualGenome.folders()].concat();
        let records = questions(spec)?;
        Self::new(spec, &folders, "questions", records, |_, record| Entry {
            key: record.question_id.to_string(),
            image_id: stable_hash(record.image.as_bytes()),
            texts: vec![record.question.clone()],
            images: [Some(record.image.clone()), None],
            target: Some(Target::Answers(record)),
        })
    }

    /// NLVR2: sentences about two pictures; class 1 is "true".
    ///
    /// # Errors
    /// As [`Self::vqa`].
    pub fn nlvr2(spec: &AnnotationSpec) -> Result<Self, SourceError> {
        let records = statements(spec)?;
        let folders = Kind::Nlvr2.folders();
        Self::new(spec, folders, "statements", records, |at, record| Entry {
            key: record
                .identifier
                .clone()
                .unwrap_or_else(|| (at + 1).to_string()),
            image_id: stable_hash(record.images.concat().as_bytes()),
            texts: vec![record.sentence.clone()],
            images: record.images.clone().map(Some),
            target: Some(Target::Statement(record)),
        })
    }

    /// SNLI-VE: sentences about a picture; classes as [`snli_ve::Entailment`].
    ///
    /// # Errors
    /// As [`Self::vqa`].
    pub fn entailment(spec: &AnnotationSpec) -> Result<Self, SourceError> {
        let (lists, lines) = by_shape(&glob::expand(&spec.files)?)?;
        let mut records = snli_ve::read_lists(&lists, spec.on_bad)?;
        for file in &lines {
            records.join(snli_ve::read_lines(file, spec.on_bad)?);
        }
        let folders = Kind::SnliVe.folders();
        Self::new(spec, folders, "hypotheses", records, |at, record| Entry {
            key: record.pair_id.unwrap_or_else(|| (at + 1).to_string()),
            image_id: stable_hash(record.image.as_bytes()),
            target: Some(Target::Hypothesis(record.label)),
            texts: vec![record.sentence],
            images: [Some(record.image), None],
        })
    }

    /// Phrases that single something out, as ALBEF lists them: pairs to learn from without boxes.
    ///
    /// # Errors
    /// As [`Self::vqa`].
    pub fn phrases(spec: &AnnotationSpec) -> Result<Self, SourceError> {
        let records = refcoco::read_lists(&glob::expand(&spec.files)?, spec.on_bad)?;
        let folders = Kind::Refcoco.folders();
        Self::new(spec, folders, "phrases", records, |_, record| Entry {
            key: record.image.clone(),
            image_id: stable_hash(record.picture_key().as_bytes()),
            target: None,
            texts: vec![record.text],
            images: [Some(record.image), None],
        })
    }

    /// Captioned pictures of one split of Karpathy's files (`dataset_coco.json`, `dataset_flickr30k.json`); `train`
    /// takes what is trained on (COCO: `train` and `restval`).
    ///
    /// # Errors
    /// As [`Self::vqa`]; a split that no record has.
    pub fn karpathy(spec: &AnnotationSpec, split: &str) -> Result<Self, SourceError> {
        let mut records = Annotations {
            records: Vec::new(),
            skipped: Skipped::default(),
        };
        for file in glob::expand(&spec.files)? {
            records.join(karpathy::read(&file, spec.on_bad)?);
        }
        records.records.retain(|record| {
            record.split.name() == split || (split == "train" && record.split.is_training())
        });
        if records.records.is_empty() {
            let file = spec.files.first().cloned().unwrap_or_default();
            let problem = format!("no picture of the split {split:?}; splits: train, val, test");
            return Err(SourceError::malformed(file, problem));
        }
        let folders = [Kind::Coco.folders(), Kind::Flickr30k.folders()].concat();
        Self::new(spec, &folders, "pictures", records, |_, record| {
            let picture = record.picture;
            Entry {
                key: picture.image.clone(),
                image_id: stable_hash(picture.image.as_bytes()),
                target: None,
                texts: picture.captions,
                images: [Some(picture.image), None],
            }
        })
    }

    fn new<T>(
        spec: &AnnotationSpec,
        folders: &[&str],
        what: &str,
        annotations: Annotations<T>,
        entry: impl Fn(usize, T) -> Entry,
    ) -> Result<Self, SourceError> {
        let Annotations { records, skipped } = annotations;
        let files = glob::listed(&spec.files);
        let warnings = match skipped.count {
            0 => vec![],
            count => {
                let first = skipped.first.iter().map(ToString::to_string);
                vec![format!(
                    "{count} records left out, of {}: {}",
                    files,
                    first.collect::<Vec<_>>().join("; ")
                )]
            }
        };
        let records = records.into_iter().enumerate();
        let entries: Vec<Entry> = records.map(|(at, record)| entry(at, record)).collect();
        Ok(Self {
            described: format!("{} {what} of {files}", entries.len()),
            files,
            roots: ImageRoots::new(&spec.image_roots, folders),
            entries,
            warnings,
        })
    }

    fn entry(&self, index: usize) -> Result<&Entry, SourceError> {
        self.entries.get(index).ok_or(SourceError::OutOfRange {
            index,
            len: self.entries.len(),
        })
    }

    fn picture(&self, entry: &Entry, image: &str) -> Result<Vec<u8>, SourceError> {
        let path = self
            .roots
            .find(image)
            .ok_or_else(|| SourceError::NoSuchPicture {
                files: self.files.clone(),
                key: entry.key.clone(),
                image: image.to_owned(),
            })?;
        fs::read(&path).map_err(SourceError::io(path))
    }
}

/// The questions of a specification, official or in lists.
///
/// # Errors
/// When a file cannot be read, or a record is not of its form and must be.
pub fn questions(spec: &AnnotationSpec) -> Result<Annotations<vqa::VqaRecord>, SourceError> {
    let (lists, objects) = by_shape(&glob::expand(&spec.files)?)?;
    // Visual Genome's own file is a list, too, but one of pictures.
    let (genome, lists): (Vec<_>, Vec<_>) = lists
        .into_iter()
        .partition(|file| visual_genome::is_published(file).unwrap_or(false));
    let mut records = vqa::read_lists(&lists, spec.on_bad)?;
    if !objects.is_empty() {
        records.join(vqa::read_official(&objects, spec.on_bad)?);
    }
    if !genome.is_empty() {
        records.join(visual_genome::read(&genome, spec.on_bad)?);
    }
    Ok(records)
}

/// The statements of a specification, official or in lists.
///
/// # Errors
/// When a file cannot be read, or a record is not of its form and must be.
pub fn statements(spec: &AnnotationSpec) -> Result<Annotations<nlvr2::Nlvr2Record>, SourceError> {
    let (lists, lines) = by_shape(&glob::expand(&spec.files)?)?;
    let mut records = nlvr2::read_lists(&lists, spec.on_bad)?;
    for file in &lines {
        records.join(nlvr2::read_lines(file, spec.on_bad)?);
    }
    Ok(records)
}

impl Source for Annotated {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        let entry = self.entry(index)?;
        let read = |image: &Option<String>| {
            let image = image.as_deref();
            image.map(|image| self.picture(entry, image)).transpose()
        };
        let [first, second] = &entry.images;
        Ok(Record {
            key: entry.key.clone(),
            image: read(first)?.unwrap_or_default(),
            second_image: read(second)?,
            captions: entry.texts.clone(),
            image_id: entry.image_id,
            target: entry.target.clone(),
            metadata: None,
        })
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        let entry = self.entry(index)?;
        Ok(RecordTexts {
            key: entry.key.clone(),
            captions: entry.texts.clone(),
            image_id: entry.image_id,
        })
    }

    fn describe(&self) -> String {
        self.described.clone()
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}
