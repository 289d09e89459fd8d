//! The `data` part of a recipe: which source to open.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Record, RecordTexts, Source, SourceError,
    albef_json::AlbefJson,
    annotated::{Annotated, AnnotationSpec},
    folder::Folder,
    lines::Lines,
    webdataset::Shards,
};

/// A source as a recipe names it, e.g. `{ kind = "shards", paths = ["data/train-*.tar"] }`.
/// Relative paths start at the working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceSpec {
    /// WebDataset tar shards, read in place.
    Shards {
        /// Shards, in order; `*` in the file name stands for anything and matches sort by name.
        paths: Vec<PathBuf>,
        /// What to do with a shard that ends in the middle.
        #[serde(default)]
        on_truncated: OnTruncated,
        /// Only the first so many records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// ALBEF's annotation lists, `[{image, caption: text or [texts], image_id?}]`, joined in order.
    AlbefJson {
        /// The lists; `*` as for shards.
        files: Vec<PathBuf>,
        /// Folder the image paths start from; without it they are used as written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_root: Option<PathBuf>,
        /// Only the first so many records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// A folder of pictures with `captions.csv`, or with a `.txt` beside each picture.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Only the first so many records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Questions with their answers: VQAv2, Visual Genome.
    Vqa(AnnotationSpec),
    /// Sentences about two pictures: NLVR2.
    Nlvr2(AnnotationSpec),
    /// Sentences that follow from a picture or do not: SNLI-VE.
    Entailment(AnnotationSpec),
    /// Phrases that single something out, as ALBEF lists them: RefCOCO.
    Phrases(AnnotationSpec),
    /// A split of Karpathy's files: COCO, Flickr30K.
    Karpathy {
        /// `train`, `val` or `test`.
        split: String,
        /// Files and pictures.
        annotations: AnnotationSpec,
    },
    /// Text files with one sentence a line, without pictures.
    Lines {
        /// The files, joined in order; `*` as for shards.
        files: Vec<PathBuf>,
        /// Only the first so many lines.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
}

/// What to do with a shard that ends in the middle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTruncated {
    /// Refuse to open the source.
    #[default]
    Error,
    /// Use the samples that are whole and say so in [`Source::warnings`].
    Skip,
}

/// Opens the source a recipe names.
///
/// # Errors
/// When a file is missing, malformed or (unless told to skip) truncated.
pub fn open(spec: &SourceSpec) -> Result<Box<dyn Source>, SourceError> {
    let (source, limit): (Box<dyn Source>, Option<usize>) = match spec {
        SourceSpec::Shards {
            paths,
            on_truncated,
            limit,
        } => (Box::new(Shards::open(paths, *on_truncated)?), *limit),
        SourceSpec::AlbefJson {
            files,
            image_root,
            limit,
        } => (
            Box::new(AlbefJson::open(files, image_root.as_deref())?),
            *limit,
        ),
        SourceSpec::Folder { path, limit } => (Box::new(Folder::open(path)?), *limit),
        SourceSpec::Vqa(spec) => (Box::new(Annotated::vqa(spec)?), spec.limit),
        SourceSpec::Nlvr2(spec) => (Box::new(Annotated::nlvr2(spec)?), spec.limit),
        SourceSpec::Entailment(spec) => (Box::new(Annotated::entailment(spec)?), spec.limit),
        SourceSpec::Phrases(spec) => (Box::new(Annotated::phrases(spec)?), spec.limit),
        SourceSpec::Karpathy { split, annotations } => (
            Box::new(Annotated::karpathy(annotations, split)?),
            annotations.limit,
        ),
        SourceSpec::Lines { files, limit } => (Box::new(Lines::open(files)?), *limit),
    };
    Ok(match limit {
        Some(limit) if limit < source.len() => Box::new(Limited { source, limit }),
        _ => source,
    })
}

/// The first records of a source.
struct Limited {
    source: Box<dyn Source>,
    limit: usize,
}

impl Limited {
    fn check(&self, index: usize) -> Result<(), SourceError> {
        if index < self.limit {
            Ok(())
        } else {
            Err(SourceError::OutOfRange {
                index,
                len: self.limit,
            })
        }
    }
}

impl Source for Limited {
    fn len(&self) -> usize {
        self.limit
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        self.check(index)?;
        self.source.get(index)
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        self.check(index)?;
        self.source.texts(index)
    }

    fn describe(&self) -> String {
        format!("first {} of {}", self.limit, self.source.describe())
    }

    fn warnings(&self) -> &[String] {
        self.source.warnings()
    }
}
