//! What a system brings to the trainer.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, TensorMap, WeightsError};
use serde::{Deserialize, Serialize};

use super::prediction::right;
use super::{Scores, TrainError, Validation, masked_loss, scalar};
use crate::albef::is_model;
use crate::checkpoint::Progress;
use crate::parameter_groups::ParameterGroup;
use crate::recipe::Recipe;

/// What a system brings to the trainer: its losses, and what moves along with it from step to
/// step (momentum model, queue).
pub trait Pretrain: Sized + Send + Sync {
    /// What the optimizer trains.
    type Model: Module;

    /// Weights drawn from the recipe's seed, or from tensors of official names; what moves along
    /// with the model starts from it where the tensors hold nothing of the kind.
    ///
    /// # Errors
    /// When the tensors do not fit the recipe's sizes.
    fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError>;

    /// The tensors that [`Self::new`] takes when a run starts from those of another run; what
    /// became of each where not all are taken as they are.
    ///
    /// # Errors
    /// When they are not such tensors.
    fn initial(
        _recipe: &Recipe,
        tensors: TensorMap,
        _device: &Device,
    ) -> Result<(TensorMap, Option<InitialReport>), WeightsError> {
        Ok((tensors, None))
    }

    /// The model as it is.
    fn model(&self) -> &Self::Model;
    /// Replaces the model by a changed one.
    fn map_model(&mut self, change: impl FnOnce(Self::Model) -> Self::Model);
    /// Official name of a parameter path.
    fn parameter_name(path: &str) -> String;
    /// How fast the parameter of an official name and a shape (as it is here) learns, and whether
    /// it decays.
    fn parameter_group(name: &str, shape: &[usize]) -> ParameterGroup;
    /// What happens once per optimizer step, number `step` from 0, before the losses.
    fn begin_step(&mut self, step: u64);
    /// Losses of one batch. Every random draw follows from `draw_seed`; `alpha` is the share of
    /// the momentum model in soft targets.
    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, alpha: f64) -> StepLosses;
    /// Scores on the validation source.
    ///
    /// # Errors
    /// When a record of it cannot be used.
    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError>;
    /// All tensors of the run except the optimizer's, under official names.
    fn export(&self) -> TensorMap;
    /// Writes what is not a tensor into the progress.
    fn save_progress(&self, _progress: &mut Progress) {}
    /// Takes it back.
    fn load_progress(&mut self, _progress: &Progress) {}
}

/// A model at the start of a run, on the autodiff device: weights drawn from the recipe's seed
/// (`salt` keeps systems apart), then the tensors put in where there are any.
///
/// # Errors
/// When the tensors do not fit, or the recipe asks for sines where the model has no positions.
pub fn started<M: Module>(
    empty: M,
    recipe: &Recipe,
    salt: u64,
    tensors: Option<&TensorMap>,
    name: fn(&str) -> String,
) -> Result<M, WeightsError> {
    let mut drawn = weights::initialize(empty, recipe.model.init_std, recipe.seed ^ salt);
    if let Some(amplitude) = recipe.model.sine_positions {
        drawn = weights::sine_positions(drawn, amplitude)?;
    }
    match tensors {
        Some(tensors) => weights::load(drawn, tensors, name, is_model),
        None => Ok(drawn),
    }
}

/// A trained scalar moved into `[least, greatest]`; a frozen one stays.
pub fn bounded(param: Param<Tensor<1>>, least: f64, greatest: f64) -> Param<Tensor<1>> {
    param.map(|value| match value.is_require_grad() {
        true => Tensor::from_inner(value.inner().clamp(least, greatest)).require_grad(),
        false => value,
    })
}

/// The loss to differentiate, and the numbers to show.
#[derive(Debug)]
pub struct StepLosses {
    /// Weighted sum, `[1]`; absent when the batch gives nothing to learn (no token masked and no
    /// other objective).
    pub total: Option<Tensor<1>>,
    /// Unweighted losses and rates.
    pub numbers: StepNumbers,
}

impl StepLosses {
    /// Of what is masked alone. `logits`: `[masked, classes]`; `tokens`: the right class of each, at
    /// least one.
    pub fn masked(logits: Tensor<2>, tokens: &[i64]) -> Self {
        let loss = masked_loss(logits.clone(), tokens);
        let right = right(logits.inner(), tokens);
        let numbers = StepNumbers {
            total: scalar(&loss),
            masked_accuracy: Some(right as f64 / tokens.len() as f64),
            temp: 1.0,
            ..StepNumbers::default()
        };
        Self {
            total: Some(loss),
            numbers,
        }
    }

    /// Of a batch in which nothing is masked.
    pub fn nothing() -> Self {
        Self {
            total: None,
            numbers: StepNumbers {
                temp: 1.0,
                ..StepNumbers::default()
            },
        }
    }
}

/// Numbers of one step; absent ones were not computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepNumbers {
    /// Weighted sum of the losses.
    pub total: f64,
    /// Contrastive loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itc: Option<f64>,
    /// Matching loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itm: Option<f64>,
    /// Masked-word loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlm: Option<f64>,
    /// Masked-patch loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mim: Option<f64>,
    /// Mean squared error of the pixels that an image tokenizer gives back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<f64>,
    /// Share of masked patches or words that are predicted right, `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked_accuracy: Option<f64>,
    /// Different visual tokens in the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes_used: Option<f64>,
    /// Share of a classification that is right, `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Share of matching decisions that are right, `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub itm_accuracy: Option<f64>,
    /// Share of images whose best text inside the batch is their own, `[0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_r1: Option<f64>,
    /// Temperature.
    pub temp: f64,
}

impl StepNumbers {
    /// Mean over micro-batches; a number that some lack is averaged over those that have it.
    pub(super) fn mean(numbers: Vec<Self>) -> Self {
        let n = numbers.len() as f64;
        let over = |part: fn(&StepNumbers) -> Option<f64>| {
            let values: Vec<f64> = numbers.iter().filter_map(part).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        Self {
            total: numbers.iter().map(|x| x.total).sum::<f64>() / n,
            itc: over(|x| x.itc),
            itm: over(|x| x.itm),
            mlm: over(|x| x.mlm),
            mim: over(|x| x.mim),
            reconstruction: over(|x| x.reconstruction),
            masked_accuracy: over(|x| x.masked_accuracy),
            codes_used: over(|x| x.codes_used),
            accuracy: over(|x| x.accuracy),
            itm_accuracy: over(|x| x.itm_accuracy),
            batch_r1: over(|x| x.batch_r1),
            temp: numbers.last().map_or(0.0, |x| x.temp),
        }
    }
}
