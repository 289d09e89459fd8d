//! A small piece of the built set, for a repository, tests and first runs.
//!
//! The test pictures are drawings whose maker never drew that concept in the training part, and whose
//! concept other makers did draw there: "the same thing by another hand" is measurable on the sample.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::attribution::attribution;
use super::hash::hash48;
use super::palette::encode_png;
use super::record::{Pictogram, ReadError, Record, list_shards, read_shard};
use super::write::{WriteError, create_folder, write_file, write_shard};

/// What to pick, and from where.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// Folder of a built set.
    pub built: PathBuf,
    /// Folder the sample is written to.
    pub out: PathBuf,
    /// Training pictures wanted.
    pub train: usize,
    /// Test pictures wanted.
    pub test: usize,
    /// Pictures whose encoding is larger than this many bytes are passed over.
    pub largest_image: usize,
}

impl SampleOptions {
    /// The sizes of the committed sample: about 700 and 200 pictures.
    pub fn new(built: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            built: built.into(),
            out: out.into(),
            train: 700,
            test: 200,
            largest_image: 4608,
        }
    }
}

/// What was picked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleReport {
    /// Training pictures.
    pub train: usize,
    /// Test pictures.
    pub test: usize,
    /// Different concepts over both parts.
    pub concepts: usize,
    /// Size of both shards in bytes.
    pub bytes: u64,
}

/// Why a sample could not be made.
#[derive(Debug, Error)]
pub enum SampleError {
    /// The built set could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sample could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A picture of the built set is not a picture.
    #[error("picture {key} cannot be recoded: {reason}; build the shards again")]
    Picture {
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The built set has no suitable picture.
    #[error("the set in {path} has no {split} pictures to pick from; build all sources first")]
    Nothing {
        /// The built set.
        path: PathBuf,
        /// The split that is empty.
        split: &'static str,
    },
}

/// Share of the sample that each group gets, in parts of a hundred.
const GROUPS: [(&str, usize); 7] = [
    ("animals-nature", 24),
    ("food-drink", 20),
    ("travel-places", 20),
    ("objects", 14),
    ("activities", 10),
    ("smileys-emotion", 10),
    ("flags", 2),
];

/// Subgroups whose pictures say little without their name.
const DULL: [&str; 10] = [
    "time",
    "lock",
    "other-object",
    "place-other",
    "writing",
    "transport-sign",
    "mail",
    "event",
    "emotion",
    "place-map",
];

/// Clip art is a different kind of picture with different names; a tenth of training keeps it honest.
const CLIP_ART: usize = 10;
const CLIP_ART_GROUPS: [&str; 6] = [
    "animals",
    "food",
    "transportation",
    "plants",
    "tools",
    "buildings",
];

/// Picks the sample and writes `train-00000.tar`, `test-00000.tar` and `ATTRIBUTION.md`.
///
/// The choice depends only on the built set: concepts are ranked by the hash of their family.
///
/// # Errors
/// [`SampleError`] when the built set cannot be read, lacks a split, or the sample cannot be written.
pub fn write_sample(options: &SampleOptions) -> Result<SampleReport, SampleError> {
    let mut parts: BTreeMap<String, Vec<Pictogram>> = BTreeMap::new();
    for (split, path) in list_shards(&options.built)? {
        if split == "train" || split == "test" {
            parts.entry(split).or_default().extend(read_shard(&path)?);
        }
    }
    let mut take = |split: &'static str| -> Result<Vec<Pictogram>, SampleError> {
        let part = parts.remove(split).unwrap_or_default();
        let kept: Vec<Pictogram> = part
            .into_iter()
            .filter(|picture| {
                picture.image.len() <= options.largest_image && is_recognisable(&picture.record)
            })
            .collect();
        if kept.is_empty() {
            return Err(SampleError::Nothing {
                path: options.built.clone(),
                split,
            });
        }
        Ok(kept)
    };
    let (train, test) = (take("train")?, take("test")?);

    let known: BTreeSet<&str> = train
        .iter()
        .map(|picture| picture.record.concept.as_str())
        .collect();
    let test: Vec<Pictogram> = test
        .iter()
        .filter(|picture| known.contains(picture.record.concept.as_str()))
        .cloned()
        .collect();
    let test = pick(test, options.test, &BTreeSet::new());
    let tested: BTreeSet<String> = test
        .iter()
        .map(|picture| picture.record.concept.clone())
        .collect();
    let (clip_art, emoji): (Vec<_>, Vec<_>) = train
        .into_iter()
        .partition(|picture| picture.record.source == "openclipart");
    let vocabulary: BTreeSet<String> = emoji
        .iter()
        .flat_map(|picture| picture.record.keywords.iter().chain([&picture.record.name]))
        .flat_map(|words| words.split_whitespace().map(str::to_lowercase))
        .collect();
    let clip_art = clip_art
        .into_iter()
        .filter(|picture| is_well_named(&picture.record, &vocabulary))
        .collect();
    let clip_art = first_by_family(clip_art, options.train * CLIP_ART / 100);
    let mut train = pick(emoji, options.train.saturating_sub(clip_art.len()), &tested);
    train.extend(clip_art);
    // The question is the same thing by another hand, so a concept without a training picture has no place.
    let known: BTreeSet<&str> = train
        .iter()
        .map(|picture| picture.record.concept.as_str())
        .collect();
    let test: Vec<Pictogram> = test
        .iter()
        .filter(|picture| known.contains(picture.record.concept.as_str()))
        .cloned()
        .collect();

    let report = SampleReport {
        train: train.len(),
        test: test.len(),
        concepts: train
            .iter()
            .chain(&test)
            .map(|picture| &picture.record.concept)
            .collect::<BTreeSet<_>>()
            .len(),
        bytes: write_part(&options.out, "train", train.clone())?
            + write_part(&options.out, "test", test.clone())?,
    };
    let text = attribution(train.iter().chain(&test).map(|picture| &picture.record));
    write_file(&options.out.join("ATTRIBUTION.md"), text.as_bytes())?;
    Ok(report)
}

fn is_recognisable(record: &Record) -> bool {
    let short = record.name.split_whitespace().count() <= 3 && record.name.chars().count() <= 24;
    if record.source == "openclipart" {
        let plain = record
            .name
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter == ' ');
        return short
            && plain
            && record.name.split(' ').count() <= 2
            && CLIP_ART_GROUPS.contains(&record.group.as_str());
    }
    let flag = record.group == "flags";
    (short || flag)
        && (GROUPS.iter().any(|&(group, _)| group == record.group) || record.subgroup == "heart")
        && !DULL.contains(&record.subgroup.as_str())
        && !record.name.ends_with("button")
}

/// Clip art carries file names and words of many languages; words that emoji also use are mostly right.
fn is_well_named(record: &Record, vocabulary: &BTreeSet<String>) -> bool {
    record
        .name
        .split(' ')
        .all(|word| word.len() > 2 && vocabulary.contains(word))
}

/// Takes every picture of the concepts in `wanted`, then fills the share of every group, then what room is left;
/// concepts are taken by the hash of their family.
fn pick(mut pictures: Vec<Pictogram>, count: usize, wanted: &BTreeSet<String>) -> Vec<Pictogram> {
    sort_by_family(&mut pictures);
    pictures.sort_by_key(|picture| !wanted.contains(&picture.record.concept));
    let mut room: BTreeMap<&str, usize> = GROUPS
        .iter()
        .map(|&(group, share)| (group, count * share / 100))
        .collect();
    let (mut picked, mut spare) = (Vec::new(), Vec::new());
    for picture in pictures {
        let room = room.get_mut(picture.record.group.as_str());
        if wanted.contains(&picture.record.concept) || room.as_ref().is_some_and(|room| **room > 0)
        {
            if let Some(room) = room {
                *room = room.saturating_sub(1);
            }
            picked.push(picture);
        } else {
            spare.push(picture);
        }
    }
    picked.truncate(count);
    // Groups that were too small leave room for the others.
    let left = count - picked.len();
    picked.extend(spare.into_iter().take(left));
    picked
}

fn first_by_family(mut pictures: Vec<Pictogram>, count: usize) -> Vec<Pictogram> {
    sort_by_family(&mut pictures);
    let mut seen = BTreeSet::new();
    pictures
        .into_iter()
        .filter(|picture| seen.insert(picture.record.family.clone()))
        .take(count)
        .collect()
}

fn sort_by_family(pictures: &mut [Pictogram]) {
    pictures.sort_by_cached_key(|picture| {
        (
            hash48(&format!("sample{}", picture.record.family)),
            picture.key.clone(),
        )
    });
}

fn write_part(out: &Path, split: &str, mut pictures: Vec<Pictogram>) -> Result<u64, SampleError> {
    create_folder(out)?;
    pictures.sort_by_cached_key(|picture| hash48(&picture.key));
    for picture in &mut pictures {
        let broken = |reason: String| SampleError::Picture {
            key: picture.key.clone(),
            reason,
        };
        let decoded =
            image::load_from_memory(&picture.image).map_err(|error| broken(error.to_string()))?;
        let smaller = encode_png(&decoded.to_rgba8()).map_err(|error| broken(error.to_string()))?;
        if smaller.len() < picture.image.len() {
            picture.image = smaller;
        }
        // Nothing that a first run needs, and half of the text.
        picture.record.i18n.clear();
        picture.record.aliases.clear();
        picture.record.keywords.clear();
    }
    Ok(write_shard(
        &out.join(format!("{split}-00000.tar")),
        &pictures,
    )?)
}
