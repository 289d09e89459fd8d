//! What the baselines see of a text and of a picture.

use image::imageops::{self, FilterType};

use super::regression::Features;
use crate::images::{DecodeError, DecodeLimits, decode};
use crate::sources::stable_hash;

/// Buckets that words and word pairs are hashed into.
pub(super) const WORDS: usize = 1 << 15;
/// Side of the thumbnail.
const THUMBNAIL: u32 = 5;
/// Levels of a channel in the colour histogram.
const LEVELS: usize = 4;
pub(super) const PICTURE: usize = (THUMBNAIL * THUMBNAIL * 3) as usize + LEVELS * LEVELS * LEVELS;

/// Words and pairs of neighbouring words, each once.
pub(super) fn words(text: &str) -> Features {
    let words: Vec<&str> = text
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    let mut indices: Vec<u32> = words
        .iter()
        .map(|word| (*word).to_owned())
        .chain(pairs)
        .map(|word| (stable_hash(word.as_bytes()) % WORDS as u64) as u32)
        .collect();
    indices.sort_unstable();
    indices.dedup();
    indices.into_iter().map(|index| (index, 1.0)).collect()
}

/// A thumbnail, values around 0, then how frequent every colour is.
pub(super) fn picture(bytes: &[u8]) -> Result<Vec<f32>, DecodeError> {
    let picture = decode(bytes, &DecodeLimits::default())?;
    let thumbnail = imageops::resize(&picture, THUMBNAIL, THUMBNAIL, FilterType::Triangle);
    let mut features: Vec<f32> = thumbnail
        .as_raw()
        .iter()
        .map(|&channel| f32::from(channel) / 127.5 - 1.0)
        .collect();
    let mut histogram = vec![0usize; LEVELS * LEVELS * LEVELS];
    for pixel in picture.pixels() {
        let bin = pixel.0.iter().fold(0, |bin, &channel| {
            bin * LEVELS + usize::from(channel) * LEVELS / 256
        });
        histogram[bin] += 1;
    }
    let pixels = (picture.width() * picture.height()).max(1) as f32;
    // Square roots bring small things beside the background into the range of the other features.
    features.extend(
        histogram
            .iter()
            .map(|&count| (count as f32 / pixels).sqrt()),
    );
    Ok(features)
}
