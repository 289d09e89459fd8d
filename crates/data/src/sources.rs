//! Where image-text records come from. A [`Source`] is a random-access list; the loader shuffles it
//! without knowing whether it reads a JSON list, WebDataset shards, a folder or lines of text.

pub mod albef_json;
pub mod annotated;
pub mod folder;
pub mod glob;
pub mod lines;
pub mod retrieval;
pub mod spec;
pub mod tar_index;
pub mod webdataset;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::annotations::AnnotationError;

pub use annotated::{AnnotationSpec, Target};
pub use retrieval::RetrievalTexts;
pub use spec::{OnTruncated, SourceSpec, open};

/// One image with the texts that describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Names the record to a person and in reports; unique within one list or shard set as far as
    /// its author made it so.
    pub key: String,
    /// The encoded picture (JPEG, PNG, WebP or GIF bytes), not yet decoded.
    pub image: Vec<u8>,
    /// The right picture of two, of tasks on two.
    pub second_image: Option<Vec<u8>>,
    /// One or more captions as written, not cleaned; none is possible and left to the caller.
    pub captions: Vec<String>,
    /// Equal for records that show the same image, and the same in every run and on every machine.
    pub image_id: u64,
    /// What is to be said of picture and text, of tasks that ask.
    pub target: Option<Target>,
    /// What else the data set says of the record.
    pub metadata: Option<serde_json::Value>,
}

/// The texts of a record, without reading its picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordTexts {
    /// As [`Record::key`].
    pub key: String,
    /// As [`Record::captions`].
    pub captions: Vec<String>,
    /// As [`Record::image_id`].
    pub image_id: u64,
}

/// A random-access list of records. Reading is thread safe and never depends on what was read before.
pub trait Source: Send + Sync {
    /// Number of records.
    fn len(&self) -> usize;

    /// Reads one record.
    ///
    /// # Errors
    /// When the record cannot be read; the other records stay readable.
    fn get(&self, index: usize) -> Result<Record, SourceError>;

    /// Reads the texts of one record. Sources that can do so leave the picture unread.
    ///
    /// # Errors
    /// As [`Source::get`].
    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        let Record {
            key,
            captions,
            image_id,
            ..
        } = self.get(index)?;
        Ok(RecordTexts {
            key,
            captions,
            image_id,
        })
    }

    /// One line for logs: kind, where, how many records.
    fn describe(&self) -> String;

    /// What was passed over when the source was opened, one line each; empty when all was whole.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Whether there are no records.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a source cannot be opened or a record cannot be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not of the form its kind prescribes.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file, what was expected and what was found.
        problem: String,
    },
    /// A shard ends in the middle: an interrupted copy or download.
    #[error(
        "{shard}: ends at byte {length} inside the entry at byte {offset} ({whole} samples before it are whole); copy the shard again, or set on_truncated = \"skip\" to use what is whole"
    )]
    Truncated {
        /// The shard.
        shard: PathBuf,
        /// Byte offset of the header of the entry that is cut, or of the missing end mark.
        offset: u64,
        /// Bytes the file has.
        length: u64,
        /// Samples that can still be read.
        whole: usize,
    },
    /// A picture was asked of a record that is text alone.
    #[error(
        "{key}: a text without a picture; a source of lines serves the text stage, other runs need pictures"
    )]
    NoPicture {
        /// The record.
        key: String,
    },
    /// Annotations cannot be read.
    #[error(transparent)]
    Annotations(#[from] AnnotationError),
    /// Annotations name a picture that is not there.
    #[error(
        "{files}: record {key}, field `image`: no picture {image} where pictures are looked for; `fitup data check` counts what is missing"
    )]
    NoSuchPicture {
        /// The annotation files, joined with commas.
        files: String,
        /// The record.
        key: String,
        /// The picture, as the annotations name it.
        image: String,
    },
    /// A pattern matched no file.
    #[error("{pattern}: no file matches")]
    NoMatch {
        /// The path or pattern.
        pattern: PathBuf,
    },
    /// The index is past the end: a programming error kept apart from bad data.
    #[error("record {index} asked of a source of {len}")]
    OutOfRange {
        /// The index asked for.
        index: usize,
        /// Records there are.
        len: usize,
    },
}

impl SourceError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

/// FNV-1a, 64 bits: unlike the standard library's hasher it is fixed for all time, and identities
/// are stored in checkpoints and feature files.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Identity of an image from the `image_id` a data set gives, number or text alike.
pub(crate) fn identity(value: &serde_json::Value) -> u64 {
    match value {
        serde_json::Value::String(text) => stable_hash(text.as_bytes()),
        other => stable_hash(other.to_string().as_bytes()),
    }
}

/// File endings taken for pictures, lower case.
pub(crate) const IMAGE_EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the FNV authors.
        assert_eq!(stable_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn numbers_and_texts_identify_alike() {
        assert_eq!(identity(&7.into()), identity(&"7".into()));
    }
}
