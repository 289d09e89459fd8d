//! Zero-shot classification (CLIP, section 3.1): a picture belongs to the class whose sentences
//! lie nearest to it. Every system with embeddings can do it.

use std::collections::BTreeSet;

use burn::tensor::{Tensor, TensorData};
use fitup_data::images::DecodeLimits;
use fitup_data::loader::{LoadedImage, load_images};
use fitup_data::sources::Source;
use fitup_models::weights::host_values;
use fitup_models::zero_shot::{class_embeddings, probabilities, prompts};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::loaded::{LoadedError, LoadedModel};

/// Pictures encoded at a time.
const CHUNK: usize = 64;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum ZeroShotError {
    /// A picture of the set cannot be used; leaving it out would change the score.
    #[error(
        "{key}: {reason}; an evaluation needs every picture: repair it or take it out of the set"
    )]
    Image {
        /// The record.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A record without a class.
    #[error(
        "{key}: no class: its metadata has no text field {field:?} (choose another with --label-field), or it lies in no folder that could name one"
    )]
    Label {
        /// The record.
        key: String,
        /// The field that was looked for.
        field: String,
    },
    /// A record of a class that is not among those asked for.
    #[error("{key}: its class {label:?} is not among the {classes} classes given")]
    UnknownLabel {
        /// The record.
        key: String,
        /// Its class.
        label: String,
        /// How many were given.
        classes: usize,
    },
    /// Nothing to evaluate.
    #[error("{0}: no pictures")]
    Empty(String),
    /// The model cannot do it, or a prompt is empty.
    #[error(transparent)]
    Loaded(#[from] LoadedError),
}

/// Classes as a model sees them.
#[derive(Clone, Debug)]
pub struct Classes {
    /// Their names.
    pub names: Vec<String>,
    /// Unit rows, `[classes, embed_dim]`.
    embed: Tensor<2>,
}

impl LoadedModel {
    /// Encodes every class in every template (`{}` stands for the class).
    ///
    /// # Errors
    /// [`LoadedError::Cannot`] without embeddings; [`LoadedError::EmptyText`] when nothing is
    /// left of a prompt; [`LoadedError::NoClasses`].
    pub fn classes(&self, names: &[String], templates: &[String]) -> Result<Classes, LoadedError> {
        if names.is_empty() || templates.is_empty() {
            return Err(LoadedError::NoClasses);
        }
        let prompts = prompts(names, templates).into_iter();
        let prompts: Vec<String> = prompts
            .map(|prompt| self.clean(&prompt))
            .collect::<Result<_, _>>()?;
        let rows = self.embed_texts(&prompts, "classify")?;
        let dim = rows.len() / prompts.len();
        let rows = TensorData::new(rows, [prompts.len(), dim]);
        Ok(Classes {
            names: names.to_vec(),
            embed: class_embeddings(Tensor::from_data(rows, &self.device), templates.len()),
        })
    }

    /// Probability of every class for a picture, in the order of `classes`, summing to 1.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`].
    pub fn classify(&self, image: &RgbImage, classes: &Classes) -> Result<Vec<f32>, LoadedError> {
        let row = self.embed_images(&[self.prepare(image)], "classify")?;
        Ok(self.class_probabilities(row, classes))
    }

    /// Row by row, `[images, classes]`. `rows`: of the images, `[images, embed_dim]`.
    fn class_probabilities(&self, rows: Vec<f32>, classes: &Classes) -> Vec<f32> {
        let [_, dim] = classes.embed.dims();
        let images = rows.len() / dim;
        let rows = TensorData::new(rows, [images, dim]);
        let rows = Tensor::from_data(rows, &self.device);
        let scale = Tensor::from_data([self.model.logit_scale()], &self.device);
        host_values(probabilities(rows, classes.embed.clone(), scale))
    }
}

/// What an evaluation is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The classes; empty: those that the data name.
    pub classes: Vec<String>,
    /// Sentences with `{}` in place of the class.
    pub templates: Vec<String>,
    /// Metadata field that names a record's class; records without metadata are named by the first
    /// folder of their key.
    pub label_field: String,
    /// Pictures read, from the first; 0: all.
    pub images: usize,
    /// Threads that decode.
    pub workers: usize,
}

/// Scores of one evaluation; shares in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotResult {
    /// Pictures.
    pub images: usize,
    /// Classes to choose from.
    pub classes: usize,
    /// Pictures whose class is the most probable.
    pub top1: f64,
    /// Pictures whose class is among the five most probable.
    pub top5: f64,
    /// Mean over classes of their share of right pictures.
    pub mean_per_class: f64,
    /// What always naming the most frequent class would score.
    pub majority: f64,
}

/// Classifies every picture of a source. `progress` is told what is done and how much there is.
///
/// # Errors
/// [`ZeroShotError`].
pub fn evaluate(
    model: &LoadedModel,
    source: &dyn Source,
    settings: &Settings,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ZeroShotResult, ZeroShotError> {
    let count = match settings.images {
        0 => source.len(),
        most => most.min(source.len()),
    };
    if count == 0 {
        return Err(ZeroShotError::Empty(source.describe()));
    }
    // The classes may follow from the data, so embeddings wait for them; pixels would not fit.
    let (mut labelled, mut rows) = (Vec::with_capacity(count), Vec::new());
    for start in (0..count).step_by(CHUNK) {
        progress(start, count);
        let range = start..(start + CHUNK).min(count);
        let limits = DecodeLimits::default();
        let loaded = load_images(source, range, &model.transform, &limits, settings.workers);
        let mut pixels = Vec::with_capacity(loaded.len());
        for image in loaded {
            let image = image.map_err(|skipped| ZeroShotError::Image {
                key: skipped.key,
                reason: skipped.detail,
            })?;
            let label = label(&image, &settings.label_field);
            let label = label.ok_or_else(|| ZeroShotError::Label {
                key: image.key.clone(),
                field: settings.label_field.clone(),
            })?;
            labelled.push((image.key, label));
            pixels.push(image.pixels);
        }
        rows.extend(model.embed_images(&pixels, "classify")?);
    }
    let names = match settings.classes.is_empty() {
        false => settings.classes.clone(),
        true => {
            let labels = labelled.iter().map(|(_, label)| label.clone());
            BTreeSet::from_iter(labels).into_iter().collect()
        }
    };
    let classes = model.classes(&names, &settings.templates)?;
    let probabilities = model.class_probabilities(rows, &classes);
    let mut tally = Tally::new(names.len());
    for ((key, label), row) in labelled.iter().zip(probabilities.chunks(names.len())) {
        let truth = names.iter().position(|name| name == label);
        let truth = truth.ok_or_else(|| ZeroShotError::UnknownLabel {
            key: key.clone(),
            label: label.clone(),
            classes: names.len(),
        })?;
        tally.add(row, truth);
    }
    Ok(tally.result())
}

/// The class that the data set names. A record of a shard has metadata, and its key begins with
/// the shard's name, which is no class.
fn label(image: &LoadedImage, field: &str) -> Option<String> {
    let name = match &image.metadata {
        Some(json) => json.get(field)?.as_str()?,
        None => image.key.split_once('/')?.0,
    };
    Some(name.to_owned())
}

/// Counts of what was right.
struct Tally {
    images: usize,
    top1: usize,
    top5: usize,
    /// Right and all, per class.
    per_class: Vec<(usize, usize)>,
}

impl Tally {
    fn new(classes: usize) -> Self {
        Self {
            images: 0,
            top1: 0,
            top5: 0,
            per_class: vec![(0, 0); classes],
        }
    }

    /// A tie counts against the picture.
    fn add(&mut self, probabilities: &[f32], truth: usize) {
        let own = probabilities[truth];
        let others = probabilities.iter().enumerate();
        let better = others
            .filter(|(class, p)| *class != truth && **p >= own)
            .count();
        self.images += 1;
        self.top1 += usize::from(better == 0);
        self.top5 += usize::from(better < 5);
        self.per_class[truth].0 += usize::from(better == 0);
        self.per_class[truth].1 += 1;
    }

    fn result(&self) -> ZeroShotResult {
        let share = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
        let present = self.per_class.iter().filter(|(_, all)| *all > 0);
        let (sum, classes) = present.fold((0.0, 0), |(sum, n), (right, all)| {
            (sum + share(*right, *all), n + 1)
        });
        let most = self.per_class.iter().map(|(_, all)| *all).max();
        ZeroShotResult {
            images: self.images,
            classes: self.per_class.len(),
            top1: share(self.top1, self.images),
            top5: share(self.top5, self.images),
            mean_per_class: sum / f64::from(classes.max(1)),
            majority: share(most.unwrap_or(0), self.images),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        let mut tally = Tally::new(3);
        tally.add(&[0.6, 0.3, 0.1], 0);
        tally.add(&[0.2, 0.2, 0.6], 0);
        tally.add(&[0.4, 0.4, 0.2], 1);
        tally.add(&[0.1, 0.8, 0.1], 1);
        let result = tally.result();
        assert_eq!((result.images, result.classes), (4, 3));
        assert_eq!((result.top1, result.top5), (50.0, 100.0));
        assert_eq!((result.mean_per_class, result.majority), (50.0, 50.0));
    }
}
