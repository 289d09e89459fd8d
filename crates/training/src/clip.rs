//! CLIP's pre-training step: both towers, one loss.

use burn::tensor::{Device, Tensor};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::clip::{Clip, MAX_LOGIT_SCALE};
use fitup_models::objectives::contrastive::contrastive;
use fitup_models::objectives::itc::{id_targets, identity_targets};
use fitup_models::weights::{self, TensorMap, WeightsError};

use crate::albef::is_model;
use crate::parameter_groups::{ParameterGroup, clip_group};
use crate::recipe::{ItcTargets, ObjectivesRecipe, Recipe};
use crate::trainer::{
    PairTensors, Pretrain, Scores, StepLosses, StepNumbers, TrainError, Validation, batch_r1,
    bounded, pair_ids, scalar, started,
};

/// Everything that a CLIP pre-training run changes, except the optimizer's state.
#[derive(Debug)]
pub struct ClipPretrain {
    model: Option<Clip>,
    objectives: ObjectivesRecipe,
    device: Device,
}

impl Pretrain for ClipPretrain {
    type Model = Clip;

    fn new(
        recipe: &Recipe,
        _tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let mut empty_model = recipe.model.clip().init(&device.clone().autodiff());
        empty_model.set_block_compute(recipe.run.block_compute());
        let salt = 0x0C11_9000;
        let mut model = started(empty_model, recipe, salt, None, weights::clip_name)?;
        if let Some(tensors) = tensors {
            model = weights::load_clip(model, tensors, is_model)?;
        }
        Ok(Self {
            model: Some(model),
            objectives: recipe.objectives.clone(),
            device: device.clone(),
        })
    }

    fn model(&self) -> &Clip {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(Clip) -> Clip) {
        self.model = self.model.take().map(change);
    }

    fn parameter_name(path: &str) -> String {
        weights::clip_name(path)
    }

    fn parameter_group(_name: &str, shape: &[usize]) -> ParameterGroup {
        clip_group(shape)
    }

    fn begin_step(&mut self, _step: u64) {
        let [least, greatest] = self.objectives.temp_range;
        let (least, greatest) = (-greatest.ln(), (-least.ln()).min(MAX_LOGIT_SCALE));
        self.map_model(|mut model| {
            model.logit_scale = bounded(model.logit_scale, least, greatest);
            model
        });
    }

    fn losses(&mut self, batch: &PairBatch, _draw_seed: u64, _alpha: f64) -> StepLosses {
        let input = PairTensors::new(batch, &self.device);
        let model = self.model();
        let image = model.embed_image(Tensor::from_inner(input.image));
        let text = model.encode_text(
            Tensor::from_inner(input.input_ids),
            Some(Tensor::from_inner(input.attention_mask)),
        );
        let logits = model.logits(image, text.embed);
        let targets = match self.objectives.itc_targets {
            ItcTargets::Pair => identity_targets(batch.size, batch.size),
            targets => id_targets(&pair_ids(targets, batch), &[]),
        };
        let targets = Tensor::from_inner(Tensor::from_data(targets, &self.device));
        let itc = contrastive(logits.clone(), targets);
        let total = itc.clone().mul_scalar(self.objectives.weights.itc);
        let numbers = StepNumbers {
            total: scalar(&total),
            itc: Some(scalar(&itc)),
            batch_r1: Some(batch_r1(logits.inner())),
            temp: scalar(&model.scale()).recip(),
            ..StepNumbers::default()
        };
        StepLosses {
            total: Some(total),
            numbers,
        }
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        validation.retrieval(self.model())
    }

    fn export(&self) -> TensorMap {
        weights::export(self.model(), weights::clip_name)
    }
}
