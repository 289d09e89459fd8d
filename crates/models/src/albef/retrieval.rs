//! Fine-tuning ALBEF for retrieval (`models/model_retrieval.py`).
//!
//! The model is [`Albef`] without the head of masked words; the losses are those of pre-training
//! without masked words, with targets and negatives that know the images: an image that stands in
//! the batch or the queue again is right there too, and never a negative. The original does not
//! bound the temperature here, as its pre-training does.

use burn::tensor::{Device, Int, Tensor};

use super::{
    Albef, AlbefConfig, AlbefEncoders, ItcMemory, NegativeDraw, PretrainBatch, PretrainObjectives,
};
use crate::layers::dropout::DropoutSeed;
use crate::objectives::itc::{Itc, ItcKeys, PairId, id_targets};
use crate::objectives::itm::Itm;
use crate::objectives::mlm::MaskedPositions;

impl AlbefConfig {
    /// The model that is fine-tuned for retrieval, all weights zero. Its momentum copy is
    /// [`Self::init_retrieval_encoders`].
    pub fn init_retrieval(&self, device: &Device) -> Albef {
        Albef {
            encoders: self.init_retrieval_encoders(device),
            ..self.init(device)
        }
    }

    /// Both encoders without the head of masked words, all weights zero.
    pub fn init_retrieval_encoders(&self, device: &Device) -> AlbefEncoders {
        AlbefEncoders {
            text_encoder: self.text.init_headless(device),
            ..self.init_encoders(device)
        }
    }
}

/// One batch, on the plain (not autodiff) device.
#[derive(Clone, Debug)]
pub struct RetrievalBatch {
    /// `[batch, 3, image_size, image_size]`, normalised.
    pub image: Tensor<4>,
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
    /// Which image each pair shows, `batch` of them.
    pub ids: Vec<PairId>,
}

/// What the contrastive loss remembers of earlier batches, on the plain device.
#[derive(Clone, Debug)]
pub struct RetrievalMemory {
    /// Earlier momentum image embeddings, `[embed_dim, queue]`.
    pub image_queue: Tensor<2>,
    /// Earlier momentum text embeddings, `[embed_dim, queue]`.
    pub text_queue: Tensor<2>,
    /// Which image each stands for, `queue` of them; `None` where nothing was enqueued yet.
    pub ids: Vec<Option<PairId>>,
}

/// Losses of a step with what belongs to them.
#[derive(Clone, Debug)]
pub struct RetrievalOutput {
    /// Contrastive loss and similarities.
    pub itc: Itc,
    /// Momentum embeddings of this batch, `[batch, embed_dim]` each, to be enqueued with its ids.
    pub keys: ItcKeys,
    /// Matching loss and logits.
    pub itm: Itm,
}

impl Albef {
    /// One step's losses, to be added up. `self` lives on an autodiff device, `momentum` (already
    /// updated for this step), batch and memory on the device below it. `alpha`: share of the
    /// momentum model in the contrastive targets, `[0, 1]`. Where `negatives` are drawn, they should
    /// be given the ids of the batch.
    pub fn retrieval(
        &self,
        momentum: &AlbefEncoders,
        batch: &RetrievalBatch,
        memory: &RetrievalMemory,
        negatives: NegativeDraw,
        alpha: f64,
        dropout: Option<DropoutSeed>,
    ) -> RetrievalOutput {
        let pairs = PretrainBatch {
            image: batch.image.clone(),
            input_ids: batch.input_ids.clone(),
            attention_mask: batch.attention_mask.clone(),
            masked_input_ids: batch.input_ids.clone(),
            masked: MaskedPositions {
                index: vec![],
                token: vec![],
            },
        };
        let objectives = PretrainObjectives {
            itc: Some(ItcMemory {
                image_queue: memory.image_queue.clone(),
                text_queue: memory.text_queue.clone(),
                hard_targets: id_targets(&batch.ids, &memory.ids),
            }),
            itm: Some(negatives),
            mlm: false,
            alpha_itc: alpha,
            alpha_mlm: 0.0,
        };
        let out = self.pretrain(momentum, &pairs, &objectives, dropout);
        RetrievalOutput {
            itc: out.itc.expect("asked for"),
            keys: out.keys.expect("they belong to the contrastive loss"),
            itm: out.itm.expect("asked for"),
        }
    }
}
