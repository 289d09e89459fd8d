//! Recipes of runs that do not train pairs: the image tokenizer, and VLMo's stages before its pairs.

use fitup_data::images::BlockMasking;
use fitup_data::loader::Part;
use fitup_models::image_tokenizer::ImageTokenizerConfig;
use fitup_models::system::SystemConfig;
use serde::{Deserialize, Serialize};

use super::model::CHECKED;
use super::{ModelRecipe, ObjectivesRecipe, Recipe, SystemKind};

/// The stages that a VLMo is trained in, each from the checkpoint of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Masked image modelling on images alone.
    Image,
    /// Masked language modelling on texts alone.
    Text,
    /// Image-text pairs; the only stage of other systems.
    #[default]
    Pairs,
}

impl Stage {
    /// For serde: whether a recipe need not write it.
    pub(super) fn is_pairs(&self) -> bool {
        *self == Self::Pairs
    }
}

impl ModelRecipe {
    /// The image tokenizer's sizes; call for one, or for the image stage, only.
    pub fn image_tokenizer(&self) -> &ImageTokenizerConfig {
        self.image_tokenizer.as_ref().expect(CHECKED)
    }
}

impl Recipe {
    /// What a run reads of its records.
    pub fn part(&self) -> Part {
        match (self.model.system, self.model.stage) {
            (SystemKind::ImageTokenizer, _) | (_, Stage::Image) => Part::Images,
            (_, Stage::Text) => Part::Texts,
            (_, Stage::Pairs) => Part::Pairs,
        }
    }

    /// Which patches the image stage hides; call for it only.
    pub fn block_masking(&self) -> BlockMasking {
        BlockMasking::square(self.model.vlmo().grid(), self.data.patch_mask_share)
    }

    /// The field of a run without pairs that cannot work, and why.
    pub(super) fn stage_problem(&self) -> Option<(&'static str, String)> {
        let model = &self.model;
        if model.stage != Stage::Pairs && model.system != SystemKind::Vlmo {
            let reason = format!("{} has no stages but pairs; a vlmo has", model.system);
            return Some(("model.stage", reason));
        }
        if self.part() != Part::Pairs && self.objectives != ObjectivesRecipe::default() {
            let reason = "a run without pairs has one objective of its own: leave the table out";
            return Some(("objectives", reason.into()));
        }
        if model.image_tokenizer_weights.is_some() && model.stage != Stage::Image {
            let reason = "is for stage = \"image\" alone, which takes its targets from it";
            return Some(("model.image_tokenizer_weights", reason.into()));
        }
        match model.stage {
            Stage::Image => self.image_stage_problem(),
            Stage::Text | Stage::Pairs => None,
        }
    }

    fn image_stage_problem(&self) -> Option<(&'static str, String)> {
        let model = &self.model;
        if model.image_tokenizer_weights.is_none() {
            let reason = "is missing: the image stage takes its targets from a trained image tokenizer; give the model.safetensors of its run";
            return Some(("model.image_tokenizer_weights", reason.into()));
        }
        let (Some(vlmo), Some(tokenizer)) = (&model.vlmo, &model.image_tokenizer) else {
            let reason = "needs the sizes of its tokenizer in a table [model.image_tokenizer]";
            return Some(("model.stage", reason.into()));
        };
        if model.init_weights.is_some() {
            let reason = "must be left out: the image stage is the first, and starts from the seed";
            return Some(("model.init_weights", reason.into()));
        }
        if let Some(problem) = tokenizer.problem() {
            return Some(("model", format!("[model.image_tokenizer]: {problem}")));
        }
        let sizes = [tokenizer.image_size, tokenizer.patch_size];
        if sizes != [vlmo.image_size, vlmo.patch_size] {
            let reason = format!(
                "[model.image_tokenizer]: image_size and patch_size are {sizes:?}, those of [model.vlmo] {:?}; a patch and its token must be the same place",
                [vlmo.image_size, vlmo.patch_size]
            );
            return Some(("model", reason));
        }
        (self.block_masking().patches == 0).then(|| {
            let reason = format!(
                "{} of {} patches is none",
                self.data.patch_mask_share,
                vlmo.grid() * vlmo.grid()
            );
            ("data.patch_mask_share", reason)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RECIPES: [&str; 5] = [
        include_str!("../../../../recipes/pretrain/vlmo-tiny-tokenizer.toml"),
        include_str!("../../../../recipes/pretrain/vlmo-tiny-stage-1-image.toml"),
        include_str!("../../../../recipes/pretrain/vlmo-tiny-stage-2-text.toml"),
        include_str!("../../../../recipes/pretrain/vlmo-tiny-stage-3-pairs.toml"),
        include_str!("../../../../recipes/pretrain/vlmo-tiny-text-attention.toml"),
    ];

    fn recipe(at: usize, set: &[&str]) -> Result<Recipe, String> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse(RECIPES[at], "recipe", &set).map_err(|e| e.to_string())
    }

    #[test]
    fn the_recipes_read_what_their_stage_needs() {
        let parts = (0..5).map(|at| recipe(at, &[]).unwrap().part());
        let wanted = [
            Part::Images,
            Part::Images,
            Part::Texts,
            Part::Pairs,
            Part::Texts,
        ];
        assert_eq!(parts.collect::<Vec<_>>(), wanted);
        let round = recipe(2, &[]).unwrap();
        assert_eq!(
            Recipe::parse(&round.to_toml(), "resolved", &[]).unwrap(),
            round
        );
    }

    #[test]
    fn the_stages_are_of_one_model() {
        let model = |at| recipe(at, &[]).unwrap().model;
        for at in 2..5 {
            assert_eq!(model(at).vlmo, model(1).vlmo);
        }
        assert_eq!(model(0).image_tokenizer, model(1).image_tokenizer);
    }

    #[test]
    fn what_does_not_fit_a_stage_is_refused_by_field() {
        for (at, set, field) in [
            (1, "model.image_tokenizer.patch_size=24", "patch_size"),
            (1, "model.init_weights=a", "model.init_weights"),
            (1, "data.patch_mask_share=0.0", "data.patch_mask_share"),
            (1, "data.patch_mask_share=1.5", "data.patch_mask_share"),
            (1, "objectives.itm=false", "objectives"),
            (0, "model.stage=image", "model.stage"),
            (
                0,
                "run.gradient_checkpointing=true",
                "run.gradient_checkpointing",
            ),
            (0, "run.bf16=true", "run.bf16"),
            (0, "objectives.queue_size=0", "objectives"),
            (
                3,
                "model.image_tokenizer_weights=a",
                "model.image_tokenizer_weights",
            ),
            (2, "data.max_tokens=99", "data.max_tokens"),
        ] {
            let error = recipe(at, &[set]).unwrap_err();
            assert!(error.contains(field), "{set}: {error}");
        }
    }
}
