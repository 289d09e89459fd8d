//! Features of a collection on disk: computed once, then only read.
//!
//! A store is a folder:
//!
//! | file | content |
//! |---|---|
//! | `features.bin` | rows `[count, dim]`, little-endian `f32` or `f16`, nothing else |
//! | `items.jsonl` | one [`Item`] a line, line i describes row i |
//! | `index.json` | format version, dim, dtype, count, the model, whether rows have unit length |
//! | `writer.lock` | empty; locked while a [`StoreWriter`] is open |
//!
//! **Killed at any moment.** Rows are appended to the first two files, and count only once
//! `index.json`, replaced in one step by a rename, says so. Whatever lies beyond the committed
//! count is a torn tail: readers do not look at it and the next writer cuts it off. Committed
//! bytes never change, which is also what makes mapping them sound: no program may overwrite or
//! cut `features.bin` while a store is open. To replace a store, write a new folder.
//!
//! **One model.** Features of two models do not mix, so a store carries the fingerprint of the
//! model that made it and refuses any other.

mod error;
mod header;
mod items;
mod map;
mod salvage;
mod writer;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use half::f16;
use half::slice::HalfBitsSliceExt;
use serde::{Deserialize, Serialize};

use crate::features::{Dtype, FeatureView};
pub use error::StoreError;
use header::Header;
pub use header::ModelId;
use map::FeatureMap;
pub use salvage::{Salvaged, salvage};
pub use writer::StoreWriter;

#[cfg(target_endian = "big")]
compile_error!("feature stores are mapped as they lie on disk, in little-endian order");

const FEATURES: &str = "features.bin";
const ITEMS: &str = "items.jsonl";
const INDEX: &str = "index.json";
const LOCK: &str = "writer.lock";

/// What a row was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    /// A picture.
    Image,
    /// A text.
    Text,
}

/// The description of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Identifies the item within the collection; unique within a store.
    pub key: String,
    /// Where the original is: a path, a URL, or a shard and a member name.
    pub locator: String,
    /// The caption or title; for a text item the text itself. May be empty.
    pub text: String,
    /// Picture or text.
    pub kind: ItemKind,
}

/// What all rows of a store have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// The model that computes the features.
    pub model: ModelId,
    /// Values in one row, at least 1.
    pub dim: usize,
    /// How values are kept.
    pub dtype: Dtype,
    /// Whether every row has unit length, so that the dot product is the cosine. Checked when
    /// rows are appended.
    pub normalised: bool,
}

/// A store opened for reading: the rows that were committed when it was opened.
///
/// A writer may append meanwhile; open again to see more.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    header: Header,
    items: Vec<Item>,
    features: FeatureMap,
}

impl Store {
    /// Opens the store in `folder`; with `expected_fingerprint`, only if that model made it.
    ///
    /// # Errors
    /// [`StoreError`]: no store there, another model's, a format this version does not know, or
    /// files that do not hold what `index.json` promises.
    pub fn open(
        folder: impl AsRef<Path>,
        expected_fingerprint: Option<&str>,
    ) -> Result<Self, StoreError> {
        let folder = folder.as_ref();
        let header = Header::read(folder)?;
        if let Some(expected) = expected_fingerprint {
            header.check_model(folder, expected)?;
        }
        let items = items::read(&folder.join(ITEMS), header.items_bytes, header.count)?;
        let features = FeatureMap::open(&folder.join(FEATURES), header.features_bytes(folder)?)?;
        Ok(Self {
            folder: folder.to_owned(),
            header,
            items,
            features,
        })
    }

    /// The folder the store lies in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What all rows have in common.
    pub fn spec(&self) -> &StoreSpec {
        &self.header.spec
    }

    /// When the store was created, in seconds since 1970-01-01 UTC.
    pub fn created(&self) -> u64 {
        self.header.created
    }

    /// Whether the writer said that the whole collection is in ([`StoreWriter::finish`]).
    pub fn is_complete(&self) -> bool {
        self.header.complete
    }

    /// The descriptions of the rows, `[len]`.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// All rows, `[len, dim]`, to search in.
    pub fn features(&self) -> FeatureView<'_> {
        let dim = self.header.spec.dim;
        let bytes = self.features.bytes();
        if bytes.is_empty() {
            // An empty slice carries no alignment, so it cannot be cast.
            return FeatureView::f32(&[], dim);
        }
        // A mapping starts at a page boundary, so the casts find their alignment.
        match self.header.spec.dtype {
            Dtype::F32 => FeatureView::f32(cast_slice(bytes), dim),
            Dtype::F16 => {
                let bits: &[u16] = cast_slice(bytes);
                FeatureView::f16(bits.reinterpret_cast::<f16>(), dim)
            }
        }
    }

    /// One row, `[dim]`: borrowed from the mapping when kept as `f32`, converted otherwise.
    ///
    /// # Panics
    /// If `row` is not below [`Store::len`].
    pub fn row(&self, row: usize) -> Cow<'_, [f32]> {
        self.features().row(row)
    }
}
