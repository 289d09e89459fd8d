//! Image-text contrastive loss with momentum features, a queue and soft targets (ALBEF,
//! equations 1 to 3 and 6; `models/model_pretrain.py`).

use burn::tensor::{Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use super::soft_cross_entropy;

/// The momentum model's view of the batch, and what the queue remembers of earlier ones.
#[derive(Clone, Debug)]
pub struct ItcKeys {
    /// Momentum image embeddings of this batch, `[batch, embed_dim]`, no gradient.
    pub image: Tensor<2>,
    /// Momentum text embeddings of this batch, `[batch, embed_dim]`, no gradient.
    pub text: Tensor<2>,
    /// Earlier image embeddings, `[embed_dim, queue]`.
    pub image_queue: Tensor<2>,
    /// Earlier text embeddings, `[embed_dim, queue]`.
    pub text_queue: Tensor<2>,
}

impl ItcKeys {
    /// `embed` against all text keys, this batch's first: `[batch, batch + queue]`.
    fn against_texts(&self, embed: Tensor<2>) -> Tensor<2> {
        against(embed, &self.text, &self.text_queue)
    }

    /// `embed` against all image keys, this batch's first: `[batch, batch + queue]`.
    fn against_images(&self, embed: Tensor<2>) -> Tensor<2> {
        against(embed, &self.image, &self.image_queue)
    }
}

/// Two products instead of one with a concatenated key matrix: the queue is never copied.
fn against(embed: Tensor<2>, keys: &Tensor<2>, queue: &Tensor<2>) -> Tensor<2> {
    let batch = embed.clone().matmul(keys.clone().transpose());
    if queue.dims()[1] == 0 {
        return batch;
    }
    Tensor::cat(vec![batch, embed.matmul(queue.clone())], 1)
}

/// Similarities and the loss.
#[derive(Clone, Debug)]
pub struct Itc {
    /// Image to text similarity / temperature, `[batch, batch + queue]`.
    pub sim_i2t: Tensor<2>,
    /// Text to image similarity / temperature, `[batch, batch + queue]`.
    pub sim_t2i: Tensor<2>,
    /// Targets of `sim_i2t`, rows summing to 1.
    pub targets_i2t: Tensor<2>,
    /// Targets of `sim_t2i`, rows summing to 1.
    pub targets_t2i: Tensor<2>,
    /// Mean of both directions' cross-entropy, `[1]`.
    pub loss: Tensor<1>,
}

/// The contrastive loss.
///
/// `image_embed`, `text_embed`: `[batch, embed_dim]`, unit rows; `keys`: on the same device,
/// without gradient; `temp`: `[1]`; `hard_targets`: `[batch, batch + queue]` (see
/// [`identity_targets`]); `alpha`: share of the momentum model's softmax in the targets, `[0, 1]`.
pub fn itc(
    image_embed: Tensor<2>,
    text_embed: Tensor<2>,
    keys: &ItcKeys,
    temp: Tensor<1>,
    hard_targets: Tensor<2>,
    alpha: f64,
) -> Itc {
    let scale = temp.recip().unsqueeze::<2>();
    let soften = |sim: Tensor<2>| {
        let soft = activation::softmax(sim * scale.clone().detach(), 1);
        soft.mul_scalar(alpha) + hard_targets.clone().mul_scalar(1.0 - alpha)
    };
    let (targets_i2t, targets_t2i) = if alpha > 0.0 {
        (
            soften(keys.against_texts(keys.image.clone())),
            soften(keys.against_images(keys.text.clone())),
        )
    } else {
        (hard_targets.clone(), hard_targets.clone())
    };
    let sim_i2t = keys.against_texts(image_embed) * scale.clone();
    let sim_t2i = keys.against_images(text_embed) * scale.clone();
    let loss = (soft_cross_entropy(sim_i2t.clone(), targets_i2t.clone())
        + soft_cross_entropy(sim_t2i.clone(), targets_t2i.clone()))
        / 2.0;
    Itc {
        sim_i2t,
        sim_t2i,
        targets_i2t,
        targets_t2i,
        loss,
    }
}

/// One-hot targets of the original pre-training: row `i` is right with key `i` alone, even where
/// the same image stands in the batch or the queue again. Row-major `[batch, keys]`.
pub fn identity_targets(batch: usize, keys: usize) -> TensorData {
    let mut targets = vec![0.0f32; batch * keys];
    for i in 0..batch {
        targets[i * keys + i] = 1.0;
    }
    TensorData::new(targets, [batch, keys])
}

/// What makes a pair the same as another: where it is, one is no negative of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairId {
    /// Identity of the image.
    pub image: u64,
    /// Identity of the caption, where equal captions count as well.
    pub caption: Option<u64>,
}

impl PairId {
    /// Whether the image is the same, or the caption where it counts.
    pub fn is_same(self, other: Self) -> bool {
        self.image == other.image || (self.caption.is_some() && self.caption == other.caption)
    }
}

/// Targets uniform over all keys that are the same pair (`models/model_retrieval.py`, there by
/// image alone). `ids`: of the batch; `queue_ids`: of the queue, `None` where nothing was
/// enqueued yet. Row-major `[batch, batch + queue]`.
pub fn id_targets(ids: &[PairId], queue_ids: &[Option<PairId>]) -> TensorData {
    let keys = ids.len() + queue_ids.len();
    let mut targets = Vec::with_capacity(ids.len() * keys);
    for id in ids {
        let equal = |key: Option<PairId>| match key {
            Some(key) if key.is_same(*id) => 1.0f32,
            _ => 0.0,
        };
        let row: Vec<f32> = ids
            .iter()
            .map(|key| equal(Some(*key)))
            .chain(queue_ids.iter().map(|key| equal(*key)))
            .collect();
        let count: f32 = row.iter().sum();
        targets.extend(row.into_iter().map(|v| v / count));
    }
    TensorData::new(targets, [ids.len(), keys])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn equal_ids_share_the_target() {
        let image = |image| PairId {
            image,
            caption: None,
        };
        let targets = id_targets(&[image(7), image(8), image(7)], &[Some(image(8)), None]);
        let values: Vec<f32> = targets.try_to_vec().unwrap();
        assert_eq!(&values[..5], [0.5, 0.0, 0.5, 0.0, 0.0]);
        assert_eq!(&values[5..10], [0.0, 0.5, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn equal_captions_share_the_target_where_they_count() {
        let pair = |image, caption| PairId {
            image,
            caption: Some(caption),
        };
        let targets = id_targets(&[pair(1, 5), pair(2, 5)], &[Some(pair(1, 6))]);
        let values: Vec<f32> = targets.try_to_vec().unwrap();
        let third = 1.0 / 3.0;
        assert_eq!(values, [third, third, third, 0.5, 0.5, 0.0]);
    }
}
