//! Parameters that a run leaves as they are: no gradient is kept for them, the optimizer has no
//! state of them and does not decay them, so their bits stay the same.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use fitup_data::sources::glob;
use fitup_models::weights;

/// Why a recipe's `optimizer.frozen` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FrozenError {
    /// A pattern without effect.
    #[error(
        "optimizer.frozen: {pattern:?} fits no parameter, * standing for anything; there are, for example, {examples}"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// Some names of the model.
        examples: String,
    },
    /// Nothing left to train.
    #[error("optimizer.frozen: all {0} parameters are frozen; leave some to train")]
    All(usize),
}

/// Official names of the parameters that fit one of the patterns, in which `*` stands for any run
/// of characters. `name` turns a parameter's path into its official name.
///
/// # Errors
/// When a pattern fits none, or all are frozen.
pub fn names<M: Module>(
    module: &M,
    patterns: &[String],
    name: fn(&str) -> String,
) -> Result<Vec<String>, FrozenError> {
    let all = weights::parameters(module);
    let all: Vec<String> = all.into_iter().map(|(path, _)| name(&path)).collect();
    let unused = |pattern: &&String| !all.iter().any(|name| glob::matches(pattern, name));
    if let Some(pattern) = patterns.iter().find(unused) {
        // One of each kind of place, from everywhere in the model.
        let step = (all.len() / 4).max(1);
        let examples: Vec<&str> = all.iter().step_by(step).map(String::as_str).collect();
        return Err(FrozenError::NoMatch {
            pattern: pattern.clone(),
            examples: examples.join(", "),
        });
    }
    let frozen: Vec<String> = all.iter().filter(|n| fits(patterns, n)).cloned().collect();
    match frozen.len() == all.len() && !patterns.is_empty() {
        true => Err(FrozenError::All(all.len())),
        false => Ok(frozen),
    }
}

/// The module with the parameters that fit a pattern frozen; arguments as for [`names`].
pub fn freeze<M: Module>(module: M, patterns: &[String], name: fn(&str) -> String) -> M {
    module.map(&mut Freeze {
        patterns,
        name,
        path: Vec::new(),
    })
}

fn fits(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern, name))
}

struct Freeze<'a> {
    patterns: &'a [String],
    name: fn(&str) -> String,
    path: Vec<String>,
}

impl ModuleMapper for Freeze<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match fits(self.patterns, &(self.name)(&self.path.join("."))) {
            true => param.set_require_grad(false),
            false => param,
        }
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::recipe::Recipe;
    use burn::tensor::Device;
    use fitup_models::objectives::mlm::MaskedPositions;
    use fitup_models::vlmo::VlmoConfig;
    use fitup_models::vlmo::encoder::TextBatch;
    use fitup_models::vlmo::text_stage::{VlmoTextStage, frozen_in_text_stage};
    use fitup_models::weights::vlmo_name;

    fn patterns(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|p| (*p).to_owned()).collect()
    }

    fn recipe() -> Recipe {
        let text = include_str!("../../../recipes/pretrain/vlmo-tiny-stage-2-text.toml");
        Recipe::parse(text, "recipe", &[]).unwrap()
    }

    #[test]
    fn the_recipe_of_the_text_stage_freezes_what_the_original_does() {
        let frozen = |config: VlmoConfig, patterns: &[String]| {
            let model = config.without_vl_experts().init_text_stage(&Device::flex());
            let frozen = names(&model, patterns, vlmo_name).unwrap();
            let all = weights::parameters(&model);
            let all = all.into_iter().map(|(path, _)| vlmo_name(&path));
            assert_eq!(
                frozen,
                all.filter(|n| frozen_in_text_stage(n)).collect::<Vec<_>>()
            );
        };
        let recipe = recipe();
        let tiny = recipe.model.vlmo().clone();
        frozen(tiny.clone(), &recipe.optimizer.frozen);
        // With LayerScale, as `base` and `large`, its factors join them.
        let scaled = VlmoConfig {
            layer_scale: true,
            ..tiny
        };
        let gamma = patterns(&["transformer.blocks.*.gamma_*"]);
        frozen(scaled, &[recipe.optimizer.frozen, gamma].concat());
    }

    #[test]
    fn frozen_parameters_get_no_gradient_and_the_others_the_same() {
        let device = Device::flex().autodiff();
        let config = VlmoConfig {
            width: 8,
            vocab_size: 20,
            ..recipe().model.vlmo().without_vl_experts()
        };
        let model = weights::initialize(config.init_text_stage(&device), 0.5, 1);
        let ids = Tensor::from_data([[2, 5, 6, 4], [2, 4, 9, 0]], &device);
        let text = TextBatch {
            attention_mask: ids.clone().not_equal_elem(0).int(),
            input_ids: ids,
        };
        let masked = MaskedPositions {
            index: vec![3, 5],
            token: vec![7, 8],
        };
        let gradients = |model: &VlmoTextStage| {
            let loss = model.mlm_loss(&text, &masked, None).unwrap();
            weights::export_gradients(model, &loss.backward(), vlmo_name)
        };
        let mut expected = gradients(&model);
        let frozen = freeze(model, &recipe().optimizer.frozen, vlmo_name);
        expected.retain(|name, _| !frozen_in_text_stage(name));
        assert!(expected.contains_key("transformer.blocks.0.mlp_text.fc1.weight"));
        assert_eq!(gradients(&frozen), expected);
    }

    #[test]
    fn a_pattern_without_effect_and_a_model_without_training_are_refused() {
        let model = recipe().model.vlmo().init_text_stage(&Device::flex());
        let refused = |p: &[&str]| {
            names(&model, &patterns(p), vlmo_name)
                .unwrap_err()
                .to_string()
        };
        let error = refused(&["transformer.*", "transformer.block.*"]);
        assert!(
            error.contains("\"transformer.block.*\"") && error.contains("transformer.blocks."),
            "{error}"
        );
        assert!(refused(&["*"]).contains("all"));
        assert!(names(&model, &[], vlmo_name).unwrap().is_empty());
    }
}
