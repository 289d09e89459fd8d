//! The systems that can be trained and used, by the name that a recipe gives them.

use burn::module::Module;
use burn::tensor::Device;
use fitup_data::loader::Part;
use fitup_models::system::{MaskedWords, System};
use fitup_models::weights::{self, TensorMap, WeightsError};

use crate::albef::{is_model, is_momentum};
use crate::recipe::{Recipe, SystemKind};

/// A system in use, and its momentum copy where it has one.
pub type Opened = (Box<dyn System>, Option<Box<dyn MaskedWords>>);

/// Puts a checkpoint's tensors into the system of its recipe; `None` where that is no system to be
/// used but the start of a later run: an image tokenizer, and VLMo's stages before its pairs.
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
            let momentum = match tensors.keys().any(|name| is_momentum(name)) {
                false => None,
                true => {
                    let encoders = weights::load(
                        config.init_encoders(device),
                        tensors,
                        weights::albef_momentum_name,
                        is_momentum,
                    )?;
                    Some(Box::new(encoders) as Box<dyn MaskedWords>)
                }
            };
            Ok(Some((Box::new(model), momentum)))
        }
        SystemKind::Clip => alone(
            recipe.model.clip().init(device),
            tensors,
            weights::clip_name,
        ),
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
