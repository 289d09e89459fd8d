//! A trained model in use: opened from a checkpoint, it encodes, matches, searches and fills in
//! masked words. Everything it needs is in the file: sizes, vocabulary, image transform.

mod collection;
mod explain;
mod fill;
mod indexing;
mod pseudo_targets;
mod search;
mod task;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, activation};
use fitup_data::images::EvalTransform;
use fitup_data::sources::SourceError;
use fitup_data::text::{Tokenizer, TokenizerError, pre_caption};
use fitup_index::{Dtype, ModelId, StoreError, StoreSpec};
use fitup_models::layers::packing::Pairs;
use fitup_models::system::{EncodedImages, EncodedTexts, Matching, System, Teacher};
use fitup_models::weights::{TensorMap, WeightsError, host_values};
use image::RgbImage;

use crate::albef::is_model;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::recipe::{Recipe, Stage, SystemKind, TaskKind};
use crate::systems;
use crate::tasks::retrieval::{Scorer, match_pairs};

pub use collection::{Collection, Pictures};
pub use explain::{Explanation, WordMap};
pub use fill::{Filled, FilledMask};
pub use indexing::{IndexOptions, IndexReport, TEXTS};
pub use pseudo_targets::{PseudoTargets, TextPool};
pub use search::{Found, SearchResult};
pub use task::{ClassProbability, LoadedTask, Said};

/// Pictures whose matching parts are held at a time.
const CHUNK: usize = 64;

/// Why a model cannot be opened or cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LoadedError {
    /// The file is no checkpoint that can be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tensors are not those of the recipe inside.
    #[error("{path}: {source}; the file was put together from different models: export it again")]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        source: WeightsError,
    },
    /// Not yet a model to be used.
    #[error(
        "{path} is {what}, trained on one modality: nothing can be asked of it; a later stage starts from it"
    )]
    Unfinished {
        /// The checkpoint.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A model with the head of a task in place of those that this needs.
    #[error(
        "{path} is fine-tuned for {kind}: use `fitup ask`, `compare`, `entail` or `evaluate {kind}`; search and matching want a model that is pre-trained, or fine-tuned for retrieval"
    )]
    FineTuned {
        /// The checkpoint.
        path: PathBuf,
        /// What it is fine-tuned for.
        kind: TaskKind,
    },
    /// A model of another task.
    #[error(
        "{path} is {got}; wanted is one fine-tuned for {}: make one with `fitup finetune {}`",
        wanted.join(" or "),
        wanted.first().map_or("TASK", String::as_str)
    )]
    OtherTask {
        /// The checkpoint.
        path: PathBuf,
        /// What it is.
        got: String,
        /// The tasks that would do.
        wanted: Vec<String>,
    },
    /// The vocabulary inside cannot be used.
    #[error("{path}: {source}")]
    Vocabulary {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// A collection cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A feature store cannot be read or written, or is another model's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A picture cannot be read.
    #[error("{locator}: {reason}")]
    Picture {
        /// The file, or the shard and the record in it.
        locator: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no part that the task needs.
    #[error("{model} is a {system}, which cannot {task}: {reason}")]
    Cannot {
        /// Name of the model.
        model: String,
        /// Its system.
        system: SystemKind,
        /// What was asked.
        task: &'static str,
        /// What it lacks, and what can.
        reason: &'static str,
    },
    /// A layer in which no word looks at the picture.
    #[error("{model} has no cross-attention in layer {layer}; layers {first} to {last} have")]
    Layer {
        /// Name of the model.
        model: String,
        /// What was asked.
        layer: usize,
        /// The first that can be asked for.
        first: usize,
        /// The last.
        last: usize,
    },
    /// Nothing is left of a text.
    #[error("the text {text:?} holds no words: write at least one letter or digit")]
    EmptyText {
        /// The text as given.
        text: String,
    },
    /// Nothing to choose from.
    #[error("no classes, or no templates that name them: give at least one of each")]
    NoClasses,
    /// A text to fill in has no gap.
    #[error("the text {text:?} holds no [MASK]: write one for every word to be found")]
    NoMask {
        /// The text as given.
        text: String,
    },
    /// A gap lies beyond what the model reads.
    #[error(
        "the text {text:?} has a [MASK] beyond the {max_tokens} tokens that the model reads: shorten it"
    )]
    MaskTooLate {
        /// The text after cleaning.
        text: String,
        /// Tokens kept of a text.
        max_tokens: usize,
    },
}

/// A trained system with all that its use needs, on the plain (not autodiff) device.
#[derive(Debug)]
pub struct LoadedModel {
    /// For people: the name of the run that trained it.
    pub name: String,
    /// The model.
    pub model: Box<dyn System>,
    /// Its momentum copy, where the file holds one.
    pub momentum: Option<Box<dyn Teacher>>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What it does to a picture before encoding it.
    pub transform: EvalTransform,
    /// The recipe of the run that trained it.
    pub recipe: Recipe,
    /// Names everything that features depend on, 16 hexadecimal digits: equal for a checkpoint
    /// and its float32 export, different for any other weights, vocabulary or preparation.
    pub fingerprint: String,
    /// Where it lives.
    pub device: Device,
}

/// The matching head's opinion of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchScore {
    /// `[no match, match]`.
    pub logits: [f32; 2],
}

impl From<[f32; 2]> for MatchScore {
    fn from(logits: [f32; 2]) -> Self {
        Self { logits }
    }
}

impl MatchScore {
    /// Probability of a match, `[0, 1]`: softmax over both logits.
    pub fn probability(self) -> f32 {
        1.0 / (1.0 + (-self.margin()).exp())
    }

    /// Log-odds of a match. Ranks as the probability does, but does not saturate.
    pub fn margin(self) -> f32 {
        self.logits[1] - self.logits[0]
    }
}

impl LoadedModel {
    /// Opens a checkpoint, one of a run or one exported for use, in float32 or float16.
    ///
    /// # Errors
    /// [`LoadedError`]: the file is missing, cut short, no checkpoint, or its parts do not fit
    /// together.
    pub fn open(path: &Path, device: &Device) -> Result<Self, LoadedError> {
        let checkpoint = Checkpoint::read(path)?;
        Self::from_checkpoint(checkpoint, path, device)
    }

    /// As [`LoadedModel::open`], from a checkpoint in memory; `path` names it in errors.
    ///
    /// # Errors
    /// When its parts do not fit together.
    pub fn from_checkpoint(
        checkpoint: Checkpoint,
        path: &Path,
        device: &Device,
    ) -> Result<Self, LoadedError> {
        let Checkpoint {
            recipe,
            vocabulary,
            tensors,
            ..
        } = checkpoint;
        if let Some(kind) = recipe
            .task_kind()
            .filter(|kind| *kind != TaskKind::Retrieval)
        {
            return Err(LoadedError::FineTuned {
                path: path.to_owned(),
                kind,
            });
        }
        let unfit = |source| LoadedError::Weights {
            path: path.to_owned(),
            source,
        };
        let opened = systems::open(&recipe, &tensors, device).map_err(unfit)?;
        let (model, momentum) = opened.ok_or_else(|| LoadedError::Unfinished {
            path: path.to_owned(),
            what: match recipe.model.stage {
                Stage::Image => "the image stage of a vlmo",
                Stage::Text => "the text stage of a vlmo",
                Stage::Pairs => "an image tokenizer",
            },
        })?;
        let fingerprint = fingerprint(&recipe, &vocabulary, &tensors);
        let tokenizer =
            Tokenizer::from_vocabulary(vocabulary).map_err(|source| LoadedError::Vocabulary {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            name: recipe.name.clone(),
            model,
            momentum,
            tokenizer,
            transform: recipe.eval_transform(),
            recipe,
            fingerprint,
            device: device.clone(),
        })
    }

    /// The model as the retrieval task takes it.
    pub fn scorer(&self) -> Scorer<'_> {
        Scorer {
            model: self.model.as_ref(),
            tokenizer: &self.tokenizer,
            transform: self.transform.clone(),
            device: &self.device,
        }
    }

    /// A picture as model input, `[3, size, size]`.
    ///
    /// # Panics
    /// If the picture has no pixels; decoded ones have.
    pub fn prepare(&self, image: &RgbImage) -> Vec<f32> {
        self.transform.input(image)
    }

    /// A text as the model was trained on it: lower case, no punctuation, its first words.
    ///
    /// # Errors
    /// [`LoadedError::EmptyText`] if nothing is left.
    pub fn clean(&self, text: &str) -> Result<String, LoadedError> {
        pre_caption(text, self.recipe.data.max_words).ok_or_else(|| LoadedError::EmptyText {
            text: text.to_owned(),
        })
    }

    /// Encodes prepared pictures, each `[3, size, size]`; at least one.
    pub fn encode_images(&self, images: &[Vec<f32>]) -> EncodedImages {
        self.scorer().encode_images(images)
    }

    /// Encodes cleaned texts; at least one.
    pub fn encode_texts(&self, texts: &[String]) -> EncodedTexts {
        self.scorer()
            .encode_texts(texts, self.recipe.data.max_tokens)
    }

    /// Cosine of the embeddings of a picture and a text, `[-1, 1]`.
    ///
    /// # Errors
    /// [`LoadedError::EmptyText`], [`LoadedError::Cannot`].
    pub fn similarity(&self, image: &RgbImage, text: &str) -> Result<f32, LoadedError> {
        let text = self.embed_texts(&[self.clean(text)?], "compare")?;
        let image = self.embed_images(&[self.prepare(image)], "compare")?;
        Ok(dot(&image, &text))
    }

    /// Embeddings of prepared pictures, row by row, `[images, embed_dim]`; at least one. `task` is
    /// what the caller is asked to do.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`].
    pub fn embed_images(
        &self,
        images: &[Vec<f32>],
        task: &'static str,
    ) -> Result<Vec<f32>, LoadedError> {
        self.rows(self.scorer().embed_images(images), task)
    }

    /// Embeddings of cleaned texts, row by row, `[texts, embed_dim]`; at least one. `task` is what
    /// the caller is asked to do.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`].
    pub fn embed_texts(
        &self,
        texts: &[String],
        task: &'static str,
    ) -> Result<Vec<f32>, LoadedError> {
        self.rows(self.encode_texts(texts).embed, task)
    }

    /// The rows of what was encoded, `[n, embed_dim]`, for those who need its tokens too.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`] where the system has no embeddings.
    pub fn rows(
        &self,
        embed: Option<Tensor<2>>,
        task: &'static str,
    ) -> Result<Vec<f32>, LoadedError> {
        embed
            .map(host_values)
            .ok_or_else(|| self.no_embeddings(task))
    }

    fn no_embeddings(&self, task: &'static str) -> LoadedError {
        self.cannot(
            task,
            "it reads a picture and a text together and has no embedding of either alone; a clip, an albef or a vlmo has",
        )
    }

    fn cannot(&self, task: &'static str, reason: &'static str) -> LoadedError {
        LoadedError::Cannot {
            model: self.name.clone(),
            system: self.recipe.model.system,
            task,
            reason,
        }
    }

    /// The matching head.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`].
    pub fn matching(&self, task: &'static str) -> Result<&dyn Matching, LoadedError> {
        self.model.matching().ok_or_else(|| {
            self.cannot(
                task,
                "it has no matching head; an albef, a vilt or a vlmo has",
            )
        })
    }

    /// Probability that a text describes a picture, `[0, 1]`, by the matching head.
    ///
    /// # Errors
    /// [`LoadedError::EmptyText`], [`LoadedError::Cannot`].
    pub fn match_score(&self, image: &RgbImage, text: &str) -> Result<f32, LoadedError> {
        let matching = self.matching("say how well a text matches")?;
        let texts = self.encode_texts(&[self.clean(text)?]);
        let images = self.encode_images(&[self.prepare(image)]);
        let scores = self.match_images(matching, &images, &texts, 0);
        Ok(scores[0].probability())
    }

    /// Text number `text` against every picture.
    pub fn match_images(
        &self,
        matching: &dyn Matching,
        images: &EncodedImages,
        texts: &EncodedTexts,
        text: usize,
    ) -> Vec<MatchScore> {
        let [count, ..] = images.tokens.dims();
        let mut scores = Vec::with_capacity(count);
        for start in (0..count).step_by(CHUNK) {
            let rows = CHUNK.min(count - start);
            let parts = matching.image_parts(images.tokens.clone().narrow(0, start, rows));
            let pairs = Pairs {
                texts: vec![text; rows],
                images: (0..rows).collect(),
            };
            scores.extend(match_pairs(matching, texts, &parts, &pairs));
        }
        scores.into_iter().map(MatchScore::from).collect()
    }

    /// Every text against the one picture in `image`.
    pub fn match_texts(
        &self,
        matching: &dyn Matching,
        image: &EncodedImages,
        texts: &EncodedTexts,
    ) -> Vec<MatchScore> {
        let parts = matching.image_parts(image.tokens.clone());
        let count = texts.packing.texts();
        let pairs = Pairs {
            texts: (0..count).collect(),
            images: vec![0; count],
        };
        let scores = match_pairs(matching, texts, &parts, &pairs);
        scores.into_iter().map(MatchScore::from).collect()
    }

    /// What a feature store of this model has in common.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`] where there are no features to store.
    pub fn store_spec(&self, dtype: Dtype) -> Result<StoreSpec, LoadedError> {
        let dim = self.model.embed_dim();
        Ok(StoreSpec {
            model: ModelId {
                name: self.name.clone(),
                fingerprint: self.fingerprint.clone(),
            },
            dim: dim.ok_or_else(|| self.no_embeddings("index"))?,
            dtype,
            normalised: true,
        })
    }
}

/// FNV-1a, 64 bits, over all that features follow from: the model's tensors by name, the
/// vocabulary, and how pictures and texts are prepared.
fn fingerprint(recipe: &Recipe, vocabulary: &[String], tensors: &TensorMap) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    let data = &recipe.data;
    let preparation = format!(
        "{} {:?} {} {}",
        recipe.model.sizes().image_size(),
        data.fit,
        data.max_words,
        data.max_tokens
    );
    add(preparation.as_bytes());
    for token in vocabulary {
        add(token.as_bytes());
        add(b"\n");
    }
    for (name, tensor) in tensors.iter().filter(|(name, _)| is_model(name)) {
        add(format!("{name} {:?}\n", tensor.shape).as_bytes());
        for value in &tensor.values {
            add(&value.to_le_bytes());
        }
    }
    format!("{hash:016x}")
}

/// Rows of `logits` as probabilities.
fn probabilities(logits: Tensor<2>) -> Vec<f32> {
    host_values(activation::softmax(logits, 1))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests;
