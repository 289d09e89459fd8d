//! The queue of earlier momentum embeddings that the contrastive loss compares with.

use burn::tensor::{Device, Tensor, TensorData};
use fitup_models::layers::l2_normalize;
use fitup_models::objectives::itc::PairId;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Two ring buffers of the same length, with the ids of the pairs behind the entries.
#[derive(Clone, Debug)]
pub struct ItcQueue {
    /// `[embed_dim, size]`.
    pub image: Tensor<2>,
    /// `[embed_dim, size]`.
    pub text: Tensor<2>,
    /// Id of each entry's pair; `None` where nothing was enqueued yet.
    pub ids: Vec<Option<PairId>>,
    /// Where the next entries go.
    pub pointer: usize,
}

impl ItcQueue {
    /// Random unit columns, as the original starts. `size` may be 0: no queue.
    pub fn new(embed_dim: usize, size: usize, seed: u64, device: &Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut side = || {
            let values: Vec<f32> = (0..embed_dim * size)
                .map(|_| rng.random::<f32>() - 0.5)
                .collect();
            let rows = Tensor::<2>::from_data(TensorData::new(values, [size, embed_dim]), device);
            if size == 0 {
                rows.transpose()
            } else {
                l2_normalize(rows).transpose()
            }
        };
        Self {
            image: side(),
            text: side(),
            ids: vec![None; size],
            pointer: 0,
        }
    }

    /// Entries.
    pub fn size(&self) -> usize {
        self.ids.len()
    }

    /// Overwrites the oldest entries with `image` and `text`, `[batch, embed_dim]` each, and moves
    /// the pointer. The size must be a multiple of the batch, as the recipe checks.
    pub fn enqueue(&mut self, image: Tensor<2>, text: Tensor<2>, ids: &[PairId]) {
        if self.size() == 0 {
            return;
        }
        let [batch, embed_dim] = image.dims();
        let at = self.pointer;
        let columns = [0..embed_dim, at..at + batch];
        self.image = self
            .image
            .clone()
            .slice_assign(columns.clone(), image.transpose());
        self.text = self.text.clone().slice_assign(columns, text.transpose());
        for (slot, id) in self.ids[at..at + batch].iter_mut().zip(ids) {
            *slot = Some(*id);
        }
        self.pointer = (at + batch) % self.size();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair(image: u64) -> PairId {
        PairId {
            image,
            caption: None,
        }
    }

    #[test]
    fn the_oldest_entries_go() {
        let device = Device::flex();
        let mut queue = ItcQueue::new(2, 4, 0, &device);
        for (step, value) in [1.0f32, 2.0, 3.0].into_iter().enumerate() {
            let rows = Tensor::<2>::full([2, 2], value, &device);
            let ids = [step as u64, 10 + step as u64].map(pair);
            queue.enqueue(rows.clone(), rows, &ids);
        }
        let image: Vec<f32> = queue.image.into_data().try_to_vec().unwrap();
        assert_eq!(image, [3.0, 3.0, 2.0, 2.0, 3.0, 3.0, 2.0, 2.0]);
        assert_eq!(queue.ids, [2, 12, 1, 11].map(|id| Some(pair(id))));
        assert_eq!(queue.pointer, 2);
    }

    #[test]
    fn no_queue_stays_none() {
        let device = Device::flex();
        let mut queue = ItcQueue::new(2, 0, 0, &device);
        let rows = Tensor::<2>::ones([2, 2], &device);
        queue.enqueue(rows.clone(), rows, &[1, 2].map(pair));
        assert_eq!(queue.image.dims(), [2, 0]);
    }
}
