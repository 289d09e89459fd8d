//! ALBEF's annotation lists: `[{"image": path, "caption": text or [texts], "image_id": id?}]`, for
//! pre-training, retrieval training (one caption an entry) and retrieval evaluation (all captions of
//! an image in one entry). Original: `dataset/caption_dataset.py`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Record, RecordTexts, Source, SourceError, glob, identity, stable_hash};

#[derive(Debug, Deserialize)]
struct Entry {
    image: String,
    caption: Captions,
    #[serde(default)]
    image_id: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Captions {
    One(String),
    Several(Vec<String>),
}

/// The joined entries of one or more lists. Pictures are read when asked for.
#[derive(Debug)]
pub struct AlbefJson {
    entries: Vec<Entry>,
    image_root: Option<PathBuf>,
    files: String,
}

impl AlbefJson {
    /// Reads the lists (paths may hold `*`). Image paths start at `image_root`, or are used as
    /// written when there is none, as in the original's pre-training lists.
    ///
    /// # Errors
    /// When a list cannot be read or is not of that form.
    pub fn open(files: &[PathBuf], image_root: Option<&Path>) -> Result<Self, SourceError> {
        let files = glob::expand(files)?;
        let mut entries: Vec<Entry> = Vec::new();
        for path in &files {
            let bytes = fs::read(path).map_err(SourceError::io(path))?;
            let list: Vec<Entry> = serde_json::from_slice(&bytes).map_err(|error| {
                SourceError::malformed(
                    path,
                    format!(
                        "expected a list of {{image, caption: text or [texts], image_id?}}: {error}"
                    ),
                )
            })?;
            entries.extend(list);
        }
        Ok(Self {
            entries,
            image_root: image_root.map(Path::to_owned),
            files: glob::listed(&files),
        })
    }

    fn entry(&self, index: usize) -> Result<&Entry, SourceError> {
        self.entries.get(index).ok_or(SourceError::OutOfRange {
            index,
            len: self.entries.len(),
        })
    }
}

impl Source for AlbefJson {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        let entry = self.entry(index)?;
        let path = match &self.image_root {
            Some(root) => root.join(&entry.image),
            None => PathBuf::from(&entry.image),
        };
        let image = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SourceError::NoSuchPicture {
                files: self.files.clone(),
                key: entry.image.clone(),
                image: path.display().to_string(),
            },
            _ => SourceError::io(path)(error),
        })?;
        let RecordTexts {
            key,
            captions,
            image_id,
        } = self.texts(index)?;
        Ok(Record {
            key,
            image,
            captions,
            image_id,
            metadata: None,
            second_image: None,
            target: None,
        })
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        let entry = self.entry(index)?;
        Ok(RecordTexts {
            key: entry.image.clone(),
            captions: match &entry.caption {
                Captions::One(caption) => vec![caption.clone()],
                Captions::Several(captions) => captions.clone(),
            },
            image_id: match &entry.image_id {
                Some(id) => identity(id),
                None => stable_hash(entry.image.as_bytes()),
            },
        })
    }

    fn describe(&self) -> String {
        format!("{} records of {}", self.entries.len(), self.files)
    }
}
