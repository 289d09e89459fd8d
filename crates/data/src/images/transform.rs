//! The whole way from a decoded image to a model input, as training and evaluation do it.

use std::borrow::Cow;

use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::augment::{Normalize, RandomResizedCrop, flip_horizontal};
use super::color_jitter::ColorJitter;
use super::randaugment::{MAX_MAGNITUDE, RandAugment};
use super::resize::{crop_resize, resize};

/// Longest side that is padded as it is. A longer image is shrunk to it first: a strip of 1 by
/// 65,535 pixels would become a square of 13 GB.
const MAX_PADDED_SIDE: u32 = 4096;

/// Makes model inputs of images. All randomness comes from the generator given.
pub trait Transform: Send + Sync {
    /// Width and height of the output in pixels.
    fn size(&self) -> u32;
    /// The model input, `[3, size, size]`, normalised.
    ///
    /// # Panics
    /// If the image has no pixels, or the size is 0 (which `validate` refuses).
    fn apply(&self, image: &RgbImage, rng: &mut ChaCha8Rng) -> Vec<f32>;
}

/// How an image that is not square meets a model that is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Both sides are resized to the same length, whatever it does to the shapes: the originals'
    /// behaviour.
    #[default]
    Stretch,
    /// White is added on both sides of the shorter direction before anything else, so that shapes
    /// stay what they are: for pictograms.
    PadWhite,
}

impl Fit {
    /// The part of the model's square that shows an image of this width and height: left, top,
    /// width, height as shares of the square's side. The rest is padding.
    pub fn shown(self, [width, height]: [u32; 2]) -> [f64; 4] {
        if self == Self::Stretch || width == height {
            return [0.0, 0.0, 1.0, 1.0];
        }
        let side = f64::from(width.max(height));
        let share = |length: u32| f64::from(length) / side;
        let (across, down) = (share(width), share(height));
        [(1.0 - across) / 2.0, (1.0 - down) / 2.0, across, down]
    }

    fn fit(self, image: &RgbImage) -> Cow<'_, RgbImage> {
        let (width, height) = image.dimensions();
        if self == Self::Stretch || width == height {
            return Cow::Borrowed(image);
        }
        let longest = width.max(height);
        let side = longest.min(MAX_PADDED_SIDE);
        let shrunk = if longest > side {
            let shrink = |length: u32| {
                let exact = f64::from(length) * f64::from(side) / f64::from(longest);
                (exact.round() as u32).max(1)
            };
            Cow::Owned(resize(image, shrink(width), shrink(height)))
        } else {
            Cow::Borrowed(image)
        };
        let mut square = RgbImage::from_pixel(side, side, Rgb([255; 3]));
        let left = (side - shrunk.width()) / 2;
        let top = (side - shrunk.height()) / 2;
        image::imageops::replace(&mut square, &*shrunk, left.into(), top.into());
        Cow::Owned(square)
    }
}

/// A setting no image could be transformed with.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("`{field}` is {got}; expected {expected}")]
pub struct InvalidTransform {
    /// The setting.
    pub field: &'static str,
    /// Its value.
    pub got: String,
    /// What is allowed.
    pub expected: &'static str,
}

/// Refuses a setting unless it holds.
fn check(
    holds: bool,
    field: &'static str,
    got: &impl std::fmt::Debug,
    expected: &'static str,
) -> Result<(), InvalidTransform> {
    if holds {
        return Ok(());
    }
    Err(InvalidTransform {
        field,
        got: format!("{got:?}"),
        expected,
    })
}

fn check_common(size: u32, normalize: &Normalize) -> Result<(), InvalidTransform> {
    check(
        (1..=MAX_PADDED_SIDE).contains(&size),
        "size",
        &size,
        "1 to 4096 pixels",
    )?;
    let finite = normalize
        .mean
        .iter()
        .chain(&normalize.std)
        .all(|v| v.is_finite());
    let positive = normalize.std.iter().all(|&std| std > 0.0);
    check(
        finite && positive,
        "normalize",
        normalize,
        "finite values, std above 0",
    )
}

/// The training pipeline: random crop, flip, colour jitter, RandAugment, normalisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainTransform {
    /// Width and height of the output in pixels.
    pub size: u32,
    /// Least and greatest part of the area a crop shows: ALBEF uses 0.2 to 1 in pre-training and
    /// 0.5 to 1 downstream. The default is 0.2 to 1.
    #[serde(default = "pretraining_scale")]
    pub scale: [f64; 2],
    /// Whether half of the images are mirrored (default: yes). Captions that name left and right
    /// must not be used with it.
    #[serde(default = "yes")]
    pub flip: bool,
    /// Absent: none. An empty table: SimCLR's, without hue.
    #[serde(default)]
    pub color_jitter: Option<ColorJitter>,
    /// Absent: none. An empty table: ALBEF's.
    #[serde(default)]
    pub randaugment: Option<RandAugment>,
    /// Default: CLIP's statistics.
    #[serde(default)]
    pub normalize: Normalize,
    /// Default: stretch.
    #[serde(default)]
    pub fit: Fit,
}

fn pretraining_scale() -> [f64; 2] {
    [0.2, 1.0]
}

fn yes() -> bool {
    true
}

impl TrainTransform {
    /// ALBEF's pre-training pipeline at `size` pixels (256 there), without the slips of its code.
    pub fn albef(size: u32) -> Self {
        Self {
            size,
            scale: pretraining_scale(),
            flip: true,
            color_jitter: None,
            randaugment: Some(RandAugment::default()),
            normalize: Normalize::CLIP,
            fit: Fit::Stretch,
        }
    }

    /// Checks the settings; to be called once after reading them.
    ///
    /// # Errors
    /// [`InvalidTransform`] names the first setting that is out of its range.
    pub fn validate(&self) -> Result<(), InvalidTransform> {
        check_common(self.size, &self.normalize)?;
        let [least, greatest] = self.scale;
        check(
            0.0 < least && least <= greatest && greatest <= 1.0,
            "scale",
            &self.scale,
            "two parts of the area, 0 < least <= greatest <= 1",
        )?;
        for (field, got) in self.color_jitter.iter().flat_map(ColorJitter::parts) {
            check((0.0..=1.0).contains(&got), field, &got, "0 to 1")?;
        }
        let Some(settings) = &self.randaugment else {
            return Ok(());
        };
        check(
            (0.0..=MAX_MAGNITUDE).contains(&settings.magnitude),
            "randaugment.magnitude",
            &settings.magnitude,
            "0 to 10",
        )?;
        check(
            (0.0..=1.0).contains(&settings.probability),
            "randaugment.probability",
            &settings.probability,
            "0 to 1",
        )
    }
}

impl Transform for TrainTransform {
    fn size(&self) -> u32 {
        self.size
    }

    fn apply(&self, image: &RgbImage, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let image = self.fit.fit(image);
        let crop = RandomResizedCrop::new(self.scale).draw(image.width(), image.height(), rng);
        let mut view = crop_resize(&image, crop, self.size, self.size);
        if self.flip && rng.random::<f32>() < 0.5 {
            flip_horizontal(&mut view);
        }
        if let Some(settings) = &self.color_jitter {
            settings.apply(&mut view, rng);
        }
        if let Some(settings) = &self.randaugment {
            view = settings.apply(view, rng);
        }
        self.normalize.to_planes(&view)
    }
}

/// The evaluation pipeline: a square bicubic resize and normalisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalTransform {
    /// Width and height of the output in pixels.
    pub size: u32,
    /// Default: CLIP's statistics.
    #[serde(default)]
    pub normalize: Normalize,
    /// Default: stretch.
    #[serde(default)]
    pub fit: Fit,
}

impl EvalTransform {
    /// ALBEF's test pipeline at `size` pixels.
    pub fn albef(size: u32) -> Self {
        Self {
            size,
            normalize: Normalize::CLIP,
            fit: Fit::Stretch,
        }
    }

    /// Checks the settings; to be called once after reading them.
    ///
    /// # Errors
    /// [`InvalidTransform`] names the first setting that is out of its range.
    pub fn validate(&self) -> Result<(), InvalidTransform> {
        check_common(self.size, &self.normalize)
    }

    /// The model input, `[3, size, size]`: nothing here is random.
    ///
    /// # Panics
    /// If the image has no pixels, or the size is 0 (which `validate` refuses).
    pub fn input(&self, image: &RgbImage) -> Vec<f32> {
        self.normalize
            .to_planes(&resize(&self.fit.fit(image), self.size, self.size))
    }
}

impl Transform for EvalTransform {
    fn size(&self) -> u32 {
        self.size
    }

    fn apply(&self, image: &RgbImage, _rng: &mut ChaCha8Rng) -> Vec<f32> {
        self.input(image)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;

    use super::*;

    const RAW: Normalize = Normalize {
        mean: [0.0; 3],
        std: [1.0; 3],
    };

    #[test]
    fn padding_centres_the_image_on_white() {
        let black = RgbImage::new(2, 4);
        let square = Fit::PadWhite.fit(&black);
        let reds: Vec<u8> = square.pixels().map(|p| p[0]).collect();
        assert_eq!(reds[..4], [255, 0, 0, 255]);
        assert_eq!(reds.len(), 16);
        let wide = RgbImage::new(3, 2);
        let square = Fit::PadWhite.fit(&wide);
        let reds: Vec<u8> = square.pixels().map(|p| p[0]).collect();
        assert_eq!(reds, [0, 0, 0, 0, 0, 0, 255, 255, 255]);
        assert!(matches!(Fit::Stretch.fit(&wide), Cow::Borrowed(_)));
        assert_eq!(Fit::PadWhite.shown([2, 4]), [0.25, 0.0, 0.5, 1.0]);
        assert_eq!(Fit::PadWhite.shown([8, 2]), [0.0, 0.375, 1.0, 0.25]);
        assert_eq!(Fit::Stretch.shown([8, 2]), [0.0, 0.0, 1.0, 1.0]);
        assert!(matches!(
            Fit::PadWhite.fit(&RgbImage::new(5, 5)),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn padding_a_long_strip_stays_small() {
        let square = Fit::PadWhite.fit(&RgbImage::new(1, 60_000)).into_owned();
        assert_eq!(square.dimensions(), (4096, 4096));
    }

    #[test]
    fn extreme_shapes_give_whole_outputs() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (width, height) in [(1, 1), (1, 500), (500, 1), (2, 2)] {
            let image = RgbImage::from_pixel(width, height, Rgb([255; 3]));
            for fit in [Fit::Stretch, Fit::PadWhite] {
                let train = TrainTransform {
                    normalize: RAW,
                    randaugment: None,
                    fit,
                    ..TrainTransform::albef(16)
                };
                let eval = EvalTransform {
                    size: 16,
                    normalize: RAW,
                    fit,
                };
                for input in [train.apply(&image, &mut rng), eval.apply(&image, &mut rng)] {
                    assert_eq!(input.len(), 3 * 16 * 16);
                    assert!(input.iter().all(|&v| v == 1.0), "white stays white");
                }
            }
        }
    }

    #[test]
    fn the_seed_decides_everything() {
        let image = RgbImage::from_fn(50, 40, |x, y| Rgb([x as u8 * 5, y as u8 * 6, 77]));
        let transform = TrainTransform::albef(24);
        let run = |seed| transform.apply(&image, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn half_of_the_images_are_mirrored() {
        let mut image = RgbImage::new(8, 8);
        for y in 0..8 {
            image.put_pixel(0, y, Rgb([255; 3]));
        }
        let transform = TrainTransform {
            scale: [1.0, 1.0],
            randaugment: None,
            normalize: RAW,
            ..TrainTransform::albef(8)
        };
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let mirrored = |rng: &mut ChaCha8Rng| {
            let input = transform.apply(&image, rng);
            input[7] > input[0]
        };
        let count = (0..1000).filter(|_| mirrored(&mut rng)).count();
        // Four standard deviations of a fair coin. At scale 1 every crop is the whole square.
        assert!((437..=563).contains(&count), "{count} of 1000");
        let never = TrainTransform {
            flip: false,
            ..transform.clone()
        };
        assert!((0..100).all(|_| {
            let input = never.apply(&image, &mut rng);
            input[7] <= input[0]
        }));
    }

    #[test]
    fn recipes_name_only_what_differs() {
        let train: TrainTransform = serde_json::from_str(r#"{"size": 256}"#).unwrap();
        assert_eq!(
            train,
            TrainTransform {
                randaugment: None,
                ..TrainTransform::albef(256)
            }
        );
        let train: TrainTransform =
            serde_json::from_str(r#"{"size": 256, "randaugment": {}}"#).unwrap();
        assert_eq!(train, TrainTransform::albef(256));
        let text = serde_json::to_string(&train).unwrap();
        assert_eq!(
            serde_json::from_str::<TrainTransform>(&text).unwrap(),
            train
        );
        let eval: EvalTransform =
            serde_json::from_str(r#"{"size": 384, "fit": "pad_white"}"#).unwrap();
        assert_eq!(
            eval,
            EvalTransform {
                fit: Fit::PadWhite,
                ..EvalTransform::albef(384)
            }
        );
        assert!(serde_json::from_str::<EvalTransform>(r#"{"size": 384, "flip": true}"#).is_err());
        assert!(serde_json::from_str::<TrainTransform>(r#"{"scale": [0.5, 1.0]}"#).is_err());
    }

    #[test]
    fn bad_settings_are_named() {
        let good = TrainTransform::albef(256);
        assert_eq!(good.validate(), Ok(()));
        let field = |transform: TrainTransform| transform.validate().unwrap_err().field;
        assert_eq!(
            field(TrainTransform {
                size: 0,
                ..good.clone()
            }),
            "size"
        );
        assert_eq!(
            field(TrainTransform {
                scale: [0.5, 0.2],
                ..good.clone()
            }),
            "scale"
        );
        assert_eq!(
            field(TrainTransform {
                scale: [f64::NAN, 1.0],
                ..good.clone()
            }),
            "scale"
        );
        let wild = ColorJitter {
            saturation: 1.5,
            ..ColorJitter::default()
        };
        assert_eq!(
            field(TrainTransform {
                color_jitter: Some(wild),
                ..good.clone()
            }),
            "color_jitter.saturation"
        );
        let flat = Normalize {
            mean: [0.0; 3],
            std: [1.0, 0.0, 1.0],
        };
        assert_eq!(
            field(TrainTransform {
                normalize: flat,
                ..good.clone()
            }),
            "normalize"
        );
        let strong = RandAugment {
            magnitude: 11.0,
            ..RandAugment::default()
        };
        let strong = TrainTransform {
            randaugment: Some(strong),
            ..good
        };
        assert_eq!(field(strong.clone()), "randaugment.magnitude");
        assert_eq!(
            strong.validate().unwrap_err().to_string(),
            "`randaugment.magnitude` is 11.0; expected 0 to 10"
        );
    }
}
