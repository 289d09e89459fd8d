//! A data set as a collection to be searched: every record has a locator by which its picture is
//! found again.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use fitup_data::images::{DecodeLimits, decode};
use fitup_data::sources::webdataset::Shards;
use fitup_data::sources::{
    self, OnTruncated, Record, RecordTexts, Source, SourceError, SourceSpec, glob,
};
use image::RgbImage;

use super::LoadedError;

/// Begins the locator of a record in a shard: `shards:<path>#<record>`.
const SHARDS: &str = "shards:";

/// A data set whose records can be found again. Locators hold absolute paths, so that an index is
/// of use from any working directory.
pub struct Collection {
    parts: Vec<Part>,
    len: usize,
    description: String,
}

struct Part {
    source: Box<dyn Source>,
    place: Place,
    /// Whether keys of this part can be those of another.
    ambiguous: bool,
}

enum Place {
    /// Records in this shard.
    Shard(PathBuf),
    /// Picture files; the record's key is the path below this folder.
    Folder(PathBuf),
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Collection")
            .field(&self.description)
            .finish()
    }
}

impl Collection {
    /// Opens a data set.
    ///
    /// # Errors
    /// When a file is missing, malformed or truncated.
    pub fn open(spec: &SourceSpec) -> Result<Self, LoadedError> {
        let (parts, limit) = match spec {
            SourceSpec::Shards {
                paths,
                on_truncated,
                limit,
            } => (shards(paths, *on_truncated)?, limit),
            SourceSpec::AlbefJson {
                image_root, limit, ..
            } => {
                let root = image_root.as_deref().unwrap_or(Path::new(""));
                (vec![files(spec, root)?], limit)
            }
            SourceSpec::Folder { path, limit } => (vec![files(spec, path)?], limit),
            SourceSpec::Vqa(of)
            | SourceSpec::Nlvr2(of)
            | SourceSpec::Entailment(of)
            | SourceSpec::Phrases(of)
            | SourceSpec::Karpathy {
                annotations: of, ..
            } => {
                return Err(SourceError::Malformed {
                    path: of.files.first().cloned().unwrap_or_default(),
                    problem: "annotations of a task are no collection: name its folder of pictures, shards or a list of captions".to_owned(),
                }
                .into());
            }
            SourceSpec::Lines { .. } => {
                let key = sources::open(spec)?.describe();
                return Err(SourceError::NoPicture { key }.into());
            }
        };
        let all: usize = parts.iter().map(|part| part.source.len()).sum();
        let description = match parts.as_slice() {
            [part] => part.source.describe(),
            parts => format!("{all} records in {} shards", parts.len()),
        };
        Ok(Self {
            len: limit.map_or(all, |limit| limit.min(all)),
            parts,
            description,
        })
    }

    /// Key and locator of a record whose texts were read.
    pub(super) fn name(&self, index: usize, texts: &RecordTexts) -> (String, String) {
        let Ok((part, inner)) = self.part(index) else {
            return (texts.key.clone(), String::new());
        };
        let locator = match &part.place {
            Place::Shard(path) => format!("{SHARDS}{}#{inner}", path.display()),
            Place::Folder(folder) => folder.join(&texts.key).display().to_string(),
        };
        let key = match part.ambiguous {
            true => locator.clone(),
            false => texts.key.clone(),
        };
        (key, locator)
    }

    fn part(&self, index: usize) -> Result<(&Part, usize), SourceError> {
        let outside = SourceError::OutOfRange {
            index,
            len: self.len,
        };
        if index >= self.len {
            return Err(outside);
        }
        let mut inner = index;
        for part in &self.parts {
            match inner.checked_sub(part.source.len()) {
                None => return Ok((part, inner)),
                Some(rest) => inner = rest,
            }
        }
        Err(outside)
    }
}

impl Source for Collection {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        let (part, inner) = self.part(index)?;
        part.source.get(inner)
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        let (part, inner) = self.part(index)?;
        part.source.texts(inner)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

/// One part a shard, so that a locator can name the shard.
fn shards(patterns: &[PathBuf], on_truncated: OnTruncated) -> Result<Vec<Part>, SourceError> {
    let paths = glob::expand(patterns)?;
    let stems: HashSet<_> = paths.iter().map(|path| path.file_stem()).collect();
    // A record's key holds its shard's name but not its folder.
    let ambiguous = stems.len() < paths.len();
    paths
        .iter()
        .map(|path| {
            Ok(Part {
                source: Box::new(Shards::open(std::slice::from_ref(path), on_truncated)?),
                place: Place::Shard(absolute(path)?),
                ambiguous,
            })
        })
        .collect()
}

fn files(spec: &SourceSpec, folder: &Path) -> Result<Part, SourceError> {
    Ok(Part {
        source: sources::open(spec)?,
        place: Place::Folder(absolute(folder)?),
        ambiguous: false,
    })
}

fn absolute(path: &Path) -> Result<PathBuf, SourceError> {
    let found = match path.as_os_str().is_empty() {
        true => std::env::current_dir(),
        false => std::path::absolute(path),
    };
    found.map_err(|source| SourceError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Reads pictures by locator. Shards are indexed once and remembered.
#[derive(Debug, Default)]
pub struct Pictures {
    shards: HashMap<PathBuf, Shards>,
}

impl Pictures {
    /// Reads the picture at a locator: a path, or a record of a shard.
    ///
    /// # Errors
    /// [`LoadedError::Picture`]: the file or shard is gone or changed, or does not decode.
    pub fn load(&mut self, locator: &str) -> Result<RgbImage, LoadedError> {
        let failed = |reason: String| LoadedError::Picture {
            locator: locator.to_owned(),
            reason,
        };
        let bytes = match locator.strip_prefix(SHARDS) {
            None => std::fs::read(locator).map_err(|e| failed(e.to_string()))?,
            Some(rest) => {
                let (path, record) = rest
                    .rsplit_once('#')
                    .and_then(|(path, record)| Some((path, record.parse::<usize>().ok()?)))
                    .ok_or_else(|| failed("expected shards:<path>#<record>".to_owned()))?;
                let shard = self.shard(Path::new(path));
                shard
                    .and_then(|shard| shard.get(record))
                    .map_err(|e| failed(e.to_string()))?
                    .image
            }
        };
        decode(&bytes, &DecodeLimits::default()).map_err(|e| failed(e.to_string()))
    }

    fn shard(&mut self, path: &Path) -> Result<&Shards, SourceError> {
        if !self.shards.contains_key(path) {
            let shard = Shards::open(&[path.to_owned()], OnTruncated::Skip)?;
            self.shards.insert(path.to_owned(), shard);
        }
        Ok(&self.shards[path])
    }
}
