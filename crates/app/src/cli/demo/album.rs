//! The pictures of the demo in memory: 870 small files, needed as they are for the page.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fitup_data::images::{DecodeLimits, decode};
use fitup_data::sources::{Source, SourceSpec};
use fitup_index::Item;
use fitup_training::loaded::Collection;
use image::RgbImage;

/// A picture with its first caption.
#[derive(Debug)]
pub(super) struct Picture {
    /// What its maker says it shows.
    pub(super) caption: String,
    /// The file.
    pub(super) bytes: Vec<u8>,
    /// Whether it was kept out of all training.
    pub(super) unseen: bool,
}

/// All pictures of the sample, by key.
#[derive(Debug)]
pub(super) struct Album {
    pub(super) collection: Collection,
    pub(super) pictures: Vec<Picture>,
    by_key: HashMap<String, usize>,
}

impl Album {
    /// Reads `train-*.tar` and `test-*.tar` of a folder, test first.
    pub(super) fn open(samples: &Path) -> Result<Self> {
        let spec = SourceSpec::Shards {
            paths: vec![samples.join("test-*.tar"), train_shards(samples)],
            on_truncated: Default::default(),
            limit: None,
        };
        let collection = Collection::open(&spec).with_context(|| {
            format!(
                "no sample pictures in {}: run from the root of the repository, or name their folder with --samples",
                samples.display()
            )
        })?;
        let (mut pictures, mut by_key) = (Vec::new(), HashMap::new());
        for index in 0..collection.len() {
            let record = collection.get(index)?;
            let split = record.metadata.as_ref().and_then(|m| m.get("split"));
            let unseen = split.and_then(|s| s.as_str()).is_some_and(|s| s != "train");
            by_key.insert(record.key, pictures.len());
            pictures.push(Picture {
                caption: record.captions.into_iter().next().unwrap_or_default(),
                bytes: record.image,
                unseen,
            });
        }
        if pictures.is_empty() {
            bail!("{}: the shards hold no pictures", samples.display());
        }
        Ok(Self {
            collection,
            pictures,
            by_key,
        })
    }

    /// The picture that an index entry stands for.
    pub(super) fn find(&self, item: &Item) -> Result<usize> {
        let found = self.by_key.get(&item.key).copied();
        found.with_context(|| format!("{}: indexed, but not among the pictures", item.key))
    }

    /// A picture kept out of training with this caption; else the `otherwise`-th picture.
    pub(super) fn unseen(&self, caption: &str, otherwise: usize) -> usize {
        let fits = |p: &Picture| p.unseen && p.caption == caption;
        let found = self.pictures.iter().position(fits);
        found.unwrap_or(otherwise % self.pictures.len())
    }

    /// Decodes a picture.
    pub(super) fn pixels(&self, picture: usize) -> Result<RgbImage> {
        let Picture { bytes, caption, .. } = &self.pictures[picture];
        decode(bytes, &DecodeLimits::default()).with_context(|| format!("picture {caption:?}"))
    }
}

/// The shards that may be trained on.
pub(super) fn train_shards(samples: &Path) -> std::path::PathBuf {
    samples.join("train-*.tar")
}
