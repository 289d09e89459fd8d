//! The training loop, read top to bottom. It knows nothing of models: a system is a [`Pretrain`].

mod batch;
mod encoders;
mod error;
mod prediction;
mod start;
mod system;
mod validation;

pub use batch::{PairTensors, WordMasking, batch_r1, image_tensor, itm_accuracy, pair_ids, scalar};
pub use error::TrainError;
pub use prediction::{Predictions, masked_loss, masked_patches};
pub use start::fitted_positions;
pub use system::{Pretrain, StepLosses, StepNumbers, bounded, started};
pub use validation::{Scores, Validation};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, FloatDType};
use fitup_data::loader::{Loader, Part, Position, SkipReport};
use fitup_data::sources::{self, Source};
use fitup_data::text::Tokenizer;
use fitup_kernels::on_workers;
use fitup_models::albef::entailment::AlbefEntailment;
use fitup_models::albef::nlvr2::AlbefNlvr2;
use fitup_models::albef::text_assignment::AlbefTextAssignment;
use fitup_models::albef::vqa::AlbefVqa;
use fitup_models::clip::downstream::ClipClassifier;
use fitup_models::vilt::downstream::{ViltNlvr2, ViltVqa};
use fitup_models::vlmo::downstream::{VlmoNlvr2, VlmoVqa};
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, Precision};

use crate::albef::AlbefPretrain;
use crate::checkpoint::{self, Checkpoint, Progress};
use crate::clip::ClipPretrain;
use crate::finetune::Finetune;
use crate::image_tokenizer::ImageTokenizerPretrain;
use crate::metrics::{Event, MetricsLog};
use crate::optimizer::{AdamW, gradient_norm, scale_gradients};
use crate::recipe::{Recipe, Stage, SystemKind, TaskKind};
use crate::schedule::Schedule;
use crate::vilt::ViltPretrain;
use crate::vlmo::VlmoPretrain;
use crate::vlmo::image_stage::VlmoImagePretrain;
use crate::vlmo::text_stage::VlmoTextPretrain;
use start::InitialWeights;

/// What the loop tells whoever shows it.
pub trait Observer {
    /// Before all else: what the training data leave out, a line each.
    fn warning(&mut self, _text: &str) {}
    /// At the start of a new run, for each published encoder that a part of the model starts from:
    /// what became of its tensors.
    fn encoder(&mut self, _file: &Path, _report: &InitialReport) {}
    /// Before the first step: steps already taken and in all, pairs per step, a line on the data.
    fn begin(&mut self, _start: u64, _total: u64, _pairs_per_step: u64, _data: &str) {}
    /// Before that, when the run starts from other weights or leaves some frozen: what became of
    /// each tensor.
    fn start(&mut self, _event: &Event) {}
    /// After every step.
    fn step(&mut self, _event: &Event) {}
    /// After an evaluation.
    fn evaluation(&mut self, _event: &Event) {}
    /// After a checkpoint was written.
    fn checkpoint(&mut self, _path: &Path) {}
    /// At the end: what was skipped in this process.
    fn end(&mut self, _skipped: &SkipReport) {}
}

/// Shows nothing.
impl Observer for () {}

/// Settings of a run that are not part of the recipe.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Folder of the run: `recipe.toml`, `metrics.jsonl`, `checkpoints/`, `model.safetensors`,
    /// `report.html`.
    pub folder: PathBuf,
    /// Go on from the newest checkpoint there.
    pub resume: bool,
    /// Compute device, not autodiff.
    pub device: Device,
    /// Set from outside (Ctrl-C): the loop saves a checkpoint and returns.
    pub stop: Arc<AtomicBool>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken.
    Finished,
    /// It was asked to stop; the newest checkpoint is where it stands.
    Stopped,
}

/// Trains as the recipe says.
///
/// # Errors
/// [`TrainError`]. What was reached until the last checkpoint is kept.
pub fn pretrain(
    recipe: &Recipe,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    if let Some(kind) = recipe.task_kind() {
        let train: Option<Train> = match (recipe.model.system, kind) {
            (SystemKind::Albef, TaskKind::Vqa) => Some(train::<Finetune<AlbefVqa>>),
            (SystemKind::Albef, TaskKind::Nlvr2) => Some(train::<Finetune<AlbefNlvr2>>),
            (SystemKind::Albef, TaskKind::Entailment) => Some(train::<Finetune<AlbefEntailment>>),
            (SystemKind::Albef, TaskKind::TextAssignment) => {
                Some(train::<Finetune<AlbefTextAssignment>>)
            }
            (SystemKind::Vilt, TaskKind::Nlvr2) => Some(train::<Finetune<ViltNlvr2>>),
            (SystemKind::Vilt, _) => Some(train::<Finetune<ViltVqa>>),
            (SystemKind::Vlmo, TaskKind::Nlvr2) => Some(train::<Finetune<VlmoNlvr2>>),
            (SystemKind::Vlmo, TaskKind::Vqa | TaskKind::Entailment) => {
                Some(train::<Finetune<VlmoVqa>>)
            }
            (SystemKind::Clip, TaskKind::Vqa | TaskKind::Nlvr2 | TaskKind::Entailment) => {
                Some(train::<Finetune<ClipClassifier>>)
            }
            // Retrieval is trained as pre-training is.
            _ => None,
        };
        if let Some(train) = train {
            return train(recipe, options, observer);
        }
    }
    match recipe.model.system {
        SystemKind::Albef => train::<AlbefPretrain>(recipe, options, observer),
        SystemKind::Clip => train::<ClipPretrain>(recipe, options, observer),
        SystemKind::Vilt => train::<ViltPretrain>(recipe, options, observer),
        SystemKind::Vlmo => match recipe.model.stage {
            Stage::Image => train::<VlmoImagePretrain>(recipe, options, observer),
            Stage::Text => train::<VlmoTextPretrain>(recipe, options, observer),
            Stage::Pairs => train::<VlmoPretrain>(recipe, options, observer),
        },
        SystemKind::ImageTokenizer => train::<ImageTokenizerPretrain>(recipe, options, observer),
    }
}

/// A run of one system or task.
type Train = fn(&Recipe, &RunOptions, &mut dyn Observer) -> Result<Outcome, TrainError>;

fn train<S: Pretrain>(
    recipe: &Recipe,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    if recipe.run.bf16 && !options.device.supports_dtype(FloatDType::BF16) {
        let device = format!("{:?}", options.device);
        return Err(TrainError::NoBf16 { device });
    }
    let checkpoints = options.folder.join("checkpoints");
    let newest = checkpoint::list(&checkpoints)?.pop();
    let start = match (&newest, options.resume) {
        (Some((_, path)), true) => Some(Checkpoint::read(path)?),
        (Some((step, _)), false) => {
            let reason = format!(
                "holds a run at step {step}; continue it with --resume, or choose another folder with --out"
            );
            return Err(TrainError::Folder {
                path: options.folder.clone(),
                reason,
            });
        }
        (None, _) => None,
    };
    std::fs::create_dir_all(&checkpoints).map_err(|e| TrainError::Folder {
        path: checkpoints.clone(),
        reason: e.to_string(),
    })?;
    if let Some(checkpoint) = &start
        && let Some(reason) = difference(&checkpoint.recipe, recipe)
    {
        return Err(TrainError::Folder {
            path: options.folder.clone(),
            reason,
        });
    }

    let source: Arc<dyn Source> = Arc::from(sources::open(&recipe.data.train)?);
    for warning in source.warnings() {
        observer.warning(warning);
    }
    let initial = match (&start, &recipe.model.init_weights) {
        (None, Some(path)) => Some(InitialWeights::read(path)?),
        _ => None,
    };
    let vocabulary = match (&start, &initial) {
        (Some(checkpoint), _) => checkpoint.vocabulary.clone(),
        (None, initial) => {
            let theirs = initial.as_ref().and_then(|i| i.vocabulary.as_deref());
            start::vocabulary(recipe, source.as_ref(), theirs)?
        }
    };
    let tokenizer = Arc::new(Tokenizer::from_vocabulary(vocabulary)?);
    let expected = recipe.model.sizes().vocab_size();
    if recipe.part() != Part::Images && tokenizer.vocab_size() > expected {
        return Err(TrainError::VocabularySize {
            expected,
            got: tokenizer.vocab_size(),
        });
    }
    let (mut system, started): (S, _) = start::system(
        recipe,
        &tokenizer,
        start.as_ref(),
        initial,
        &options.device,
        observer,
    )?;
    let progress = start.as_ref().and_then(|c| c.progress.clone());
    let progress = progress.unwrap_or_default();
    if start.is_some() {
        system.load_progress(&progress);
    }
    let mut optimizer =
        AdamW::new(recipe.optimizer.clone(), S::parameter_name).with_groups(S::parameter_group);
    if let Some(checkpoint) = &start {
        optimizer.import(&checkpoint.tensors, progress.step, &options.device);
    }
    optimizer.reserve(system.model());
    drop(start);

    let mut run = Run {
        recipe,
        options,
        loader: Loader::new(
            source.clone(),
            Arc::new(recipe.train_transform()),
            tokenizer.clone(),
            recipe.loader(),
            progress.position,
        )?,
        tokenizer,
        log: MetricsLog::open(&options.folder.join("metrics.jsonl"), progress.step)?,
        checkpoints,
        step: progress.step,
        position: progress.position,
        seconds: 0.0,
    };
    let resolved = options.folder.join("recipe.toml");
    weights::write_whole(&resolved, recipe.to_toml().as_bytes()).map_err(|e| {
        TrainError::Folder {
            path: resolved.clone(),
            reason: e.to_string(),
        }
    })?;
    run.seconds = run.seconds_before()?;
    if let Some(event) = started {
        observer.start(&event);
        run.log.write(&event)?;
    }
    run.train(&mut system, &mut optimizer, &source.describe(), observer)
}

/// Why a run cannot be continued under another recipe; steps, evaluation and loader threads may
/// change.
fn difference(before: &Recipe, now: &Recipe) -> Option<String> {
    let essential = |recipe: &Recipe| {
        let mut recipe = recipe.clone();
        recipe.run = Default::default();
        recipe.data.workers = 0;
        recipe.data.prefetch = 0;
        recipe.data.validation = None;
        recipe.model.init_weights = None;
        recipe.model.init_image = None;
        recipe.model.init_text = None;
        recipe.model.image_tokenizer_weights = None;
        recipe.to_toml()
    };
    let (before, now) = (essential(before), essential(now));
    let changed = before.lines().zip(now.lines()).find(|(a, b)| a != b);
    match changed {
        Some((a, b)) => Some(format!(
            "the run was started with `{a}`, the recipe now says `{b}`; resume with the same recipe, or choose another folder with --out"
        )),
        None if before != now => Some(
            "the recipe has other fields than the run was started with; resume with the same recipe, or choose another folder with --out".into(),
        ),
        None => None,
    }
}

/// A run on its way.
struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a RunOptions,
    loader: Loader,
    tokenizer: Arc<Tokenizer>,
    log: MetricsLog,
    checkpoints: PathBuf,
    step: u64,
    position: Position,
    /// Seconds of training so far.
    seconds: f64,
}

impl Run<'_> {
    fn train<S: Pretrain>(
        &mut self,
        system: &mut S,
        optimizer: &mut AdamW,
        data: &str,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let recipe = self.recipe;
        let run = &recipe.run;
        let accumulate = recipe.optimizer.accumulate;
        let steps_per_epoch = (self.loader.batches_per_epoch() / accumulate).max(1);
        let total = run
            .steps
            .unwrap_or(recipe.schedule.epochs * steps_per_epoch);
        let schedule = Schedule::new(recipe.schedule.clone(), steps_per_epoch, total);
        let pairs_per_step = recipe.data.batch_size as u64 * accumulate;
        observer.begin(self.step, total, pairs_per_step, data);

        let mut since_log = (Instant::now(), 0u64);
        while self.step < total {
            if self.options.stop.load(Ordering::Relaxed) {
                self.save(system, optimizer, observer)?;
                observer.end(&self.loader.report());
                return Ok(Outcome::Stopped);
            }
            let started = Instant::now();
            let lr = schedule.lr(self.step);
            let objectives = &recipe.objectives;
            let ramp = objectives.alpha_ramp_epochs;
            let alpha = schedule.alpha(objectives.alpha, ramp, self.step);
            let (numbers, gradient_norm) = on_workers(|| self.step(system, optimizer, lr, alpha))?;
            self.step += 1;
            self.seconds += started.elapsed().as_secs_f64();
            since_log.1 += pairs_per_step;

            let event = Event::Step {
                step: self.step,
                epoch: (self.step - 1) / steps_per_epoch,
                numbers,
                lr,
                alpha,
                gradient_norm,
                pairs_per_second: since_log.1 as f64 / since_log.0.elapsed().as_secs_f64(),
                seconds: self.seconds,
            };
            observer.step(&event);
            if self.step.is_multiple_of(run.log_every.max(1)) || self.step == total {
                self.log.write(&event)?;
                since_log = (Instant::now(), 0);
            }
            let step = self.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            if due(run.evaluate_every) || (run.evaluate_every > 0 && self.step == total) {
                self.evaluate(system, observer)?;
                since_log = (Instant::now(), 0);
            }
            if due(run.checkpoint_every) || self.step == total {
                self.save(system, optimizer, observer)?;
            }
        }
        let report = self.loader.report();
        if report.skipped > 0 {
            self.log.write(&Event::Skipped {
                step: self.step,
                skipped: report.skipped,
                seen: report.seen,
                report: report.to_string(),
            })?;
        }
        observer.end(&report);
        Ok(Outcome::Finished)
    }

    /// One optimizer step over `accumulate` micro-batches.
    fn step<S: Pretrain>(
        &mut self,
        system: &mut S,
        optimizer: &mut AdamW,
        lr: f64,
        alpha: f64,
    ) -> Result<(StepNumbers, Option<f64>), TrainError> {
        let config = &self.recipe.optimizer;
        let mut accumulator = GradientsAccumulator::new();
        let mut numbers = Vec::new();
        system.begin_step(self.step);
        for micro in 0..config.accumulate {
            let batch = self.loader.next_batch()?;
            self.position = batch.next;
            let draw_seed = draw_seed(self.recipe.seed, self.step, micro);
            let losses = system.losses(&batch, draw_seed, alpha);
            if !losses.numbers.total.is_finite() {
                return Err(TrainError::NotFinite {
                    step: self.step,
                    loss: losses.numbers.total,
                });
            }
            numbers.push(losses.numbers);
            let Some(total) = losses.total else { continue };
            let gradients = total.div_scalar(config.accumulate as f64).backward();
            let gradients = GradientsParams::from_grads(gradients, system.model());
            accumulator.accumulate(system.model(), gradients);
        }
        let mut gradients = accumulator.grads();
        let norm = config.clip_norm.map(|most| {
            let norm = gradient_norm(system.model(), &gradients);
            if norm > most {
                scale_gradients(system.model(), &mut gradients, most / norm);
            }
            norm
        });
        system.map_model(|model| optimizer.step(model, gradients, lr));
        Ok((StepNumbers::mean(numbers), norm))
    }

    fn evaluate<S: Pretrain>(
        &mut self,
        system: &S,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let Some(spec) = &self.recipe.data.validation else {
            return Ok(());
        };
        let started = Instant::now();
        let source = sources::open(spec)?;
        let validation = Validation {
            recipe: self.recipe,
            source: source.as_ref(),
            tokenizer: &self.tokenizer,
            device: &self.options.device,
        };
        let scores = on_workers(|| system.evaluate(&validation))?;
        let event = Event::evaluation(self.step, scores, started.elapsed().as_secs_f64());
        observer.evaluation(&event);
        self.log.write(&event)?;
        Ok(())
    }

    fn save<S: Pretrain>(
        &mut self,
        system: &S,
        optimizer: &AdamW,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let mut progress = Progress {
            step: self.step,
            position: self.position,
            ..Progress::default()
        };
        system.save_progress(&mut progress);
        let mut tensors = system.export();
        tensors.extend(optimizer.export());
        let checkpoint = Checkpoint {
            recipe: self.recipe.clone(),
            vocabulary: self.tokenizer.vocabulary().to_vec(),
            progress: Some(progress),
            tensors,
        };
        let path = checkpoint::path_of_step(&self.checkpoints, self.step);
        checkpoint.write(&path, Precision::F32)?;
        checkpoint::prune(&self.checkpoints, self.recipe.run.keep_checkpoints)?;
        let model = self.options.folder.join("model.safetensors");
        checkpoint.for_use().write(&model, Precision::F32)?;
        observer.checkpoint(&path);
        Ok(())
    }

    /// Seconds of training that the log of earlier processes tells of.
    fn seconds_before(&self) -> Result<f64, TrainError> {
        let events = crate::metrics::read(&self.options.folder.join("metrics.jsonl"))?;
        let last = events.iter().rev().find_map(|event| match event {
            Event::Step { seconds, .. } => Some(*seconds),
            _ => None,
        });
        Ok(last.unwrap_or(0.0))
    }
}

/// Seed of a micro-batch's draws: a function of the run's seed and the step alone, so that a
/// resumed run draws what it would have drawn.
fn draw_seed(seed: u64, step: u64, micro: u64) -> u64 {
    let mixed = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(step)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (micro << 48) ^ (mixed >> 31)
}
