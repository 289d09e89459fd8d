//! ALBEF fine-tuned for question answering (`models/model_vqa.py`): the question is read beside the
//! image, and a decoder that reads both writes the answer. Its layers start as copies of the fusion
//! layers.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_kernels::attention::row_index;

use super::AlbefConfig;
use crate::layers::bert::{Bert, BertConfig, ImageTokens, SourceKeysValues};
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::{Asked, Packing};
use crate::layers::vision_transformer::VisionTransformer;
use crate::objectives::lm;

mod generation;
mod ranking;

pub use generation::{GeneratedAnswer, Generation};
pub use ranking::{FirstToken, RankedAnswer};

/// The model; the momentum model is a copy of all of it.
#[derive(Module, Debug)]
pub struct AlbefVqa {
    /// Images to tokens.
    pub visual_encoder: VisionTransformer,
    /// Reads the question beside the image: text and fusion layers.
    pub text_encoder: Bert,
    /// Writes the answer: as many layers as there are fusion layers, each reading the question's
    /// states, and a head of its own.
    pub text_decoder: Bert,
}

impl AlbefConfig {
    /// The model for question answering, all weights zero; `embed_dim` and `temp` are not used. The
    /// decoder reads states of `text.hidden_size`, so it can start from the fusion layers where
    /// `vision.width` is the same.
    pub fn init_vqa(&self, device: &Device) -> AlbefVqa {
        let decoder = BertConfig {
            num_hidden_layers: self.text.num_hidden_layers - self.text.fusion_layer,
            fusion_layer: 0,
            encoder_width: self.text.hidden_size,
            ..self.text.clone()
        };
        AlbefVqa {
            visual_encoder: self.vision.init(device),
            text_encoder: self.text.init_headless(device),
            text_decoder: decoder.init(device),
        }
    }
}

/// One batch, on the plain (not autodiff) device. A question has one answer or several.
#[derive(Clone, Debug)]
pub struct VqaBatch {
    /// `[questions, 3, image_size, image_size]`, normalised.
    pub image: Tensor<4>,
    /// `[questions, seq]`.
    pub question_ids: Tensor<2, Int>,
    /// `[questions, seq]`, 1 for real tokens.
    pub question_mask: Tensor<2, Int>,
    /// `[answers, answer_seq]`, `[CLS] pieces [SEP]`.
    pub answer_ids: Tensor<2, Int>,
    /// `[answers, answer_seq]`, 1 for real tokens.
    pub answer_mask: Tensor<2, Int>,
    /// Which question each answer belongs to.
    pub questions: Vec<usize>,
    /// What each answer counts: the share of people who gave it, `[0, 1]`.
    pub weights: Vec<f32>,
}

/// Questions read beside their images.
#[derive(Clone, Debug)]
pub struct QuestionStates {
    /// `[rows, text.hidden_size]`.
    pub states: Tensor<2>,
    /// Where each question lies among them.
    pub packing: Packing,
}

/// The loss with what belongs to it.
#[derive(Clone, Debug)]
pub struct VqaOutput {
    /// Loss of each answer, summed over its tokens, `[answers]`.
    pub answer_losses: Tensor<1>,
    /// Weighted sum of them over the number of questions, `[1]`.
    pub loss: Tensor<1>,
}

impl AlbefVqa {
    /// `image`: `[questions, 3, image_size, image_size]`, normalised; `input_ids`: `[rows]`, packed
    /// as `packing`, question `i` beside image `i`.
    pub fn read_questions(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<1, Int>,
        packing: &Packing,
        dropout: Option<DropoutSeed>,
    ) -> QuestionStates {
        let bert = &self.text_encoder;
        let image = bert.image_keys_values(&[ImageTokens {
            tokens: self.visual_encoder.forward(image),
            mask: None,
        }]);
        QuestionStates {
            states: bert.multi_modal_rows(input_ids, packing, &image, &Asked::All, dropout),
            packing: packing.clone(),
        }
    }

    /// What the decoder reads of the questions.
    pub fn source(&self, questions: &QuestionStates) -> SourceKeysValues {
        self.text_decoder
            .source_keys_values(questions.states.clone(), &questions.packing)
    }

    /// Vocabulary logits after each token of each answer but the last, `[rows - answers,
    /// vocab_size]`. `answer_ids`: `[rows]`, packed as `packing`; answer `i` is one to question
    /// `questions[i]`.
    pub fn answer_logits(
        &self,
        source: &SourceKeysValues,
        answer_ids: Tensor<1, Int>,
        packing: &Packing,
        questions: &[usize],
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let decoder = &self.text_decoder;
        let hidden = decoder.decode_rows(answer_ids, packing, source, questions, dropout);
        let predicting = row_index(predicting_rows(packing, 0), &hidden.device());
        decoder.mlm_logits(hidden.select(0, predicting))
    }

    /// One step's loss. `self` lives on an autodiff device, `momentum` (already updated for this
    /// step; `None` without distillation) and the batch on the device below it. `alpha`: share of
    /// the momentum model in the word targets, `[0, 1]`.
    pub fn loss(
        &self,
        momentum: Option<&Self>,
        batch: &VqaBatch,
        alpha: f64,
        dropout: Option<DropoutSeed>,
    ) -> VqaOutput {
        let questions = Packing::from_mask(batch.question_mask.clone());
        let question_ids = questions.pack(batch.question_ids.clone());
        let answers = Packing::from_mask(batch.answer_mask.clone());
        let answer_ids = answers.pack(batch.answer_ids.clone());

        let (image, ids) = (batch.image.clone(), question_ids.clone());
        let (image, ids) = (Tensor::from_inner(image), Tensor::from_inner(ids));
        let states = self.read_questions(image, ids, &questions, dropout.map(|d| d.at(0)));
        let logits = self.answer_logits(
            &self.source(&states),
            Tensor::from_inner(answer_ids.clone()),
            &answers,
            &batch.questions,
            dropout.map(|d| d.at(1)),
        );
        let teacher = momentum.filter(|_| alpha > 0.0).map(|m| {
            let states = m.read_questions(batch.image.clone(), question_ids, &questions, None);
            let source = m.source(&states);
            let ids = answer_ids.clone();
            Tensor::from_inner(m.answer_logits(&source, ids, &answers, &batch.questions, None))
        });

        let next = row_index(
            predicting_rows(&answers, 0).map(|row| row + 1),
            &answer_ids.device(),
        );
        let next = Tensor::from_inner(answer_ids.select(0, next));
        let predicted: Vec<usize> = answers.lengths().iter().map(|n| n - 1).collect();
        let token_losses = lm::token_losses(logits, next, teacher, alpha);
        let answer_losses = lm::sequence_sums(token_losses, &predicted);
        let weights = TensorData::new(batch.weights.clone(), [batch.weights.len()]);
        let weights = Tensor::<1>::from_data(weights, &answer_losses.device());
        VqaOutput {
            loss: (answer_losses.clone() * weights)
                .sum()
                .div_scalar(questions.texts() as f32),
            answer_losses,
        }
    }
}

/// Rows that predict a next token: all of a sequence but its first `skipped` and its last.
fn predicting_rows(packing: &Packing, skipped: usize) -> impl Iterator<Item = usize> {
    packing
        .ranges()
        .flat_map(move |range| range.start + skipped..range.end - 1)
}
