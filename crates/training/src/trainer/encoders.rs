//! A new run whose parts start from published encoders, images' and texts' each from its own.

use std::path::Path;

use burn::tensor::Device;
use fitup_data::text::Tokenizer;
use fitup_models::weights::initial::{Encoder, Target};
use fitup_models::weights::{self, TensorMap};

use super::{Observer, Pretrain, TrainError};
use crate::albef::is_model;
use crate::recipe::{ModelRecipe, Recipe, SystemKind};

/// The system with the parts that `model.init_image` and `model.init_text` give, and what moves
/// along with it (momentum model) started anew from it; as it is without them.
///
/// # Errors
/// When a file cannot be read, holds another encoder or does not fit, naming it.
pub(super) fn start<S: Pretrain>(
    system: S,
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    device: &Device,
    observer: &mut dyn Observer,
) -> Result<S, TrainError> {
    let model = &recipe.model;
    if model.init_image.is_none() && model.init_text.is_none() {
        return Ok(system);
    }
    let Some(target) = target(model) else {
        return Ok(system);
    };
    let mut tensors = system.export();
    tensors.retain(|name, _| is_model(name));
    for (file, images) in [(&model.init_image, true), (&model.init_text, false)] {
        if let Some(file) = file {
            let taken = take(file, images, target, &tensors, observer)?;
            tensors.extend(taken);
        }
    }
    Ok(S::new(recipe, tokenizer, Some(&tensors), device)?)
}

fn take(
    file: &Path,
    images: bool,
    target: Target,
    model: &TensorMap,
    observer: &mut dyn Observer,
) -> Result<TensorMap, TrainError> {
    let (checkpoint, _) = weights::read(file)?;
    let unfit = |reason: String| TrainError::Encoder {
        path: file.to_owned(),
        reason,
    };
    let encoder = Encoder::detect(&checkpoint).filter(|found| found.reads_images() == images);
    let encoder = encoder.ok_or_else(|| {
        let wanted = match images {
            true => "image encoder: neither DeiT's names (blocks.0.attn.qkv.weight) nor BEiT's",
            false => "text encoder: no BERT's names (embeddings.word_embeddings.weight)",
        };
        unfit(format!("holds no published {wanted}"))
    })?;
    let (taken, report) = encoder
        .take(target, checkpoint, model)
        .map_err(|error| unfit(error.to_string()))?;
    observer.encoder(file, &report);
    Ok(taken)
}

/// `None` for systems that start from whole weights alone.
fn target(model: &ModelRecipe) -> Option<Target> {
    match model.system {
        SystemKind::Albef => Some(Target::Albef),
        SystemKind::Clip | SystemKind::ImageTokenizer => None,
        SystemKind::Vilt => Some(Target::Vilt),
        SystemKind::Vlmo => Some(Target::Vlmo {
            window: model.vlmo().grid(),
        }),
    }
}
