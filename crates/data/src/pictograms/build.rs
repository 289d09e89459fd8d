//! The build from packages to shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::attribution::{SOURCES, attribution, source};
use super::candidate::Candidate;
use super::captions::title;
use super::concepts::{Concepts, TONES};
use super::drawing::Useless;
use super::duplicates::{Drawn, Merged, merge_duplicates};
use super::fetch::{EMOJIBASE, FetchError, OPENCLIPART, debian_package, icon_package, npm_package};
use super::hash::hash48;
use super::icons::{ICON_SETS, IconJoiner};
use super::openclipart::read_openclipart;
use super::rasterise::rasterise_all;
use super::record::{Pictogram, Record, list_shards};
use super::splits::{SPLITS, assign, held_out_concepts};
use super::write::{WriteError, create_folder, write_file, write_shard};

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Folder of the finished shards.
    pub out: PathBuf,
    /// Folder of fetched packages and rasterised pictures; keeping it makes the next build fast.
    pub work: PathBuf,
    /// Longer side of the pictures in pixels, at least 16.
    pub size: u32,
    /// Pictures in a shard, at least 1.
    pub per_shard: usize,
    /// Whether to take the clip art, which needs `apt-get` and `dpkg`.
    pub openclipart: bool,
}

impl BuildOptions {
    /// 128 pixels, 2000 pictures a shard, everything, with the work folder beside the shards.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        let out = out.into();
        Self {
            work: out.join("work"),
            out,
            size: 128,
            per_shard: 2000,
            openclipart: true,
        }
    }
}

/// One split in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Pictures.
    pub images: usize,
    /// Captions of all pictures.
    pub captions: usize,
    /// Different concepts.
    pub concepts: usize,
    /// Size of the shards in bytes.
    pub bytes: u64,
    /// Pictures by source.
    pub sources: BTreeMap<String, usize>,
}

/// What was built; also the content of `stats.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Longer side of the pictures in pixels.
    pub size: u32,
    /// Every split by its name.
    pub splits: BTreeMap<String, SplitReport>,
    /// Drawings before cleaning, by source.
    pub candidates: BTreeMap<String, usize>,
    /// Drawings left out, by reason.
    pub dropped: BTreeMap<String, usize>,
    /// Names of the concepts that only `test_zeroshot` has.
    pub zeroshot_concepts: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why nothing was built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// An option is out of range.
    #[error("{option} is {got}, expected at least {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        got: usize,
        /// The smallest good value.
        expected: usize,
    },
    /// A package could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file could not be read.
    #[error("cannot read {path}: {source}; remove the package's folder and run again")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A package does not hold what it should.
    #[error("{path} is not as expected: {reason}; remove the package's folder and run again")]
    Package {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The shards could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Fetches, rasterises, cleans, splits and writes; `progress` is called with a stage, what is done, and of how many.
///
/// A build is a function of the pinned packages and the options: choices are hashes, times are not stored.
/// What an interrupted run had fetched and rasterised is used again.
///
/// # Errors
/// [`BuildError`]; single bad pictures are no error, they are counted in [`BuildReport::dropped`].
pub fn build(
    options: &BuildOptions,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<BuildReport, BuildError> {
    check("size", options.size as usize, 16)?;
    check("per_shard", options.per_shard, 1)?;
    create_folder(&options.out)?;
    let mut report = BuildReport {
        size: options.size,
        zeroshot_concepts: held_out_concepts()
            .iter()
            .map(|concept| concept.name.to_owned())
            .collect(),
        ..BuildReport::default()
    };
    let candidates = collect(options, &mut report, progress)?;
    let cache = options.work.join("rasterised");
    create_folder(&cache)?;
    let drawings = rasterise_all(&candidates, options.size, &cache, |done, all| {
        progress("rasterise", done, all)
    });
    let mut drawn = Vec::with_capacity(candidates.len());
    for (candidate, drawing) in candidates.into_iter().zip(drawings) {
        match drawing {
            Ok(drawing) => drawn.push(Drawn {
                candidate,
                drawing,
                aliases: Vec::new(),
            }),
            Err(Useless(reason)) => {
                *report
                    .dropped
                    .entry(format!("{}: {reason}", candidate.source.name))
                    .or_default() += 1;
            }
        }
    }
    let (drawn, Merged { exact, near }) = merge_duplicates(drawn);
    report
        .dropped
        .insert("pixel duplicates merged".to_owned(), exact);
    report
        .dropped
        .insert("near duplicates of clip art".to_owned(), near);
    let concepts = Concepts::read(&npm_package(&options.work, EMOJIBASE.0, EMOJIBASE.1)?)?;
    let mut splits = into_splits(drawn, &concepts, &mut report);
    write_all(options, &mut splits, &mut report, progress)?;
    Ok(report)
}

fn check(option: &'static str, got: usize, expected: usize) -> Result<(), BuildError> {
    if got < expected {
        Err(BuildError::Option {
            option,
            got,
            expected,
        })
    } else {
        Ok(())
    }
}

/// Fetches every package and reads its drawings.
fn collect(
    options: &BuildOptions,
    report: &mut BuildReport,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<Candidate>, BuildError> {
    let packages = 1
        + ICON_SETS.len()
        + if options.openclipart {
            OPENCLIPART.len()
        } else {
            0
        };
    progress("fetch", 0, packages);
    let emojibase = npm_package(&options.work, EMOJIBASE.0, EMOJIBASE.1)?;
    progress("fetch", 1, packages);
    let mut folders = Vec::new();
    for name in ICON_SETS {
        if let (Some(source), Some((package, version))) = (source(name), icon_package(name)) {
            folders.push((source, npm_package(&options.work, package, version)?));
            progress("fetch", 1 + folders.len(), packages);
        }
    }
    let concepts = Concepts::read(&emojibase)?;
    let mut joiner = IconJoiner::default();
    let mut candidates = Vec::new();
    for (source, folder) in folders {
        candidates.extend(joiner.read_set(source, &folder, &concepts)?);
    }
    for (name, count) in &joiner.unmapped {
        report
            .dropped
            .insert(format!("{name}: icon of no known concept"), *count);
    }
    report
        .dropped
        .insert("further skin tones".to_owned(), joiner.tones_left_out);
    match source("openclipart") {
        Some(source) if options.openclipart => {
            let svg = debian_package(&options.work, OPENCLIPART[0])?;
            progress("fetch", packages - 1, packages);
            let png = debian_package(&options.work, OPENCLIPART[1])?;
            progress("fetch", packages, packages);
            let (clip_art, dropped) = read_openclipart(source, &svg, &png)?;
            candidates.extend(clip_art);
            report.dropped.extend(dropped.into_iter().map(|(reason, count)| (format!("openclipart: {reason}"), count)));
        }
        _ => report.warnings.push(
            "built without openclipart: a quarter of the training pictures, and all that are no emoji, are missing"
                .to_owned(),
        ),
    }
    for candidate in &candidates {
        *report
            .candidates
            .entry(candidate.source.name.to_owned())
            .or_default() += 1;
    }
    Ok(candidates)
}

/// Turns drawings into records, by split, shuffled by hash.
fn into_splits(
    drawn: Vec<Drawn>,
    concepts: &Concepts,
    report: &mut BuildReport,
) -> BTreeMap<&'static str, Vec<Pictogram>> {
    let assigned = assign(&drawn);
    let mut splits: BTreeMap<&'static str, Vec<Pictogram>> = BTreeMap::new();
    let mut leaking = 0;
    for (drawn, assigned) in drawn.into_iter().zip(assigned) {
        let Some((split, captions)) = assigned else {
            leaking += 1;
            continue;
        };
        let name = title(&drawn);
        let Drawn {
            candidate,
            drawing,
            aliases,
        } = drawn;
        let i18n = candidate
            .emoji
            .as_deref()
            .map(|hex| concepts.translations(hex))
            .unwrap_or_default();
        let record = Record {
            name,
            concept: candidate.concept,
            family: candidate.family,
            source: candidate.source.name.to_owned(),
            style: candidate.source.style.to_owned(),
            group: candidate.group,
            subgroup: candidate.subgroup,
            keywords: candidate.keywords,
            captions,
            skin_tone: candidate
                .tone
                .and_then(|tone| TONES.get(usize::from(tone)))
                .map(|&tone| tone.to_owned()),
            colors: drawing.colors,
            i18n,
            aliases,
            license: candidate.source.license.to_owned(),
            author: candidate.author,
            width: drawing.width,
            height: drawing.height,
            split: split.to_owned(),
        };
        let key = format!("{}_{}", record.source, &drawing.digest[..12]);
        splits.entry(split).or_default().push(Pictogram {
            key,
            image: drawing.png,
            record,
        });
    }
    report
        .dropped
        .insert("names a concept of test_zeroshot".to_owned(), leaking);
    for pictograms in splits.values_mut() {
        pictograms.sort_by_cached_key(|pictogram| (hash48(&pictogram.key), pictogram.key.clone()));
    }
    splits
}

fn write_all(
    options: &BuildOptions,
    splits: &mut BTreeMap<&'static str, Vec<Pictogram>>,
    report: &mut BuildReport,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<(), BuildError> {
    let all: usize = splits.values().map(Vec::len).sum();
    let mut done = 0;
    let mut written = BTreeSet::new();
    for split in SPLITS {
        let pictograms = splits.get(split).map(Vec::as_slice).unwrap_or_default();
        let mut numbers = SplitReport {
            images: pictograms.len(),
            captions: pictograms
                .iter()
                .map(|pictogram| pictogram.record.captions.len())
                .sum(),
            concepts: pictograms
                .iter()
                .map(|pictogram| &pictogram.record.concept)
                .collect::<BTreeSet<_>>()
                .len(),
            ..SplitReport::default()
        };
        for pictogram in pictograms {
            *numbers
                .sources
                .entry(pictogram.record.source.clone())
                .or_default() += 1;
        }
        for (number, part) in pictograms.chunks(options.per_shard).enumerate() {
            let path = options.out.join(format!("{split}-{number:05}.tar"));
            numbers.bytes += write_shard(&path, part)?;
            written.insert(path);
            done += part.len();
            progress("write", done, all);
        }
        report.splits.insert(split.to_owned(), numbers);
    }
    remove_stale(&options.out, &written)?;
    let records = SOURCES.iter().flat_map(|source| {
        let pictograms = splits.values().flatten();
        pictograms
            .map(|pictogram| &pictogram.record)
            .filter(move |record| record.source == source.name)
    });
    write_file(
        &options.out.join("ATTRIBUTION.md"),
        attribution(records).as_bytes(),
    )?;
    let stats = options.out.join("stats.json");
    let text = serde_json::to_vec_pretty(report).map_err(|error| BuildError::Package {
        path: stats.clone(),
        reason: error.to_string(),
    })?;
    write_file(&stats, &text)?;
    Ok(())
}

/// Shards of a former build with more of them would be read with the new ones.
fn remove_stale(out: &Path, written: &BTreeSet<PathBuf>) -> Result<(), BuildError> {
    let shards = list_shards(out).unwrap_or_default();
    let stale = |(split, path): &(String, PathBuf)| {
        SPLITS.contains(&split.as_str()) && !written.contains(path)
    };
    for (_, path) in shards.into_iter().filter(stale) {
        std::fs::remove_file(&path).map_err(|source| BuildError::Io { path, source })?;
    }
    Ok(())
}
