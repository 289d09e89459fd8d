//! Annotation files as their authors publish them, and ALBEF's lists of the same data, read into typed records.
//!
//! | data set | as published | ALBEF's list |
//! |---|---|---|
//! | COCO, Flickr30K | [`karpathy`] (`dataset_coco.json`), [`captions::read_coco`] | [`captions::read_lists`] |
//! | VQAv2 | [`vqa::read_official`] | [`vqa::read_lists`] |
//! | Visual Genome questions | [`visual_genome`] | [`vqa::read_lists`] |
//! | NLVR2 | [`nlvr2::read_lines`] | [`nlvr2::read_lists`] |
//! | SNLI-VE | [`snli_ve::read_lines`] | [`snli_ve::read_lists`] |
//! | RefCOCO+ | [`refcoco::read_references`], [`refcoco::read_proposals`] | [`refcoco::read_lists`] |
//!
//! Files are read once and record by record, so what is held is the records and never a second copy of the file.
//! Texts stay as written; what ALBEF's loaders make of them is a method of the record.
//!
//! A record that is not of its form ends the reading or is skipped and counted ([`OnBad`]); either way file, record
//! and field are named.

pub mod captions;
pub mod check;
mod fields;
pub mod karpathy;
pub mod nlvr2;
pub mod pictures;
mod read;
pub mod refcoco;
pub mod snli_ve;
pub mod visual_genome;
pub mod vqa;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use read::{Shape, shape};

/// Skipped records that are kept to be shown.
const SHOWN: usize = 5;

/// What a record that is not of its form does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBad {
    /// Ends the reading: a test set is scored whole or not at all.
    #[default]
    Fail,
    /// Is left out and counted.
    Skip,
}

/// A record that is not of its form.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize)]
#[error("{}: record {record}, field `{field}`: {problem}", file.display())]
pub struct BadRecord {
    /// The file.
    pub file: PathBuf,
    /// Place in the file's list, counted from 1; in a file of lines the number of the line.
    pub record: usize,
    /// The field that is wrong.
    pub field: String,
    /// What was expected and what is there.
    pub problem: String,
}

/// Records that were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// How many.
    pub count: usize,
    /// How many by the field that is wrong.
    pub by_field: BTreeMap<String, usize>,
    /// The first few.
    pub first: Vec<BadRecord>,
}

impl Skipped {
    fn add(&mut self, bad: BadRecord) {
        self.count += 1;
        *self.by_field.entry(bad.field.clone()).or_default() += 1;
        if self.first.len() < SHOWN {
            self.first.push(bad);
        }
    }

    fn join(&mut self, other: Self) {
        self.count += other.count;
        for (field, count) in other.by_field {
            *self.by_field.entry(field).or_default() += count;
        }
        let room = SHOWN.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }
}

/// What was read of one or more files.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotations<T> {
    /// In the order of the files.
    pub records: Vec<T>,
    /// What was left out, of [`OnBad::Skip`].
    pub skipped: Skipped,
}

/// Why annotations cannot be read.
#[derive(Debug, Error)]
pub enum AnnotationError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not of the form of its kind as a whole.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file, what was expected and what was found.
        problem: String,
    },
    /// A record is not of its form, and must be.
    #[error(transparent)]
    Record(#[from] BadRecord),
}

impl<T> Annotations<T> {
    /// Adds what was read of another file.
    pub(crate) fn join(&mut self, other: Self) {
        self.records.extend(other.records);
        self.skipped.join(other.skipped);
    }
}

impl AnnotationError {
    fn malformed(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

/// Collects records, and what is wrong with others.
struct Collector<T> {
    on_bad: OnBad,
    records: Vec<T>,
    skipped: Skipped,
}

impl<T> Collector<T> {
    fn new(on_bad: OnBad) -> Self {
        Self {
            on_bad,
            records: Vec::new(),
            skipped: Skipped::default(),
        }
    }

    fn add(&mut self, record: Result<T, BadRecord>) -> Result<(), AnnotationError> {
        match record {
            Ok(record) => self.records.push(record),
            Err(bad) => self.skip(bad)?,
        }
        Ok(())
    }

    fn skip(&mut self, bad: BadRecord) -> Result<(), AnnotationError> {
        match self.on_bad {
            OnBad::Fail => Err(bad.into()),
            OnBad::Skip => {
                self.skipped.add(bad);
                Ok(())
            }
        }
    }

    fn finish(self) -> Annotations<T> {
        Annotations {
            records: self.records,
            skipped: self.skipped,
        }
    }
}

/// The files that are lists, and the others.
pub(crate) fn by_shape(files: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), AnnotationError> {
    let (mut lists, mut others) = (Vec::new(), Vec::new());
    for file in files {
        match shape(file)? {
            Shape::List => lists.push(file.clone()),
            Shape::Object => others.push(file.clone()),
            Shape::Pickle => {
                return Err(AnnotationError::malformed(
                    file,
                    "a pickle; this data set is published as JSON",
                ));
            }
        }
    }
    Ok((lists, others))
}

/// Numbers from 0 for equal keys, in the order in which they first come: the identities that ALBEF's loaders give
/// pictures for the targets of its contrastive loss.
pub fn numbered<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    keys.map(|key| {
        let next = numbers.len();
        *numbers.entry(key).or_insert(next)
    })
    .collect()
}
