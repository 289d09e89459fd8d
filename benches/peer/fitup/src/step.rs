//! ALBEF's pre-training step: momentum update, losses, backward, optimizer, queue.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use fitup_data::loader::{PairBatch, Position};
use fitup_data::text::Tokenizer;
use fitup_data::text::tokenizer::SPECIAL_TOKENS;
use fitup_kernels::on_workers;
use fitup_models::albef::{NegativeDraw, PretrainBatch};
use fitup_models::objectives::itc::PairId;
use fitup_models::objectives::itm::Negatives;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::weights;
use fitup_training::albef::AlbefPretrain;
use fitup_training::optimizer::AdamW;
use fitup_training::recipe::Recipe;
use fitup_training::trainer::{PairTensors, Pretrain, scalar};
use serde::Deserialize;

use crate::Work;
use crate::tensors::{Inputs, Outputs, integer_tensor};

/// What the driver chooses.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// The recipe of the sizes, the objectives and the optimizer.
    pub recipe: PathBuf,
    /// Changes to it, `key=value`.
    pub set: Vec<String>,
    /// Share of the momentum model in the targets.
    alpha: f64,
    /// Batches in the file; the runs go round them.
    batches: usize,
    /// Whether masks and negatives are those of the file, so that both sides' losses are the same
    /// numbers. Otherwise each side draws its own, as in training.
    given_draws: bool,
}

/// A batch, with the draws that the file gives for it.
struct Batch {
    pairs: PairBatch,
    masked_input_ids: Vec<i64>,
    labels: Vec<i64>,
    negatives: Negatives,
}

/// A run that has begun.
pub struct AlbefStep {
    settings: Settings,
    recipe: Recipe,
    device: Device,
    system: AlbefPretrain,
    optimizer: AdamW,
    batches: Vec<Batch>,
    steps: u64,
    /// Losses of the last step: contrastive, matching, masked words.
    losses: [f64; 3],
}

impl AlbefStep {
    /// Reads `weights.safetensors` and `batches.safetensors`.
    pub fn new(settings: Settings, folder: &Path) -> anyhow::Result<Self> {
        let recipe = Recipe::load(&settings.recipe, &settings.set)?;
        let device = Device::flex();
        // The batches hold ids, in a vocabulary that begins as every vocabulary of ours.
        let tokenizer = Tokenizer::from_vocabulary(SPECIAL_TOKENS.map(str::to_owned).to_vec())?;
        let (tensors, _) = weights::read(&folder.join("weights.safetensors"))?;
        let system = AlbefPretrain::new(&recipe, &tokenizer, Some(&tensors), &device)?;
        drop(tensors);
        let mut inputs = Inputs::read(&folder.join("batches.safetensors"))?;
        let batches = (0..settings.batches).map(|i| batch(&mut inputs, i));
        let mut optimizer = AdamW::new(recipe.optimizer.clone(), AlbefPretrain::parameter_name)
            .with_groups(AlbefPretrain::parameter_group);
        optimizer.reserve(system.model());
        Ok(Self {
            batches: batches.collect::<anyhow::Result<_>>()?,
            optimizer,
            settings,
            recipe,
            device,
            system,
            steps: 0,
            losses: [0.0; 3],
        })
    }

    /// The weighted sum of the losses on draws of this side's own, as the trainer computes it.
    fn losses(&mut self, batch: &PairBatch) -> anyhow::Result<Tensor<1>> {
        let draw_seed = self.recipe.seed.wrapping_add(self.steps);
        let losses = self.system.losses(batch, draw_seed, self.settings.alpha);
        let numbers = losses.numbers;
        let number = |loss: Option<f64>| loss.unwrap_or(f64::NAN);
        self.losses = [numbers.itc, numbers.itm, numbers.mlm].map(number);
        losses.total.context("the batch has no loss")
    }

    /// The same on the draws of the file.
    fn losses_given(&mut self, batch: &Batch) -> anyhow::Result<Tensor<1>> {
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(&batch.pairs, &self.device);
        let shape = [batch.pairs.size, batch.pairs.length];
        let input = PretrainBatch {
            image,
            input_ids,
            attention_mask,
            masked_input_ids: integer_tensor(&batch.masked_input_ids, shape, &self.device),
            masked: MaskedPositions::from_labels(&batch.labels),
        };
        let ids: Vec<PairId> = batch.pairs.image_ids.iter().map(|id| pair(*id)).collect();
        let negatives = NegativeDraw::Given(batch.negatives.clone());
        let output = self
            .system
            .losses_with(&input, negatives, &ids, self.settings.alpha, None);
        self.system
            .enqueue(output.keys.context("no keys for the queue")?, &ids);
        let parts = [
            output.itc.context("no contrastive loss")?.loss,
            output.itm.context("no matching loss")?.loss,
            output.mlm.context("no masked-word loss")?,
        ];
        self.losses = [0, 1, 2].map(|i: usize| scalar(&parts[i]));
        let [itc, itm, mlm] = parts;
        Ok(itc + itm + mlm)
    }

    /// As the trainer's own step ([`fitup_training::trainer`]), which is private to its loop.
    fn step(&mut self) -> anyhow::Result<()> {
        let at = self.steps as usize % self.batches.len();
        let batches = std::mem::take(&mut self.batches);
        self.system.begin_step(self.steps);
        let total = match self.settings.given_draws {
            true => self.losses_given(&batches[at]),
            false => self.losses(&batches[at].pairs),
        };
        self.batches = batches;
        let mut accumulator = GradientsAccumulator::new();
        let gradients = GradientsParams::from_grads(total?.backward(), self.system.model());
        accumulator.accumulate(self.system.model(), gradients);
        let gradients = accumulator.grads();
        let (optimizer, lr) = (&mut self.optimizer, self.recipe.schedule.lr);
        self.system
            .map_model(|model| optimizer.step(model, gradients, lr));
        self.steps += 1;
        Ok(())
    }
}

impl Work for AlbefStep {
    fn run(&mut self) -> anyhow::Result<()> {
        on_workers(|| self.step())
    }

    /// The losses of the last step, the temperature after it, and the size of the model, which shows that both sides train
    /// the same.
    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        let temp = scalar(&self.system.model().temp.val());
        outputs.floats("losses", &[3], &self.losses.map(|loss| loss as f32));
        outputs.floats("temp", &[1], &[temp as f32]);
        let parameters = self.system.model().num_params() as i64;
        outputs.integers("parameters", &[1], &[parameters]);
        let queue = self.system.queue().image.clone();
        let newest = self.system.queue().pointer.max(1);
        outputs.tensor("queue", queue.narrow(1, newest - 1, 1));
        outputs
    }
}

fn pair(image: u64) -> PairId {
    PairId {
        image,
        caption: None,
    }
}

fn batch(inputs: &mut Inputs, number: usize) -> anyhow::Result<Batch> {
    let name = |part: &str| format!("{number}.{part}");
    let (shape, images) = inputs.floats(&name("image"))?;
    let (text_shape, input_ids) = inputs.integers(&name("input_ids"))?;
    let (size, length) = (text_shape[0], text_shape[1]);
    let mut index = |part: &str| -> anyhow::Result<Vec<usize>> {
        let (_, values) = inputs.integers(&name(part))?;
        Ok(values.into_iter().map(|i| i as usize).collect())
    };
    let negatives = Negatives {
        image_idx: index("negative_images")?,
        text_idx: index("negative_texts")?,
    };
    Ok(Batch {
        pairs: PairBatch {
            second_images: Vec::new(),
            classes: Vec::new(),
            answers: Vec::new(),
            epoch: 0,
            batch: number as u64,
            size,
            images,
            image_size: shape[2] as u32,
            input_ids,
            attention_mask: inputs.integers(&name("attention_mask"))?.1,
            length,
            keys: vec![String::new(); size],
            captions: vec![String::new(); size],
            image_ids: (0..size).map(|i| (number * size + i) as u64).collect(),
            next: Position::default(),
        },
        masked_input_ids: inputs.integers(&name("masked_input_ids"))?.1,
        labels: inputs.integers(&name("labels"))?.1,
        negatives,
    })
}
