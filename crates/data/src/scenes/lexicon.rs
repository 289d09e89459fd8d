//! Which things a split can show, and which names must not be played against each other.
//!
//! Splits share no drawing, in one of three ways ([`HeldOut`]). Either they take the pictograms' own: scenes to train on
//! are made of the split `train`, the others of drawings that are held out there (`val`, `test`, `test_style`), dealt
//! out to `val` and `test` by a hash of family and maker. So a model that was trained on pictograms has not seen the
//! drawings of held-out scenes either; most of them are of a maker whose style it has never seen. Or of every name one
//! maker's drawings are held out for `test` and another's for `val`: what is new is the drawing, not the style. Or one
//! set's: then a sister set of the maker may be in training, as flat and shaded icons of one outline.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use image::RgbaImage;
use thiserror::Error;

use super::colour::clear_colour;
use super::draws::{Purpose, generator};
use super::graph::{Category, Colour, Size, Split};
use super::likeness;
use super::names::names;
use super::options::{HeldOut, ScenesOptions};
use super::variants::variant;
use crate::pictograms::{
    Pictogram, ReadError, Record, hash48, list_shards, maker, premultiply, read_shard, tight_box,
};

/// Why there is nothing to make scenes of.
#[derive(Debug, Error)]
pub enum LexiconError {
    /// The pictograms could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A drawing is broken.
    #[error("{path}: picture {key} cannot be decoded: {reason}; build the shards again")]
    Picture {
        /// The folder of the shards.
        path: PathBuf,
        /// The drawing's key.
        key: String,
        /// What the decoder said.
        reason: String,
    },
    /// A split has too few things.
    #[error(
        "{path}: {got} names have drawings for the split {split}, scenes need at least {least}; build all pictograms with `fitup data pictograms`"
    )]
    TooFew {
        /// The folder of the shards.
        path: PathBuf,
        /// The split.
        split: &'static str,
        /// Names that can be shown.
        got: usize,
        /// Names needed.
        least: usize,
    },
}

/// Drawings to train on that a name should have.
const ENOUGH: usize = 4;
/// Fewer names leave no room for distractors.
const LEAST_NAMES: usize = 8;
/// Side of the untrimmed variants beside the largest thing in a scene: trimmed, none is drawn larger than it is.
const VARIANT_SCALE: f64 = 2.4;

/// One drawing, ready to be placed.
#[derive(Clone, Debug)]
pub(super) struct Drawing {
    pub(super) key: String,
    /// 0 for the drawing itself.
    pub(super) variant: u32,
    pub(super) record: Record,
    pub(super) colour: Option<Colour>,
    /// Colours multiplied by alpha, trimmed to what is drawn.
    pub(super) picture: RgbaImage,
}

/// One name with its drawings.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) category: Category,
    /// Indices into [`Lexicon::drawings`], never empty.
    pub(super) drawings: Vec<usize>,
}

/// What a split can show.
#[derive(Clone, Debug)]
pub(super) struct Lexicon {
    pub(super) entries: Vec<Entry>,
    pub(super) drawings: Vec<Drawing>,
    clashes: BTreeSet<(&'static str, &'static str)>,
}

impl Lexicon {
    /// Whether one name says something about the other: neither may then be in a picture that the other is
    /// asked of. Equal names do not clash.
    pub(super) fn clash(&self, one: &str, other: &str) -> bool {
        self.clashes.contains(&(one, other))
    }

    /// The same with so many variants of every drawing beside it, as large as scenes need them.
    pub(super) fn varied(mut self, variants: u32, options: &ScenesOptions) -> Self {
        let longer = (Size::Large.range().1 * f64::from(options.side) * VARIANT_SCALE) as u32;
        for entry in &mut self.entries {
            for at in entry.drawings.clone() {
                let mut rng = generator(options.seed, Split::Train, Purpose::Variants, at);
                for number in 1..=variants {
                    let picture = variant(&self.drawings[at].picture, longer, &mut rng);
                    let Some(picture) = cropped(&picture) else {
                        continue;
                    };
                    entry.drawings.push(self.drawings.len());
                    self.drawings.push(Drawing {
                        key: self.drawings[at].key.clone(),
                        variant: number,
                        record: self.drawings[at].record.clone(),
                        colour: clear_colour(&picture),
                        picture,
                    });
                }
            }
        }
        self
    }

    /// Whether the name clashes with one of those.
    pub(super) fn clashes_with_any(&self, name: &str, others: &[&str]) -> bool {
        others.iter().any(|other| self.clash(name, other))
    }
}

/// The drawings of all splits that bear a name of the table.
pub(super) struct Drawings {
    folder: PathBuf,
    by_split: [Vec<Pictogram>; 3],
    /// The names in use, in the order of the table, each with all words said of it.
    names: Vec<(usize, BTreeSet<String>)>,
}

impl Drawings {
    /// Reads the pictogram shards of a folder, keeping the `most` names that are told apart best by
    /// thumbnails of held-out drawings: how hard drawings are to recognise is a property of the world, chosen by a measure
    /// that knows no model.
    pub(super) fn read(
        folder: &Path,
        most: Option<usize>,
        held_out: HeldOut,
    ) -> Result<Self, LexiconError> {
        let mut found: Vec<(usize, Pictogram)> = Vec::new();
        let mut words: Vec<BTreeSet<String>> = vec![BTreeSet::new(); names().len()];
        for (pictograms, path) in list_shards(folder)? {
            if !["train", "val", "test", "test_style"].contains(&pictograms.as_str()) {
                continue;
            }
            for pictogram in read_shard(&path)? {
                let record = &pictogram.record;
                // Titles of clip art are often wrong, and a wrong name makes wrong truths.
                let Some(at) = (record.source != "openclipart")
                    .then(|| names().iter().position(|name| name.name == record.name))
                    .flatten()
                else {
                    continue;
                };
                words[at].extend(
                    record
                        .keywords
                        .iter()
                        .flat_map(|keyword| keyword.split_whitespace())
                        .map(str::to_lowercase),
                );
                found.push((at, pictogram));
            }
        }
        let artist = |record: &Record| match held_out {
            HeldOut::Makers | HeldOut::Drawings => maker(&record.source).to_owned(),
            HeldOut::Sets => record.source.clone(),
        };
        let mut artists: Vec<BTreeSet<String>> = vec![BTreeSet::new(); names().len()];
        for (at, pictogram) in &found {
            artists[*at].insert(artist(&pictogram.record));
        }
        let mut by_split: [Vec<Pictogram>; 3] = Default::default();
        let mut drawn = vec![0usize; names().len()];
        for (at, pictogram) in found {
            let split = match held_out {
                HeldOut::Makers => split_of(&pictogram.record),
                HeldOut::Drawings | HeldOut::Sets => split_of_name(
                    &pictogram.record.name,
                    &artist(&pictogram.record),
                    &artists[at],
                ),
            };
            drawn[at] += usize::from(split == Split::Train);
            by_split[split as usize].push(pictogram);
        }
        // What was never shown in training cannot be asked for.
        let mut used: Vec<usize> = (0..names().len()).filter(|&at| drawn[at] > 0).collect();
        if let Some(most) = most
            && used.len() > most
        {
            let held_out = |at: usize| {
                let held = by_split[Split::Val as usize..].iter().flatten();
                held.map(|one| &one.record)
                    .any(|record| record.name == names()[at].name)
            };
            // A name of few drawings to train on, or of none to ask for, is chosen last.
            let (mut good, mut poor): (Vec<usize>, Vec<usize>) = used
                .iter()
                .partition(|&&at| drawn[at] >= ENOUGH && held_out(at));
            poor.sort_by_key(|&at| std::cmp::Reverse(drawn[at]));
            if good.len() > most {
                good = told_apart(folder, &by_split, &good, most)?;
            }
            good.extend(poor);
            good.truncate(most);
            used = good;
        }
        used.sort_unstable();
        Ok(Self {
            folder: folder.to_owned(),
            by_split,
            names: used
                .into_iter()
                .map(|at| (at, std::mem::take(&mut words[at])))
                .collect(),
        })
    }

    /// Decodes and measures the drawings of a split.
    pub(super) fn lexicon(&self, split: Split) -> Result<Lexicon, LexiconError> {
        let mut lexicon = Lexicon {
            entries: Vec::new(),
            drawings: Vec::new(),
            clashes: self.clashes(),
        };
        for &(at, _) in &self.names {
            let name = names()[at];
            let mut entry = Entry {
                name: name.name,
                category: name.category,
                drawings: Vec::new(),
            };
            for pictogram in &self.by_split[split as usize] {
                if pictogram.record.name == name.name {
                    entry.drawings.push(lexicon.drawings.len());
                    lexicon.drawings.push(self.decode(pictogram)?);
                }
            }
            if !entry.drawings.is_empty() {
                lexicon.entries.push(entry);
            }
        }
        if lexicon.entries.len() < LEAST_NAMES {
            return Err(LexiconError::TooFew {
                path: self.folder.clone(),
                split: split.name(),
                got: lexicon.entries.len(),
                least: LEAST_NAMES,
            });
        }
        Ok(lexicon)
    }

    fn decode(&self, pictogram: &Pictogram) -> Result<Drawing, LexiconError> {
        let picture = trimmed(&self.folder, pictogram)?;
        Ok(Drawing {
            key: pictogram.key.clone(),
            variant: 0,
            record: pictogram.record.clone(),
            colour: clear_colour(&picture),
            picture,
        })
    }

    /// Pairs of different names of which one has a word of the other, as its own or as a keyword, or a word
    /// within a word: boat and sailboat, dog and poodle, cap and top hat.
    fn clashes(&self) -> BTreeSet<(&'static str, &'static str)> {
        let mut clashes = BTreeSet::new();
        for (one, words_of_one) in &self.names {
            for (other, words_of_other) in &self.names {
                let (one, other) = (names()[*one].name, names()[*other].name);
                let says = |name: &str, words: &BTreeSet<String>| {
                    name.split(' ').any(|word| words.contains(word))
                };
                let within = one.split(' ').any(|a| {
                    other.split(' ').any(|b| {
                        a == b || (a.len().min(b.len()) > 2 && (a.contains(b) || b.contains(a)))
                    })
                });
                if one != other
                    && (within || says(one, words_of_other) || says(other, words_of_one))
                {
                    clashes.insert((one, other));
                }
            }
        }
        clashes
    }
}

/// A drawing with colours multiplied by alpha, trimmed to what is drawn.
fn trimmed(folder: &Path, pictogram: &Pictogram) -> Result<RgbaImage, LexiconError> {
    let broken = |reason: String| LexiconError::Picture {
        path: folder.to_owned(),
        key: pictogram.key.clone(),
        reason,
    };
    let picture = image::load_from_memory(&pictogram.image)
        .map_err(|error| broken(error.to_string()))?
        .to_rgba8();
    cropped(&premultiply(picture)).ok_or_else(|| broken("nothing is drawn".to_owned()))
}

/// What is drawn of a picture; `None` when nothing is.
fn cropped(picture: &RgbaImage) -> Option<RgbaImage> {
    let [left, top, width, height] = tight_box(picture)?;
    Some(image::imageops::crop_imm(picture, left, top, width, height).to_image())
}

/// Of the names at these places in the table the `most` that are told apart best.
fn told_apart(
    folder: &Path,
    by_split: &[Vec<Pictogram>; 3],
    among: &[usize],
    most: usize,
) -> Result<Vec<usize>, LexiconError> {
    let mut thumbnails = Vec::new();
    for (split, pictograms) in by_split.iter().enumerate() {
        for pictogram in pictograms {
            let name = &pictogram.record.name;
            if let Some(&at) = among.iter().find(|&&at| names()[at].name == name) {
                let held_out = split != Split::Train as usize;
                let picture = trimmed(folder, pictogram)?;
                thumbnails.push(likeness::Thumbnail::new(at, held_out, &picture));
            }
        }
    }
    Ok(likeness::told_apart(&thumbnails, most)
        .into_iter()
        .collect())
}

/// The split of an artist's drawings of a name, one of whose `artists` are held out for `test` and another for `val`; of
/// a name that few have drawn, training comes first, then `test`.
fn split_of_name(name: &str, own: &str, artists: &BTreeSet<String>) -> Split {
    let mut order: Vec<&String> = artists.iter().collect();
    order.sort_by_key(|artist| hash48(&format!("scenes {name} {artist}")));
    match order.iter().position(|artist| artist.as_str() == own) {
        Some(0) if artists.len() > 1 => Split::Test,
        Some(1) if artists.len() > 2 => Split::Val,
        _ => Split::Train,
    }
}

/// The split of scenes that a drawing belongs to by the pictograms' own splits.
fn split_of(record: &Record) -> Split {
    if record.split == "train" {
        return Split::Train;
    }
    // Sister sets of one maker share outlines, so they stay together.
    let maker = maker(&record.source);
    match hash48(&format!("scenes {} {maker}", record.family)) % 2 {
        0 => Split::Val,
        _ => Split::Test,
    }
}
