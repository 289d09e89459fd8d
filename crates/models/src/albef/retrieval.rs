//! Fine-tuning ALBEF for retrieval (`models/model_retrieval.py`), and the scores that retrieval is
//! judged by (`Retrieval.py`).
//!
//! The model is [`Albef`] without the head of masked words; the losses are those of pre-training
//! without masked words, with targets and negatives that know the images: an image that stands in
//! the batch or the queue again is right there too, and never a negative. The original does not
//! bound the temperature here, as its pre-training does.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{
    Albef, AlbefConfig, AlbefEncoders, ItcMemory, NegativeDraw, PretrainBatch, PretrainObjectives,
};
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::Pairs;
use crate::objectives::itc::{Itc, ItcKeys, PairId, id_targets};
use crate::objectives::itm::Itm;
use crate::objectives::mlm::MaskedPositions;
use crate::system::{EncodedImages, EncodedTexts, Matching};
use crate::weights::host_values;

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

    /// Scores of every image with every text, the `k` most similar of each row matched by the
    /// fusion encoder. Holds the image tokens of the whole collection in memory.
    ///
    /// # Panics
    /// When `images` or `texts` were encoded without embeddings.
    pub fn retrieval_scores(
        &self,
        images: &EncodedImages,
        texts: &EncodedTexts,
        k: usize,
    ) -> RetrievalScores {
        let image_embed = images.embed.clone().expect("images with embeddings");
        let text_embed = texts.embed.clone().expect("texts with embeddings");
        let similarities = image_embed.matmul(text_embed.transpose());
        let parts = self.image_parts(images.tokens.clone());
        let by_image = similarities.clone();
        let by_text = similarities.clone().transpose();
        RetrievalScores {
            image_to_text: reranked(by_image, k, |image, texts_of_it| {
                let pairs = Pairs {
                    texts: (0..texts_of_it.len()).collect(),
                    images: vec![image; texts_of_it.len()],
                };
                self.pair_logits(&texts.chosen(texts_of_it), &parts, &pairs)
            }),
            text_to_image: reranked(by_text, k, |text, images_of_it| {
                let pairs = Pairs {
                    texts: vec![0; images_of_it.len()],
                    images: images_of_it.to_vec(),
                };
                self.pair_logits(&texts.chosen(&[text]), &parts, &pairs)
            }),
            similarities,
        }
    }
}

/// The score of pairs that were not matched: recall beyond the first `k` is undefined.
pub const UNMATCHED: f32 = -100.0;

/// What recall is counted on.
#[derive(Clone, Debug)]
pub struct RetrievalScores {
    /// Cosines, `[images, texts]`.
    pub similarities: Tensor<2>,
    /// For each image its texts, `[images, texts]`: the logit of "they match", or [`UNMATCHED`].
    /// The cosine is not added, as in the original's code.
    pub image_to_text: Tensor<2>,
    /// For each text its images, `[texts, images]`.
    pub text_to_image: Tensor<2>,
}

/// `matched(row, columns)`: matching logits of a row with its `k` best columns, `[k, 2]`.
fn reranked(
    similarities: Tensor<2>,
    k: usize,
    matched: impl Fn(usize, &[usize]) -> Tensor<2>,
) -> Tensor<2> {
    let [rows, columns] = similarities.dims();
    let device = similarities.device();
    let host = host_values(similarities);
    let mut scores = vec![UNMATCHED; rows * columns];
    for row in 0..rows {
        let of_row = row * columns..(row + 1) * columns;
        let best = best(&host[of_row.clone()], k);
        let logits = host_values(matched(row, &best));
        for (column, logits) in best.iter().zip(logits.chunks(2)) {
            scores[of_row.start + column] = logits[1];
        }
    }
    Tensor::from_data(TensorData::new(scores, [rows, columns]), &device)
}

/// Indices of the `k` largest values, the largest first.
fn best(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    order
}
