//! `index.json`: what the store holds, and the one place that says how much of it counts.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{FEATURES, INDEX, StoreError, StoreSpec};
use crate::features::Dtype;

const VERSION: u32 = 1;

/// Which model computed the features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelId {
    /// For people: a file name or a title.
    pub name: String,
    /// For comparison: a hash, in hexadecimal, of all that the features depend on (weights,
    /// configuration, resolution, text cleaning). Two models are the same if and only if these
    /// are equal; upper and lower case are not told apart.
    pub fingerprint: String,
}

#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) spec: StoreSpec,
    pub(super) created: u64,
    pub(super) count: usize,
    pub(super) items_bytes: u64,
    pub(super) complete: bool,
}

/// The file as it is written. Apart from [`Header`], so that a version can change the one
/// without the other.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexFile {
    version: u32,
    model: ModelId,
    dim: usize,
    dtype: Dtype,
    normalised: bool,
    created: u64,
    count: usize,
    items_bytes: u64,
    complete: bool,
}

/// Read first, so that a newer file is refused for its version and not for an unknown field.
#[derive(Deserialize)]
struct IndexVersion {
    version: u32,
}

impl Header {
    pub(super) fn new(spec: &StoreSpec) -> Self {
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            spec: spec.clone(),
            created,
            count: 0,
            items_bytes: 0,
            complete: false,
        }
    }

    pub(super) fn read(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(INDEX);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NotAStore {
                    folder: folder.to_owned(),
                });
            }
            other => other.map_err(StoreError::io("read", &path))?,
        };
        let unreadable = |source| StoreError::Header {
            path: path.clone(),
            source,
        };
        let IndexVersion { version } = serde_json::from_str(&text).map_err(unreadable)?;
        if version != VERSION {
            return Err(StoreError::Version {
                path,
                expected: VERSION,
                got: version,
            });
        }
        let file: IndexFile = serde_json::from_str(&text).map_err(unreadable)?;
        let spec = StoreSpec {
            model: file.model,
            dim: file.dim,
            dtype: file.dtype,
            normalised: file.normalised,
        };
        check_spec(&path, &spec)?;
        Ok(Self {
            spec,
            created: file.created,
            count: file.count,
            items_bytes: file.items_bytes,
            complete: file.complete,
        })
    }

    /// Replaces `index.json` in one step: after a crash there is the old one or the new one.
    pub(super) fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let path = folder.join(INDEX);
        let temporary = folder.join("index.json.partial");
        let file = IndexFile {
            version: VERSION,
            model: self.spec.model.clone(),
            dim: self.spec.dim,
            dtype: self.spec.dtype,
            normalised: self.spec.normalised,
            created: self.created,
            count: self.count,
            items_bytes: self.items_bytes,
            complete: self.complete,
        };
        let mut text = serde_json::to_vec_pretty(&file).map_err(|source| StoreError::Header {
            path: path.clone(),
            source,
        })?;
        text.push(b'\n');
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.map_err(StoreError::io("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(StoreError::io("replace", &path))?;
        sync_folder(folder)
    }

    pub(super) fn check_model(&self, folder: &Path, expected: &str) -> Result<(), StoreError> {
        let model = &self.spec.model;
        if model.fingerprint.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(StoreError::WrongModel {
            folder: folder.to_owned(),
            expected: expected.to_owned(),
            got: model.fingerprint.clone(),
            name: model.name.clone(),
        })
    }

    /// Bytes of one row. [`check_spec`] has seen to it that this does not overflow.
    pub(super) fn row_bytes(&self) -> u64 {
        (self.spec.dim * self.spec.dtype.size()) as u64
    }

    /// Bytes of all committed rows.
    pub(super) fn features_bytes(&self, folder: &Path) -> Result<u64, StoreError> {
        (self.count as u64)
            .checked_mul(self.row_bytes())
            .ok_or_else(|| StoreError::Field {
                path: folder.join(INDEX),
                field: "count",
                expected: format!("a number of rows that fit into {FEATURES}"),
                got: self.count.to_string(),
            })
    }
}

/// No feature row is anywhere near this long; the bound keeps byte counts from overflowing.
const MAX_DIM: usize = 1 << 24;

pub(super) fn check_spec(path: &Path, spec: &StoreSpec) -> Result<(), StoreError> {
    let wrong = |field, expected: String, got: String| StoreError::Field {
        path: path.to_owned(),
        field,
        expected,
        got,
    };
    if !(1..=MAX_DIM).contains(&spec.dim) {
        let expected = format!("1 to {MAX_DIM}");
        return Err(wrong("dim", expected, spec.dim.to_string()));
    }
    let fingerprint = &spec.model.fingerprint;
    if fingerprint.is_empty() || !fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong(
            "model.fingerprint",
            "hexadecimal digits".to_owned(),
            format!("`{fingerprint}`"),
        ));
    }
    Ok(())
}

/// Makes a rename survive a power cut. Elsewhere than on Unix a folder cannot be synced, and
/// the rename itself is as durable as the system makes it.
fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(StoreError::io("sync", folder))?;
    }
    Ok(())
}
