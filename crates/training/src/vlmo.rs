//! VLMo's pre-training step on pairs: contrast, matching with hard negatives, masked words. The
//! stages before it: [`image_stage`], [`text_stage`].

pub mod image_stage;
pub mod text_stage;

use burn::tensor::{Device, Tensor};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::objectives::itm::NegativeDraw;
use fitup_models::vlmo::encoder::TextBatch;
use fitup_models::vlmo::{PretrainBatch, PretrainObjectives, Vlmo};
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, TensorMap, WeightsError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::parameter_groups::{ParameterGroup, vlmo_group};
use crate::recipe::{ItcTargets, ObjectivesRecipe, Recipe};
use crate::trainer::{
    PairTensors, Pretrain, Scores, StepLosses, StepNumbers, TrainError, Validation, WordMasking,
    batch_r1, bounded, itm_accuracy, pair_ids, scalar, started,
};

/// Everything that a VLMo pre-training run changes, except the optimizer's state.
#[derive(Debug)]
pub struct VlmoPretrain {
    model: Option<Vlmo>,
    objectives: ObjectivesRecipe,
    masking: WordMasking,
    /// Whether this step trains matching and masked words.
    fusing: bool,
    device: Device,
}

/// The model at the start of a run, on the autodiff device.
fn start(
    recipe: &Recipe,
    tensors: Option<&TensorMap>,
    device: &Device,
) -> Result<Vlmo, WeightsError> {
    let mut empty_model = recipe.model.vlmo().init(&device.clone().autodiff());
    empty_model
        .encoder
        .set_block_compute(recipe.run.block_compute());
    started(
        empty_model,
        recipe,
        0x0071_3000,
        tensors,
        weights::vlmo_name,
    )
}

impl Pretrain for VlmoPretrain {
    type Model = Vlmo;

    fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let config = recipe.model.vlmo();
        Ok(Self {
            model: Some(start(recipe, tensors, device)?),
            objectives: recipe.objectives.clone(),
            masking: WordMasking::of_whole_words(
                recipe.data.mask_probability,
                config.vocab_size,
                tokenizer,
            ),
            fusing: true,
            device: device.clone(),
        })
    }

    /// From any earlier stage, or from pairs.
    fn initial(
        recipe: &Recipe,
        tensors: TensorMap,
        device: &Device,
    ) -> Result<(TensorMap, Option<InitialReport>), WeightsError> {
        let drawn = weights::export(&start(recipe, None, device)?, weights::vlmo_name);
        let (tensors, report) = weights::start_vlmo(drawn, tensors)?;
        Ok((tensors, Some(report)))
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

    fn parameter_group(name: &str, _shape: &[usize]) -> ParameterGroup {
        vlmo_group(name, 1.0)
    }

    /// The original bounds neither scale; `temp_range` does where a recipe narrows it.
    fn begin_step(&mut self, step: u64) {
        self.fusing = step >= self.objectives.fusion_start;
        let [least, greatest] = self.objectives.temp_range;
        let (least, greatest) = (-greatest.ln(), -least.ln());
        self.map_model(|mut model| {
            for heads in [&mut model.itc, &mut model.itc_vl] {
                heads.logit_scale = bounded(heads.logit_scale.clone(), least, greatest);
            }
            model
        });
    }

    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, _alpha: f64) -> StepLosses {
        let o = &self.objectives;
        let mut rng = ChaCha8Rng::seed_from_u64(draw_seed);
        let (masked_input_ids, masked) = self.masking.draw(batch, &mut rng, &self.device);
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
        let input = PretrainBatch {
            image: Tensor::from_inner(image),
            text: TextBatch {
                input_ids: Tensor::from_inner(input_ids),
                attention_mask: Tensor::from_inner(attention_mask),
            },
            masked_input_ids: Tensor::from_inner(masked_input_ids),
            masked,
        };
        let dropout = DropoutSeed::new(rng.random());
        let output = self.model().pretrain(&input, &objectives, Some(dropout));

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
            ..StepNumbers::default()
        };
        StepLosses { total, numbers }
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        validation.retrieval(self.model())
    }

    fn export(&self) -> TensorMap {
        weights::export(self.model(), weights::vlmo_name)
    }
}
