//! ALBEF fine-tuned for visual entailment (`models/model_ve.py`): whether a sentence contradicts a
//! picture, may be true of it, or follows from it.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::AlbefConfig;
use crate::layers::bert::{Bert, ImageTokens};
use crate::layers::class_head::ClassHead;
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::{Asked, Packing};
use crate::layers::vision_transformer::VisionTransformer;
use crate::objectives::distilled_cross_entropy;

/// Contradiction, neutral, entailment, in the order of the logits.
pub const CLASSES: [&str; 3] = ["contradiction", "neutral", "entailment"];

/// The model; the momentum model is a copy of all of it.
#[derive(Module, Debug)]
pub struct AlbefEntailment {
    /// Images to tokens.
    pub visual_encoder: VisionTransformer,
    /// Text and fusion layers.
    pub text_encoder: Bert,
    /// `text.hidden_size -> 3` on the fused CLS.
    pub cls_head: ClassHead,
}

impl AlbefConfig {
    /// The model for visual entailment, all weights zero; `embed_dim` and `temp` are not used.
    pub fn init_entailment(&self, device: &Device) -> AlbefEntailment {
        AlbefEntailment {
            visual_encoder: self.vision.init(device),
            text_encoder: self.text.init_headless(device),
            cls_head: ClassHead::new(self.text.hidden_size, CLASSES.len(), device),
        }
    }
}

/// One batch, on the plain (not autodiff) device.
#[derive(Clone, Debug)]
pub struct EntailmentBatch {
    /// `[batch, 3, image_size, image_size]`, normalised.
    pub image: Tensor<4>,
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
    /// `[batch]`, indices into [`CLASSES`].
    pub labels: Tensor<1, Int>,
}

/// A classification of a batch with its loss.
#[derive(Clone, Debug)]
pub struct Classified {
    /// `[batch, classes]`.
    pub logits: Tensor<2>,
    /// The momentum model's, on the plain device; absent without distillation.
    pub teacher: Option<Tensor<2>>,
    /// `[1]`.
    pub loss: Tensor<1>,
}

impl Classified {
    /// From logits on an autodiff device; `teacher` and `labels` are on the device below it. `alpha`:
    /// share of the teacher, `[0, 1]`.
    pub(super) fn new(
        logits: Tensor<2>,
        teacher: Option<Tensor<2>>,
        labels: Tensor<1, Int>,
        alpha: f64,
    ) -> Self {
        let soft = teacher.clone().map(Tensor::from_inner);
        let labels = Tensor::from_inner(labels);
        Self {
            loss: distilled_cross_entropy(logits.clone(), labels, soft, alpha),
            logits,
            teacher,
        }
    }
}

impl AlbefEntailment {
    /// Logits of [`CLASSES`], `[batch, 3]`. `image`: `[batch, 3, image_size, image_size]`,
    /// normalised; `input_ids`: `[rows]`, packed as `packing`, text `i` beside image `i`.
    pub fn forward(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<1, Int>,
        packing: &Packing,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let bert = &self.text_encoder;
        let image = bert.image_keys_values(&[ImageTokens {
            tokens: self.visual_encoder.forward(image),
            mask: None,
        }]);
        let fused = bert.multi_modal_rows(input_ids, packing, &image, &Asked::First, dropout);
        self.cls_head.forward(fused)
    }

    /// One step's loss, `(1 - alpha) * cross-entropy + alpha * cross-entropy against the momentum
    /// model`. `self` lives on an autodiff device, `momentum` (already updated for this step; `None`
    /// without distillation) and the batch on the device below it.
    pub fn loss(
        &self,
        momentum: Option<&Self>,
        batch: &EntailmentBatch,
        alpha: f64,
        dropout: Option<DropoutSeed>,
    ) -> Classified {
        let packing = Packing::from_mask(batch.attention_mask.clone());
        let ids = packing.pack(batch.input_ids.clone());
        let (image, own_ids) = (batch.image.clone(), ids.clone());
        let logits = self.forward(
            Tensor::from_inner(image),
            Tensor::from_inner(own_ids),
            &packing,
            dropout,
        );
        let teacher = momentum.filter(|_| alpha > 0.0);
        let teacher = teacher.map(|m| m.forward(batch.image.clone(), ids, &packing, None));
        Classified::new(logits, teacher, batch.labels.clone(), alpha)
    }
}
