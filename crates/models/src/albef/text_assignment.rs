//! Pre-training ALBEF for NLVR2 on image-text pairs (`models/model_pretrain_nlvr.py`): a text meets
//! two images, and the model says which of them it belongs to, or that it belongs to neither.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor};
use fitup_kernels::attention::row_index;

use super::{AlbefConfig, first_token, int_vector};
use crate::layers::bert::{Bert, ImageTokens};
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::{Asked, Packing};
use crate::layers::vision_transformer::VisionTransformer;
use crate::layers::{Linear, l2_normalize, linear};
use crate::objectives::assignment::{Assignment, AssignmentDraw};
use crate::objectives::cross_entropy;
use crate::weights::host_values;

/// Similarities of images are divided by it before wrong ones are drawn: the temperature that
/// pre-training starts at, whatever it has become.
const TEMPERATURE: f32 = 0.07;

/// The model.
#[derive(Module, Debug)]
pub struct AlbefTextAssignment {
    /// Images to tokens.
    pub visual_encoder: VisionTransformer,
    /// Text layers, and two fusion layers for each of the pre-trained model's.
    pub text_encoder: Bert,
    /// `vision.width -> embed_dim`: says which images are alike. No loss trains it.
    pub vision_proj: Linear,
    /// `text.hidden_size -> embed_dim`; kept in the checkpoints, not used.
    pub text_proj: Linear,
    /// `[1]`; kept in the checkpoints, not used.
    pub temp: Param<Tensor<1>>,
    /// `text.hidden_size -> 3` on the fused CLS: the first image, the second, neither.
    pub ta_head: Linear,
}

impl AlbefConfig {
    /// The model for text assignment, all weights zero. The sizes are those of the pre-trained
    /// model.
    pub fn init_text_assignment(&self, device: &Device) -> AlbefTextAssignment {
        AlbefTextAssignment {
            visual_encoder: self.vision.init(device),
            text_encoder: self.text.init_for_two_images(device),
            vision_proj: linear(self.vision.width, self.embed_dim, device),
            text_proj: linear(self.text.hidden_size, self.embed_dim, device),
            temp: Initializer::Constant { value: self.temp }.init([1], device),
            ta_head: linear(self.text.hidden_size, 3, device),
        }
    }
}

/// One batch of pairs, on the plain (not autodiff) device.
#[derive(Clone, Debug)]
pub struct AssignmentBatch {
    /// `[batch, 3, image_size, image_size]`, normalised.
    pub image: Tensor<4>,
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
}

/// Which images the texts of a step meet.
#[derive(Clone, Debug)]
pub enum AssignmentChoice {
    /// Fixed beforehand (recorded runs).
    Given(Assignment),
    /// Drawn by the images' similarity: one draw per text.
    Draw(Vec<AssignmentDraw>),
}

/// The loss with what belongs to it.
#[derive(Clone, Debug)]
pub struct AssignmentOutput {
    /// Which images the texts met.
    pub assignment: Assignment,
    /// `[batch, 3]`.
    pub logits: Tensor<2>,
    /// Mean cross-entropy, `[1]`.
    pub loss: Tensor<1>,
}

impl AlbefTextAssignment {
    /// Similarities of images over the temperature, `[images, images]`, without gradient. `tokens`:
    /// `[images, 1 + patches, vision.width]`.
    pub fn image_similarities(&self, tokens: Tensor<3>) -> Tensor<2> {
        let embed = l2_normalize(self.vision_proj.forward(first_token(&tokens))).inner();
        embed
            .clone()
            .matmul(embed.transpose())
            .div_scalar(TEMPERATURE)
    }

    /// One step's loss. `self` lives on an autodiff device, the batch on the device below it.
    pub fn loss(
        &self,
        batch: &AssignmentBatch,
        choice: AssignmentChoice,
        dropout: Option<DropoutSeed>,
    ) -> AssignmentOutput {
        let tokens = self
            .visual_encoder
            .forward(Tensor::from_inner(batch.image.clone()));
        let assignment = match choice {
            AssignmentChoice::Given(assignment) => assignment,
            AssignmentChoice::Draw(draws) => Assignment::draw(
                &host_values(self.image_similarities(tokens.clone())),
                &draws,
            ),
        };
        let images = [&assignment.first, &assignment.second].map(|chosen| ImageTokens {
            tokens: tokens
                .clone()
                .select(0, row_index(chosen.iter().copied(), &tokens.device())),
            mask: None,
        });
        let packing = Packing::from_mask(batch.attention_mask.clone());
        let ids = Tensor::<1, Int>::from_inner(packing.pack(batch.input_ids.clone()));
        let bert = &self.text_encoder;
        let images = bert.image_keys_values(&images);
        let fused = bert.multi_modal_rows(ids, &packing, &images, &Asked::First, dropout);
        let logits = self.ta_head.forward(fused);
        let labels = int_vector(&assignment.labels(), &logits.device());
        AssignmentOutput {
            loss: cross_entropy(logits.clone(), labels),
            assignment,
            logits,
        }
    }
}
