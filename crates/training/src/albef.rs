//! ALBEF's pre-training step: momentum update, losses, queue.

use burn::tensor::{Device, Tensor, TensorData};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::albef::{
    Albef, AlbefEncoders, ItcMemory, NegativeDraw, PretrainBatch, PretrainObjectives,
    PretrainOutput,
};
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::objectives::itc::{ItcKeys, PairId, id_targets, identity_targets};
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, HostTensor, TensorMap, WeightsError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Progress;
use crate::momentum;
use crate::parameter_groups::{ParameterGroup, albef_group};
use crate::queue::ItcQueue;
use crate::recipe::{ItcTargets, ObjectivesRecipe, Recipe};
use crate::trainer::{
    PairTensors, Pretrain, Scores, StepLosses, StepNumbers, TrainError, Validation, WordMasking,
    batch_r1, bounded, fitted_positions, itm_accuracy, pair_ids, scalar, started,
};

/// Position embeddings whose size is the image's: the encoder's and its momentum copy's.
const POSITIONS: [&str; 2] = ["visual_encoder.pos_embed", "visual_encoder_m.pos_embed"];

/// Everything that an ALBEF pre-training run changes, except the optimizer's state.
#[derive(Debug)]
pub struct AlbefPretrain {
    model: Option<Albef>,
    momentum: Option<AlbefEncoders>,
    queue: ItcQueue,
    objectives: ObjectivesRecipe,
    masking: WordMasking,
    /// Whether this step trains matching and masked words.
    fusing: bool,
    /// Whether this step contrasts with the queue.
    queueing: bool,
    device: Device,
}

impl AlbefPretrain {
    /// The momentum model.
    pub fn momentum(&self) -> &AlbefEncoders {
        self.momentum.as_ref().expect("absent only while it moves")
    }

    /// The queue.
    pub fn queue(&self) -> &ItcQueue {
        &self.queue
    }

    /// Losses with every draw given, and the keys to enqueue: what [`Pretrain::losses`] does after
    /// drawing.
    pub fn losses_with(
        &self,
        batch: &PretrainBatch,
        negatives: NegativeDraw,
        ids: &[PairId],
        alpha: f64,
        dropout: Option<DropoutSeed>,
    ) -> PretrainOutput {
        let o = &self.objectives;
        let none = ItcQueue::new(self.queue.image.dims()[0], 0, 0, &self.device);
        let queue = if self.queueing { &self.queue } else { &none };
        let itc = o.itc.then(|| ItcMemory {
            image_queue: queue.image.clone(),
            text_queue: queue.text.clone(),
            hard_targets: match o.itc_targets {
                ItcTargets::Pair => identity_targets(ids.len(), ids.len() + queue.size()),
                ItcTargets::ImageId | ItcTargets::ImageOrCaption => id_targets(ids, &queue.ids),
            },
        });
        let objectives = PretrainObjectives {
            itc,
            itm: (o.itm && self.fusing).then_some(negatives),
            mlm: o.mlm && self.fusing,
            alpha_itc: if o.distill_itc { alpha } else { 0.0 },
            alpha_mlm: if o.distill_mlm { alpha } else { 0.0 },
        };
        self.model()
            .pretrain(self.momentum(), batch, &objectives, dropout)
    }

    /// Puts a batch's momentum embeddings into the queue.
    pub fn enqueue(&mut self, keys: ItcKeys, ids: &[PairId]) {
        self.queue.enqueue(keys.image, keys.text, ids);
    }
}

impl Pretrain for AlbefPretrain {
    type Model = Albef;

    fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let config = recipe.model.albef();
        let mut empty_model = config.init(&device.clone().autodiff());
        empty_model
            .encoders
            .set_block_compute(recipe.run.block_compute());
        let model = started(
            empty_model,
            recipe,
            0xA1BE_F000,
            tensors,
            weights::albef_name,
        )?;
        let empty = config.init_encoders(device);
        let teacher = match tensors {
            Some(tensors) if tensors.keys().any(|name| weights::is_momentum(name)) => {
                weights::load(
                    empty,
                    tensors,
                    weights::albef_momentum_name,
                    weights::is_momentum,
                )?
            }
            _ => momentum::update(empty, &model.encoders, 0.0),
        };
        let mut queue = ItcQueue::new(
            config.embed_dim,
            recipe.objectives.queue_size,
            recipe.seed ^ 0x00E0_E000,
            device,
        );
        if let Some(tensors) = tensors {
            let side = |name: &str| tensors.get(name).map(|t| to_tensor(t, device));
            // Initial weights may come from a run with another queue: then it fills anew.
            if let (Some(image), Some(text)) = (side("image_queue"), side("text_queue"))
                && image.dims() == queue.image.dims()
                && text.dims() == queue.text.dims()
            {
                (queue.image, queue.text) = (image, text);
            }
        }
        Ok(Self {
            model: Some(model),
            momentum: Some(teacher),
            queue,
            objectives: recipe.objectives.clone(),
            masking: WordMasking::of_tokens(
                recipe.data.mask_probability,
                config.text.vocab_size,
                tokenizer,
            ),
            fusing: true,
            queueing: true,
            device: device.clone(),
        })
    }

    /// From a model of another image size, too: its positions are resized.
    fn initial(
        recipe: &Recipe,
        tensors: TensorMap,
        _device: &Device,
    ) -> Result<(TensorMap, Option<InitialReport>), WeightsError> {
        let vision = &recipe.model.albef().vision;
        let grid = vision.image_size / vision.patch_size;
        fitted_positions(tensors, &POSITIONS, grid)
    }

    fn model(&self) -> &Albef {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(Albef) -> Albef) {
        self.model = self.model.take().map(change);
    }

    fn parameter_name(path: &str) -> String {
        weights::albef_name(path)
    }

    fn parameter_group(name: &str, shape: &[usize]) -> ParameterGroup {
        albef_group(name, shape)
    }

    /// The original does both inside `forward`: the temperature is clamped, then the momentum
    /// model moves.
    fn begin_step(&mut self, step: u64) {
        self.fusing = step >= self.objectives.fusion_start;
        self.queueing = step >= self.objectives.queue_start;
        let [least, greatest] = self.objectives.temp_range;
        self.map_model(|mut model| {
            model.temp = bounded(model.temp, least, greatest);
            model
        });
        // Taken out, so that it moves in its own memory.
        let teacher = self.momentum.take();
        self.momentum = teacher.map(|teacher| {
            momentum::update(teacher, &self.model().encoders, self.objectives.momentum)
        });
    }

    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, alpha: f64) -> StepLosses {
        let mut rng = ChaCha8Rng::seed_from_u64(draw_seed);
        let (masked_input_ids, masked) = self.masking.draw(batch, &mut rng, &self.device);
        let ids = pair_ids(self.objectives.itc_targets, batch);
        let mut uniform = || (0..batch.size).map(|_| rng.random()).collect();
        let negatives = NegativeDraw::Choose {
            how: self.objectives.hard_negatives,
            image: uniform(),
            text: uniform(),
            ids: match self.objectives.itc_targets {
                ItcTargets::Pair => Vec::new(),
                ItcTargets::ImageId | ItcTargets::ImageOrCaption => ids.clone(),
            },
        };
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, &self.device);
        let input = PretrainBatch {
            image,
            input_ids,
            attention_mask,
            masked_input_ids,
            masked,
        };
        let dropout = DropoutSeed::new(rng.random());
        let output = self.losses_with(&input, negatives, &ids, alpha, Some(dropout));
        if let Some(keys) = output.keys.clone() {
            self.enqueue(keys, &ids);
        }
        summarise(output, &self.objectives, self.model())
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        validation.retrieval(self.model())
    }

    fn export(&self) -> TensorMap {
        let mut tensors = weights::export(self.model(), weights::albef_name);
        tensors.extend(weights::export(
            self.momentum(),
            weights::albef_momentum_name,
        ));
        if self.queue.size() > 0 {
            tensors.insert("image_queue".to_owned(), to_host(&self.queue.image));
            tensors.insert("text_queue".to_owned(), to_host(&self.queue.text));
        }
        tensors
    }

    fn save_progress(&self, progress: &mut Progress) {
        progress.queue_pointer = self.queue.pointer;
        progress.queue_ids = self.queue.ids.clone();
    }

    fn load_progress(&mut self, progress: &Progress) {
        self.queue.pointer = progress.queue_pointer;
        self.queue.ids = progress.queue_ids.clone();
    }
}

/// Names of the model's own tensors in a checkpoint.
pub fn is_model(name: &str) -> bool {
    !weights::is_momentum(name) && !name.starts_with("optimizer.") && !name.ends_with("_queue")
}

fn to_tensor(tensor: &HostTensor, device: &Device) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(tensor.values.clone(), tensor.shape.clone()),
        device,
    )
}

fn to_host(tensor: &Tensor<2>) -> HostTensor {
    HostTensor {
        shape: tensor.dims().to_vec(),
        values: weights::host_values(tensor.clone()),
    }
}

/// Weighted sum of the losses, and the numbers that are shown.
fn summarise(output: PretrainOutput, objectives: &ObjectivesRecipe, model: &Albef) -> StepLosses {
    let mut numbers = StepNumbers::default();
    let mut parts: Vec<Tensor<1>> = Vec::new();
    let mut add = |loss: Tensor<1>, weight: f64| {
        let value = scalar(&loss);
        parts.push(loss.mul_scalar(weight));
        Some(value)
    };
    if let Some(itc) = output.itc {
        numbers.batch_r1 = Some(batch_r1(itc.sim_i2t.inner()));
        numbers.itc = add(itc.loss, objectives.weights.itc);
    }
    if let Some(itm) = output.itm {
        numbers.itm_accuracy = Some(itm_accuracy(itm.logits.clone().inner(), None));
        numbers.itm = add(itm.loss, objectives.weights.itm);
    }
    if let Some(mlm) = output.mlm {
        numbers.mlm = add(mlm, objectives.weights.mlm);
    }
    numbers.temp = scalar(&model.temp.val());
    let total = parts.into_iter().reduce(|a, b| a + b);
    numbers.total = total.as_ref().map_or(0.0, scalar);
    StepLosses { total, numbers }
}
