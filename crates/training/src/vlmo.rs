//! VLMo's pre-training step on pairs: contrast, matching with hard negatives, masked words.

use burn::tensor::{Device, Tensor, TensorData};
use fitup_data::loader::PairBatch;
use fitup_data::text::{SpecialIds, masking};
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::objectives::itm::NegativeDraw;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::vlmo::encoder::TextBatch;
use fitup_models::vlmo::{PretrainBatch, PretrainObjectives, Vlmo};
use fitup_models::weights::{self, TensorMap, WeightsError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::albef::is_model;
use crate::checkpoint::Progress;
use crate::recipe::{ItcTargets, ObjectivesRecipe, Recipe};
use crate::trainer::{
    PairTensors, Pretrain, StepLosses, StepNumbers, batch_r1, itm_accuracy, pair_ids,
};

/// Everything that a VLMo pre-training run changes, except the optimizer's state.
#[derive(Debug)]
pub struct VlmoPretrain {
    model: Option<Vlmo>,
    objectives: ObjectivesRecipe,
    mask_probability: f64,
    special: SpecialIds,
    vocab_size: usize,
    /// Whether this step trains matching and masked words.
    fusing: bool,
    device: Device,
}

impl Pretrain for VlmoPretrain {
    type Model = Vlmo;

    fn new(
        recipe: &Recipe,
        special: SpecialIds,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let config = recipe.model.vlmo();
        let model = weights::initialize(
            config.init(&device.clone().autodiff()),
            recipe.model.init_std,
            recipe.seed ^ 0x0071_3000,
        );
        let model = match tensors {
            Some(tensors) => weights::load(model, tensors, weights::vlmo_name, is_model)?,
            None => model,
        };
        Ok(Self {
            model: Some(model),
            objectives: recipe.objectives.clone(),
            mask_probability: recipe.data.mask_probability,
            special,
            vocab_size: config.vocab_size,
            fusing: true,
            device: device.clone(),
        })
    }

    fn model(&self) -> &Vlmo {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(Vlmo) -> Vlmo) {
        self.model = self.model.take().map(change);
    }

    fn parameter_name(path: &str) -> String {
        weights::vlmo_name(path)
    }

    /// The original bounds neither scale; `temp_range` does where a recipe narrows it.
    fn begin_step(&mut self, step: u64) {
        self.fusing = step >= self.objectives.fusion_start;
        let [least, greatest] = self.objectives.temp_range;
        let bound = |scale: Tensor<1>| {
            Tensor::from_inner(scale.inner().clamp(-greatest.ln(), -least.ln())).require_grad()
        };
        self.map_model(|mut model| {
            model.itc.logit_scale = model.itc.logit_scale.map(bound);
            model.itc_vl.logit_scale = model.itc_vl.logit_scale.map(bound);
            model
        });
    }

    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, _alpha: f64) -> StepLosses {
        let o = &self.objectives;
        let mut rng = ChaCha8Rng::seed_from_u64(draw_seed);
        let draws = masking::draw(
            batch.input_ids.len(),
            self.mask_probability,
            self.vocab_size,
            &mut rng,
        );
        let masked = masking::apply(&batch.input_ids, &draws, &self.special);
        let mut uniform = || (0..batch.size).map(|_| rng.random()).collect();
        let ids = match o.itc_targets {
            ItcTargets::Pair => Vec::new(),
            targets => pair_ids(targets, batch),
        };
        let objectives = PretrainObjectives {
            itc: o.itc,
            itm: (o.itm && self.fusing).then(|| NegativeDraw::Choose {
                how: o.hard_negatives,
                image: uniform(),
                text: uniform(),
                ids,
            }),
            mlm: o.mlm && self.fusing,
        };
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, &self.device);
        let masked_ids = TensorData::new(masked.input_ids, [batch.size, batch.length]);
        let input = PretrainBatch {
            image: Tensor::from_inner(image),
            text: TextBatch {
                input_ids: Tensor::from_inner(input_ids),
                attention_mask: Tensor::from_inner(attention_mask),
            },
            masked_input_ids: Tensor::from_inner(Tensor::from_data(masked_ids, &self.device)),
            masked: MaskedPositions::from_labels(&masked.labels),
        };
        let dropout = DropoutSeed::new(rng.random());
        let output = self.model().pretrain(&input, &objectives, Some(dropout));

        let scalar = |x: &Tensor<1>| f64::from(x.clone().inner().into_scalar::<f32>());
        let weights = &o.weights;
        let itc = output.itc.as_ref().map(|itc| (&itc.loss, weights.itc));
        let itm = output.itm.as_ref().map(|itm| (&itm.loss, weights.itm));
        let mlm = output.mlm.as_ref().map(|mlm| (mlm, weights.mlm));
        let parts = [&itc, &itm, &mlm].into_iter().flatten();
        let total = parts
            .map(|(loss, weight)| (*loss).clone().mul_scalar(*weight))
            .reduce(|a, b| a + b);
        let value = |part: &Option<(&Tensor<1>, f64)>| part.as_ref().map(|(loss, _)| scalar(loss));
        let numbers = StepNumbers {
            total: total.as_ref().map_or(0.0, scalar),
            itc: value(&itc),
            itm: value(&itm),
            mlm: value(&mlm),
            itm_accuracy: output
                .itm
                .as_ref()
                .map(|itm| itm_accuracy(itm.logits.clone().inner(), None)),
            batch_r1: output
                .itc
                .as_ref()
                .map(|itc| batch_r1(itc.own.i2t.clone().inner())),
            temp: scalar(&self.model().itc.logit_scale.val().neg().exp()),
        };
        StepLosses { total, numbers }
    }

    fn export(&self) -> TensorMap {
        weights::export(self.model(), weights::vlmo_name)
    }

    fn save_progress(&self, _progress: &mut Progress) {}

    fn load_progress(&mut self, _progress: &Progress) {}
}
