//! The systems that can be trained and used, by the name that a recipe gives them.

use burn::module::Module;
use burn::tensor::Device;
use fitup_data::loader::Part;
use fitup_models::system::{System, Teacher};
use fitup_models::weights::{self, TensorMap, WeightsError};

use crate::albef::is_model;
use crate::recipe::{Recipe, SystemKind};

/// A system in use, and its momentum copy where it has one.
pub type Opened = (Box<dyn System>, Option<Box<dyn Teacher>>);

/// Puts a checkpoint's tensors into the system of its recipe; a CLIP's may be in any published
/// layout. `None` where that is no system to be used but the start of a later run: an image
/// tokenizer, and VLMo's stages before its pairs.
///
/// # Errors
/// [`WeightsError::Mismatch`] when they are not that system's, of those sizes.
pub fn open(
    recipe: &Recipe,
    tensors: &TensorMap,
    device: &Device,
) -> Result<Option<Opened>, WeightsError> {
    if recipe.part() != Part::Pairs {
        return Ok(None);
    }
    match recipe.model.system {
        SystemKind::Albef => {
            let config = recipe.model.albef();
            let model = weights::load(config.init(device), tensors, weights::albef_name, is_model)?;
            let momentum = match tensors.keys().any(|name| weights::is_momentum(name)) {
                false => None,
                true => {
                    let encoders = weights::load(
                        config.init_encoders(device),
                        tensors,
                        weights::albef_momentum_name,
                        weights::is_momentum,
                    )?;
                    Some(Box::new(encoders) as Box<dyn Teacher>)
                }
            };
            Ok(Some((Box::new(model), momentum)))
        }
        SystemKind::Clip => {
            let empty = recipe.model.clip().init(device);
            let model = weights::load_clip(empty, tensors, is_model)?;
            Ok(Some((Box::new(model), None)))
        }
        SystemKind::Vilt => alone(
            recipe.model.vilt().init(device),
            tensors,
            weights::vilt_name,
        ),
        SystemKind::Vlmo => alone(
            recipe.model.vlmo().init(device),
            tensors,
            weights::vlmo_name,
        ),
        SystemKind::ImageTokenizer => Ok(None),
    }
}

/// A system without a momentum copy.
fn alone<M: Module + System + 'static>(
    empty: M,
    tensors: &TensorMap,
    name: fn(&str) -> String,
) -> Result<Option<Opened>, WeightsError> {
    let model = weights::load(empty, tensors, name, is_model)?;
    Ok(Some((Box::new(model), None)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn::tensor::Tensor;
    use fitup_models::weights::{ClipLayout, HostTensor};

    const RECIPE: &str = r#"
name = "tiny"
[model]
system = "clip"
[model.clip]
embed_dim = 4
[model.clip.vision]
image_size = 8
patch_size = 4
width = 8
depth = 2
heads = 2
mlp_width = 16
[model.clip.text]
vocab_size = 20
context_length = 8
width = 8
depth = 1
heads = 2
mlp_width = 16
end_of_text = "last"
[data]
train = { kind = "folder", path = "unused" }
batch_size = 2
max_tokens = 8
[objectives]
itm = false
mlm = false
queue_size = 0
[schedule]
kind = "constant"
lr = 1e-3
epochs = 1
"#;

    #[test]
    fn a_clip_opens_in_every_published_layout() {
        let device = Device::flex();
        let recipe = Recipe::parse(RECIPE, "test", &[]).unwrap();
        let drawn = weights::initialize(recipe.model.clip().init(&device), 0.2, 1);
        let openai = weights::export(&drawn, weights::clip_name);
        let embed = |system: &dyn System| {
            let image = Tensor::<4>::ones([1, 3, 8, 8], &device);
            weights::host_values(system.encode_images(image).embed.unwrap())
        };
        let want = embed(&drawn);
        assert!(want.iter().any(|v| v.abs() > 0.1), "{want:?}");
        for layout in [
            ClipLayout::OpenAi,
            ClipLayout::OpenClipText,
            ClipLayout::HuggingFace,
        ] {
            let mut tensors = layout.from_openai(&openai);
            let state = HostTensor {
                shape: vec![1],
                values: vec![0.0],
            };
            tensors.insert("optimizer.first.visual.proj".into(), state.clone());
            let (system, momentum) = open(&recipe, &tensors, &device).unwrap().unwrap();
            assert!(momentum.is_none());
            assert_eq!(embed(system.as_ref()), want, "{layout:?}");
            tensors.insert("visual.more".into(), state);
            let error = open(&recipe, &tensors, &device).unwrap_err().to_string();
            assert!(error.contains("visual.more"), "{layout:?}: {error}");
        }
    }
}
