//! Random crops, flips and the conversion to model inputs.

use image::RgbImage;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::resize::CropBox;

/// The random draws of a crop, so that recorded ones can be replayed.
pub trait CropDraws {
    /// A number in `low..high` (or `low`, where they are equal).
    fn uniform(&mut self, low: f32, high: f32) -> f32;
    /// An integer in `0..bound`; `bound` is at least 1.
    fn below(&mut self, bound: u32) -> u32;
}

impl CropDraws for ChaCha8Rng {
    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.random::<f32>()
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.random_range(0..bound.max(1))
    }
}

/// Which part of an image is shown: torchvision's `RandomResizedCrop`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomResizedCrop {
    /// Least and greatest part of the area, in 0..=1.
    pub scale: [f64; 2],
    /// Least and greatest width over height.
    pub ratio: [f64; 2],
}

impl RandomResizedCrop {
    /// With the ratios all recipes use, 3/4 to 4/3.
    pub fn new(scale: [f64; 2]) -> Self {
        Self {
            scale,
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        }
    }

    /// Draws a crop of an image of `width` by `height` pixels: ten attempts, then the largest
    /// central crop whose ratio is allowed.
    ///
    /// `torchvision.transforms.RandomResizedCrop.get_params`, draw for draw: area, log-ratio and,
    /// once they fit, top and left.
    pub fn draw(&self, width: u32, height: u32, draws: &mut impl CropDraws) -> CropBox {
        let area = f64::from(width) * f64::from(height);
        let [low, high] = self.ratio.map(|ratio| (ratio as f32).ln());
        for _ in 0..10 {
            let part = draws.uniform(self.scale[0] as f32, self.scale[1] as f32);
            let target = area * f64::from(part);
            let aspect = f64::from(draws.uniform(low, high).exp());
            // Python's `round`; the casts saturate.
            let w = (target * aspect).sqrt().round_ties_even() as u32;
            let h = (target / aspect).sqrt().round_ties_even() as u32;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = draws.below(height - h + 1);
                let left = draws.below(width - w + 1);
                return CropBox {
                    top,
                    left,
                    height: h,
                    width: w,
                };
            }
        }
        let ratio = f64::from(width) / f64::from(height);
        let fit = |length: f64, most: u32| (length.round_ties_even() as u32).clamp(1, most.max(1));
        let (w, h) = if ratio < self.ratio[0] {
            (width, fit(f64::from(width) / self.ratio[0], height))
        } else if ratio > self.ratio[1] {
            (fit(f64::from(height) * self.ratio[1], width), height)
        } else {
            (width, height)
        };
        CropBox {
            top: (height - h) / 2,
            left: (width - w) / 2,
            height: h,
            width: w,
        }
    }
}

/// Mirrors left and right.
pub fn flip_horizontal(image: &mut RgbImage) {
    image::imageops::flip_horizontal_in_place(image);
}

/// The mean and standard deviation of every channel, subtracted and divided by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Red, green, blue; of values in 0..=1.
    pub mean: [f32; 3],
    /// Red, green, blue; above 0.
    pub std: [f32; 3],
}

impl Default for Normalize {
    fn default() -> Self {
        Self::CLIP
    }
}

impl Normalize {
    /// CLIP's statistics, which ALBEF and BLIP use too.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };

    /// To -1..=1, as VLMo and ViLT do.
    pub const HALF: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
    };

    /// Channels first: `[3, height, width]`, `(value / 255 - mean) / std` in single precision.
    pub fn to_planes(&self, image: &RgbImage) -> Vec<f32> {
        let pixels = image.width() as usize * image.height() as usize;
        let mut planes = Vec::with_capacity(3 * pixels);
        for channel in 0..3 {
            let table: [f32; 256] = std::array::from_fn(|value| {
                (value as f32 / 255.0 - self.mean[channel]) / self.std[channel]
            });
            let values = image.as_raw().chunks_exact(3);
            planes.extend(values.map(|pixel| table[usize::from(pixel[channel])]));
        }
        planes
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn crops_stay_inside_whatever_the_shape() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for (width, height) in [
            (1, 1),
            (2, 1),
            (1, 2),
            (1, 5000),
            (5000, 1),
            (640, 480),
            (7, 7),
        ] {
            for scale in [[0.2, 1.0], [1.0, 1.0], [0.0, 0.0], [1e-9, 1e-9], [2.0, 9.0]] {
                for _ in 0..50 {
                    let crop = RandomResizedCrop::new(scale).draw(width, height, &mut rng);
                    assert!(
                        crop.width >= 1 && crop.left + crop.width <= width,
                        "{crop:?}"
                    );
                    assert!(
                        crop.height >= 1 && crop.top + crop.height <= height,
                        "{crop:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_long_strip_gets_its_centre() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let crop = RandomResizedCrop::new([0.5, 1.0]).draw(30, 300, &mut rng);
        assert_eq!(
            crop,
            CropBox {
                top: 130,
                left: 0,
                height: 40,
                width: 30
            }
        );
    }

    #[test]
    fn draws_differ_and_repeat_with_the_seed() {
        let crops = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let crop = RandomResizedCrop::new([0.2, 1.0]);
            [(); 4].map(|()| crop.draw(640, 480, &mut rng))
        };
        assert_eq!(crops(1), crops(1));
        assert_ne!(crops(1), crops(2));
        assert_ne!(crops(1)[0], crops(1)[1]);
    }

    #[test]
    fn planes_are_channels_first() {
        let image = RgbImage::from_raw(2, 1, vec![0, 51, 255, 255, 102, 0]).expect("six values");
        let planes = Normalize::HALF.to_planes(&image);
        let expected = [-1.0, 1.0, -0.6, -0.2, 1.0, -1.0];
        for (value, expected) in planes.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{planes:?}");
        }
        assert_eq!(planes.len(), 6);
    }

    #[test]
    fn flipping_mirrors_rows() {
        let mut image = RgbImage::from_raw(2, 1, vec![1, 2, 3, 4, 5, 6]).expect("six values");
        flip_horizontal(&mut image);
        assert_eq!(image.as_raw(), &[4, 5, 6, 1, 2, 3]);
    }
}
