//! Pictures for evaluation: in order, each once, nothing replaced.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::SkippedSample;
use super::order::{Purpose, generator};
use super::sample::{guarded, picture, read};
use crate::images::{DecodeLimits, Transform};
use crate::sources::{Source, Target};

/// A record with its picture decoded and transformed.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedImage {
    /// Key of the record.
    pub key: String,
    /// Identity of the image.
    pub image_id: u64,
    /// `[3, size, size]`
    pub pixels: Vec<f32>,
    /// As `pixels`, of tasks on two pictures.
    pub second_pixels: Option<Vec<f32>>,
    /// What is to be said, of tasks that ask.
    pub target: Option<Target>,
    /// The captions as written.
    pub captions: Vec<String>,
    /// What else the data set says of the record.
    pub metadata: Option<serde_json::Value>,
}

/// Reads the records of `range` on `workers` threads, in order. A record that cannot be used is an
/// error in its place, for whoever evaluates must decide what it counts as. A transform that draws
/// does so from the record's index alone.
pub fn load_images(
    source: &dyn Source,
    range: Range<usize>,
    transform: &dyn Transform,
    limits: &DecodeLimits,
    workers: usize,
) -> Vec<Result<LoadedImage, SkippedSample>> {
    let load = |index: usize| {
        let mut rng = generator(Purpose::Sample, 0, 0, index as u64, 0);
        guarded(index, || {
            let record = read(source, index)?;
            let pixels = picture(&record.key, &record.image, transform, limits, &mut rng)?;
            let second = record.second_image.as_deref();
            let second_pixels = second
                .map(|image| picture(&record.key, image, transform, limits, &mut rng))
                .transpose()?;
            Ok(LoadedImage {
                key: record.key,
                image_id: record.image_id,
                pixels,
                second_pixels,
                target: record.target,
                captions: record.captions,
                metadata: record.metadata,
            })
        })
    };
    let next = AtomicUsize::new(range.start);
    let loaded = Mutex::new(Vec::with_capacity(range.len()));
    thread::scope(|scope| {
        for _ in 0..workers.clamp(1, range.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= range.end {
                        return;
                    }
                    let result = load(index);
                    // `load` catches panics, so the lock is never held by a thread that panics.
                    if let Ok(mut loaded) = loaded.lock() {
                        loaded.push((index, result));
                    }
                }
            });
        }
    });
    let mut loaded = loaded
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    loaded.sort_by_key(|&(index, _)| index);
    loaded.into_iter().map(|(_, result)| result).collect()
}
