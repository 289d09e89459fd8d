//! The second step of a retrieval evaluation: matching scores of the contrastive candidates, both
//! ways, from encoded images and texts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::{Device, Tensor};
use fitup_index::matrix::ScoreMatrix;
use fitup_index::rerank::candidates;
use fitup_models::albef::Albef;
use fitup_models::layers::packing::{Packing, Pairs};
use fitup_models::system::{EncodedTexts, System};
use fitup_models::weights::{self, host_values};
use fitup_training::albef::is_model;
use fitup_training::recipe::Recipe;
use fitup_training::tasks::retrieval::match_pairs;
use serde::Deserialize;

use crate::Work;
use crate::tensors::{Inputs, Outputs, integer_tensor};

/// What the driver chooses.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// The recipe of the sizes.
    recipe: PathBuf,
    /// Changes to it, `key=value`.
    set: Vec<String>,
    /// Candidates per query.
    k: usize,
    /// The images whose pairs are scored: all of them, or so many that the time of the whole
    /// follows.
    images: Vec<usize>,
}

/// An encoded collection.
pub struct Reranking {
    model: Albef,
    /// Token rows of different images, `[bank, tokens, width]`: image `i` has row `i % bank`.
    image_tokens: Tensor<3>,
    image_embed: Tensor<2>,
    text_embed: Tensor<2>,
    texts: EncodedTexts,
    k: usize,
    images: Vec<usize>,
    /// Image, text, logit of "they match".
    scores: Vec<(usize, usize, f32)>,
}

impl Reranking {
    /// Reads `weights.safetensors` and `inputs.safetensors`.
    pub fn new(settings: Settings, folder: &Path) -> anyhow::Result<Self> {
        let recipe = Recipe::load(&settings.recipe, &settings.set)?;
        let device = Device::flex();
        let (tensors, _) = weights::read(&folder.join("weights.safetensors"))?;
        let empty = recipe.model.albef().init(&device);
        let model = weights::load(empty, &tensors, weights::albef_name, is_model)?;
        let mut inputs = Inputs::read(&folder.join("inputs.safetensors"))?;
        let (shape, mask) = inputs.integers("text_mask")?;
        let packing = Packing::from_mask(integer_tensor(&mask, [shape[0], shape[1]], &device));
        Ok(Self {
            model,
            image_tokens: inputs.tensor("image_tokens", &device)?,
            image_embed: inputs.tensor("image_embed", &device)?,
            text_embed: inputs.tensor("text_embed", &device)?,
            texts: EncodedTexts {
                tokens: packing.pack_rows(inputs.tensor("text_tokens", &device)?),
                packing,
                embed: None,
            },
            k: settings.k,
            images: settings.images,
            scores: Vec::new(),
        })
    }
}

impl Work for Reranking {
    /// As [`fitup_training::tasks::retrieval::evaluate`] does after encoding, for the chosen images.
    fn run(&mut self) -> anyhow::Result<()> {
        let sim = self.image_embed.clone();
        let sim = sim.matmul(self.text_embed.clone().transpose());
        let [images, texts] = sim.dims();
        let i2t = ScoreMatrix::new(host_values(sim), texts);
        let (of_images, of_texts) = (
            candidates(&i2t, self.k),
            candidates(&i2t.transposed(), self.k),
        );
        let mut wanted: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); images];
        for (image, texts) in of_images.iter().enumerate() {
            wanted[image].extend(texts);
        }
        for (text, images) in of_texts.iter().enumerate() {
            for image in images {
                wanted[*image].insert(text);
            }
        }
        let matching = self.model.matching().context("ALBEF matches")?;
        let [bank, ..] = self.image_tokens.dims();
        self.scores.clear();
        for &image in &self.images {
            let chosen: Vec<usize> = wanted[image].iter().copied().collect();
            let tokens = self.image_tokens.clone().narrow(0, image % bank, 1);
            let parts = matching.image_parts(tokens);
            let pairs = Pairs {
                images: vec![0; chosen.len()],
                texts: chosen.clone(),
            };
            let found = match_pairs(matching, &self.texts, &parts, &pairs);
            let found = chosen.iter().zip(found);
            self.scores
                .extend(found.map(|(text, [_, yes])| (image, *text, yes)));
        }
        Ok(())
    }

    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        let pairs: Vec<i64> = self
            .scores
            .iter()
            .flat_map(|(image, text, _)| [*image as i64, *text as i64])
            .collect();
        let scores: Vec<f32> = self.scores.iter().map(|(.., score)| *score).collect();
        outputs.integers("pairs", &[scores.len(), 2], &pairs);
        outputs.floats("scores", &[scores.len()], &scores);
        outputs
    }
}
