//! RandAugment as ALBEF, BLIP and VLMo use it (`dataset/randaugment.py`).

use image::RgbImage;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::affine::Affine;

use super::photometric::{
    AutoContrastRule, SharpnessRule, auto_contrast, brightness, color, contrast, equalize,
    posterize, sharpness, solarize,
};

/// The magnitude at which every operation is at its strongest.
pub const MAX_MAGNITUDE: f64 = 10.0;
/// The farthest translation, in pixels whatever the size of the image.
const MAX_TRANSLATION: f64 = 10.0;

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Leaves the image as it is.
    Identity,
    /// Stretches every channel to the full range.
    AutoContrast,
    /// Spreads the values of every channel evenly.
    Equalize,
    /// Turns about the centre; the value is in degrees.
    Rotate,
    /// Inverts the values from a threshold on.
    Solarize,
    /// Blends with grey by a factor.
    Color,
    /// Blends with the mean grey by a factor.
    Contrast,
    /// Multiplies by a factor.
    Brightness,
    /// Blends with the smoothed image by a factor.
    Sharpness,
    /// Moves every row by a part of its y coordinate.
    ShearX,
    /// Moves every column by a part of its x coordinate.
    ShearY,
    /// Moves to the left; the value is in pixels.
    TranslateX,
    /// Moves up; the value is in pixels.
    TranslateY,
    /// Keeps a number of high bits.
    Posterize,
}

impl Op {
    /// The ten of the official pre-training.
    pub const ALBEF: [Self; 10] = [
        Self::Identity,
        Self::AutoContrast,
        Self::Equalize,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
    ];

    /// Whether the operation goes either way, which takes one more draw.
    pub fn has_direction(self) -> bool {
        matches!(
            self,
            Self::Rotate | Self::ShearX | Self::ShearY | Self::TranslateX | Self::TranslateY
        )
    }

    /// The strength at a magnitude in 0..=10, in the operation's unit. `draw`, in 0..1, decides the
    /// direction where there is one.
    pub fn value(self, magnitude: f64, draw: f64) -> f64 {
        let part = magnitude / MAX_MAGNITUDE;
        let negated_if = |negated: bool, value: f64| if negated { -value } else { value };
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize => 0.0,
            Self::Rotate => negated_if(draw < 0.5, part * 30.0),
            Self::ShearX | Self::ShearY => negated_if(draw > 0.5, part * 0.3),
            Self::TranslateX | Self::TranslateY => negated_if(draw > 0.5, part * MAX_TRANSLATION),
            Self::Color | Self::Contrast | Self::Brightness | Self::Sharpness => part * 1.8 + 0.1,
            Self::Solarize => (part * 256.0).trunc(),
            Self::Posterize => (part * 4.0).trunc(),
        }
    }
}

/// How many operations of which list are applied, and how strongly. The default is ALBEF's
/// pre-training; in a recipe, an empty table chooses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Operations drawn for an image, with replacement: N.
    pub count: u32,
    /// Strength in 0..=10: M.
    pub magnitude: f64,
    /// Probability that a drawn operation is applied.
    pub probability: f64,
    /// The operations to draw from.
    pub ops: Vec<Op>,
    /// Colour of what a warp brings in from outside of the image.
    pub fill: [u8; 3],
    /// The original's AutoContrast, or a right one.
    pub auto_contrast: AutoContrastRule,
    /// The original's Sharpness, or a right one.
    pub sharpness: SharpnessRule,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self {
            count: 2,
            magnitude: 7.0,
            probability: 0.5,
            ops: Op::ALBEF.to_vec(),
            fill: [128; 3],
            auto_contrast: AutoContrastRule::default(),
            sharpness: SharpnessRule::default(),
        }
    }
}

impl RandAugment {
    /// The default with the slips of the original code, to train as the authors did.
    pub fn parity() -> Self {
        Self {
            auto_contrast: AutoContrastRule::Parity,
            sharpness: SharpnessRule::Parity,
            ..Self::default()
        }
    }

    /// Draws operations and applies them. The size stays.
    pub fn apply(&self, mut image: RgbImage, rng: &mut ChaCha8Rng) -> RgbImage {
        if self.ops.is_empty() {
            return image;
        }
        let drawn: Vec<Op> = (0..self.count)
            .map(|_| self.ops[rng.random_range(0..self.ops.len())])
            .collect();
        for op in drawn {
            if rng.random::<f64>() > self.probability {
                continue;
            }
            let draw = if op.has_direction() {
                rng.random()
            } else {
                0.0
            };
            image = self.apply_op(image, op, op.value(self.magnitude, draw));
        }
        image
    }

    /// Applies one operation at a strength given in the operation's unit, see [`Op::value`].
    pub fn apply_op(&self, mut image: RgbImage, op: Op, value: f64) -> RgbImage {
        let single = value as f32;
        match op {
            Op::Identity => {}
            Op::AutoContrast => auto_contrast(&mut image, self.auto_contrast),
            Op::Equalize => equalize(&mut image),
            Op::Solarize => solarize(&mut image, value),
            Op::Color => color(&mut image, value),
            Op::Contrast => contrast(&mut image, value),
            Op::Brightness => brightness(&mut image, value),
            Op::Sharpness => sharpness(&mut image, value, self.sharpness),
            Op::Posterize => posterize(&mut image, value),
            Op::Rotate => return Affine::rotation(value, &image).warp(&image, self.fill),
            Op::ShearX => return self.warp(&image, [1.0, single, 0.0, 0.0, 1.0, 0.0]),
            Op::ShearY => return self.warp(&image, [1.0, 0.0, 0.0, single, 1.0, 0.0]),
            Op::TranslateX => return self.warp(&image, [1.0, 0.0, -single, 0.0, 1.0, 0.0]),
            Op::TranslateY => return self.warp(&image, [1.0, 0.0, 0.0, 0.0, 1.0, -single]),
        }
        image
    }

    fn warp(&self, image: &RgbImage, matrix: [f32; 6]) -> RgbImage {
        Affine::from_f32(matrix).warp(image, self.fill)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use image::Rgb;
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn strengths_at_the_official_magnitude() {
        assert_eq!(Op::Rotate.value(7.0, 0.9), 21.0);
        assert_eq!(Op::Rotate.value(7.0, 0.1), -21.0);
        assert_eq!(Op::ShearX.value(7.0, 0.9), -0.21);
        assert_eq!(Op::TranslateY.value(7.0, 0.1), 7.0);
        assert_eq!(Op::Brightness.value(7.0, 0.0), 1.36);
        assert_eq!(Op::Solarize.value(7.0, 0.0), 179.0);
        assert_eq!(Op::Posterize.value(7.0, 0.0), 2.0);
    }

    #[test]
    fn every_operation_keeps_the_size_of_a_tiny_or_thin_image() {
        let every =
            Op::ALBEF
                .into_iter()
                .chain([Op::Solarize, Op::Color, Op::Contrast, Op::Posterize]);
        for op in every {
            for (width, height) in [(1, 1), (1, 40), (40, 1), (2, 3)] {
                for magnitude in [0.0, 7.0, 10.0] {
                    let image = RgbImage::from_pixel(width, height, Rgb([9, 99, 199]));
                    let value = op.value(magnitude, 0.7);
                    let out = RandAugment::parity().apply_op(image, op, value);
                    assert_eq!(out.dimensions(), (width, height), "{op:?}");
                }
            }
        }
    }

    #[test]
    fn operations_are_drawn_evenly_and_applied_half_of_the_time() {
        // Brightness doubles or leaves: the result counts how often it was applied.
        let settings = RandAugment {
            ops: vec![Op::Brightness, Op::Identity],
            magnitude: 10.0,
            ..RandAugment::default()
        };
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            let out = settings.apply(RgbImage::from_pixel(1, 1, Rgb([10; 3])), &mut rng);
            counts[match out.as_raw()[0] {
                10 => 0,
                19 => 1,
                36 => 2,
                other => panic!("{other} is no power of 1.9 times ten"),
            }] += 1;
        }
        // Binomial with n = 2, p = 1/4: 9/16, 6/16, 1/16; four standard deviations.
        for (count, expected) in counts.into_iter().zip([2250.0_f64, 1500.0, 250.0]) {
            let spread = (expected * (1.0 - expected / 4000.0)).sqrt();
            assert!(
                (f64::from(count) - expected).abs() < 4.0 * spread,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn no_operations_and_no_probability_leave_the_image() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let image = RgbImage::from_pixel(2, 2, Rgb([10, 20, 30]));
        let empty = RandAugment {
            ops: vec![],
            ..RandAugment::default()
        };
        assert_eq!(empty.apply(image.clone(), &mut rng), image);
        let never = RandAugment {
            probability: 0.0,
            ..RandAugment::default()
        };
        for _ in 0..100 {
            assert_eq!(never.apply(image.clone(), &mut rng), image);
        }
    }

    #[test]
    fn an_empty_table_is_the_default_and_unknown_fields_are_errors() {
        assert_eq!(
            serde_json::from_str::<RandAugment>("{}").unwrap(),
            RandAugment::default()
        );
        let some: RandAugment =
            serde_json::from_str(r#"{"ops": ["shear_x"], "auto_contrast": "parity"}"#).unwrap();
        assert_eq!(some.ops, [Op::ShearX]);
        assert_eq!(some.auto_contrast, AutoContrastRule::Parity);
        assert!(serde_json::from_str::<RandAugment>(r#"{"level": 3}"#).is_err());
    }
}
