//! The pictures of a split, wherever they are stored.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use super::features::picture;
use super::{CheckError, Tasks};
use crate::scenes::parallel;
use crate::sources::webdataset::Shards;
use crate::sources::{OnTruncated, Source};

/// The pictures of one split.
pub(super) struct Pictures {
    folder: PathBuf,
    /// Where there are no files: the shards, with the place of every picture's key.
    shards: Option<(Shards, HashMap<String, usize>)>,
}

impl Pictures {
    /// Pictures as files are preferred where there are both.
    pub(super) fn open(folder: &Path) -> Result<Self, CheckError> {
        let shards = if folder.join("images").is_dir() {
            None
        } else {
            let shards = Shards::open(&[folder.join("*.tar")], OnTruncated::Error)?;
            let mut places = HashMap::with_capacity(shards.len());
            for place in 0..shards.len() {
                let key = shards.texts(place)?.key;
                let key = key.rsplit('/').next().unwrap_or(&key);
                places.insert(key.to_owned(), place);
            }
            Some((shards, places))
        };
        Ok(Self {
            folder: folder.to_owned(),
            shards,
        })
    }

    /// Features of every picture that a task mentions, by its name there.
    pub(super) fn features(&self, tasks: &Tasks) -> Result<HashMap<String, Vec<f32>>, CheckError> {
        let mut names: Vec<&String> = tasks
            .values()
            .flatten()
            .flat_map(|item| &item.images)
            .collect();
        names.sort_unstable();
        names.dedup();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let features = parallel::map(0..names.len(), threads, |at| self.of(names[at]));
        names
            .into_iter()
            .cloned()
            .zip(features)
            .map(|(name, features)| Ok((name, features?)))
            .collect()
    }

    fn of(&self, name: &str) -> Result<Vec<f32>, CheckError> {
        let path = self.folder.join(name);
        let bytes = match &self.shards {
            None => fs::read(&path).map_err(|source| CheckError::Io {
                path: path.clone(),
                source,
            })?,
            Some((shards, places)) => {
                // `images/SPLIT_KEY.jpg` in the lists.
                let key = name
                    .rsplit('_')
                    .next()
                    .and_then(|end| end.strip_suffix(".jpg"));
                let place = key.and_then(|key| places.get(key));
                let place = place.ok_or_else(|| CheckError::Malformed {
                    path: path.clone(),
                    reason: "neither a file nor a picture of the shards beside it".to_owned(),
                })?;
                shards.get(*place)?.image
            }
        };
        picture(&bytes).map_err(|source| CheckError::Picture { path, source })
    }
}
