//! Shards and their companions on disk: everything is written to a temporary name and renamed, so a
//! folder never holds half a shard under its real name.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::record::Pictogram;

/// Why shards could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The system refused.
    #[error("cannot write {path}: {source}; check free space and permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A record could not be turned into JSON.
    #[error("sample {key} cannot be written as JSON: {source}")]
    Json {
        /// The key.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// Writes one shard: `key.png`, `key.txt`, `key.json` for every pictogram, with fixed times and owners.
///
/// Returns the size of the file in bytes.
///
/// # Errors
/// [`WriteError`] when the file cannot be written; the target is then untouched.
pub(super) fn write_shard(path: &Path, pictograms: &[Pictogram]) -> Result<u64, WriteError> {
    write_atomically(path, |file| {
        let mut archive = tar::Builder::new(file);
        for Pictogram { key, image, record } in pictograms {
            let json = serde_json::to_vec(record).map_err(std::io::Error::other)?;
            let text = record
                .captions
                .first()
                .map(String::as_bytes)
                .unwrap_or_default();
            for (extension, bytes) in [("png", image.as_slice()), ("txt", text), ("json", &json)] {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                archive.append_data(&mut header, format!("{key}.{extension}"), bytes)?;
            }
        }
        archive.finish()
    })
}

/// Writes a whole file.
///
/// # Errors
/// [`WriteError::Io`] when it cannot be written; the target is then untouched.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<u64, WriteError> {
    write_atomically(path, |file| file.write_all(bytes))
}

/// Creates a folder and its parents.
///
/// # Errors
/// [`WriteError::Io`].
pub(crate) fn create_folder(path: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(path).map_err(|source| WriteError::Io {
        path: path.to_owned(),
        source,
    })
}

fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<u64, WriteError> {
    // The process id keeps two builders that share a folder from writing into each other's file.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).and_then(|file| {
        let mut file = BufWriter::new(file);
        fill(&mut file)?;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()?;
        fs::rename(&temporary, path)?;
        fs::metadata(path).map(|metadata| metadata.len())
    });
    written.map_err(|source| {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        WriteError::Io {
            path: path.to_owned(),
            source,
        }
    })
}
