//! Grounding: the box that a phrase means, found without boxes to learn from, as ALBEF does it
//! (`Grounding.py`): Grad-CAM of matching says where the model looks.
//!
//! The box is chosen among boxes that a detector proposes for the picture, as in the original, or
//! from the map alone. Beside both stands what needs no model: the one box that is right most often.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use fitup_data::annotations::check::Kind;
use fitup_data::annotations::pictures::ImageRoots;
use fitup_data::annotations::refcoco::{
    Proposals, RefSplit, Reference, read_proposals, read_references,
};
use fitup_data::annotations::{AnnotationError, OnBad};
use fitup_data::images::{DecodeLimits, decode};
use fitup_data::text::pre_caption;
use fitup_index::metrics::grounding::{ConstantBox, GroundingAccuracy, HeatMap, is_found};
use fitup_models::weights::host_values;
use serde::{Deserialize, Serialize};

use crate::loaded::{LoadedError, LoadedModel};

/// Power of the area that a proposed box's sum is divided by, as in the original.
const ALPHA: f64 = 0.5;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum GroundingError {
    /// An annotation file cannot be read, or a record in it is not of its form.
    #[error(transparent)]
    Annotations(#[from] AnnotationError),
    /// Nothing to evaluate.
    #[error("{}: no references of the split {split}; there are some of {there}", file.display())]
    Empty {
        /// The references.
        file: PathBuf,
        /// What was asked for.
        split: String,
        /// The splits that it has.
        there: String,
    },
    /// A picture without proposed boxes.
    #[error(
        "{}: no field `{image_id}`, the picture of reference {ref_id}; every picture needs its boxes: add them, or leave --proposals out",
        file.display()
    )]
    NoProposals {
        /// The proposals.
        file: PathBuf,
        /// The picture.
        image_id: u64,
        /// A reference to it.
        ref_id: u64,
    },
    /// Pictures that are not there; leaving them out would change the score.
    #[error(
        "{}: image {image_id}, field `file_name`: {image:?} is not in {roots} or is empty; {missing} of {named} pictures are missing: name their folder with --images",
        file.display()
    )]
    Missing {
        /// The instances, which name the pictures.
        file: PathBuf,
        /// Identity of the first.
        image_id: u64,
        /// Its file, as named.
        image: String,
        /// Where it was looked for.
        roots: String,
        /// How many are missing.
        missing: usize,
        /// Of how many.
        named: usize,
    },
    /// A picture that cannot be used.
    #[error("{}: image {image_id}, field `{field}`: {}: {reason}", file.display(), path.display())]
    Picture {
        /// The instances.
        file: PathBuf,
        /// Identity of the picture.
        image_id: u64,
        /// What of it does not fit.
        field: &'static str,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The model cannot do it.
    #[error(transparent)]
    Loaded(#[from] LoadedError),
}

/// Where references are read from.
#[derive(Clone, Debug)]
pub struct Files {
    /// The references: RefCOCO's pickle, or the same as JSON.
    pub references: PathBuf,
    /// COCO's instances with the boxes and pictures that they name.
    pub instances: PathBuf,
    /// Boxes proposed for every picture.
    pub proposals: Option<PathBuf>,
    /// Folders in which pictures are looked for, and in those that the authors' archives unpack
    /// into.
    pub images: Vec<PathBuf>,
}

/// References with all that scoring them needs; every picture is there.
#[derive(Clone, Debug)]
pub struct ReferenceSet {
    files: Files,
    references: Vec<Reference>,
    proposals: Option<Proposals>,
    roots: ImageRoots,
    split: String,
}

impl ReferenceSet {
    /// Reads the references of a split (without one: all), at most `limit` of them (0: all).
    ///
    /// # Errors
    /// [`GroundingError`] for files that are not of their form, and for pictures or proposals that
    /// are missing: what cannot be scored would change the score.
    pub fn read(
        files: Files,
        split: Option<RefSplit>,
        limit: usize,
    ) -> Result<Self, GroundingError> {
        let all = read_references(&files.references, &files.instances, OnBad::Fail)?.records;
        let there: BTreeSet<RefSplit> = all.iter().map(|reference| reference.split).collect();
        let chosen = all
            .into_iter()
            .filter(|reference| split.is_none_or(|split| split == reference.split));
        let references: Vec<Reference> = match limit {
            0 => chosen.collect(),
            most => chosen.take(most).collect(),
        };
        let split = split.map_or_else(|| names(&there), |split| split.name().to_owned());
        if references.is_empty() {
            return Err(GroundingError::Empty {
                file: files.references,
                split,
                there: names(&there),
            });
        }
        let proposals = files.proposals.as_deref().map(read_proposals).transpose()?;
        let set = Self {
            roots: ImageRoots::new(&files.images, Kind::Refcoco.folders()),
            files,
            references,
            proposals,
            split,
        };
        set.check()?;
        Ok(set)
    }

    fn check(&self) -> Result<(), GroundingError> {
        if let (Some(proposals), Some(file)) = (&self.proposals, &self.files.proposals) {
            let without = |reference: &&Reference| !proposals.contains_key(&reference.image_id);
            if let Some(reference) = self.references.iter().find(without) {
                return Err(GroundingError::NoProposals {
                    file: file.clone(),
                    image_id: reference.image_id,
                    ref_id: reference.ref_id,
                });
            }
        }
        let images = || self.references.iter().map(|r| r.image.as_str());
        let count = self.roots.count(images());
        let gone = |image: &str| self.roots.count(std::iter::once(image)).found == 0;
        let missing = count.named - count.found;
        match self
            .references
            .iter()
            .find(|r| missing > 0 && gone(&r.image))
        {
            None => Ok(()),
            Some(reference) => Err(GroundingError::Missing {
                file: self.files.instances.clone(),
                image_id: reference.image_id,
                image: reference.image.clone(),
                roots: folders(&self.files.images),
                missing,
                named: count.named,
            }),
        }
    }

    /// The picture of a reference as a model takes it, `[3, size, size]`.
    fn pixels(&self, model: &LoadedModel, of: &Reference) -> Result<Vec<f32>, GroundingError> {
        let path = self
            .roots
            .find(&of.image)
            .unwrap_or_else(|| (&of.image).into());
        let failed = |field, reason: String| GroundingError::Picture {
            file: self.files.instances.clone(),
            image_id: of.image_id,
            field,
            path: path.clone(),
            reason,
        };
        let bytes = std::fs::read(&path).map_err(|e| failed("file_name", e.to_string()))?;
        let image = decode(&bytes, &DecodeLimits::default())
            .map_err(|error| failed("file_name", error.to_string()))?;
        let (got, [width, height]) = (image.dimensions(), of.size);
        if got != (width, height) {
            let reason = format!(
                "{} by {} pixels, but the boxes are for {width} by {height}; use the pictures that were annotated",
                got.0, got.1
            );
            return Err(failed("width", reason));
        }
        Ok(model.prepare(&image))
    }
}

fn names(splits: &BTreeSet<RefSplit>) -> String {
    let names: Vec<&str> = splits.iter().map(|split| split.name()).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

fn folders(roots: &[PathBuf]) -> String {
    let names: Vec<String> = roots.iter().map(|r| r.display().to_string()).collect();
    names.join(", ")
}

/// How references are scored.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The layer that is looked at; without one the model's own choice.
    pub layer: Option<usize>,
    /// Phrases at a time; 0 counts as 1.
    pub batch: usize,
}

/// Share of phrases whose box was found, in percent, with what it is a share of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroundingResult {
    /// How many pictures and phrases, which layer, when a box counts.
    pub protocol: String,
    /// Different pictures.
    pub pictures: usize,
    /// Phrases scored: a thing is referred to by one or more.
    pub phrases: usize,
    /// The layer that was looked at.
    pub layer: usize,
    /// The best of the proposed boxes; absent without proposals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_proposals: Option<f64>,
    /// One of the proposed boxes at random, in the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_proposal: Option<f64>,
    /// The box found on the map.
    pub without_proposals: f64,
    /// The one box, chosen on these very references, that is right most often.
    pub constant_box: f64,
    /// That box: left, top, width, height as shares of the picture.
    pub constant: [f64; 4],
}

/// Scores a model on references. `progress` is told how many phrases are done, and of how many.
///
/// # Errors
/// [`GroundingError`]: a picture that cannot be used, or a model that cannot do it.
pub fn evaluate(
    model: &LoadedModel,
    set: &ReferenceSet,
    settings: Settings,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<GroundingResult, GroundingError> {
    let (grounding, layer) = model.grounding(settings.layer, "ground")?;
    let max_words = model.recipe.data.max_words;
    // A phrase of which nothing is left is scored too, as in the original.
    let phrases: Vec<(&Reference, String)> = set
        .references
        .iter()
        .flat_map(|reference| {
            reference
                .sentences
                .iter()
                .map(move |text| (reference, text))
        })
        .map(|(reference, text)| (reference, pre_caption(text, max_words).unwrap_or_default()))
        .collect();
    let mut scores = Scores::default();
    for (done, chunk) in phrases.chunks(settings.batch.max(1)).enumerate() {
        progress(done * settings.batch.max(1), phrases.len());
        let (mut images, mut places) = (Vec::new(), HashMap::new());
        let mut texts = Vec::with_capacity(chunk.len());
        for (reference, text) in chunk {
            let place = match places.get(&reference.image_id) {
                Some(place) => *place,
                None => {
                    images.push(set.pixels(model, reference)?);
                    places.insert(reference.image_id, images.len() - 1);
                    images.len() - 1
                }
            };
            texts.push((place, text.as_str()));
        }
        let maps = model
            .matching_cam((grounding, layer), &images, &texts)
            .map();
        let [_, grid, _] = maps.dims();
        let maps = host_values(maps);
        for ((reference, _), map) in chunk.iter().zip(maps.chunks_exact(grid * grid)) {
            let shown = model.transform.fit.shown(reference.size);
            let map = HeatMap::new(map, grid, grid).of_part(shown);
            let proposals = set.proposals.as_ref();
            let proposals = proposals.and_then(|all| all.get(&reference.image_id));
            scores.add(reference, map, proposals.map(Vec::as_slice));
        }
    }
    progress(phrases.len(), phrases.len());
    let pictures: BTreeSet<u64> = set.references.iter().map(|r| r.image_id).collect();
    let truths = phrases.iter().map(|(of, _)| (of.region, of.size));
    let constant = ConstantBox::best(&truths.collect::<Vec<_>>());
    let layers = grounding.layers();
    let percent = |found: GroundingAccuracy| 100.0 * found.accuracy();
    Ok(GroundingResult {
        protocol: format!(
            "{} pictures, {} phrases (split {}), Grad-CAM of matching in layer {layer} of {} to {}, a box counts from an overlap of 0.5",
            pictures.len(),
            phrases.len(),
            set.split,
            layers.start,
            layers.end - 1,
        ),
        pictures: pictures.len(),
        phrases: phrases.len(),
        layer,
        with_proposals: set.proposals.as_ref().map(|_| percent(scores.proposed)),
        random_proposal: set
            .proposals
            .as_ref()
            .map(|_| 100.0 * scores.random / phrases.len().max(1) as f64),
        without_proposals: percent(scores.searched),
        constant_box: percent(constant.accuracy),
        constant: constant.shares,
    })
}

#[derive(Default)]
struct Scores {
    proposed: GroundingAccuracy,
    searched: GroundingAccuracy,
    /// Sum of the shares of proposed boxes that are right.
    random: f64,
}

impl Scores {
    fn add(&mut self, of: &Reference, map: HeatMap<'_>, proposals: Option<&[[f64; 4]]>) {
        let size = of.size.map(|length| length as usize);
        if let Some(proposals) = proposals {
            let best = map.best(size, proposals, ALPHA);
            self.proposed
                .add(of.region, best.map(|best| proposals[best]));
            let right = proposals.iter().filter(|&&b| is_found(of.region, b));
            self.random += right.count() as f64 / proposals.len().max(1) as f64;
        }
        self.searched.add(of.region, map.pointed(size));
    }
}
