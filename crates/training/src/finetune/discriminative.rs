//! ViLT, VLMo and CLIP with a head that chooses among classes: questions by the answers of a list, entailment by its
//! three classes, NLVR2 by two. ViLT's and VLMo's heads are their authors' (entailment has the one of questions); CLIP's
//! are ours. No distillation.

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_index::metrics::answers::normalise;
use fitup_models::clip::downstream::ClipClassifier;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::objectives::cross_entropy;
use fitup_models::objectives::vqa::{soft_targets, vqa as answer_loss};
use fitup_models::vilt::ViltTexts;
use fitup_models::vilt::downstream::{ViltNlvr2, ViltVqa};
use fitup_models::vlmo::downstream::{VlmoNlvr2, VlmoVqa};
use fitup_models::vlmo::encoder::TextBatch;
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, TensorMap, WeightsError, host_values};
use rand_chacha::ChaCha8Rng;

use super::{Step, TaskLoss, TaskModel, accuracy, evaluate_answers, evaluate_classes};
use crate::albef::is_model;
use crate::parameter_groups::{ParameterGroup, clip_group, vlmo_group};
use crate::recipe::{Recipe, TaskKind};
use crate::tasks::classes::{Classifying, class_names};
use crate::tasks::examples::Examples;
use crate::tasks::vqa::{Answer, AnswerList, Answering, Decoding};
use crate::trainer::{PairTensors, Scores, TrainError, Validation, fitted_positions};

/// A system with a head on classes.
pub trait Discriminative: Module + Sized + Send + Sync {
    /// All weights zero, for a recipe's sizes and task.
    fn empty(recipe: &Recipe, device: &Device) -> Self;

    /// Official name of a parameter path.
    fn parameter_name(path: &str) -> String;

    /// How fast a parameter learns, and whether it decays.
    fn parameter_group(name: &str, shape: &[usize]) -> ParameterGroup;

    /// Whether a parameter of this name comes from pre-training.
    fn is_pretrained(name: &str) -> bool;

    /// The pre-trained tensors under the names of this model, of its image size.
    ///
    /// # Errors
    /// When they are not such a model's.
    fn fitted(recipe: &Recipe, pretrained: TensorMap) -> Result<TensorMap, WeightsError>;

    /// `[n, classes]`.
    fn logits(&self, examples: Examples, dropout: Option<DropoutSeed>) -> Tensor<2>;
}

/// How many classes the task of a recipe has.
fn class_count(recipe: &Recipe) -> usize {
    let task = recipe.task.as_ref().expect("a recipe of a task");
    match task.kind {
        TaskKind::Vqa => task.answers.len(),
        kind => class_names(kind).len(),
    }
}

impl<M: Discriminative> TaskModel for M {
    const MOMENTUM_FROM_PRETRAINED: bool = false;

    fn empty(recipe: &Recipe, device: &Device) -> Self {
        Discriminative::empty(recipe, device)
    }

    fn parameter_name(path: &str) -> String {
        <M as Discriminative>::parameter_name(path)
    }

    fn momentum_name(path: &str) -> String {
        <M as Discriminative>::parameter_name(path)
    }

    fn parameter_group(name: &str, shape: &[usize]) -> ParameterGroup {
        <M as Discriminative>::parameter_group(name, shape)
    }

    fn start(
        recipe: &Recipe,
        drawn: TensorMap,
        pretrained: TensorMap,
    ) -> Result<(TensorMap, InitialReport), WeightsError> {
        let mut pretrained = M::fitted(recipe, pretrained)?;
        let mut report = InitialReport::default();
        let (mut missing, mut mis_shaped) = (vec![], vec![]);
        let mut tensors = drawn;
        for (name, place) in &mut tensors {
            match pretrained.remove(name) {
                Some(tensor) if tensor.shape == place.shape => {
                    *place = tensor;
                    report.taken.push((name.clone(), name.clone()));
                }
                Some(tensor) => {
                    mis_shaped.push((name.clone(), place.shape.clone(), tensor.shape));
                }
                None if M::is_pretrained(name) => missing.push(name.clone()),
                None => report.fresh.push(name.clone()),
            }
        }
        let (unexpected, dropped) = pretrained
            .into_keys()
            .partition(|name| M::is_pretrained(name) && !weights::is_redundant(name));
        report.dropped = dropped;
        let unexpected: Vec<String> = unexpected;
        if missing.is_empty() && unexpected.is_empty() && mis_shaped.is_empty() {
            return Ok((tensors, report));
        }
        Err(WeightsError::Mismatch {
            missing,
            unexpected,
            mis_shaped,
        })
    }

    fn loss(
        &self,
        _momentum: Option<&Self>,
        batch: &PairBatch,
        step: &Step<'_>,
        _rng: &mut ChaCha8Rng,
    ) -> TaskLoss {
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, step.device);
        let second_image = (!batch.second_images.is_empty()).then(|| {
            let second = TensorData::new(batch.second_images.clone(), image.dims());
            Tensor::from_inner(Tensor::from_data(second, step.device))
        });
        let examples = Examples {
            image: Tensor::from_inner(image),
            second_image,
            input_ids: Tensor::from_inner(input_ids),
            attention_mask: Tensor::from_inner(attention_mask),
        };
        let logits = self.logits(examples, Some(step.dropout));
        let task = step.recipe.task.as_ref().expect("a recipe of a task");
        if task.kind == TaskKind::Vqa {
            let targets = degrees(batch, &task.answers);
            let targets = soft_targets(&targets, task.answers.len());
            let targets = Tensor::from_inner(Tensor::from_data(targets, step.device));
            return TaskLoss {
                accuracy: None,
                loss: answer_loss(logits, targets),
            };
        }
        let classes: Vec<i64> = batch.classes.iter().map(|class| *class as i64).collect();
        let labels = TensorData::new(classes.clone(), [batch.size]);
        let labels = Tensor::<1, Int>::from_inner(Tensor::from_data(labels, step.device));
        TaskLoss {
            accuracy: Some(accuracy(logits.clone(), &classes)),
            loss: cross_entropy(logits, labels),
        }
    }

    fn evaluate(model: &Self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        match validation.recipe.task_kind() {
            Some(TaskKind::Vqa) => evaluate_answers(model, validation),
            Some(kind) => evaluate_classes(model, kind, validation),
            None => Err(TrainError::Unscored(validation.source.describe())),
        }
    }
}

/// Of every question the answers of the list with how right they are: 0.3, 0.6, 0.9 and 1 where one, two, three or more
/// of ten people gave them (`get_score` of ViLT's `utils/glossary.py`).
fn degrees(batch: &PairBatch, list: &[String]) -> Vec<Vec<(usize, f32)>> {
    let places: HashMap<&str, usize> = list.iter().map(String::as_str).zip(0..).collect();
    // Of answers of the list that are one when spelt alike, the first.
    let mut spelt: HashMap<String, usize> = HashMap::new();
    for (text, place) in list.iter().zip(0..) {
        spelt.entry(normalise(text)).or_insert(place);
    }
    let degree = |weight: f32| match (10.0 * weight).round() as u32 {
        0 => 0.0,
        1 => 0.3,
        2 => 0.6,
        3 => 0.9,
        _ => 1.0,
    };
    let questions = batch.answers.iter().map(|answers| {
        // Spellings of one answer count together.
        let mut weights: Vec<(usize, f32)> = Vec::new();
        for answer in answers {
            let place = places
                .get(answer.text.as_str())
                .or_else(|| spelt.get(&normalise(&answer.text)));
            let Some(place) = place else { continue };
            match weights.iter_mut().find(|(known, _)| known == place) {
                Some((_, weight)) => *weight += answer.weight,
                None => weights.push((*place, answer.weight)),
            }
        }
        let scored = weights.into_iter().map(|(place, w)| (place, degree(w)));
        scored.collect()
    });
    questions.collect()
}

impl<M: Discriminative> Classifying for M {
    fn class_logits(&self, examples: Examples) -> Tensor<2> {
        self.logits(examples, None)
    }
}

impl<M: Discriminative> Answering for M {
    fn writes(&self) -> bool {
        false
    }

    fn describe(&self, _decoding: &Decoding, count: usize) -> String {
        format!("the likeliest of {count} answers")
    }

    /// The list is what the head was made for; the way of decoding has no meaning here.
    fn answers(
        &self,
        examples: Examples,
        list: &AnswerList,
        decoding: &Decoding,
        _tokenizer: &Tokenizer,
    ) -> Vec<Vec<Answer>> {
        let shown = match decoding {
            Decoding::Ranked { k, .. } => *k,
            Decoding::OpenEnded { beams, .. } => *beams,
        };
        // Each answer is right or wrong by itself.
        let values = host_values(activation::sigmoid(self.logits(examples, None)));
        let rows = values.chunks(list.texts.len()).map(|row| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let best = order.into_iter().take(shown).map(|answer| Answer {
                text: list.texts[answer].clone(),
                probability: row[answer],
            });
            best.collect()
        });
        rows.collect()
    }
}

fn texts(examples: &Examples) -> ViltTexts {
    ViltTexts {
        input_ids: examples.input_ids.clone(),
        attention_mask: examples.attention_mask.clone(),
    }
}

fn second(examples: &Examples) -> Tensor<4> {
    let second = examples.second_image.clone();
    second.unwrap_or_else(|| examples.image.clone())
}

const VILT_POSITIONS: [&str; 1] = ["transformer.pos_embed"];

fn vilt_fitted(recipe: &Recipe, tensors: TensorMap) -> Result<TensorMap, WeightsError> {
    let vision = &recipe.model.vilt().vision;
    let grid = vision.image_size / vision.patch_size;
    fitted_positions(tensors, &VILT_POSITIONS, grid).map(|(tensors, _)| tensors)
}

/// Whether a parameter is of ViLT's stream and not of a head.
fn is_vilt_stream(name: &str) -> bool {
    let parts = [
        "transformer.",
        "text_embeddings.",
        "token_type_embeddings.",
        "pooler.",
    ];
    parts.iter().any(|part| name.starts_with(part))
}

impl Discriminative for ViltVqa {
    fn empty(recipe: &Recipe, device: &Device) -> Self {
        let stream = recipe.model.vilt().init_stream(device);
        Self::new(stream, class_count(recipe), device)
    }

    fn parameter_name(path: &str) -> String {
        weights::vilt_name(path)
    }

    fn parameter_group(name: &str, _shape: &[usize]) -> ParameterGroup {
        vlmo_group(name, 1.0)
    }

    fn is_pretrained(name: &str) -> bool {
        is_vilt_stream(name)
    }

    fn fitted(recipe: &Recipe, pretrained: TensorMap) -> Result<TensorMap, WeightsError> {
        vilt_fitted(recipe, pretrained)
    }

    fn logits(&self, examples: Examples, dropout: Option<DropoutSeed>) -> Tensor<2> {
        let images = self.stream.whole_images(examples.image.clone());
        self.forward(&texts(&examples), &images, dropout)
    }
}

impl Discriminative for ViltNlvr2 {
    fn empty(recipe: &Recipe, device: &Device) -> Self {
        Self::new(recipe.model.vilt().init_stream(device), device)
    }

    fn parameter_name(path: &str) -> String {
        weights::vilt_name(path)
    }

    fn parameter_group(name: &str, _shape: &[usize]) -> ParameterGroup {
        vlmo_group(name, 1.0)
    }

    fn is_pretrained(name: &str) -> bool {
        is_vilt_stream(name)
    }

    fn fitted(recipe: &Recipe, pretrained: TensorMap) -> Result<TensorMap, WeightsError> {
        let mut tensors = vilt_fitted(recipe, pretrained)?;
        weights::add_second_image_type(&mut tensors);
        Ok(tensors)
    }

    fn logits(&self, examples: Examples, dropout: Option<DropoutSeed>) -> Tensor<2> {
        let first = self.stream.whole_images(examples.image.clone());
        let second = self.stream.whole_images(second(&examples));
        self.forward(&texts(&examples), [&first, &second], dropout)
    }
}

fn text_batch(examples: &Examples) -> TextBatch {
    TextBatch {
        input_ids: examples.input_ids.clone(),
        attention_mask: examples.attention_mask.clone(),
    }
}

fn vlmo_fitted(recipe: &Recipe, mut tensors: TensorMap) -> Result<TensorMap, WeightsError> {
    weights::fit_vlmo(&mut tensors, recipe.model.vlmo())?;
    Ok(tensors)
}

impl Discriminative for VlmoVqa {
    fn empty(recipe: &Recipe, device: &Device) -> Self {
        recipe.model.vlmo().init_vqa(class_count(recipe), device)
    }

    fn parameter_name(path: &str) -> String {
        weights::vlmo_name(path)
    }

    fn parameter_group(name: &str, _shape: &[usize]) -> ParameterGroup {
        vlmo_group(name, 1.0)
    }

    fn is_pretrained(name: &str) -> bool {
        weights::is_vlmo_encoder(name)
    }

    fn fitted(recipe: &Recipe, pretrained: TensorMap) -> Result<TensorMap, WeightsError> {
        vlmo_fitted(recipe, pretrained)
    }

    fn logits(&self, examples: Examples, dropout: Option<DropoutSeed>) -> Tensor<2> {
        VlmoVqa::logits(self, &text_batch(&examples), examples.image, dropout)
    }
}

impl Discriminative for VlmoNlvr2 {
    fn empty(recipe: &Recipe, device: &Device) -> Self {
        recipe.model.vlmo().init_nlvr2(device)
    }

    fn parameter_name(path: &str) -> String {
        weights::vlmo_name(path)
    }

    fn parameter_group(name: &str, _shape: &[usize]) -> ParameterGroup {
        vlmo_group(name, 1.0)
    }

    fn is_pretrained(name: &str) -> bool {
        weights::is_vlmo_encoder(name)
    }

    fn fitted(recipe: &Recipe, pretrained: TensorMap) -> Result<TensorMap, WeightsError> {
        let mut tensors = vlmo_fitted(recipe, pretrained)?;
        weights::add_second_image_type(&mut tensors);
        Ok(tensors)
    }

    fn logits(&self, examples: Examples, dropout: Option<DropoutSeed>) -> Tensor<2> {
        let (text, second) = (text_batch(&examples), second(&examples));
        VlmoNlvr2::logits(self, &text, examples.image, second, dropout)
    }
}

impl Discriminative for ClipClassifier {
    fn empty(recipe: &Recipe, device: &Device) -> Self {
        let images = match recipe.task_kind() {
            Some(TaskKind::Nlvr2) => 2,
            _ => 1,
        };
        let config = recipe.model.clip();
        config.init_classifier(images, class_count(recipe), device)
    }

    fn parameter_name(path: &str) -> String {
        match path.strip_prefix("clip.") {
            Some(path) => weights::clip_name(path),
            None => path.to_owned(),
        }
    }

    fn parameter_group(_name: &str, shape: &[usize]) -> ParameterGroup {
        clip_group(shape)
    }

    fn is_pretrained(name: &str) -> bool {
        !name.starts_with("classifier.")
    }

    /// In any published layout.
    fn fitted(recipe: &Recipe, pretrained: TensorMap) -> Result<TensorMap, WeightsError> {
        let empty = recipe.model.clip().init(&Device::flex());
        let clip = weights::load_clip(empty, &pretrained, is_model)?;
        Ok(weights::export(&clip, weights::clip_name))
    }

    fn logits(&self, examples: Examples, _dropout: Option<DropoutSeed>) -> Tensor<2> {
        let mut images = vec![examples.image];
        images.extend(examples.second_image);
        self.forward(images, examples.input_ids, examples.attention_mask)
    }
}
