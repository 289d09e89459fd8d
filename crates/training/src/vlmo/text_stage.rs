//! VLMo's second stage: masked words of texts alone, usually with the attention of the image stage
//! frozen (`optimizer.frozen` in the recipe).

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::vlmo::encoder::TextBatch;
use fitup_models::vlmo::text_stage::VlmoTextStage;
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, TensorMap, WeightsError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::parameter_groups::{ParameterGroup, vlmo_group};
use crate::recipe::Recipe;
use crate::tasks::masked;
use crate::trainer::{Pretrain, Scores, StepLosses, TrainError, Validation, WordMasking, started};

/// Everything that a text stage's run changes, except the optimizer's state.
#[derive(Debug)]
pub struct VlmoTextPretrain {
    model: Option<VlmoTextStage>,
    masking: WordMasking,
    device: Device,
}

/// The model at the start of a run, on the autodiff device.
fn start(
    recipe: &Recipe,
    tensors: Option<&TensorMap>,
    device: &Device,
) -> Result<VlmoTextStage, WeightsError> {
    let config = recipe.model.vlmo().without_vl_experts();
    let mut empty_model = config.init_text_stage(&device.clone().autodiff());
    empty_model
        .encoder
        .set_block_compute(recipe.run.block_compute());
    started(
        empty_model,
        recipe,
        0x0071_3002,
        tensors,
        weights::vlmo_name,
    )
}

impl Pretrain for VlmoTextPretrain {
    type Model = VlmoTextStage;

    fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            model: Some(start(recipe, tensors, device)?),
            masking: WordMasking::of_whole_words(
                recipe.data.mask_probability,
                recipe.model.vlmo().vocab_size,
                tokenizer,
            ),
            device: device.clone(),
        })
    }

    /// From an image stage, or from an earlier text stage.
    fn initial(
        recipe: &Recipe,
        tensors: TensorMap,
        device: &Device,
    ) -> Result<(TensorMap, Option<InitialReport>), WeightsError> {
        let drawn = weights::export(&start(recipe, None, device)?, weights::vlmo_name);
        let (tensors, report) = weights::start_vlmo(drawn, tensors)?;
        Ok((tensors, Some(report)))
    }

    fn model(&self) -> &VlmoTextStage {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(VlmoTextStage) -> VlmoTextStage) {
        self.model = self.model.take().map(change);
    }

    fn parameter_name(path: &str) -> String {
        weights::vlmo_name(path)
    }

    fn parameter_group(name: &str, _shape: &[usize]) -> ParameterGroup {
        vlmo_group(name, 1.0)
    }

    fn begin_step(&mut self, _step: u64) {}

    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, _alpha: f64) -> StepLosses {
        let mut rng = ChaCha8Rng::seed_from_u64(draw_seed);
        let (input_ids, masked) = self.masking.draw(batch, &mut rng, &self.device);
        if masked.token.is_empty() {
            return StepLosses::nothing();
        }
        let mask = TensorData::new(batch.attention_mask.clone(), [batch.size, batch.length]);
        let mask: Tensor<2, Int> = Tensor::from_data(mask, &self.device);
        let text = TextBatch {
            input_ids: Tensor::from_inner(input_ids),
            attention_mask: Tensor::from_inner(mask),
        };
        let dropout = Some(DropoutSeed::new(rng.random()));
        let logits = self.model().masked_logits(&text, &masked, dropout);
        let mut losses = StepLosses::masked(logits, &masked.token);
        losses.numbers.mlm = Some(losses.numbers.total);
        losses
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        let scores = masked::words(&self.model().valid(), validation)?;
        Ok(Scores::Masked(scores))
    }

    fn export(&self) -> TensorMap {
        weights::export(self.model(), weights::vlmo_name)
    }
}
