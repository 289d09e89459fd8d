//! One pictogram as it lies in a shard: `key.png`, `key.txt` (first caption) and `key.json` ([`Record`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ordered::Ordered;

/// Metadata of one drawing, the `key.json` of a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the thing drawn, for example `"teapot"`.
    pub name: String,
    /// What is drawn: an emoji code point sequence without skin tone, or `oc:` and a slug for clip art.
    pub concept: String,
    /// Concepts that differ only in gender or tone share a family; splits keep one maker's family together.
    pub family: String,
    /// The set the drawing comes from, for example `"noto"`.
    pub source: String,
    /// How the set looks, in words, for example `"flat emoji"`.
    pub style: String,
    /// Coarse category.
    pub group: String,
    /// Fine category.
    pub subgroup: String,
    /// Words people gave to the concept.
    #[serde(default)]
    pub keywords: Vec<String>,
    /// Sentences about the drawing, never empty; the first is also the `key.txt`.
    pub captions: Vec<String>,
    /// Skin tone in words where the drawing has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skin_tone: Option<String>,
    /// The up to four most frequent colours with their share of the drawn pixels.
    pub colors: Ordered<f64>,
    /// The name in other languages, by language code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub i18n: BTreeMap<String, String>,
    /// Names of other concepts for which the maker uses the same picture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Licence of the drawing, an SPDX name or `PD`.
    pub license: String,
    /// Author of the drawing where its file names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// The split the drawing belongs to.
    pub split: String,
}

/// A record with its key and its encoded picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictogram {
    /// File stem inside the shard, unique over all splits.
    pub key: String,
    /// The encoded picture, PNG with transparency.
    pub image: Vec<u8>,
    /// Its metadata.
    pub record: Record,
}

/// Why pictogram shards could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A `.json` member is not a record.
    #[error("{path}: member {member} is not a pictogram record: {source}")]
    Json {
        /// The shard.
        path: PathBuf,
        /// The member.
        member: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A key lacks its picture, its text or its metadata.
    #[error("{path}: sample {key} lacks its {missing} member; build the shards again")]
    Incomplete {
        /// The shard.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The folder holds no shard.
    #[error(
        "no pictogram shards (SPLIT-00000.tar) in {path}; build them with `fitup data pictograms`"
    )]
    NoShards {
        /// The folder.
        path: PathBuf,
    },
}

/// The shards of a folder, sorted, each with the name of its split.
///
/// # Errors
/// [`ReadError::Io`] when the folder cannot be listed, [`ReadError::NoShards`] when it has none.
pub fn list_shards(folder: &Path) -> Result<Vec<(String, PathBuf)>, ReadError> {
    let io = |source| ReadError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut shards = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some((split, number)) = name
            .strip_suffix(".tar")
            .and_then(|stem| stem.rsplit_once('-'))
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            shards.push((split.to_owned(), path));
        }
    }
    if shards.is_empty() {
        return Err(ReadError::NoShards {
            path: folder.to_owned(),
        });
    }
    shards.sort();
    Ok(shards)
}

/// Reads one shard whole, in its order.
///
/// # Errors
/// [`ReadError`] for an unreadable file, a member that is no record, or a sample with a missing member.
pub fn read_shard(path: &Path) -> Result<Vec<Pictogram>, ReadError> {
    let io = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let mut archive = tar::Archive::new(BufReader::new(File::open(path).map_err(io)?));
    let mut order: Vec<String> = Vec::new();
    let mut members: BTreeMap<String, Members> = BTreeMap::new();
    for entry in archive.entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some((key, extension)) = name.split_once('.') else {
            continue;
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io)?;
        let sample = members.entry(key.to_owned()).or_insert_with(|| {
            order.push(key.to_owned());
            Members::default()
        });
        match extension {
            "png" | "jpg" => sample.image = Some(bytes),
            "txt" => sample.has_text = true,
            "json" => {
                let record = serde_json::from_slice(&bytes).map_err(|source| ReadError::Json {
                    path: path.to_owned(),
                    member: name.clone(),
                    source,
                })?;
                sample.record = Some(record);
            }
            _ => {}
        }
    }
    let mut pictograms = Vec::with_capacity(order.len());
    for key in order {
        let sample = members.remove(&key).unwrap_or_default();
        let lacks = |missing| ReadError::Incomplete {
            path: path.to_owned(),
            key: key.clone(),
            missing,
        };
        let image = sample.image.ok_or_else(|| lacks("picture"))?;
        let record = sample.record.ok_or_else(|| lacks("json"))?;
        if !sample.has_text {
            return Err(lacks("txt"));
        }
        pictograms.push(Pictogram { key, image, record });
    }
    Ok(pictograms)
}

#[derive(Default)]
struct Members {
    image: Option<Vec<u8>>,
    has_text: bool,
    record: Option<Record>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_without_shards_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            list_shards(folder.path()),
            Err(ReadError::NoShards { .. })
        ));
    }
}
