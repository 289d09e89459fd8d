//! Dropout whose draws come from a seed that the training step gives, never from a hidden
//! generator: a resumed or repeated step drops the same elements.

use burn::tensor::{Tensor, TensorData};
use fitup_kernels::attention::AttentionDropout;

/// The seed of one place in the model. `None` in a `forward` means no dropout (inference, parity).
#[derive(Clone, Copy, Debug)]
pub struct DropoutSeed(u64);

impl DropoutSeed {
    /// The seed of one training step.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The seed of place number `index` below this one; different places drop independently.
    pub fn at(self, index: u64) -> Self {
        Self(mix(self.0 ^ mix(index.wrapping_add(1))))
    }

    /// This seed's dropout on attention weights, at `rate` in `[0, 1)`.
    pub fn of_attention(self, rate: f64) -> AttentionDropout {
        AttentionDropout { seed: self.0, rate }
    }

    /// Zeroes elements of `x` (any shape) with probability `rate` in `[0, 1)` and divides the
    /// rest by `1 - rate`.
    pub fn apply<const D: usize>(self, x: Tensor<D>, rate: f64) -> Tensor<D> {
        if rate <= 0.0 {
            return x;
        }
        let shape = x.shape();
        let keep = (1.0 / (1.0 - rate)) as f32;
        let threshold = (rate * (1u64 << 32) as f64) as u64;
        let mask: Vec<f32> = (0..shape.num_elements() as u64)
            .map(|i| {
                let dropped = mix(self.0.wrapping_add(i)) >> 32 < threshold;
                if dropped { 0.0 } else { keep }
            })
            .collect();
        let mask = Tensor::<D>::from_data(TensorData::new(mask, shape), &x.device());
        let mask = mask.cast(x.dtype());
        x * mask
    }
}

/// SplitMix64's output function (Steele, Lea, Flood 2014).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn drops_the_asked_share_and_keeps_the_mean() {
        let x = Tensor::<2>::ones([100, 100], &Device::flex());
        let y: Vec<f32> = DropoutSeed::new(3)
            .at(1)
            .apply(x, 0.1)
            .into_data()
            .try_to_vec()
            .unwrap();
        let dropped = y.iter().filter(|v| **v == 0.0).count();
        assert!((850..1150).contains(&dropped), "{dropped} of 10000 dropped");
        assert!(y.iter().all(|v| *v == 0.0 || (*v - 1.0 / 0.9).abs() < 1e-6));
    }

    #[test]
    fn same_seed_same_elements_other_place_others() {
        let x = Tensor::<1>::ones([64], &Device::flex());
        let draw = |place| {
            let y = DropoutSeed::new(7).at(place).apply(x.clone(), 0.5);
            y.into_data().try_to_vec::<f32>().unwrap()
        };
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
    }
}
