//! Real batches of a recipe's data: images as its transform makes them, captions as its tokenizer
//! cuts them. Both sides then train on the same file, and neither reads images while it is timed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fitup_data::loader::{Loader, Position};
use fitup_data::sources::{self, Source};
use fitup_data::text::{Tokenizer, build_vocabulary, pre_caption};
use fitup_training::recipe::Recipe;
use serde::Deserialize;

use crate::tensors::{Outputs, json};

/// What the driver chooses, `batches.json`.
#[derive(Debug, Deserialize)]
struct Settings {
    recipe: PathBuf,
    set: Vec<String>,
    batches: usize,
}

/// Writes `pairs.safetensors` beside `batches.json`.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    let settings: Settings = json(&folder.join("batches.json"))?;
    let recipe = Recipe::load(&settings.recipe, &settings.set)?;
    let source: Arc<dyn Source> = Arc::from(sources::open(&recipe.data.train)?);
    let tokenizer = Arc::new(tokenizer(&recipe, source.as_ref())?);
    let mut loader = Loader::new(
        source,
        Arc::new(recipe.train_transform()),
        tokenizer,
        recipe.loader(),
        Position::default(),
    )?;
    let mut outputs = Outputs::default();
    for number in 0..settings.batches {
        let batch = loader.next_batch()?;
        let name = |part: &str| format!("{number}.{part}");
        let side = batch.image_size as usize;
        outputs.floats(&name("image"), &[batch.size, 3, side, side], &batch.images);
        let shape = [batch.size, batch.length];
        outputs.integers(&name("input_ids"), &shape, &batch.input_ids);
        outputs.integers(&name("attention_mask"), &shape, &batch.attention_mask);
    }
    outputs.write(&folder.join("pairs.safetensors"))
}

/// Of the training captions, as a run of the recipe builds it.
fn tokenizer(recipe: &Recipe, source: &dyn Source) -> anyhow::Result<Tokenizer> {
    let mut captions = Vec::new();
    for index in 0..source.len() {
        let texts = source.texts(index)?;
        let cleaned = texts.captions.iter();
        captions.extend(cleaned.filter_map(|c| pre_caption(c, recipe.data.max_words)));
    }
    let size = recipe.model.sizes().vocab_size();
    let vocabulary = build_vocabulary(captions.iter().map(String::as_str), size);
    Ok(Tokenizer::from_vocabulary(vocabulary)?)
}
