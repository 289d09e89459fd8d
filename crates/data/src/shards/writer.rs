//! A tar writer that makes the same bytes from the same samples.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

/// Why a shard cannot be written.
#[derive(Debug, Error)]
pub enum ShardError {
    /// A file could not be written.
    #[error("{path}: {source}")]
    Io {
        /// The shard or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key cannot name files of a shard.
    #[error(
        "sample key {key:?} cannot be read back: it must be non-empty and hold no `.`, no control character, and neither begin nor end with `/`"
    )]
    Key {
        /// The key.
        key: String,
    },
    /// Two consecutive samples of one key would be read back as one.
    #[error("sample key {key:?} follows itself; keys must differ")]
    RepeatedKey {
        /// The key.
        key: String,
    },
    /// Metadata must be a JSON object, for `captions` is stored in it.
    #[error("metadata of sample {key:?} is not a JSON object")]
    Metadata {
        /// The key.
        key: String,
    },
    /// A shard of no samples would never be finished.
    #[error("records per shard must be at least 1")]
    NoRecords,
}

/// One sample to write.
#[derive(Debug, Clone, Copy)]
pub struct ShardSample<'a> {
    /// Stem of the sample's files.
    pub key: &'a str,
    /// Encoded picture.
    pub image: &'a [u8],
    /// Ending of the picture's file, e.g. `png`.
    pub extension: &'a str,
    /// Captions: the first is written as `key.txt`, all of them into `key.json`.
    pub captions: &'a [String],
    /// A JSON object of further fields for `key.json`, or `None`. Its `captions` is overwritten.
    pub metadata: Option<&'a Value>,
}

struct Shard {
    tar: tar::Builder<BufWriter<File>>,
    partial: PathBuf,
    path: PathBuf,
    records: usize,
}

/// Writes samples to `PREFIX-000000.tar`, `PREFIX-000001.tar` and so on. A shard appears under its
/// name only when it is complete; a writer that is dropped before [`ShardWriter::finish`] leaves no
/// trace of the shard it was at. Times, owners and rights are fixed, so equal samples give equal
/// files.
pub struct ShardWriter {
    folder: PathBuf,
    prefix: String,
    records_per_shard: usize,
    current: Option<Shard>,
    last_key: String,
    finished: Vec<PathBuf>,
}

impl ShardWriter {
    /// Prepares to write into `folder`, which is created if need be.
    ///
    /// # Errors
    /// When the folder cannot be made or `records_per_shard` is 0.
    pub fn create(
        folder: impl Into<PathBuf>,
        prefix: impl Into<String>,
        records_per_shard: usize,
    ) -> Result<Self, ShardError> {
        let folder = folder.into();
        if records_per_shard == 0 {
            return Err(ShardError::NoRecords);
        }
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        Ok(Self {
            folder,
            prefix: prefix.into(),
            records_per_shard,
            current: None,
            last_key: String::new(),
            finished: Vec::new(),
        })
    }

    /// Appends a sample, beginning a new shard when the current one is full.
    ///
    /// # Errors
    /// When the sample cannot be read back as it is, or the shard cannot be written.
    pub fn write(&mut self, sample: ShardSample<'_>) -> Result<(), ShardError> {
        let key = sample.key;
        if key.is_empty()
            || key.starts_with('/')
            || key.ends_with('/')
            || key.chars().any(|c| c == '.' || c.is_control())
        {
            return Err(ShardError::Key {
                key: key.to_owned(),
            });
        }
        if key == self.last_key {
            return Err(ShardError::RepeatedKey {
                key: key.to_owned(),
            });
        }
        let json = json(&sample)?;

        let shard = match &mut self.current {
            Some(shard) => shard,
            None => {
                let name = format!("{}-{:06}.tar", self.prefix, self.finished.len());
                self.current.insert(Shard::create(&self.folder, &name)?)
            }
        };
        shard.append(&format!("{key}.{}", sample.extension), sample.image)?;
        if let Some(first) = sample.captions.first() {
            shard.append(&format!("{key}.txt"), first.as_bytes())?;
        }
        shard.append(&format!("{key}.json"), json.as_bytes())?;
        shard.records += 1;
        self.last_key = key.to_owned();
        if shard.records == self.records_per_shard {
            self.close()?;
        }
        Ok(())
    }

    /// Completes the last shard and returns all shards in order.
    ///
    /// # Errors
    /// When the last shard cannot be written.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, ShardError> {
        self.close()?;
        Ok(std::mem::take(&mut self.finished))
    }

    fn close(&mut self) -> Result<(), ShardError> {
        if let Some(mut shard) = self.current.take() {
            let done = shard.complete();
            if done.is_err() {
                shard.discard();
            }
            done.map_err(failed(&shard.path))?;
            self.finished.push(shard.path);
        }
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if let Some(shard) = self.current.take() {
            shard.discard();
        }
    }
}

impl Shard {
    fn create(folder: &Path, name: &str) -> Result<Self, ShardError> {
        let path = folder.join(name);
        let partial = folder.join(format!(".{name}.partial"));
        let file = File::create(&partial).map_err(failed(&partial))?;
        Ok(Self {
            tar: tar::Builder::new(BufWriter::new(file)),
            partial,
            path,
            records: 0,
        })
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), ShardError> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.tar
            .append_data(&mut header, name, bytes)
            .map_err(failed(&self.path))
    }

    fn complete(&mut self) -> io::Result<()> {
        self.tar.finish()?;
        let buffer = self.tar.get_mut();
        io::Write::flush(buffer)?;
        buffer.get_ref().sync_all()?;
        fs::rename(&self.partial, &self.path)
    }

    fn discard(&self) {
        // Nothing depends on it being gone: the next writer of that shard overwrites it.
        let _ = fs::remove_file(&self.partial);
    }
}

fn json(sample: &ShardSample<'_>) -> Result<String, ShardError> {
    let mut fields = match sample.metadata {
        None => Map::new(),
        Some(Value::Object(fields)) => fields.clone(),
        Some(_) => {
            return Err(ShardError::Metadata {
                key: sample.key.to_owned(),
            });
        }
    };
    fields.insert("captions".to_owned(), sample.captions.into());
    Ok(Value::Object(fields).to_string())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ShardError {
    let path = path.to_owned();
    move |source| ShardError::Io { path, source }
}
