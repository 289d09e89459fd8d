//! What a data set holds, in numbers: for `fitup data stats`, and to see that a set is what it should be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::Cursor;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha1::{Digest, Sha1};

/// How many of the most frequent words are reported.
const TOP_WORDS: usize = 20;

/// One image-text record as any source has it.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Name of the record, unique in the set.
    pub key: &'a str,
    /// The encoded image; `None` where the set names images without holding them.
    pub image: Option<&'a [u8]>,
    /// Its captions.
    pub captions: &'a [String],
    /// Metadata, of which the text fields `source`, `license` and `split` are counted.
    pub metadata: Option<&'a Value>,
}

/// Smallest, mean, middle, 95th of a hundred, and largest of a list of lengths; all 0 for an empty list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest value.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Half of the values are not larger.
    pub median: u64,
    /// 95 of 100 values are not larger.
    pub p95: u64,
    /// Largest value.
    pub max: u64,
}

/// A data set in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Records.
    pub records: usize,
    /// Keys that occurred before.
    pub repeated_keys: usize,
    /// Records that hold their image.
    pub images: usize,
    /// Size of these images in bytes.
    pub image_bytes: u64,
    /// Images by file format.
    pub formats: BTreeMap<String, usize>,
    /// Images whose header cannot be read.
    pub unreadable_images: usize,
    /// Images whose bytes are those of an earlier image.
    pub duplicate_images: usize,
    /// Width in pixels.
    pub width: Spread,
    /// Height in pixels.
    pub height: Spread,
    /// Captions of all records.
    pub captions: usize,
    /// Different captions.
    pub distinct_captions: usize,
    /// Records without a caption.
    pub without_caption: usize,
    /// Captions of a record.
    pub captions_per_record: Spread,
    /// Words of all captions.
    pub words: u64,
    /// Different words, letter case aside.
    pub vocabulary: usize,
    /// Words of a caption.
    pub words_per_caption: Spread,
    /// Characters of a caption.
    pub characters_per_caption: Spread,
    /// The most frequent words with their counts.
    pub top_words: Vec<(String, u64)>,
    /// Records by the `source` of their metadata.
    pub sources: BTreeMap<String, usize>,
    /// Records by the `license` of their metadata.
    pub licenses: BTreeMap<String, usize>,
    /// Records by the `split` of their metadata.
    pub splits: BTreeMap<String, usize>,
}

/// The numbers of a whole set at once.
pub fn stats<'a>(records: impl IntoIterator<Item = RecordView<'a>>) -> Stats {
    let mut counter = StatsCounter::default();
    for record in records {
        counter.add(record);
    }
    counter.finish()
}

/// Counts record by record, for sets that are streamed.
#[derive(Debug, Default)]
pub struct StatsCounter {
    stats: Stats,
    keys: HashSet<String>,
    images: HashSet<[u8; 20]>,
    captions: HashSet<[u8; 20]>,
    words: HashMap<String, u64>,
    width: Histogram,
    height: Histogram,
    per_record: Histogram,
    words_per_caption: Histogram,
    characters: Histogram,
}

impl StatsCounter {
    /// Counts one record.
    pub fn add(&mut self, record: RecordView<'_>) {
        self.stats.records += 1;
        if !self.keys.insert(record.key.to_owned()) {
            self.stats.repeated_keys += 1;
        }
        if let Some(image) = record.image {
            self.add_image(image);
        }
        self.per_record.add(record.captions.len());
        if record.captions.is_empty() {
            self.stats.without_caption += 1;
        }
        for caption in record.captions {
            self.add_caption(caption);
        }
        let text = |field: &str| {
            record
                .metadata
                .and_then(|metadata| metadata.get(field)?.as_str())
        };
        for (field, counts) in [
            ("source", &mut self.stats.sources),
            ("license", &mut self.stats.licenses),
            ("split", &mut self.stats.splits),
        ] {
            if let Some(value) = text(field) {
                *counts.entry(value.to_owned()).or_default() += 1;
            }
        }
    }

    fn add_image(&mut self, bytes: &[u8]) {
        self.stats.images += 1;
        self.stats.image_bytes += bytes.len() as u64;
        if !self.images.insert(Sha1::digest(bytes).into()) {
            self.stats.duplicate_images += 1;
        }
        // Only headers are read: a set of millions is counted in minutes.
        let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format();
        let header = reader
            .ok()
            .and_then(|reader| Some((reader.format()?, reader.into_dimensions().ok()?)));
        let Some((format, (width, height))) = header else {
            self.stats.unreadable_images += 1;
            return;
        };
        let name = format.extensions_str().first().copied().unwrap_or("other");
        *self.stats.formats.entry(name.to_owned()).or_default() += 1;
        self.width.add(width as usize);
        self.height.add(height as usize);
    }

    fn add_caption(&mut self, caption: &str) {
        self.stats.captions += 1;
        self.captions
            .insert(Sha1::digest(caption.as_bytes()).into());
        self.characters.add(caption.chars().count());
        let mut count = 0;
        let lower = caption.to_lowercase();
        // Apostrophes and hyphens join words ("it's", "t-shirt") but are none by themselves.
        let joins = |letter: char| matches!(letter, '\'' | '\u{2019}' | '-');
        for word in lower.split(|letter: char| !letter.is_alphanumeric() && !joins(letter)) {
            let word = word.trim_matches(joins);
            if !word.is_empty() {
                count += 1;
                *self.words.entry(word.to_owned()).or_default() += 1;
            }
        }
        self.stats.words += count as u64;
        self.words_per_caption.add(count);
    }

    /// The numbers of everything counted.
    pub fn finish(self) -> Stats {
        let mut top_words: Vec<(String, u64)> = self
            .words
            .iter()
            .map(|(word, &count)| (word.clone(), count))
            .collect();
        top_words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top_words.truncate(TOP_WORDS);
        Stats {
            distinct_captions: self.captions.len(),
            vocabulary: self.words.len(),
            top_words,
            width: self.width.spread(),
            height: self.height.spread(),
            captions_per_record: self.per_record.spread(),
            words_per_caption: self.words_per_caption.spread(),
            characters_per_caption: self.characters.spread(),
            ..self.stats
        }
    }
}

/// Counts of lengths, so that memory grows with their range and not with the set.
#[derive(Debug, Default)]
struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    fn add(&mut self, value: usize) {
        *self.0.entry(value as u64).or_default() += 1;
    }

    fn spread(&self) -> Spread {
        let total: u64 = self.0.values().sum();
        let (Some((&min, _)), Some((&max, _))) =
            (self.0.first_key_value(), self.0.last_key_value())
        else {
            return Spread::default();
        };
        let sum: f64 = self
            .0
            .iter()
            .map(|(&value, &count)| value as f64 * count as f64)
            .sum();
        // Nearest rank: the smallest value that `percent` of all values do not exceed.
        let quantile = |percent: u64| {
            let rank = (total * percent).div_ceil(100).max(1);
            let mut below = 0;
            self.0.iter().find_map(|(&value, &count)| {
                below += count;
                (below >= rank).then_some(value)
            })
        };
        let (median, p95) = (quantile(50).unwrap_or(max), quantile(95).unwrap_or(max));
        Spread {
            min,
            mean: sum / total as f64,
            median,
            p95,
            max,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            min,
            mean,
            median,
            p95,
            max,
        } = self;
        write!(
            formatter,
            "{min} to {max}, mean {mean:.1}, median {median}, 95% up to {p95}"
        )
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(formatter, "{name:<24}{value}");
        line(
            "records",
            format!("{} ({} repeated keys)", self.records, self.repeated_keys),
        )?;
        if self.images > 0 {
            let megabytes = self.image_bytes as f64 / 1e6;
            line(
                "images",
                format!(
                    "{} ({megabytes:.1} MB, {})",
                    self.images,
                    listed(&self.formats)
                ),
            )?;
            line("  width", self.width.to_string())?;
            line("  height", self.height.to_string())?;
            line("  duplicates", self.duplicate_images.to_string())?;
            line("  unreadable", self.unreadable_images.to_string())?;
        }
        line(
            "captions",
            format!("{} ({} distinct)", self.captions, self.distinct_captions),
        )?;
        line("  per record", self.captions_per_record.to_string())?;
        line("  words", self.words_per_caption.to_string())?;
        line("  characters", self.characters_per_caption.to_string())?;
        line("  records without", self.without_caption.to_string())?;
        line(
            "words",
            format!("{} ({} distinct)", self.words, self.vocabulary),
        )?;
        let top: Vec<String> = self
            .top_words
            .iter()
            .map(|(word, count)| format!("{word} {count}"))
            .collect();
        line("  most frequent", top.join(", "))?;
        for (name, counts) in [
            ("sources", &self.sources),
            ("licences", &self.licenses),
            ("splits", &self.splits),
        ] {
            if !counts.is_empty() {
                line(name, listed(counts))?;
            }
        }
        Ok(())
    }
}

/// Names and counts, the largest first.
fn listed(counts: &BTreeMap<String, usize>) -> String {
    let mut counts: Vec<(&String, &usize)> = counts.iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image::RgbImage::new(width, height)
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_small_set_counted_by_hand() {
        let (wide, small) = (png(30, 10), png(10, 10));
        let metadata = serde_json::json!({"source": "noto", "license": "MIT", "split": 3});
        let two = ["A dog's T-shirt".to_owned(), "a dog - and a CAT".to_owned()];
        let one = ["a dog's t-shirt".to_owned()];
        let view = |key, image, captions| RecordView {
            key,
            image,
            captions,
            metadata: Some(&metadata),
        };
        let stats = stats([
            view("a", Some(wide.as_slice()), &two[..]),
            view("b", Some(small.as_slice()), &one[..]),
            view("b", Some(small.as_slice()), &[]),
            RecordView {
                key: "c",
                image: Some(b"no image"),
                captions: &[],
                metadata: None,
            },
        ]);
        assert_eq!(
            (stats.records, stats.repeated_keys, stats.images),
            (4, 1, 4)
        );
        assert_eq!((stats.duplicate_images, stats.unreadable_images), (1, 1));
        assert_eq!(stats.formats, BTreeMap::from([("png".to_owned(), 3)]));
        assert_eq!(
            (stats.width.min, stats.width.median, stats.width.max),
            (10, 10, 30)
        );
        assert_eq!(
            (
                stats.captions,
                stats.distinct_captions,
                stats.without_caption
            ),
            (3, 3, 2)
        );
        // a dog's t-shirt | a dog and a cat | a dog's t-shirt
        assert_eq!((stats.words, stats.vocabulary), (11, 6));
        assert_eq!(stats.top_words[0], ("a".to_owned(), 4));
        assert_eq!(stats.sources, BTreeMap::from([("noto".to_owned(), 3)]));
        assert!(
            stats.splits.is_empty(),
            "a split that is no text is not counted"
        );
        let text = stats.to_string();
        assert!(
            text.contains("captions                3 (3 distinct)"),
            "{text}"
        );
    }

    #[test]
    fn nothing_counts_as_nothing() {
        let stats = stats([]);
        assert_eq!(stats, Stats::default());
        assert!(stats.to_string().contains("captions                0"));
    }

    #[test]
    fn spreads_use_the_nearest_rank() {
        let mut histogram = Histogram::default();
        (1..=100).for_each(|value| histogram.add(value));
        assert_eq!(
            histogram.spread(),
            Spread {
                min: 1,
                mean: 50.5,
                median: 50,
                p95: 95,
                max: 100
            }
        );
    }
}
