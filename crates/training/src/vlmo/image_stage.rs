//! VLMo's first stage: masked patches of images alone, their visual tokens as targets.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fitup_data::images::BlockMasking;
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::image_tokenizer::ImageTokenizer;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::vlmo::image_stage::{VlmoImageStage, in_image_stage};
use fitup_models::weights::{self, TensorMap, WeightsError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::albef::is_model;
use crate::parameter_groups::{ParameterGroup, vlmo_group};
use crate::recipe::Recipe;
use crate::tasks::masked;
use crate::trainer::{
    Pretrain, Scores, StepLosses, TrainError, Validation, image_tensor, masked_patches, started,
};

/// Before the names of the tokenizer's tensors in a checkpoint of this stage.
const TOKENIZER: &str = "image_tokenizer.";

/// Everything that an image stage's run changes, except the optimizer's state.
#[derive(Debug)]
pub struct VlmoImagePretrain {
    model: Option<VlmoImageStage>,
    /// On the plain device; never changes.
    tokenizer: ImageTokenizer,
    masking: BlockMasking,
    device: Device,
}

impl Pretrain for VlmoImagePretrain {
    type Model = VlmoImageStage;

    /// Reads the tokenizer's file when the run starts; a resumed one has it in its checkpoint.
    fn new(
        recipe: &Recipe,
        _tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let config = recipe.model.vlmo().without_vl_experts();
        let sizes = recipe.model.image_tokenizer();
        let mut empty_model = config.init_image_stage(sizes.codes, &device.clone().autodiff());
        empty_model
            .encoder
            .set_block_compute(recipe.run.block_compute());
        // What belongs to texts is drawn, never trained and not in a checkpoint.
        let drawn = started(empty_model, recipe, 0x0071_3001, None, weights::vlmo_name)?;
        let tokenizer = |tensors: &TensorMap| {
            weights::load(sizes.init(device), tensors, str::to_owned, is_model)
        };
        let (model, tokenizer) = match (tensors, &recipe.model.image_tokenizer_weights) {
            (Some(tensors), _) => {
                let mut all = weights::export(&drawn, weights::vlmo_name);
                all.retain(|name, _| !in_image_stage(name));
                let (own, stage) = split(tensors);
                all.extend(stage);
                let model = weights::load(drawn, &all, weights::vlmo_name, is_model)?;
                (model, tokenizer(&own)?)
            }
            (None, Some(path)) => {
                let (tensors, _) = weights::read(path)?;
                let loaded = tokenizer(&tensors).map_err(|error| error.in_file(path))?;
                (drawn, loaded)
            }
            // A recipe of this stage without the field is refused; this says what is missing.
            (None, None) => (drawn, tokenizer(&TensorMap::new())?),
        };
        Ok(Self {
            model: Some(model),
            tokenizer,
            masking: recipe.block_masking(),
            device: device.clone(),
        })
    }

    fn model(&self) -> &VlmoImageStage {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(VlmoImageStage) -> VlmoImageStage) {
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
        let image = image_tensor(batch, &self.device);
        let tokens = self.tokenizer.tokens(image.clone());
        let masked = masked_patches(&self.masking, &tokens, &mut rng);
        if masked.index.is_empty() {
            return StepLosses::nothing();
        }
        let dropout = Some(DropoutSeed::new(rng.random()));
        let image = Tensor::from_inner(image);
        let logits = self.model().masked_logits(image, &masked, dropout);
        let mut losses = StepLosses::masked(logits, &masked.token);
        losses.numbers.mim = Some(losses.numbers.total);
        losses
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        let model = self.model().valid();
        let scores = masked::patches(&model, &self.tokenizer, validation)?;
        Ok(Scores::Masked(scores))
    }

    /// What the stage trains, and its tokenizer.
    fn export(&self) -> TensorMap {
        let mut tensors = weights::export(self.model(), weights::vlmo_name);
        tensors.retain(|name, _| in_image_stage(name));
        tensors.extend(weights::export(&self.tokenizer, |path| {
            format!("{TOKENIZER}{path}")
        }));
        tensors
    }
}

/// Tensors of a checkpoint: the tokenizer's under their own names, and the model's.
fn split(tensors: &TensorMap) -> (TensorMap, TensorMap) {
    let (mut tokenizer, mut stage) = (TensorMap::new(), TensorMap::new());
    for (name, tensor) in tensors {
        match name.strip_prefix(TOKENIZER) {
            Some(rest) => tokenizer.insert(rest.to_owned(), tensor.clone()),
            None => stage.insert(name.clone(), tensor.clone()),
        };
    }
    (tokenizer, stage)
}
