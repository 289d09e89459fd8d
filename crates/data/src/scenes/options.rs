//! What to make, and where.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::generate::ScenesError;
use super::graph::Split;

/// Raised when the same options give other files.
const VERSION: u32 = 7;
/// More fill the memory.
const MOST_VARIANTS: u32 = 64;

/// How pictures are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// `images/SPLIT_ID.jpg`.
    Files,
    /// WebDataset shards with captions, graph and texts beside each picture.
    Shards,
    /// Both.
    Both,
}

/// What scenes to choose by and to report on are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldOut {
    /// The drawings that the pictograms hold out, most of them by a maker who is not in training.
    #[default]
    Makers,
    /// Of every name one maker's drawings for each: the style has been seen, the drawing not.
    Drawings,
    /// Of every name one set's drawing for each: a sister set of the same maker, which often shares the outline, may
    /// be in training.
    Sets,
}

/// What to make, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct ScenesOptions {
    /// Folder of the pictogram shards.
    pub pictograms: PathBuf,
    /// Folder to write to: a folder for each split appears in it.
    pub out: PathBuf,
    /// Scenes of the three splits, each at most a million. A split of none is not made.
    pub scenes: [usize; 3],
    /// Side of the pictures in pixels, 64 to 1024.
    pub side: u32,
    /// What all draws follow from.
    pub seed: u64,
    /// Share of the training captions that are noisy, 0 to 1. Captions of other splits are always true.
    pub noise: f64,
    /// Share of the scenes with a curtain, 0 to 1. Entailment is about these, questions and pairs about the others.
    pub curtains: f64,
    /// Only so many different names, those whose held-out drawings are told apart best as thumbnails; `None` for all.
    pub names: Option<usize>,
    /// What is held out.
    pub held_out: HeldOut,
    /// Things stand in the middle of blocks of cells of a lattice with so many cells a side, 8 to 32, as in SHAPES
    /// (Andreas et al. 2016); `None` for any place.
    pub lattice: Option<u32>,
    /// Variants in which every training drawing is shown besides itself, at most 64: turned, slanted, stretched,
    /// tinted. The other splits show drawings as they are.
    pub variants: u32,
    /// How pictures are stored.
    pub storage: Storage,
    /// Threads to work on; 0 for one per core. The result does not depend on it.
    pub threads: usize,
}

impl ScenesOptions {
    /// 8,000, 1,000 and 1,000 scenes of 256 pixels as files, clean captions, a third with a curtain.
    pub fn new(pictograms: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            pictograms: pictograms.into(),
            out: out.into(),
            scenes: [8000, 1000, 1000],
            side: 256,
            seed: 0,
            noise: 0.0,
            curtains: 0.35,
            names: None,
            held_out: HeldOut::Makers,
            lattice: None,
            variants: 0,
            storage: Storage::Files,
            threads: 0,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ScenesError> {
        let option = |option, got: String, expected| ScenesError::Option {
            option,
            got,
            expected,
        };
        for (name, share) in [("noise", self.noise), ("curtains", self.curtains)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(option(name, share.to_string(), "a share between 0 and 1"));
            }
        }
        if !(64..=1024).contains(&self.side) {
            return Err(option("side", self.side.to_string(), "64 to 1024 pixels"));
        }
        if let Some(&scenes) = self.scenes.iter().find(|&&count| count > Split::LARGEST) {
            return Err(option(
                "scenes",
                scenes.to_string(),
                "at most 1000000 a split",
            ));
        }
        if let Some(cells) = self.lattice
            && (!(8..=32).contains(&cells) || !self.side.is_multiple_of(cells))
        {
            let got = format!("{cells} at a side of {} pixels", self.side);
            return Err(option(
                "lattice",
                got,
                "8 to 32 cells, of whole pixels: a divisor of the side",
            ));
        }
        if self.variants > MOST_VARIANTS {
            return Err(option("variants", self.variants.to_string(), "at most 64"));
        }
        if self.scenes == [0; 3] {
            return Err(option(
                "scenes",
                "0".to_owned(),
                "at least one in one split",
            ));
        }
        Ok(())
    }

    /// What the files of a split depend on, apart from the pictograms.
    pub(super) fn recipe(&self, split: Split) -> Value {
        json!({
            "version": VERSION,
            "scenes": self.scenes[split as usize],
            "side": self.side,
            "seed": self.seed,
            "noise": if split == Split::Train { self.noise } else { 0.0 },
            "curtains": self.curtains,
            "names": self.names,
            "held_out": self.held_out,
            "lattice": self.lattice,
            "variants": if split == Split::Train { self.variants } else { 0 },
            "storage": self.storage,
        })
    }
}
