//! ALBEF's fine-tuned models (`VQA.py`, `VE.py`, `NLVR.py`, `Pretrain_nlvr.py`).

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::loader::PairBatch;
use fitup_models::albef::entailment::{AlbefEntailment, Classified, EntailmentBatch};
use fitup_models::albef::nlvr2::{AlbefNlvr2, Nlvr2Batch};
use fitup_models::albef::text_assignment::{
    AlbefTextAssignment, AssignmentBatch, AssignmentChoice,
};
use fitup_models::albef::vqa::{AlbefVqa, VqaBatch};
use fitup_models::objectives::assignment::AssignmentDraw;
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{
    AlbefTask, TensorMap, WeightsError, fold_second_images, start_albef, unfold_second_images,
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Step, TaskLoss, TaskModel, accuracy, evaluate_answers, evaluate_classes};
use crate::recipe::{Recipe, TaskKind};
use crate::trainer::{PairTensors, Scores, TrainError, Validation};

impl TaskModel for AlbefVqa {
    const MOMENTUM_FROM_PRETRAINED: bool = true;

    fn empty(recipe: &Recipe, device: &Device) -> Self {
        recipe.model.albef().init_vqa(device)
    }

    fn start(
        _recipe: &Recipe,
        drawn: TensorMap,
        pretrained: TensorMap,
    ) -> Result<(TensorMap, InitialReport), WeightsError> {
        start_albef(AlbefTask::Vqa, drawn, pretrained)
    }

    fn loss(
        &self,
        momentum: Option<&Self>,
        batch: &PairBatch,
        step: &Step<'_>,
        _rng: &mut ChaCha8Rng,
    ) -> TaskLoss {
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, step.device);
        let answers = batch.answers.iter().flatten();
        let rows: Vec<&[i64]> = answers.clone().map(|a| &a.input_ids[..]).collect();
        let padded = step.tokenizer.pad(&rows, 0);
        let ints = |values: Vec<i64>| -> Tensor<2, Int> {
            let data = TensorData::new(values, [padded.size, padded.length]);
            Tensor::from_data(data, step.device)
        };
        let of_question = batch.answers.iter().enumerate();
        let input = VqaBatch {
            image,
            question_ids: input_ids,
            question_mask: attention_mask,
            answer_ids: ints(padded.input_ids.clone()),
            answer_mask: ints(padded.attention_mask.clone()),
            questions: of_question
                .flat_map(|(question, answers)| std::iter::repeat_n(question, answers.len()))
                .collect(),
            weights: answers.map(|answer| answer.weight).collect(),
        };
        let output = AlbefVqa::loss(self, momentum, &input, step.alpha, Some(step.dropout));
        TaskLoss {
            loss: output.loss,
            accuracy: None,
        }
    }

    fn evaluate(model: &Self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        evaluate_answers(model, validation)
    }
}

/// What both classifications share.
fn classified(output: Classified, batch: &PairBatch) -> TaskLoss {
    TaskLoss {
        accuracy: Some(accuracy(output.logits, &classes(batch))),
        loss: output.loss,
    }
}

fn classes(batch: &PairBatch) -> Vec<i64> {
    batch.classes.iter().map(|class| *class as i64).collect()
}

fn labels(batch: &PairBatch, device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(classes(batch), [batch.size]), device)
}

impl TaskModel for AlbefEntailment {
    const MOMENTUM_FROM_PRETRAINED: bool = true;

    fn empty(recipe: &Recipe, device: &Device) -> Self {
        recipe.model.albef().init_entailment(device)
    }

    fn start(
        _recipe: &Recipe,
        drawn: TensorMap,
        pretrained: TensorMap,
    ) -> Result<(TensorMap, InitialReport), WeightsError> {
        let (mut tensors, report) = start_albef(AlbefTask::Entailment, drawn, pretrained)?;
        same_heads(&mut tensors);
        Ok((tensors, report))
    }

    fn loss(
        &self,
        momentum: Option<&Self>,
        batch: &PairBatch,
        step: &Step<'_>,
        _rng: &mut ChaCha8Rng,
    ) -> TaskLoss {
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, step.device);
        let input = EntailmentBatch {
            image,
            input_ids,
            attention_mask,
            labels: labels(batch, step.device),
        };
        let output = AlbefEntailment::loss(self, momentum, &input, step.alpha, Some(step.dropout));
        classified(output, batch)
    }

    fn evaluate(model: &Self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        evaluate_classes(model, TaskKind::Entailment, validation)
    }
}

/// Gives the momentum copy's new head the model's own: both are drawn.
fn same_heads(tensors: &mut TensorMap) {
    let copies: Vec<_> = tensors
        .iter()
        .filter_map(|(name, tensor)| {
            let rest = name.strip_prefix("cls_head.")?;
            Some((format!("cls_head_m.{rest}"), tensor.clone()))
        })
        .collect();
    for (name, tensor) in copies {
        if let Some(place) = tensors.get_mut(&name) {
            *place = tensor;
        }
    }
}

impl TaskModel for AlbefNlvr2 {
    // The original's starts from random weights by mistake; from the pre-trained momentum model there is no way, for a
    // checkpoint of text assignment has none.
    const MOMENTUM_FROM_PRETRAINED: bool = false;

    fn empty(recipe: &Recipe, device: &Device) -> Self {
        recipe.model.albef().init_nlvr2(device)
    }

    fn start(
        _recipe: &Recipe,
        drawn: TensorMap,
        pretrained: TensorMap,
    ) -> Result<(TensorMap, InitialReport), WeightsError> {
        start_albef(AlbefTask::Nlvr2, drawn, pretrained)
    }

    fn from_official(tensors: TensorMap) -> TensorMap {
        fold_second_images(tensors)
    }

    fn to_official(tensors: TensorMap) -> TensorMap {
        unfold_second_images(tensors)
    }

    fn loss(
        &self,
        momentum: Option<&Self>,
        batch: &PairBatch,
        step: &Step<'_>,
        _rng: &mut ChaCha8Rng,
    ) -> TaskLoss {
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, step.device);
        let second = TensorData::new(batch.second_images.clone(), image.dims());
        let input = Nlvr2Batch {
            images: [image, Tensor::from_data(second, step.device)],
            input_ids,
            attention_mask,
            labels: labels(batch, step.device),
        };
        let output = AlbefNlvr2::loss(self, momentum, &input, step.alpha, Some(step.dropout));
        classified(output, batch)
    }

    fn evaluate(model: &Self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        evaluate_classes(model, TaskKind::Nlvr2, validation)
    }
}

impl TaskModel for AlbefTextAssignment {
    const MOMENTUM_FROM_PRETRAINED: bool = false;

    fn empty(recipe: &Recipe, device: &Device) -> Self {
        recipe.model.albef().init_text_assignment(device)
    }

    fn start(
        _recipe: &Recipe,
        drawn: TensorMap,
        pretrained: TensorMap,
    ) -> Result<(TensorMap, InitialReport), WeightsError> {
        start_albef(AlbefTask::TextAssignment, drawn, pretrained)
    }

    fn from_official(tensors: TensorMap) -> TensorMap {
        fold_second_images(tensors)
    }

    fn to_official(tensors: TensorMap) -> TensorMap {
        unfold_second_images(tensors)
    }

    fn loss(
        &self,
        _momentum: Option<&Self>,
        batch: &PairBatch,
        step: &Step<'_>,
        rng: &mut ChaCha8Rng,
    ) -> TaskLoss {
        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, step.device);
        let input = AssignmentBatch {
            image,
            input_ids,
            attention_mask,
        };
        let draws = (0..batch.size).map(|_| AssignmentDraw {
            has_own: rng.random(),
            own_first: rng.random(),
            others: [rng.random(), rng.random()],
        });
        let choice = AssignmentChoice::Draw(draws.collect());
        let output = AlbefTextAssignment::loss(self, &input, choice, Some(step.dropout));
        TaskLoss {
            accuracy: Some(accuracy(output.logits, &output.assignment.labels())),
            loss: output.loss,
        }
    }

    fn evaluate(_model: &Self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        Err(TrainError::Unscored(validation.source.describe()))
    }
}
