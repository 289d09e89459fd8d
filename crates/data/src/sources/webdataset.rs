//! WebDataset shards: tar archives in which consecutive files of one stem make a sample, as
//! `img2dataset` and [`crate::shards::ShardWriter`] write them: `key.jpg`, `key.txt`, `key.json`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tar_index::{TarEnd, TarEntry, scan};
use super::{
    IMAGE_EXTENSIONS, OnTruncated, Record, RecordTexts, Source, SourceError, glob, identity,
    stable_hash,
};

/// The bytes of one file in a shard.
#[derive(Debug, Clone, Copy)]
struct Span {
    offset: u64,
    size: u64,
}

/// One sample: where its files lie.
#[derive(Debug)]
struct Sample {
    shard: u32,
    key: Box<str>,
    image: Span,
    text: Option<Span>,
    json: Option<Span>,
}

/// Samples of several shards, read by offset, in shard order and within a shard in file order.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<PathBuf>,
    samples: Vec<Sample>,
    warnings: Vec<String>,
}

impl Shards {
    /// Scans the headers of the shards (patterns may hold `*`); no contents are read.
    ///
    /// # Errors
    /// When a shard is missing, is not a tar archive, or is truncated and must not be.
    pub fn open(patterns: &[PathBuf], on_truncated: OnTruncated) -> Result<Self, SourceError> {
        let mut source = Self {
            shards: glob::expand(patterns)?,
            samples: Vec::new(),
            warnings: Vec::new(),
        };
        for shard in 0..source.shards.len() {
            source.index(shard, on_truncated)?;
        }
        Ok(source)
    }

    fn index(&mut self, shard: usize, on_truncated: OnTruncated) -> Result<(), SourceError> {
        let path = &self.shards[shard];
        let (entries, end) = scan(path)?;
        let mut groups: Vec<(&str, &[TarEntry])> = entries
            .chunk_by(|a, b| stem(&a.name).0 == stem(&b.name).0)
            .map(|group| (stem(&group[0].name).0, group))
            .collect();

        if let TarEnd::Truncated {
            offset,
            length,
            entry,
        } = &end
        {
            // The last sample is whole only if what was cut off is known to belong to the next one.
            let follows = entry.as_deref().map(|name| stem(name).0);
            if groups
                .last()
                .is_some_and(|&(key, _)| follows.is_none_or(|next| next == key))
            {
                groups.pop();
            }
            match on_truncated {
                OnTruncated::Error => {
                    return Err(SourceError::Truncated {
                        shard: path.clone(),
                        offset: *offset,
                        length: *length,
                        whole: groups.len(),
                    });
                }
                OnTruncated::Skip => self.warnings.push(format!(
                    "{}: truncated at byte {offset} of {length}; its first {} samples are used",
                    path.display(),
                    groups.len()
                )),
            }
        }

        let mut without_image = 0;
        for (key, files) in groups {
            match sample(shard as u32, key, files) {
                Some(sample) => self.samples.push(sample),
                None => without_image += 1,
            }
        }
        if without_image > 0 {
            self.warnings.push(format!(
                "{}: {without_image} samples hold no picture ({}) and are left out",
                self.shards[shard].display(),
                IMAGE_EXTENSIONS.join(", ")
            ));
        }
        Ok(())
    }

    fn sample(&self, index: usize) -> Result<(&Sample, &Path), SourceError> {
        let sample = self.samples.get(index).ok_or(SourceError::OutOfRange {
            index,
            len: self.samples.len(),
        })?;
        Ok((sample, &self.shards[sample.shard as usize]))
    }

    fn read_texts(
        sample: &Sample,
        path: &Path,
        file: &mut File,
    ) -> Result<(RecordTexts, Option<Value>), SourceError> {
        let metadata = sample
            .json
            .map(|span| {
                let bytes = read(file, path, span)?;
                serde_json::from_slice::<Value>(&bytes).map_err(|error| {
                    SourceError::malformed(path, format!("{}.json: {error}", sample.key))
                })
            })
            .transpose()?;

        let listed = metadata
            .as_ref()
            .and_then(|json| json.get("captions"))
            .filter(|list| !list.is_null());
        let captions = match (listed, sample.text) {
            (Some(list), _) => serde_json::from_value(list.clone()).map_err(|error| {
                SourceError::malformed(
                    path,
                    format!(
                        "{}.json: `captions` must be a list of texts: {error}",
                        sample.key
                    ),
                )
            })?,
            (None, Some(span)) => {
                let bytes = read(file, path, span)?;
                vec![String::from_utf8(bytes).map_err(|_| {
                    SourceError::malformed(path, format!("{}.txt: not UTF-8 text", sample.key))
                })?]
            }
            (None, None) => Vec::new(),
        };

        // Many writers restart their keys in every shard, so only shard and key name an image.
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let key = format!("{stem}/{}", sample.key);
        let image_id = match metadata.as_ref().and_then(|json| json.get("image_id")) {
            Some(id) if !id.is_null() => identity(id),
            _ => stable_hash(key.as_bytes()),
        };
        let texts = RecordTexts {
            key,
            captions,
            image_id,
        };
        Ok((texts, metadata))
    }
}

impl Source for Shards {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        let (sample, path) = self.sample(index)?;
        let mut file = File::open(path).map_err(SourceError::io(path))?;
        let image = read(&mut file, path, sample.image)?;
        let (texts, metadata) = Self::read_texts(sample, path, &mut file)?;
        Ok(Record {
            key: texts.key,
            image,
            captions: texts.captions,
            image_id: texts.image_id,
            metadata,
            second_image: None,
            target: None,
        })
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        let (sample, path) = self.sample(index)?;
        let mut file = File::open(path).map_err(SourceError::io(path))?;
        Ok(Self::read_texts(sample, path, &mut file)?.0)
    }

    fn describe(&self) -> String {
        format!(
            "{} records in {} shards, the first {}",
            self.samples.len(),
            self.shards.len(),
            self.shards
                .first()
                .map_or_else(String::new, |path| path.display().to_string())
        )
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Splits a path at the first dot of its file name: the sample's key and the file's ending.
fn stem(name: &str) -> (&str, &str) {
    let name = name.strip_prefix("./").unwrap_or(name);
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

fn sample(shard: u32, key: &str, files: &[TarEntry]) -> Option<Sample> {
    let find = |wanted: &[&str]| {
        files
            .iter()
            .find(|file| {
                let ending = stem(&file.name).1;
                wanted.iter().any(|w| ending.eq_ignore_ascii_case(w))
            })
            .map(|file| Span {
                offset: file.offset,
                size: file.size,
            })
    };
    Some(Sample {
        shard,
        key: key.into(),
        image: find(&IMAGE_EXTENSIONS)?,
        text: find(&["txt"]),
        json: find(&["json"]),
    })
}

fn read(file: &mut File, path: &Path, span: Span) -> Result<Vec<u8>, SourceError> {
    // The size was checked against the file when it was indexed, so it can be trusted here.
    let mut bytes = vec![0; span.size as usize];
    file.seek(SeekFrom::Start(span.offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(SourceError::io(path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_dot_of_the_file_name() {
        assert_eq!(stem("a.b/c.seg.png"), ("a.b/c", "seg.png"));
        assert_eq!(stem("./000.jpg"), ("000", "jpg"));
        assert_eq!(stem("plain"), ("plain", ""));
    }
}
