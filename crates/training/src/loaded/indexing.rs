//! Features of a collection, computed once into a store; a killed run goes on where it stood.

use std::collections::HashSet;
use std::path::Path;

use fitup_data::images::DecodeLimits;
use fitup_data::loader::{SkipReason, SkipReport, SkippedSample, load_images};
use fitup_data::sources::{Record, RecordTexts, Source, SourceError, stable_hash};
use fitup_index::{Dtype, Item, ItemKind, StoreWriter};
use serde::Serialize;

use super::{CHUNK, Collection, LoadedError, LoadedModel};

/// The store of the texts, inside the folder of the store of the pictures.
pub const TEXTS: &str = "texts";

/// Skipped records that are named; the count goes on.
const EXAMPLES: usize = 20;

/// How an index is built.
#[derive(Clone, Debug)]
pub struct IndexOptions {
    /// How features are kept.
    pub dtype: Dtype,
    /// Whether the texts get a store too, in [`TEXTS`].
    pub texts: bool,
    /// Threads that decode.
    pub workers: usize,
}

/// What building an index did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IndexReport {
    /// Records of the collection.
    pub records: usize,
    /// Pictures added.
    pub images: usize,
    /// Pictures that were in the store already, or came up before under the same key.
    pub present: usize,
    /// Texts added.
    pub texts: usize,
    /// Records left out, with reasons.
    pub skipped: SkipReport,
}

/// Some records of a source.
struct Chosen<'a> {
    source: &'a dyn Source,
    indices: Vec<usize>,
}

impl Source for Chosen<'_> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        self.source.get(self.indices[index])
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        self.source.texts(self.indices[index])
    }

    fn describe(&self) -> String {
        format!("{} of {}", self.len(), self.source.describe())
    }
}

/// A record to be indexed.
struct Entry {
    index: usize,
    key: String,
    locator: String,
    captions: Vec<String>,
}

impl LoadedModel {
    /// Encodes the pictures of a collection into the store in `folder` (and their texts into a
    /// second store inside it). What is there already is left as it is; every chunk is committed.
    /// Records that cannot be used are skipped, counted and named. `progress` is told how many
    /// records are done, and of how many.
    ///
    /// # Errors
    /// [`LoadedError::Store`]: another model's store, another number type, a full disk.
    pub fn build_index(
        &self,
        collection: &Collection,
        folder: &Path,
        options: &IndexOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<IndexReport, LoadedError> {
        let spec = self.store_spec(options.dtype)?;
        let mut images = StoreWriter::open_or_create(folder, &spec)?;
        let mut texts = match options.texts {
            true => Some(StoreWriter::open_or_create(folder.join(TEXTS), &spec)?),
            false => None,
        };
        let records = collection.len();
        let mut report = IndexReport {
            records,
            ..IndexReport::default()
        };
        for start in (0..records).step_by(CHUNK) {
            progress(start, records);
            let end = (start + CHUNK).min(records);
            let entries = self.entries(collection, start..end, &mut report.skipped);
            self.add_images(collection, &entries, options, &mut images, &mut report)?;
            images.commit()?;
            if let Some(texts) = &mut texts {
                self.add_texts(&entries, texts, &mut report)?;
                texts.commit()?;
            }
        }
        progress(records, records);
        images.finish()?;
        if let Some(texts) = texts {
            texts.finish()?;
        }
        Ok(report)
    }

    fn entries(
        &self,
        collection: &Collection,
        range: std::ops::Range<usize>,
        skipped: &mut SkipReport,
    ) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(range.len());
        for index in range {
            skipped.seen += 1;
            match collection.texts(index) {
                Ok(texts) => {
                    let (key, locator) = collection.name(index, &texts);
                    entries.push(Entry {
                        index,
                        key,
                        locator,
                        captions: texts.captions,
                    });
                }
                Err(error) => skip(
                    skipped,
                    SkippedSample {
                        key: format!("record {index}"),
                        reason: SkipReason::Unreadable,
                        detail: error.to_string(),
                    },
                ),
            }
        }
        entries
    }

    fn add_images(
        &self,
        collection: &Collection,
        entries: &[Entry],
        options: &IndexOptions,
        store: &mut StoreWriter,
        report: &mut IndexReport,
    ) -> Result<(), LoadedError> {
        let mut fresh = HashSet::new();
        let todo: Vec<&Entry> = entries
            .iter()
            .filter(|entry| !store.contains(&entry.key) && fresh.insert(&entry.key))
            .collect();
        report.present += entries.len() - todo.len();
        let chosen = Chosen {
            source: collection,
            indices: todo.iter().map(|entry| entry.index).collect(),
        };
        let loaded = load_images(
            &chosen,
            0..todo.len(),
            &self.transform,
            &DecodeLimits::default(),
            options.workers,
        );
        let (mut pixels, mut items) = (Vec::new(), Vec::new());
        for (entry, loaded) in todo.into_iter().zip(loaded) {
            match loaded {
                Ok(image) => {
                    pixels.push(image.pixels);
                    items.push(Item {
                        key: entry.key.clone(),
                        locator: entry.locator.clone(),
                        text: entry.captions.first().cloned().unwrap_or_default(),
                        kind: ItemKind::Image,
                    });
                }
                Err(sample) => skip(
                    &mut report.skipped,
                    SkippedSample {
                        key: entry.key.clone(),
                        ..sample
                    },
                ),
            }
        }
        if !items.is_empty() {
            store.append(&self.embed_images(&pixels, "index")?, &items)?;
            report.images += items.len();
        }
        Ok(())
    }

    fn add_texts(
        &self,
        entries: &[Entry],
        store: &mut StoreWriter,
        report: &mut IndexReport,
    ) -> Result<(), LoadedError> {
        let (mut cleaned, mut items, mut fresh) = (Vec::new(), Vec::new(), HashSet::new());
        for entry in entries {
            for caption in &entry.captions {
                // By content: lists may hold an image several times, with one caption each.
                let key = format!("{}#{:016x}", entry.key, stable_hash(caption.as_bytes()));
                let Ok(text) = self.clean(caption) else {
                    continue;
                };
                if store.contains(&key) || !fresh.insert(key.clone()) {
                    continue;
                }
                cleaned.push(text);
                items.push(Item {
                    key,
                    locator: entry.locator.clone(),
                    text: caption.clone(),
                    kind: ItemKind::Text,
                });
            }
        }
        if !items.is_empty() {
            store.append(&self.embed_texts(&cleaned, "index")?, &items)?;
            report.texts += items.len();
        }
        Ok(())
    }
}

fn skip(report: &mut SkipReport, sample: SkippedSample) {
    report.skipped += 1;
    *report.by_reason.entry(sample.reason).or_default() += 1;
    if report.examples.len() < EXAMPLES {
        report.examples.push(sample);
    }
}
