//! Fine-tuning: a model that a task adds a head to, its momentum copy, and the step they take. Retrieval is not here:
//! it is trained with the objectives of pre-training.

pub mod albef;
pub mod discriminative;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, TensorMap, WeightsError, host_integers};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::albef::is_model;
use crate::momentum;
use crate::parameter_groups::{ParameterGroup, albef_group};
use crate::recipe::{Recipe, TaskKind};
use crate::tasks::classes::{self, Classifying};
use crate::tasks::examples::Preparation;
use crate::tasks::vqa::{self, AnswerList, Answering, Decoding};
use crate::trainer::{Pretrain, Scores, StepLosses, StepNumbers, TrainError, Validation, scalar};

/// Keeps the draws of new heads apart from those of pre-training.
const SALT: u64 = 0xF17E_0000;

/// A model with the head of a task. Names and groups are ALBEF's where a model does not say otherwise.
pub trait TaskModel: Module + Sized + Send + Sync {
    /// All weights zero, for a recipe's sizes and task.
    fn empty(recipe: &Recipe, device: &Device) -> Self;

    /// Official name of a parameter path.
    fn parameter_name(path: &str) -> String {
        weights::albef_task_name(path)
    }

    /// Official name of a parameter of the momentum copy.
    fn momentum_name(path: &str) -> String {
        weights::albef_task_momentum_name(path)
    }

    /// How fast a parameter learns, and whether it decays.
    fn parameter_group(name: &str, shape: &[usize]) -> ParameterGroup {
        albef_group(name, shape)
    }

    /// The tensors of a model that starts from a pre-trained one's. `drawn`: all of it, with its momentum copy
    /// where [`Self::MOMENTUM_FROM_PRETRAINED`].
    ///
    /// # Errors
    /// When the pre-trained ones are not such a model's.
    fn start(
        recipe: &Recipe,
        drawn: TensorMap,
        pretrained: TensorMap,
    ) -> Result<(TensorMap, InitialReport), WeightsError>;

    /// Whether the momentum copy starts from the pre-trained momentum model; else from the model itself.
    const MOMENTUM_FROM_PRETRAINED: bool;

    /// The tensors of a checkpoint as the model has them.
    fn from_official(tensors: TensorMap) -> TensorMap {
        tensors
    }

    /// The inverse.
    fn to_official(tensors: TensorMap) -> TensorMap {
        tensors
    }

    /// One step's loss. `self` lives on an autodiff device, `momentum` (`None` without distillation) and `device`
    /// below it. `alpha`: share of the momentum model in the targets, `[0, 1]`.
    fn loss(
        &self,
        momentum: Option<&Self>,
        batch: &PairBatch,
        step: &Step<'_>,
        rng: &mut ChaCha8Rng,
    ) -> TaskLoss;

    /// Scores of a model on the plain device on a validation source.
    ///
    /// # Errors
    /// When a record cannot be used.
    fn evaluate(model: &Self, validation: &Validation<'_>) -> Result<Scores, TrainError>;
}

/// What a step is taken with.
#[derive(Debug)]
pub struct Step<'a> {
    /// The run's recipe.
    pub recipe: &'a Recipe,
    /// The run's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The plain device.
    pub device: &'a Device,
    /// Share of the momentum model in the targets, `[0, 1]`.
    pub alpha: f64,
    /// Draws of dropout.
    pub dropout: DropoutSeed,
}

/// A loss to differentiate.
#[derive(Debug)]
pub struct TaskLoss {
    /// `[1]`.
    pub loss: Tensor<1>,
    /// Share of the batch that is right, `[0, 1]`, where the loss comes from choices.
    pub accuracy: Option<f64>,
}

/// Everything that a fine-tuning run changes, except the optimizer's state.
#[derive(Debug)]
pub struct Finetune<M> {
    model: Option<M>,
    /// Absent without distillation.
    momentum: Option<M>,
    recipe: Recipe,
    tokenizer: Tokenizer,
    device: Device,
}

impl<M: TaskModel> Finetune<M> {
    fn distills(recipe: &Recipe) -> bool {
        let task = recipe.task.as_ref();
        let distill = task.is_some_and(|t| t.distill && t.kind != TaskKind::TextAssignment);
        distill && recipe.objectives.alpha > 0.0
    }
}

impl<M: TaskModel> Pretrain for Finetune<M> {
    type Model = M;

    fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let tensors = tensors.map(|tensors| M::from_official(tensors.clone()));
        let empty = M::empty(recipe, &device.clone().autodiff());
        let drawn = weights::initialize(empty, recipe.model.init_std, recipe.seed ^ SALT);
        let model = match &tensors {
            Some(tensors) => weights::load(drawn, tensors, M::parameter_name, is_model)?,
            None => drawn,
        };
        let momentum = if Self::distills(recipe) {
            let empty = M::empty(recipe, device);
            let stored = tensors.filter(|t| t.keys().any(|name| weights::is_momentum(name)));
            Some(match stored {
                Some(tensors) => {
                    weights::load(empty, &tensors, M::momentum_name, weights::is_momentum)?
                }
                None => momentum::update(empty, &model, 0.0),
            })
        } else {
            None
        };
        Ok(Self {
            model: Some(model),
            momentum,
            recipe: recipe.clone(),
            tokenizer: tokenizer.clone(),
            device: device.clone(),
        })
    }

    fn initial(
        recipe: &Recipe,
        tensors: TensorMap,
        device: &Device,
    ) -> Result<(TensorMap, Option<InitialReport>), WeightsError> {
        let empty = M::empty(recipe, device);
        let drawn = weights::initialize(empty, recipe.model.init_std, recipe.seed ^ SALT);
        let mut all = weights::export(&drawn, M::parameter_name);
        let has_momentum = tensors.keys().any(|name| weights::is_momentum(name));
        if M::MOMENTUM_FROM_PRETRAINED && Self::distills(recipe) && has_momentum {
            all.extend(weights::export(&drawn, M::momentum_name));
        }
        let (tensors, report) = M::start(recipe, all, tensors)?;
        Ok((M::to_official(tensors), Some(report)))
    }

    fn model(&self) -> &M {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(M) -> M) {
        self.model = self.model.take().map(change);
    }

    fn parameter_name(path: &str) -> String {
        M::parameter_name(path)
    }

    fn parameter_group(name: &str, shape: &[usize]) -> ParameterGroup {
        M::parameter_group(name, shape)
    }

    fn begin_step(&mut self, _step: u64) {
        // Taken out, so that it moves in its own memory.
        let teacher = self.momentum.take();
        let m = self.recipe.objectives.momentum;
        self.momentum = teacher.map(|teacher| momentum::update(teacher, self.model(), m));
    }

    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, alpha: f64) -> StepLosses {
        let mut rng = ChaCha8Rng::seed_from_u64(draw_seed);
        let step = Step {
            recipe: &self.recipe,
            tokenizer: &self.tokenizer,
            device: &self.device,
            alpha,
            dropout: DropoutSeed::new(rng.random()),
        };
        let TaskLoss { loss, accuracy } =
            self.model()
                .loss(self.momentum.as_ref(), batch, &step, &mut rng);
        StepLosses {
            numbers: StepNumbers {
                total: scalar(&loss),
                accuracy,
                temp: 1.0,
                ..StepNumbers::default()
            },
            total: Some(loss),
        }
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        M::evaluate(&self.model().valid(), validation)
    }

    fn export(&self) -> TensorMap {
        let mut tensors = weights::export(self.model(), M::parameter_name);
        if let Some(momentum) = &self.momentum {
            tensors.extend(weights::export(momentum, M::momentum_name));
        }
        M::to_official(tensors)
    }
}

/// Share of `[n, classes]` whose greatest logit is the right one.
pub(crate) fn accuracy(logits: Tensor<2>, classes: &[i64]) -> f64 {
    let predicted = host_integers(logits.inner().argmax(1));
    let right = predicted.iter().zip(classes).filter(|(a, b)| a == b);
    right.count() as f64 / classes.len() as f64
}

/// Answers the validation questions.
///
/// # Errors
/// When a record cannot be used, or has no public answers.
fn evaluate_answers(
    model: &dyn Answering,
    validation: &Validation<'_>,
) -> Result<Scores, TrainError> {
    let recipe = validation.recipe;
    let task = recipe.task.as_ref().expect("a recipe of this task");
    let preparation = Preparation::new(recipe, validation.tokenizer, validation.device);
    let list = AnswerList::new(
        &task.answers,
        validation.tokenizer,
        recipe.model.sizes().max_tokens(),
        validation.device,
    );
    let decoding = Decoding::Ranked {
        k: task.k,
        first_token: task.first_token.into(),
    };
    let result = vqa::evaluate(
        vqa::Asked {
            model,
            list: &list,
            decoding: &decoding,
        },
        validation.source,
        validation.count(),
        &preparation,
        recipe.data.workers,
        &mut |_| {},
    )?;
    result
        .scores
        .map(Scores::Answers)
        .ok_or_else(|| TrainError::Unscored(validation.source.describe()))
}

/// Classifies the validation records.
///
/// # Errors
/// When a record cannot be used.
fn evaluate_classes(
    model: &dyn Classifying,
    task: TaskKind,
    validation: &Validation<'_>,
) -> Result<Scores, TrainError> {
    let recipe = validation.recipe;
    let preparation = Preparation::new(recipe, validation.tokenizer, validation.device);
    let result = classes::evaluate(
        model,
        task,
        validation.source,
        validation.count(),
        &preparation,
        recipe.data.workers,
        &mut |_| {},
    )?;
    Ok(Scores::Classes(result.scores))
}
