//! A recipe is a run: model, data, objectives, optimizer, schedule and evaluation in one TOML
//! file. Unknown fields are errors; `--set key=value` overrides one; the resolved recipe is stored
//! in every checkpoint.

mod model;
mod stage;
mod task;

pub use model::{ModelRecipe, SystemKind};
pub use stage::Stage;
pub use task::{FirstTokenCount, TaskKind, TaskRecipe};

use std::path::{Path, PathBuf};

use fitup_data::images::{ColorJitter, EvalTransform, Fit, RandAugment, TrainTransform};
use fitup_data::loader::{CaptionChoice, LoaderConfig, Part};
use fitup_data::sources::SourceSpec;
use fitup_models::layers::block_compute::BlockCompute;
use fitup_models::objectives::itm::HardNegatives;
use serde::{Deserialize, Serialize};

use crate::optimizer::OptimizerConfig;
use crate::schedule::ScheduleConfig;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The recipe.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not TOML, an unknown field, a missing field or a wrong type.
    #[error("{origin}: {reason}")]
    Parse {
        /// The file or override it came from.
        origin: String,
        /// Line, field and what was expected.
        reason: String,
    },
    /// A value that cannot work.
    #[error("recipe field {field}: {reason}")]
    Value {
        /// The field's path.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Names the run and its folder.
    pub name: String,
    /// Seed of weights, order, augmentation and every draw.
    #[serde(default)]
    pub seed: u64,
    /// Sizes, initial weights.
    pub model: ModelRecipe,
    /// Where pairs come from and how they are prepared.
    pub data: DataRecipe,
    /// What a pre-trained model is fine-tuned for; absent: pre-training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskRecipe>,
    /// Losses and their switches.
    #[serde(default)]
    pub objectives: ObjectivesRecipe,
    /// AdamW.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Learning rate and length.
    pub schedule: ScheduleConfig,
    /// When to save and evaluate, and what a resumed run may change besides.
    #[serde(default)]
    pub run: RunRecipe,
}

/// The data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Training pairs.
    pub train: SourceSpec,
    /// Pairs to evaluate on during training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<SourceSpec>,
    /// `vocab.txt` of the tokenizer; absent: built from the training captions at the start, with
    /// as many entries as the model has rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<PathBuf>,
    /// Texts that the vocabulary is built from in place of the training captions, where questions or
    /// statements with other words are to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary_from: Option<SourceSpec>,
    /// Pairs per step (per micro-batch where gradients are accumulated).
    pub batch_size: usize,
    /// Threads that decode and augment.
    #[serde(default = "two")]
    pub workers: usize,
    /// Finished batches kept ready.
    #[serde(default = "four")]
    pub prefetch: usize,
    /// Words kept of a caption.
    #[serde(default = "thirty")]
    pub max_words: usize,
    /// Tokens kept of a caption, `[CLS]` included.
    #[serde(default = "twenty_five")]
    pub max_tokens: usize,
    /// One caption at random each time, or always the first.
    #[serde(default)]
    pub caption: CaptionChoice,
    /// Share of unusable samples at which the run stops.
    #[serde(default = "twentieth")]
    pub max_skipped_share: f64,
    /// Share of the image area that a random crop keeps: least and most.
    #[serde(default = "crop_scale")]
    pub crop_scale: [f64; 2],
    /// Whether images are mirrored at random.
    #[serde(default = "yes")]
    pub flip: bool,
    /// Random brightness, contrast, saturation and loss of colour, before RandAugment; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// RandAugment; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub randaugment: Option<RandAugment>,
    /// Stretch to a square, or pad with white.
    #[serde(default)]
    pub fit: Fit,
    /// Probability that a token is masked.
    #[serde(default = "mask_probability")]
    pub mask_probability: f64,
    /// Share of an image's patches that the image stage masks.
    #[serde(default = "patch_mask_share")]
    pub patch_mask_share: f64,
}

fn two() -> usize {
    2
}
fn four() -> usize {
    4
}
fn thirty() -> usize {
    30
}
fn twenty_five() -> usize {
    25
}
fn twentieth() -> f64 {
    0.05
}
fn crop_scale() -> [f64; 2] {
    [0.2, 1.0]
}
fn yes() -> bool {
    true
}
fn mask_probability() -> f64 {
    0.15
}
fn patch_mask_share() -> f64 {
    0.4
}

/// The objectives of a run; the ablations of the paper are switches here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectivesRecipe {
    /// Image-text contrastive loss.
    pub itc: bool,
    /// Image-text matching.
    pub itm: bool,
    /// Masked language modelling.
    pub mlm: bool,
    /// How matching negatives are found.
    pub hard_negatives: HardNegatives,
    /// Momentum distillation in the contrastive loss.
    pub distill_itc: bool,
    /// Momentum distillation in masked language modelling.
    pub distill_mlm: bool,
    /// Share of the momentum model in the targets, reached over the first `alpha_ramp_epochs`.
    pub alpha: f64,
    /// Epochs until `alpha` is reached; the original takes 1.
    pub alpha_ramp_epochs: f64,
    /// First step that trains matching and masked words; before it the encoders are aligned by
    /// the contrastive loss alone. 0, as the original: from the start.
    pub fusion_start: u64,
    /// What counts as the right key in the contrastive loss.
    pub itc_targets: ItcTargets,
    /// Momentum of the momentum model.
    pub momentum: f64,
    /// Entries of the queue; a multiple of the batch; 0: only this batch.
    pub queue_size: usize,
    /// First step whose contrast includes the queue; before it the batch alone. In short runs an
    /// early queue holds features of a network that has already changed. 0, as the original.
    pub queue_start: u64,
    /// Least and greatest temperature.
    pub temp_range: [f64; 2],
    /// Factors on the losses.
    pub weights: LossWeights,
}

impl Default for ObjectivesRecipe {
    fn default() -> Self {
        Self {
            itc: true,
            itm: true,
            mlm: true,
            hard_negatives: HardNegatives::Sample,
            distill_itc: true,
            distill_mlm: true,
            alpha: 0.4,
            alpha_ramp_epochs: 1.0,
            fusion_start: 0,
            itc_targets: ItcTargets::Pair,
            momentum: 0.995,
            queue_size: 65_536,
            queue_start: 0,
            temp_range: [0.001, 0.5],
            weights: LossWeights::default(),
        }
    }
}

/// What counts as the right key in the contrastive loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItcTargets {
    /// The pair itself alone, as ALBEF's pre-training.
    #[default]
    Pair,
    /// Every key of the same image, in the batch and in the queue; such pairs are no matching
    /// negatives either.
    ImageId,
    /// As `image-id`, and every key of an equal caption: several pictures may be rightly called
    /// "a teapot".
    ImageOrCaption,
}

/// Factors on the losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// Of the contrastive loss.
    pub itc: f64,
    /// Of the matching loss.
    pub itm: f64,
    /// Of the masked-word loss.
    pub mlm: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self {
            itc: 1.0,
            itm: 1.0,
            mlm: 1.0,
        }
    }
}

/// When to save and evaluate, and what a resumed run may change besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunRecipe {
    /// Steps; absent: `schedule.epochs` passes over the data.
    pub steps: Option<u64>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Newest checkpoints kept.
    pub keep_checkpoints: usize,
    /// Steps between evaluations; 0: none.
    pub evaluate_every: u64,
    /// Images of the validation set that an evaluation reads; 0: all.
    pub evaluate_images: usize,
    /// Candidates that the matching head re-ranks in an evaluation.
    pub evaluate_k: usize,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Whether a transformer block keeps its input alone for the backward pass, which computes the
    /// rest again: less memory for more time. Losses are the same, gradients but for the order in
    /// which some are added.
    pub gradient_checkpointing: bool,
    /// Whether transformer blocks compute in bfloat16, from float32 weights with float32 gradients:
    /// for graphics cards whose units for matrices have that type. Embeddings, heads, losses and the
    /// momentum model stay float32.
    pub bf16: bool,
}

impl Default for RunRecipe {
    fn default() -> Self {
        Self {
            steps: None,
            checkpoint_every: 500,
            keep_checkpoints: 2,
            evaluate_every: 1000,
            evaluate_images: 500,
            evaluate_k: 16,
            log_every: 10,
            gradient_checkpointing: false,
            bf16: false,
        }
    }
}

impl RunRecipe {
    /// How transformer blocks are computed.
    pub fn block_compute(&self) -> BlockCompute {
        BlockCompute {
            checkpointing: self.gradient_checkpointing,
            bf16: self.bf16,
        }
    }
}

impl Recipe {
    /// Reads a recipe file and applies `key.path=value` overrides, values in TOML notation (a bare
    /// word is taken as a string).
    ///
    /// # Errors
    /// [`RecipeError`], naming the file or override, the field and the fix.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// As [`Recipe::load`], from text; `origin` names it in errors.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let parse_error = |origin: &str, reason: String| RecipeError::Parse {
            origin: origin.to_owned(),
            reason,
        };
        if overrides.is_empty() {
            // Straight from the text: errors then carry the line.
            let recipe: Self =
                toml::from_str(text).map_err(|e| parse_error(origin, e.to_string()))?;
            return recipe.check();
        }
        let mut table: toml::Table =
            toml::from_str(text).map_err(|e| parse_error(origin, e.to_string()))?;
        for text in overrides {
            set(&mut table, text)
                .map_err(|reason| parse_error(&format!("--set {text}"), reason))?;
        }
        let recipe: Self = toml::Value::Table(table)
            .try_into()
            .map_err(|e| parse_error(&format!("{origin} with --set"), e.to_string()))?;
        recipe.check()
    }

    /// As [`Recipe::load`], of a recipe that may leave the table `model` to the model it starts from.
    ///
    /// # Errors
    /// [`RecipeError`], naming the file or override, the field and the fix.
    pub fn load_on(
        model: &ModelRecipe,
        path: &Path,
        overrides: &[String],
    ) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse_on(model, &text, &path.display().to_string(), overrides)
    }

    /// As [`Recipe::load_on`], from text; `origin` names it in errors.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn parse_on(
        model: &ModelRecipe,
        text: &str,
        origin: &str,
        overrides: &[String],
    ) -> Result<Self, RecipeError> {
        let parse_error = |reason: String| RecipeError::Parse {
            origin: origin.to_owned(),
            reason,
        };
        let mut table: toml::Table =
            toml::from_str(text).map_err(|error| parse_error(error.to_string()))?;
        if !table.contains_key("model") {
            let model = toml::Value::try_from(model).expect("it was read from TOML");
            table.insert("model".to_owned(), model);
        }
        let text = toml::to_string(&table).expect("it was read from TOML");
        Self::parse(&text, origin, overrides)
    }

    /// The resolved recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds nothing that TOML cannot")
    }

    fn check(self) -> Result<Self, RecipeError> {
        let error = |field: &'static str, reason: String| Err(RecipeError::Value { field, reason });
        let system = self.model.system;
        let Some(sizes) = self.model.chosen() else {
            let reason = format!("is {system}, which needs its sizes in a table [model.{system}]");
            return error("model.system", reason);
        };
        if let Some(problem) = sizes.problem() {
            return error("model", format!("[model.{system}]: {problem}"));
        }
        // The task first: it has no stages, and says so better.
        let problem = self.task_problem().or_else(|| self.stage_problem());
        if let Some((field, reason)) = problem {
            return error(field, reason);
        }
        let pairs = self.part() == Part::Pairs && self.has_objectives();
        let (data, objectives) = (&self.data, &self.objectives);
        let (itc, itm, mlm, queue) = match system {
            SystemKind::Albef => (true, true, true, true),
            SystemKind::Clip => (true, false, false, false),
            SystemKind::Vilt => (false, true, true, false),
            SystemKind::Vlmo => (true, true, true, false),
            SystemKind::ImageTokenizer => (false, false, false, false),
        };
        let asked = [
            ("objectives.itc", objectives.itc && !itc),
            ("objectives.itm", objectives.itm && !itm),
            ("objectives.mlm", objectives.mlm && !mlm),
            ("objectives.queue_size", objectives.queue_size > 0 && !queue),
        ];
        if let Some((field, _)) = asked.into_iter().find(|(_, asked)| pairs && *asked) {
            let reason = format!("a {system} has none: set it to false or 0");
            return error(field, reason);
        }
        if data.batch_size == 0 {
            return error("data.batch_size", "must be at least 1".into());
        }
        if pairs && !objectives.queue_size.is_multiple_of(data.batch_size) {
            return error(
                "objectives.queue_size",
                format!(
                    "{} must be a multiple of data.batch_size = {}",
                    objectives.queue_size, data.batch_size
                ),
            );
        }
        if self.part() != Part::Images && data.max_tokens > sizes.max_tokens() {
            return error(
                "data.max_tokens",
                format!(
                    "{} is more than the {} positions of [model.{system}]",
                    data.max_tokens,
                    sizes.max_tokens()
                ),
            );
        }
        let shares = [
            ("objectives.alpha", objectives.alpha),
            ("objectives.momentum", objectives.momentum),
            ("data.mask_probability", data.mask_probability),
            ("data.patch_mask_share", data.patch_mask_share),
            ("data.max_skipped_share", data.max_skipped_share),
        ];
        for (field, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return error(field, format!("{value} must lie in [0, 1]"));
            }
        }
        if !(objectives.itc || objectives.itm || objectives.mlm) {
            return error(
                "objectives",
                "switch on at least one of itc, itm, mlm".into(),
            );
        }
        if objectives.fusion_start > 0 && !objectives.itc {
            let reason = "must be 0 without itc: nothing would be trained before it";
            return error("objectives.fusion_start", reason.into());
        }
        let parts = [
            ("model.init_image", &self.model.init_image),
            ("model.init_text", &self.model.init_text),
        ];
        let given = parts.into_iter().find(|(_, file)| file.is_some());
        if let (SystemKind::Clip, Some((field, _))) = (system, given) {
            let reason = "a clip has no part of another's build: set model.init_weights";
            return error(field, reason.into());
        }
        if self.model.init_text.is_some() && data.vocabulary.is_none() {
            let reason = "needs data.vocabulary, the BERT's vocab.txt: its embeddings belong to it";
            return error("model.init_text", reason.into());
        }
        if data.vocabulary.is_some() && data.vocabulary_from.is_some() {
            let reason = "is not used beside data.vocabulary: leave one of them out";
            return error("data.vocabulary_from", reason.into());
        }
        let power = self.schedule.power;
        if !(power.is_finite() && power > 0.0) {
            return error("schedule.power", format!("{power} must be above 0"));
        }
        let of_blocks = [
            (
                "run.gradient_checkpointing",
                self.run.gradient_checkpointing,
            ),
            ("run.bf16", self.run.bf16),
        ];
        let asked = of_blocks.into_iter().find(|(_, on)| *on);
        if let (SystemKind::ImageTokenizer, Some((field, _))) = (system, asked) {
            let reason = "an image_tokenizer has no transformer blocks: set it to false";
            return error(field, reason.into());
        }
        if self.optimizer.accumulate == 0 {
            return error("optimizer.accumulate", "must be at least 1".into());
        }
        if let Err(e) = self.train_transform().validate() {
            return error("data", e.to_string());
        }
        Ok(self)
    }

    /// The augmentation of training images.
    pub fn train_transform(&self) -> TrainTransform {
        TrainTransform {
            size: self.model.sizes().image_size() as u32,
            scale: self.data.crop_scale,
            flip: self.data.flip,
            color_jitter: self.data.color_jitter,
            randaugment: self.data.randaugment.clone(),
            normalize: self.model.system.normalize(),
            fit: self.data.fit,
        }
    }

    /// The transform of images in evaluation and use.
    pub fn eval_transform(&self) -> EvalTransform {
        EvalTransform {
            size: self.model.sizes().image_size() as u32,
            normalize: self.model.system.normalize(),
            fit: self.data.fit,
        }
    }

    /// Settings of the loader.
    pub fn loader(&self) -> LoaderConfig {
        LoaderConfig {
            part: self.part(),
            batch_size: self.data.batch_size,
            workers: self.data.workers,
            queue: self.data.prefetch,
            seed: self.seed,
            max_words: self.data.max_words,
            max_tokens: self.data.max_tokens,
            max_answer_tokens: self.model.sizes().max_tokens(),
            caption: self.data.caption,
            cleaning: self.cleaning(),
            max_skipped_share: self.data.max_skipped_share,
            ..LoaderConfig::default()
        }
    }
}

/// Puts `a.b.c=value` into the table.
fn set(table: &mut toml::Table, text: &str) -> Result<(), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("expected key=value, for example --set schedule.lr=1e-4".into());
    };
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().unwrap_or_default();
    let mut here = table;
    for part in path {
        here = here
            .entry(part.to_owned())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("{part} is a value, not a table"))?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}
