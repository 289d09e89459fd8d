//! Random changes of brightness, contrast and saturation, in either direction, and loss of colour:
//! the colour part of SimCLR's augmentation (arXiv:2002.05709, appendix A), without the shift of hue,
//! which would make captions that name a colour wrong.

use image::RgbImage;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::photometric::{brightness, color, contrast};

/// How far the values may move. RandAugment's own photometric operations have one fixed factor per
/// magnitude; here the factor is drawn, from `1 - range` to `1 + range`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitter {
    /// Probability that an image is changed in brightness, contrast and saturation.
    pub probability: f64,
    /// Range of the brightness factor, 0 to 1.
    pub brightness: f64,
    /// Range of the contrast factor, 0 to 1.
    pub contrast: f64,
    /// Range of the saturation factor, 0 to 1.
    pub saturation: f64,
    /// Probability that an image loses its colours altogether.
    pub grayscale: f64,
}

impl Default for ColorJitter {
    fn default() -> Self {
        Self {
            probability: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            grayscale: 0.1,
        }
    }
}

impl ColorJitter {
    /// Draws factors and applies them. The size stays. The number of draws does not depend on what
    /// is drawn.
    pub fn apply(&self, image: &mut RgbImage, rng: &mut ChaCha8Rng) {
        let [jitter, grayscale] = [rng.random::<f64>(), rng.random::<f64>()];
        let mut factor = |range: f64| 1.0 + range * (2.0 * rng.random::<f64>() - 1.0);
        let factors = [
            factor(self.brightness),
            factor(self.contrast),
            factor(self.saturation),
        ];
        if jitter < self.probability {
            brightness(image, factors[0]);
            contrast(image, factors[1]);
            color(image, factors[2]);
        }
        if grayscale < self.grayscale {
            color(image, 0.0);
        }
    }

    /// The settings that must lie in 0 to 1, by name.
    pub(super) fn parts(&self) -> [(&'static str, f64); 5] {
        [
            ("color_jitter.probability", self.probability),
            ("color_jitter.brightness", self.brightness),
            ("color_jitter.contrast", self.contrast),
            ("color_jitter.saturation", self.saturation),
            ("color_jitter.grayscale", self.grayscale),
        ]
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use rand::SeedableRng;

    use super::*;

    const STILL: ColorJitter = ColorJitter {
        probability: 1.0,
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
        grayscale: 0.0,
    };

    fn red() -> RgbImage {
        RgbImage::from_fn(4, 4, |x, _| Rgb([120 + x as u8 * 20, 40, 40]))
    }

    #[test]
    fn no_range_changes_nothing_but_rounding() {
        let mut image = red();
        STILL.apply(&mut image, &mut ChaCha8Rng::seed_from_u64(1));
        for (after, before) in image.iter().zip(red().iter()) {
            assert!(after.abs_diff(*before) <= 2, "{after} from {before}");
        }
    }

    #[test]
    fn factors_go_both_ways_and_gray_has_no_colour() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let settings = ColorJitter {
            brightness: 0.4,
            ..STILL
        };
        let first = |rng: &mut ChaCha8Rng| {
            let mut image = red();
            settings.apply(&mut image, rng);
            image.get_pixel(0, 0)[0]
        };
        let values: Vec<u8> = (0..200).map(|_| first(&mut rng)).collect();
        assert!(values.iter().all(|v| (70..=168).contains(v)));
        assert!(values.iter().any(|&v| v < 90) && values.iter().any(|&v| v > 150));
        let mut image = red();
        ColorJitter {
            grayscale: 1.0,
            ..STILL
        }
        .apply(&mut image, &mut rng);
        assert!(
            image
                .pixels()
                .all(|p| p[0].abs_diff(p[1]) <= 1 && p[1].abs_diff(p[2]) <= 1)
        );
    }
}
