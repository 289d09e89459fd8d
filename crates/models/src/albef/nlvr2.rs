//! ALBEF fine-tuned for NLVR2 (`models/model_nlvr.py`): whether a sentence is true of two images.
//!
//! Each fusion layer is two: the first reads the first image, the second the second one. The two
//! share the projections of keys and values and nothing else, so those stand in the first alone
//! (the official checkpoints hold them under both names; see
//! [`crate::weights::fold_second_images`]).
//!
//! The original copies the momentum model before it loads the checkpoint, so that it starts from
//! random weights; it should be copied after.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::AlbefConfig;
use super::entailment::Classified;
use crate::layers::bert::{Bert, ImageTokens};
use crate::layers::class_head::ClassHead;
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::{Asked, Packing};
use crate::layers::vision_transformer::VisionTransformer;

/// The model; the momentum model is a copy of all of it.
#[derive(Module, Debug)]
pub struct AlbefNlvr2 {
    /// Images to tokens.
    pub visual_encoder: VisionTransformer,
    /// Text layers, and two fusion layers for each of the pre-trained model's.
    pub text_encoder: Bert,
    /// `text.hidden_size -> 2` on the fused CLS; logit 1 is "true".
    pub cls_head: ClassHead,
}

impl AlbefConfig {
    /// The model for NLVR2, all weights zero. The sizes are those of the pre-trained model;
    /// `embed_dim` and `temp` are not used.
    pub fn init_nlvr2(&self, device: &Device) -> AlbefNlvr2 {
        AlbefNlvr2 {
            visual_encoder: self.vision.init(device),
            text_encoder: self.text.init_for_two_images(device),
            cls_head: ClassHead::new(self.text.hidden_size, 2, device),
        }
    }
}

/// One batch, on the plain (not autodiff) device.
#[derive(Clone, Debug)]
pub struct Nlvr2Batch {
    /// First and second images, `[batch, 3, image_size, image_size]` each, normalised.
    pub images: [Tensor<4>; 2],
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
    /// `[batch]`, 1 for "true", 0 for "false".
    pub labels: Tensor<1, Int>,
}

impl AlbefNlvr2 {
    /// Logits, `[batch, 2]`. `images`: `[batch, 3, image_size, image_size]` each, normalised;
    /// `input_ids`: `[rows]`, packed as `packing`, text `i` beside images `i`.
    pub fn forward(
        &self,
        images: [Tensor<4>; 2],
        input_ids: Tensor<1, Int>,
        packing: &Packing,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let batch = packing.texts();
        let tokens = self.visual_encoder.forward(Tensor::cat(images.into(), 0));
        let images = [0, batch].map(|start| ImageTokens {
            tokens: tokens.clone().narrow(0, start, batch),
            mask: None,
        });
        let bert = &self.text_encoder;
        let images = bert.image_keys_values(&images);
        let fused = bert.multi_modal_rows(input_ids, packing, &images, &Asked::First, dropout);
        self.cls_head.forward(fused)
    }

    /// One step's loss, `(1 - alpha) * cross-entropy + alpha * cross-entropy against the momentum
    /// model`. `self` lives on an autodiff device, `momentum` (already updated for this step; `None`
    /// without distillation) and the batch on the device below it.
    pub fn loss(
        &self,
        momentum: Option<&Self>,
        batch: &Nlvr2Batch,
        alpha: f64,
        dropout: Option<DropoutSeed>,
    ) -> Classified {
        let packing = Packing::from_mask(batch.attention_mask.clone());
        let ids = packing.pack(batch.input_ids.clone());
        let images = batch.images.clone().map(Tensor::from_inner);
        let own_ids = Tensor::from_inner(ids.clone());
        let logits = self.forward(images, own_ids, &packing, dropout);
        let teacher = momentum.filter(|_| alpha > 0.0);
        let teacher = teacher.map(|m| m.forward(batch.images.clone(), ids, &packing, None));
        Classified::new(logits, teacher, batch.labels.clone(), alpha)
    }
}
