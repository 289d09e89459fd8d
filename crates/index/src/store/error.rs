//! What can go wrong with a feature store.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a store cannot be opened, read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system refused something.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is no `index.json` in the folder.
    #[error("`{}` holds no feature store: index.json is missing; compute the features first", folder.display())]
    NotAStore {
        /// The folder.
        folder: PathBuf,
    },
    /// A store, or what is left of one, is in the way of a new one.
    #[error("`{}` is in the way: append to that store, or remove its folder to start anew", path.display())]
    AlreadyExists {
        /// The file that was found.
        path: PathBuf,
    },
    /// Another writer is at work.
    #[error("another process is writing to the store in `{}`; wait for it to end", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// `index.json` cannot be understood.
    #[error("`{}` is no index of a feature store; compute the features again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A value that makes no sense, in `index.json` or in the [`StoreSpec`](super::StoreSpec)
    /// given for a new store.
    #[error("`{}`: field `{field}` is {got}, expected {expected}", path.display())]
    Field {
        /// The folder or file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Written by another version of this program.
    #[error(
        "`{}` has format version {got}, this program reads version {expected}; compute the \
         features again, or use the version that wrote them", path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version this program reads.
        expected: u32,
        /// The version found.
        got: u32,
    },
    /// The features were computed by another model.
    #[error(
        "`{}` holds features of model {got} ({name}), not of {expected}; load that model, or \
         compute the features again into another folder", folder.display()
    )]
    WrongModel {
        /// The folder.
        folder: PathBuf,
        /// The fingerprint of the model at hand.
        expected: String,
        /// The fingerprint in the store.
        got: String,
        /// The name of the model in the store.
        name: String,
    },
    /// A file is shorter than what was committed to it: it was cut or only partly copied.
    #[error(
        "`{}` has {got} bytes of {expected}: the file was cut short after it was written; copy \
         it again, or salvage the whole rows that are left", path.display()
    )]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Bytes committed.
        expected: u64,
        /// Bytes found.
        got: u64,
    },
    /// A line of `items.jsonl` is no item.
    #[error(
        "line {line} of `{}` is no item: the file was changed after it was written; copy it \
         again, or salvage the rows before that line", path.display()
    )]
    Item {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// `items.jsonl` holds another number of lines than rows were committed.
    #[error(
        "`{}` describes {got} rows of {expected}: the file was changed after it was written; \
         copy it again, or salvage the rows that are left", path.display()
    )]
    ItemCount {
        /// The file.
        path: PathBuf,
        /// Rows committed.
        expected: usize,
        /// Lines found.
        got: usize,
    },
    /// A key is already in the store.
    #[error("key `{key}` is already in the store; skip the keys that it contains")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A batch of another size than its items.
    #[error("{items} items of dim {dim} need {} values, got {got}", items * dim)]
    BatchSize {
        /// Number of items.
        items: usize,
        /// Values in a row.
        dim: usize,
        /// Values given.
        got: usize,
    },
    /// A feature that is NaN, infinite, or beyond what the store's number type can hold.
    #[error("feature {column} of `{key}` is {value}, which cannot be kept as {dtype}")]
    NotFinite {
        /// The item.
        key: String,
        /// Position within the row.
        column: usize,
        /// The value.
        value: f32,
        /// The store's number type.
        dtype: crate::features::Dtype,
    },
    /// A row that is not of unit length in a store that promises it.
    #[error("the features of `{key}` have length {length}, the store promises 1; normalise them")]
    NotNormalised {
        /// The item.
        key: String,
        /// The Euclidean length.
        length: f32,
    },
    /// A write failed before; what was appended since the last commit is lost.
    #[error(
        "an earlier write to `{}` failed; free the disk or fix its cause, then open the store \
         again to go on from the last commit", folder.display()
    )]
    WriterFailed {
        /// The folder.
        folder: PathBuf,
    },
}

impl StoreError {
    /// For `map_err`: what was tried, on which file.
    pub(super) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
