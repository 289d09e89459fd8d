//! A fine-tuned model in use: it answers questions, judges statements on two pictures, or says what follows from a
//! picture. Everything it needs is in the file.

use std::path::Path;

use burn::tensor::Device;
use fitup_data::text::Tokenizer;
use fitup_models::albef::entailment::AlbefEntailment;
use fitup_models::albef::nlvr2::AlbefNlvr2;
use fitup_models::albef::vqa::AlbefVqa;
use fitup_models::clip::downstream::ClipClassifier;
use fitup_models::vilt::downstream::{ViltNlvr2, ViltVqa};
use fitup_models::vlmo::downstream::{VlmoNlvr2, VlmoVqa};
use fitup_models::weights;
use image::RgbImage;

use super::LoadedError;
use crate::albef::is_model;
use crate::checkpoint::Checkpoint;
use crate::finetune::TaskModel;
use crate::recipe::{Recipe, SystemKind, TaskKind};
use crate::tasks::classes::{Classifying, class_names, probabilities};
use crate::tasks::examples::Preparation;
use crate::tasks::vqa::{Answer, AnswerList, Answering, Decoding};

/// Most tokens of an answer that is written.
const WRITTEN_TOKENS: usize = 10;

/// What a fine-tuned model can say.
pub enum Said {
    /// Answers to questions.
    Answers(Box<dyn Answering>),
    /// Classes of pictures with texts.
    Classes(Box<dyn Classifying>),
}

/// A fine-tuned model with all that its use needs, on the plain (not autodiff) device.
pub struct LoadedTask {
    /// For people: the name of the run that trained it.
    pub name: String,
    /// What it is fine-tuned for.
    pub kind: TaskKind,
    /// The model.
    pub model: Said,
    /// Its answers, of questions; else empty.
    pub answers: AnswerList,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The recipe of the run that trained it.
    pub recipe: Recipe,
    /// Where it lives.
    pub device: Device,
}

/// A class with its probability, `[0, 1]`.
pub type ClassProbability = (&'static str, f32);

impl LoadedTask {
    /// Opens a checkpoint of a fine-tuning run.
    ///
    /// # Errors
    /// [`LoadedError`]: the file is missing, cut short, no checkpoint, or of a model that is not fine-tuned for one
    /// of `wanted`.
    pub fn open(path: &Path, wanted: &[TaskKind], device: &Device) -> Result<Self, LoadedError> {
        let Checkpoint {
            recipe,
            vocabulary,
            tensors,
            ..
        } = Checkpoint::read(path)?;
        let other = || LoadedError::OtherTask {
            path: path.to_owned(),
            got: recipe.task_kind().map_or_else(
                || "a pre-trained model".to_owned(),
                |kind| format!("fine-tuned for {kind}"),
            ),
            wanted: wanted.iter().map(ToString::to_string).collect(),
        };
        let kind = recipe.task_kind().filter(|kind| wanted.contains(kind));
        let kind = kind.ok_or_else(other)?;
        let model = match (kind, recipe.model.system) {
            (TaskKind::Vqa, SystemKind::Albef) => answering::<AlbefVqa>(&recipe, tensors, device),
            (TaskKind::Vqa, SystemKind::Vilt) => answering::<ViltVqa>(&recipe, tensors, device),
            (TaskKind::Vqa, SystemKind::Vlmo) => answering::<VlmoVqa>(&recipe, tensors, device),
            (TaskKind::Vqa, SystemKind::Clip) => {
                answering::<ClipClassifier>(&recipe, tensors, device)
            }
            (TaskKind::Nlvr2, SystemKind::Albef) => {
                classifying::<AlbefNlvr2>(&recipe, tensors, device)
            }
            (TaskKind::Nlvr2, SystemKind::Vilt) => {
                classifying::<ViltNlvr2>(&recipe, tensors, device)
            }
            (TaskKind::Nlvr2, SystemKind::Vlmo) => {
                classifying::<VlmoNlvr2>(&recipe, tensors, device)
            }
            (TaskKind::Entailment, SystemKind::Albef) => {
                classifying::<AlbefEntailment>(&recipe, tensors, device)
            }
            (TaskKind::Entailment, SystemKind::Vilt) => {
                classifying::<ViltVqa>(&recipe, tensors, device)
            }
            (TaskKind::Entailment, SystemKind::Vlmo) => {
                classifying::<VlmoVqa>(&recipe, tensors, device)
            }
            (TaskKind::Nlvr2 | TaskKind::Entailment, SystemKind::Clip) => {
                classifying::<ClipClassifier>(&recipe, tensors, device)
            }
            _ => return Err(other()),
        };
        let model = model.map_err(|source| LoadedError::Weights {
            path: path.to_owned(),
            source,
        })?;
        let tokenizer =
            Tokenizer::from_vocabulary(vocabulary).map_err(|source| LoadedError::Vocabulary {
                path: path.to_owned(),
                source,
            })?;
        let answers = recipe.task.as_ref().map_or(&[][..], |task| &task.answers);
        Ok(Self {
            name: recipe.name.clone(),
            kind,
            model,
            answers: AnswerList::new(
                answers,
                &tokenizer,
                recipe.model.sizes().max_tokens(),
                device,
            ),
            tokenizer,
            recipe,
            device: device.clone(),
        })
    }

    /// What pictures and texts are prepared with.
    pub fn preparation(&self) -> Preparation<'_> {
        Preparation::new(&self.recipe, &self.tokenizer, &self.device)
    }

    /// How the recipe finds answers.
    pub fn decoding(&self) -> Decoding {
        let task = self.recipe.task.as_ref().expect("opened as a task");
        Decoding::Ranked {
            k: task.k,
            first_token: task.first_token.into(),
        }
    }

    /// Answers written token by token, `beams` of them kept at each step.
    pub fn writing(&self, beams: usize) -> Decoding {
        // [CLS] takes a position, too.
        let positions = self.recipe.model.sizes().max_tokens();
        Decoding::OpenEnded {
            beams,
            max_tokens: WRITTEN_TOKENS.min(positions.saturating_sub(1)),
        }
    }

    /// Answers to a question about a picture, the best first; none of a model without answers.
    ///
    /// # Errors
    /// [`LoadedError::EmptyText`].
    pub fn ask(
        &self,
        image: &RgbImage,
        question: &str,
        decoding: &Decoding,
    ) -> Result<Vec<Answer>, LoadedError> {
        let preparation = self.preparation();
        has_words(&preparation, question)?;
        let Said::Answers(model) = &self.model else {
            return Ok(vec![]);
        };
        let image = preparation.transform.input(image);
        let examples = preparation.examples(&[&image], &[], &[question]);
        let answers = model.answers(examples, &self.answers, decoding, &self.tokenizer);
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    /// Probabilities of the classes of a text beside one picture or two; none of a model without classes.
    ///
    /// # Errors
    /// [`LoadedError::EmptyText`].
    pub fn judge(
        &self,
        images: &[&RgbImage],
        text: &str,
    ) -> Result<Vec<ClassProbability>, LoadedError> {
        let preparation = self.preparation();
        has_words(&preparation, text)?;
        let Said::Classes(model) = &self.model else {
            return Ok(vec![]);
        };
        let images: Vec<Vec<f32>> = images
            .iter()
            .map(|image| preparation.transform.input(image))
            .collect();
        let (first, second) = images.split_at(1);
        let first: Vec<&[f32]> = first.iter().map(Vec::as_slice).collect();
        let second: Vec<&[f32]> = second.iter().map(Vec::as_slice).collect();
        let examples = preparation.examples(&first, &second, &[text]);
        let found = probabilities(model.as_ref(), examples);
        let names = class_names(self.kind).iter().copied();
        Ok(names.zip(found.into_iter().flatten()).collect())
    }
}

/// Refuses a text of which nothing is left after cleaning.
fn has_words(preparation: &Preparation<'_>, text: &str) -> Result<(), LoadedError> {
    let cleaned = preparation.cleaning.clean(text, preparation.max_words);
    match cleaned.is_none_or(|text| text.trim().is_empty()) {
        true => Err(LoadedError::EmptyText {
            text: text.to_owned(),
        }),
        false => Ok(()),
    }
}

fn answering<M: TaskModel + Answering + 'static>(
    recipe: &Recipe,
    tensors: weights::TensorMap,
    device: &Device,
) -> Result<Said, weights::WeightsError> {
    open::<M>(recipe, tensors, device).map(|model| Said::Answers(Box::new(model)))
}

fn classifying<M: TaskModel + Classifying + 'static>(
    recipe: &Recipe,
    tensors: weights::TensorMap,
    device: &Device,
) -> Result<Said, weights::WeightsError> {
    open::<M>(recipe, tensors, device).map(|model| Said::Classes(Box::new(model)))
}

fn open<M: TaskModel>(
    recipe: &Recipe,
    tensors: weights::TensorMap,
    device: &Device,
) -> Result<M, weights::WeightsError> {
    let tensors = M::from_official(tensors);
    weights::load(
        M::empty(recipe, device),
        &tensors,
        M::parameter_name,
        is_model,
    )
}
