//! Storing the pictures of a split.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::formats::{Annotated, shard_metadata};
use super::generate::ScenesError;
use super::options::Storage;
use crate::pictograms::create_folder;
use crate::shards::{ShardError, ShardSample, ShardWriter};

/// Pictures in a shard.
const PER_SHARD: usize = 1000;

/// Stores the pictures of a split in their order.
pub(super) struct PictureWriter<'a> {
    annotated: Annotated<'a>,
    folder: &'a Path,
    as_files: bool,
    shards: Option<(ShardWriter, Vec<Value>)>,
    bytes: u64,
}

impl<'a> PictureWriter<'a> {
    pub(super) fn create(
        storage: Storage,
        folder: &'a Path,
        annotated: Annotated<'a>,
    ) -> Result<Self, ScenesError> {
        let as_files = storage != Storage::Shards;
        if as_files {
            create_folder(&folder.join("images"))?;
        }
        let shards = (storage != Storage::Files)
            .then(|| {
                let writer = ShardWriter::create(folder, annotated.split.name(), PER_SHARD)?;
                Ok::<_, ShardError>((writer, shard_metadata(annotated)))
            })
            .transpose()?;
        Ok(Self {
            annotated,
            folder,
            as_files,
            shards,
            bytes: 0,
        })
    }

    pub(super) fn write(&mut self, index: usize, jpeg: &[u8]) -> Result<(), ScenesError> {
        self.bytes += jpeg.len() as u64;
        if self.as_files {
            let path = self.folder.join(self.annotated.file(index));
            fs::write(&path, jpeg).map_err(|source| ScenesError::Io { path, source })?;
        }
        if let Some((shards, metadata)) = &mut self.shards {
            let captions: Vec<String> = self.annotated.texts.captions[index]
                .iter()
                .map(|caption| caption.text.clone())
                .collect();
            shards.write(ShardSample {
                key: &self.annotated.scenes[index].image_id.to_string(),
                image: jpeg,
                extension: "jpg",
                captions: &captions,
                metadata: Some(&metadata[index]),
            })?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<u64, ScenesError> {
        if let Some((shards, _)) = self.shards {
            shards.finish()?;
        }
        Ok(self.bytes)
    }
}
