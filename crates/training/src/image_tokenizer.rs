//! Training of the image tokenizer that VLMo's image stage takes its targets from: pixels given
//! back, a codebook that follows its patches.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::image_tokenizer::ImageTokenizer;
use fitup_models::weights::{self, TensorMap, WeightsError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::parameter_groups::{ParameterGroup, albef_group};
use crate::recipe::Recipe;
use crate::tasks::masked;
use crate::trainer::{
    Pretrain, Scores, StepLosses, StepNumbers, TrainError, Validation, image_tensor, scalar,
    started,
};

/// Everything that a tokenizer's run changes, except the optimizer's state.
#[derive(Debug)]
pub struct ImageTokenizerPretrain {
    model: Option<ImageTokenizer>,
    device: Device,
}

impl Pretrain for ImageTokenizerPretrain {
    type Model = ImageTokenizer;

    fn new(
        recipe: &Recipe,
        _tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let config = recipe.model.image_tokenizer();
        let empty_model = config.init(&device.clone().autodiff());
        let model = started(empty_model, recipe, 0x70CE_4000, tensors, str::to_owned)?;
        Ok(Self {
            model: Some(model),
            device: device.clone(),
        })
    }

    fn model(&self) -> &ImageTokenizer {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(ImageTokenizer) -> ImageTokenizer) {
        self.model = self.model.take().map(change);
    }

    fn parameter_name(path: &str) -> String {
        path.to_owned()
    }

    fn parameter_group(name: &str, shape: &[usize]) -> ParameterGroup {
        albef_group(name, shape)
    }

    fn begin_step(&mut self, _step: u64) {}

    /// The codebook moves after the losses are computed.
    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, _alpha: f64) -> StepLosses {
        let image = image_tensor(batch, &self.device);
        let output = self.model().losses(Tensor::from_inner(image));
        let total = output.total();
        let mut used = output.tokens.clone();
        used.sort_unstable();
        used.dedup();

        let mut rng = ChaCha8Rng::seed_from_u64(draw_seed);
        let [codes] = self.model().codebook.usage.dims();
        let rows = output.tokens.len();
        let restarts: Vec<usize> = (0..codes).map(|_| rng.random_range(0..rows)).collect();
        self.map_model(|mut model| {
            let codebook = model.codebook;
            model.codebook = codebook.moved(&output.latents, &output.tokens, &restarts);
            model
        });
        let numbers = StepNumbers {
            total: scalar(&total),
            reconstruction: Some(scalar(&output.reconstruction)),
            codes_used: Some(used.len() as f64),
            temp: 1.0,
            ..StepNumbers::default()
        };
        StepLosses {
            total: Some(total),
            numbers,
        }
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        let scores = masked::tokenizer(&self.model().valid(), validation)?;
        Ok(Scores::Tokenizer(scores))
    }

    fn export(&self) -> TensorMap {
        weights::export(self.model(), str::to_owned)
    }
}
