//! Writing a store: append, commit, and going on after a crash.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use half::f16;

use super::header::{Header, check_spec};
use super::{FEATURES, INDEX, ITEMS, Item, LOCK, StoreError, StoreSpec, items};
use crate::features::Dtype;

/// How far a row's length may be from 1 in a store of unit rows: normalising in half precision
/// on an accelerator is within it, a forgotten normalisation is not.
const LENGTH_TOLERANCE: f32 = 1e-2;

/// Where appended bytes go: a file, or in tests a disk that runs full.
trait Sink: Write + Send {
    /// Returns once the bytes are on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Appends rows to a store. One at a time per store, across processes.
///
/// Rows count once they are committed; dropping the writer gives up those that are not.
pub struct StoreWriter {
    folder: PathBuf,
    header: Header,
    keys: HashSet<String>,
    features: Box<dyn Sink>,
    items: Box<dyn Sink>,
    /// Rows and bytes of items that are appended, committed or not.
    count: usize,
    items_bytes: u64,
    failed: bool,
    _lock: File,
}

impl std::fmt::Debug for StoreWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreWriter")
            .field("folder", &self.folder)
            .field("header", &self.header)
            .field("count", &self.count)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl StoreWriter {
    /// Creates an empty store in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if there is a store: features took long to compute, and a
    /// reader may have them mapped. [`StoreError::Field`] if `spec` makes no sense.
    pub fn create(folder: impl AsRef<Path>, spec: &StoreSpec) -> Result<Self, StoreError> {
        let folder = folder.as_ref();
        check_spec(folder, spec)?;
        fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        let lock = lock(folder)?;
        // The index is written before the first row, so rows without one are the remains of a
        // store that lost it. Empty files are those of a `create` that was killed.
        for (name, harmless) in [(INDEX, false), (FEATURES, true), (ITEMS, true)] {
            let path = folder.join(name);
            if let Ok(found) = fs::metadata(&path)
                && !(harmless && found.is_file() && found.len() == 0)
            {
                return Err(StoreError::AlreadyExists { path });
            }
        }
        let header = Header::new(spec);
        let features = appendable(&folder.join(FEATURES))?;
        let items = appendable(&folder.join(ITEMS))?;
        header.write(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            header,
            keys: HashSet::new(),
            features: Box::new(features),
            items: Box::new(items),
            count: 0,
            items_bytes: 0,
            failed: false,
            _lock: lock,
        })
    }

    /// Opens an existing store to go on with it: what an earlier writer left uncommitted is cut
    /// off, and [`StoreWriter::contains`] tells which keys are done.
    ///
    /// # Errors
    /// [`StoreError::WrongModel`] or [`StoreError::Field`] if the store was made with another
    /// model, dim, dtype or normalisation than `spec` (the model's name may differ);
    /// [`StoreError::CutShort`] and the like if committed rows are damaged.
    pub fn open_append(folder: impl AsRef<Path>, spec: &StoreSpec) -> Result<Self, StoreError> {
        let folder = folder.as_ref();
        // Before locking, so that a folder without a store does not get a lock file.
        Header::read(folder)?;
        let lock = lock(folder)?;
        let header = Header::read(folder)?;
        header.check_model(folder, &spec.model.fingerprint)?;
        check_same(folder, "dim", spec.dim, header.spec.dim)?;
        check_same(folder, "dtype", spec.dtype, header.spec.dtype)?;
        check_same(
            folder,
            "normalised",
            spec.normalised,
            header.spec.normalised,
        )?;

        let items_path = folder.join(ITEMS);
        let mut keys = HashSet::with_capacity(header.count.min(1 << 20));
        for item in items::read(&items_path, header.items_bytes, header.count)? {
            if !keys.insert(item.key.clone()) {
                return Err(StoreError::DuplicateKey { key: item.key });
            }
        }
        let features = cut(&folder.join(FEATURES), header.features_bytes(folder)?)?;
        let items = cut(&items_path, header.items_bytes)?;
        Ok(Self {
            folder: folder.to_owned(),
            keys,
            features: Box::new(features),
            items: Box::new(items),
            count: header.count,
            items_bytes: header.items_bytes,
            failed: false,
            header,
            _lock: lock,
        })
    }

    /// [`StoreWriter::open_append`] where there is a store, [`StoreWriter::create`] elsewhere:
    /// what a job that may have been killed before calls.
    ///
    /// # Errors
    /// As those two.
    pub fn open_or_create(folder: impl AsRef<Path>, spec: &StoreSpec) -> Result<Self, StoreError> {
        match Self::open_append(&folder, spec) {
            Err(StoreError::NotAStore { .. }) => Self::create(folder, spec),
            other => other,
        }
    }

    /// Number of rows, committed or not.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no rows yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the row of `key` is done, committed or not.
    pub fn contains(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Appends `rows` `[items.len(), dim]`. All are checked before any is written.
    ///
    /// # Errors
    /// [`StoreError::BatchSize`], [`StoreError::DuplicateKey`], [`StoreError::NotFinite`],
    /// [`StoreError::NotNormalised`]: nothing was written and the writer can go on.
    /// [`StoreError::Io`]: the writer is of no more use, and the store is as last committed.
    pub fn append(&mut self, rows: &[f32], items: &[Item]) -> Result<(), StoreError> {
        self.check_usable()?;
        self.check_batch(rows, items)?;

        let items_path = self.folder.join(ITEMS);
        let mut lines = Vec::new();
        for item in items {
            items::write_line(&mut lines, &items_path, item)?;
        }
        let values = match self.header.spec.dtype {
            Dtype::F32 => rows.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => rows
                .iter()
                .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                .collect::<Vec<u8>>(),
        };

        let features_path = self.folder.join(FEATURES);
        let written = self
            .features
            .write_all(&values)
            .map_err(StoreError::io("append to", features_path))
            .and_then(|()| {
                self.items
                    .write_all(&lines)
                    .map_err(StoreError::io("append to", items_path))
            });
        self.note_failure(written)?;
        self.keys.extend(items.iter().map(|item| item.key.clone()));
        self.count += items.len();
        self.items_bytes += lines.len() as u64;
        Ok(())
    }

    /// Makes all appended rows count: they are on the disk before the index names them, so a
    /// power cut leaves the store as before or as after, never in between.
    ///
    /// Costs two disk syncs: once a few thousand rows is about right.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the writer is of no more use.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        let complete = self.header.complete && self.count == self.header.count;
        self.commit_as(complete)
    }

    /// Commits, and marks the store as holding the whole collection.
    ///
    /// # Errors
    /// As [`StoreWriter::commit`].
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.commit_as(true)
    }

    fn commit_as(&mut self, complete: bool) -> Result<(), StoreError> {
        self.check_usable()?;
        if self.count == self.header.count && complete == self.header.complete {
            return Ok(());
        }
        let features = self
            .features
            .sync()
            .map_err(StoreError::io("sync", self.folder.join(FEATURES)));
        self.note_failure(features)?;
        let items = self
            .items
            .sync()
            .map_err(StoreError::io("sync", self.folder.join(ITEMS)));
        self.note_failure(items)?;
        let header = Header {
            count: self.count,
            items_bytes: self.items_bytes,
            complete,
            ..self.header.clone()
        };
        let written = header.write(&self.folder);
        self.note_failure(written)?;
        self.header = header;
        Ok(())
    }

    fn check_usable(&self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::WriterFailed {
                folder: self.folder.clone(),
            });
        }
        Ok(())
    }

    /// After a failed write no one knows how much of it arrived, and after a failed sync the
    /// system may have dropped what it could not write; only cutting back to the last commit,
    /// which opening does, is safe.
    fn note_failure<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.failed |= result.is_err();
        result
    }

    fn check_batch(&self, rows: &[f32], items: &[Item]) -> Result<(), StoreError> {
        let StoreSpec {
            dim,
            dtype,
            normalised,
            ..
        } = self.header.spec;
        if items.len().checked_mul(dim) != Some(rows.len()) {
            return Err(StoreError::BatchSize {
                items: items.len(),
                dim,
                got: rows.len(),
            });
        }
        let mut fresh = HashSet::with_capacity(items.len());
        for (row, item) in rows.chunks_exact(dim).zip(items) {
            let key = &item.key;
            if self.keys.contains(key) || !fresh.insert(key) {
                return Err(StoreError::DuplicateKey { key: key.clone() });
            }
            let fits = |value: f32| match dtype {
                Dtype::F32 => value.is_finite(),
                Dtype::F16 => f16::from_f32(value).is_finite(),
            };
            if let Some(column) = row.iter().position(|&value| !fits(value)) {
                return Err(StoreError::NotFinite {
                    key: key.clone(),
                    column,
                    value: row[column],
                    dtype,
                });
            }
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            if normalised && (length - 1.0).abs() > LENGTH_TOLERANCE {
                return Err(StoreError::NotNormalised {
                    key: key.clone(),
                    length,
                });
            }
        }
        Ok(())
    }
}

fn check_same<T: PartialEq + ToString>(
    folder: &Path,
    field: &'static str,
    expected: T,
    got: T,
) -> Result<(), StoreError> {
    if expected == got {
        return Ok(());
    }
    Err(StoreError::Field {
        path: folder.join(INDEX),
        field,
        expected: expected.to_string(),
        got: got.to_string(),
    })
}

/// Locks the store against other writers, until the file is dropped or the process ends.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    // The lock file stays: removing it would let two writers lock two files of one name.
    let file = appendable(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            folder: folder.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(StoreError::Io {
            action: "lock",
            path,
            source,
        }),
    }
}

/// Opens the file at `path` for appending after cutting it to `bytes`; it must have as many.
pub(super) fn cut(path: &Path, bytes: u64) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .append(true)
        .open(path)
        .map_err(StoreError::io("open", path))?;
    let got = file
        .metadata()
        .map_err(StoreError::io("measure", path))?
        .len();
    if got < bytes {
        return Err(StoreError::CutShort {
            path: path.to_owned(),
            expected: bytes,
            got,
        });
    }
    if got > bytes {
        file.set_len(bytes).map_err(StoreError::io("cut", path))?;
    }
    Ok(file)
}

fn appendable(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(StoreError::io("create", path))
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
