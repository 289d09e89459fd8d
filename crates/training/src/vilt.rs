//! ViLT's pre-training step: masked words, matching, word-patch alignment.

use burn::tensor::{Device, Tensor, TensorData};
use fitup_data::loader::PairBatch;
use fitup_data::text::Tokenizer;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::objectives::wpa;
use fitup_models::vilt::{PretrainBatch, Vilt, ViltTexts};
use fitup_models::weights::initial::InitialReport;
use fitup_models::weights::{self, TensorMap, WeightsError};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::parameter_groups::{ParameterGroup, vlmo_group};
use crate::recipe::{ItcTargets, ObjectivesRecipe, Recipe};
use crate::trainer::{
    PairTensors, Pretrain, Scores, StepLosses, StepNumbers, TrainError, Validation, WordMasking,
    fitted_positions, itm_accuracy, pair_ids, scalar, started,
};

/// Everything that a ViLT pre-training run changes, except the optimizer's state.
#[derive(Debug)]
pub struct ViltPretrain {
    model: Option<Vilt>,
    objectives: ObjectivesRecipe,
    masking: WordMasking,
    device: Device,
}

impl Pretrain for ViltPretrain {
    type Model = Vilt;

    fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        tensors: Option<&TensorMap>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let config = recipe.model.vilt();
        let mut empty_model = config.init(&device.clone().autodiff());
        let blocks = &mut empty_model.stream.transformer;
        blocks.set_block_compute(recipe.run.block_compute());
        let model = started(
            empty_model,
            recipe,
            0x0071_1700,
            tensors,
            weights::vilt_name,
        )?;
        Ok(Self {
            model: Some(model),
            objectives: recipe.objectives.clone(),
            masking: WordMasking::of_whole_words(
                recipe.data.mask_probability,
                config.vocab_size,
                tokenizer,
            ),
            device: device.clone(),
        })
    }

    /// From a model of another image size, too: its positions are resized.
    fn initial(
        recipe: &Recipe,
        tensors: TensorMap,
        _device: &Device,
    ) -> Result<(TensorMap, Option<InitialReport>), WeightsError> {
        let vision = &recipe.model.vilt().vision;
        let grid = vision.image_size / vision.patch_size;
        fitted_positions(tensors, &["transformer.pos_embed"], grid)
    }

    fn model(&self) -> &Vilt {
        self.model.as_ref().expect("absent only inside `map_model`")
    }

    fn map_model(&mut self, change: impl FnOnce(Vilt) -> Vilt) {
        self.model = self.model.take().map(change);
    }

    fn parameter_name(path: &str) -> String {
        weights::vilt_name(path)
    }

    fn parameter_group(name: &str, _shape: &[usize]) -> ParameterGroup {
        vlmo_group(name, 1.0)
    }

    fn begin_step(&mut self, _step: u64) {}

    fn losses(&mut self, batch: &PairBatch, draw_seed: u64, _alpha: f64) -> StepLosses {
        let o = &self.objectives;
        let mut rng = ChaCha8Rng::seed_from_u64(draw_seed);
        let (masked_input_ids, mut masked) = self.masking.draw(batch, &mut rng, &self.device);
        if !o.mlm {
            masked = MaskedPositions::from_labels(&[]);
        }
        let ids = match o.itc_targets {
            ItcTargets::Pair => pair_ids(ItcTargets::ImageId, batch),
            targets => pair_ids(targets, batch),
        };
        let same = |i: usize, j: usize| i == j || ids[i].is_same(ids[j]);
        let (itm_labels, chosen) = swap_half(batch.size, same, &mut rng);

        let PairTensors {
            image,
            input_ids,
            attention_mask,
        } = PairTensors::new(batch, &self.device);
        let chosen: Vec<i64> = chosen.into_iter().map(|i| i as i64).collect();
        let chosen = TensorData::new(chosen, [batch.size]);
        let itm_image = image
            .clone()
            .select(0, Tensor::from_data(chosen, &self.device));
        let stream = &self.model().stream;
        let input = PretrainBatch {
            texts: ViltTexts {
                input_ids,
                attention_mask,
            },
            masked_input_ids,
            masked,
            images: stream.whole_images(image),
            itm_images: stream.whole_images(itm_image),
            itm_labels,
        };
        let dropout = DropoutSeed::new(rng.random());
        let output = self.model().pretrain(&input, Some(dropout));

        let itm = o.itm.then(|| {
            let matching = output.itm.loss.clone().mul_scalar(o.weights.itm);
            matching + output.wpa.loss.clone().mul_scalar(wpa::WEIGHT)
        });
        let mlm = output
            .mlm
            .clone()
            .map(|loss| loss.mul_scalar(o.weights.mlm));
        let total = [itm, mlm].into_iter().flatten().reduce(|a, b| a + b);
        let numbers = StepNumbers {
            total: total.as_ref().map_or(0.0, scalar),
            itm: o.itm.then(|| scalar(&output.itm.loss)),
            mlm: output.mlm.as_ref().map(scalar),
            itm_accuracy: o.itm.then(|| {
                let logits = output.itm.logits.clone().inner();
                itm_accuracy(logits, Some(&input.itm_labels))
            }),
            temp: 1.0,
            ..StepNumbers::default()
        };
        StepLosses { total, numbers }
    }

    fn evaluate(&self, validation: &Validation<'_>) -> Result<Scores, TrainError> {
        validation.retrieval(self.model())
    }

    fn export(&self) -> TensorMap {
        weights::export(self.model(), weights::vilt_name)
    }
}

/// Labels of the matching pass, 1 for half of the pairs, and the image that each text meets: its
/// own, or one drawn from those that are not the `same`. A text for which the batch has no other
/// image keeps its own and counts as a match.
fn swap_half(
    size: usize,
    same: impl Fn(usize, usize) -> bool,
    rng: &mut ChaCha8Rng,
) -> (Vec<i64>, Vec<usize>) {
    let mut labels: Vec<i64> = (0..size).map(|i| i64::from(i < size / 2)).collect();
    labels.shuffle(rng);
    let mut chosen = Vec::with_capacity(size);
    for (i, label) in labels.iter_mut().enumerate() {
        let others: Vec<usize> = (0..size).filter(|j| !same(i, *j)).collect();
        if *label == 1 || others.is_empty() {
            *label = 1;
            chosen.push(i);
        } else {
            chosen.push(others[rng.random_range(0..others.len())]);
        }
    }
    (labels, chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_pairs_are_swapped_and_never_with_the_same() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let same = |i: usize, j: usize| i % 4 == j % 4;
        let (labels, chosen) = swap_half(8, same, &mut rng);
        assert_eq!(labels.iter().sum::<i64>(), 4);
        for (i, (label, image)) in labels.iter().zip(&chosen).enumerate() {
            assert_eq!(*label == 1, *image == i);
            assert!(*label == 1 || !same(i, *image));
        }
        let (labels, chosen) = swap_half(3, |_, _| true, &mut rng);
        assert_eq!((labels, chosen), (vec![1; 3], vec![0, 1, 2]));
    }
}
