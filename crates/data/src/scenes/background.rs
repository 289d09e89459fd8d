//! Backgrounds without things of their own. Their colours come from a lattice whose points are dealt out to the
//! splits, so no background colour of a held-out picture was seen in training.

use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::graph::Split;

/// Hues of the lattice.
const HUES: u32 = 48;
/// Saturation and value of the lattice's tones: light ones, on which drawings of any colour can be seen.
const TONES: [(f64, f64); 8] = [
    (0.10, 0.97),
    (0.18, 0.95),
    (0.28, 0.92),
    (0.36, 0.90),
    (0.24, 0.82),
    (0.14, 0.88),
    (0.32, 0.98),
    (0.20, 0.76),
];

/// What is behind the things of a scene. Colours are red, green, blue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Background {
    /// One colour.
    Plain {
        /// It.
        colour: [u8; 3],
    },
    /// From one colour to another, from top to bottom.
    Gradient {
        /// In the first row.
        top: [u8; 3],
        /// In the last row.
        bottom: [u8; 3],
    },
    /// Sky above ground.
    Horizon {
        /// Above.
        sky: [u8; 3],
        /// Below.
        ground: [u8; 3],
        /// First row of the ground, in percent of the height.
        at: u8,
    },
    /// One colour with coarse grain.
    Noise {
        /// The mean colour.
        colour: [u8; 3],
        /// Largest difference of a grain from it.
        depth: u8,
        /// What the grains are drawn from.
        seed: u32,
    },
}

impl Background {
    /// Draws one of a split.
    pub(super) fn draw(split: Split, rng: &mut ChaCha8Rng) -> Self {
        let mut colour = || lattice_colour(split, rng);
        let (first, second) = (colour(), colour());
        match rng.random_range(0..4) {
            0 => Self::Plain { colour: first },
            1 => Self::Gradient {
                top: first,
                bottom: second,
            },
            2 => Self::Horizon {
                sky: first,
                ground: second,
                at: rng.random_range(35..80),
            },
            _ => Self::Noise {
                colour: first,
                depth: rng.random_range(8..28),
                seed: rng.random(),
            },
        }
    }

    /// The colours it was made of.
    pub fn colours(&self) -> Vec<[u8; 3]> {
        match self {
            Self::Plain { colour } | Self::Noise { colour, .. } => vec![*colour],
            Self::Gradient { top, bottom } => vec![*top, *bottom],
            Self::Horizon { sky, ground, .. } => vec![*sky, *ground],
        }
    }

    /// Paints a square of `side` pixels.
    pub(super) fn paint(&self, side: u32) -> RgbImage {
        match self {
            Self::Plain { colour } => RgbImage::from_pixel(side, side, Rgb(*colour)),
            Self::Gradient { top, bottom } => {
                let steps = side.saturating_sub(1).max(1);
                RgbImage::from_fn(side, side, |_, y| {
                    Rgb(std::array::from_fn(|channel| {
                        let (from, to) = (u32::from(top[channel]), u32::from(bottom[channel]));
                        ((from * (steps - y.min(steps)) + to * y.min(steps)) / steps) as u8
                    }))
                })
            }
            Self::Horizon { sky, ground, at } => {
                let horizon = side * u32::from(*at) / 100;
                RgbImage::from_fn(side, side, |_, y| {
                    Rgb(if y < horizon { *sky } else { *ground })
                })
            }
            Self::Noise {
                colour,
                depth,
                seed,
            } => {
                // Grains of a fixed share of the picture look alike at every size.
                let grain = (side / 32).max(1);
                RgbImage::from_fn(side, side, |x, y| {
                    let draw = mix(*seed, x / grain, y / grain);
                    let depth = i32::from(*depth);
                    let shift = (draw % (2 * depth as u32 + 1)) as i32 - depth;
                    Rgb(colour.map(|channel| (i32::from(channel) + shift).clamp(0, 255) as u8))
                })
            }
        }
    }
}

/// Half of the lattice's colours are for training, a quarter for each of the others.
fn owner(hue: u32, tone: usize) -> Split {
    match (hue + tone as u32) % 4 {
        0 | 1 => Split::Train,
        2 => Split::Val,
        _ => Split::Test,
    }
}

fn lattice_colour(split: Split, rng: &mut ChaCha8Rng) -> [u8; 3] {
    loop {
        let (hue, tone) = (rng.random_range(0..HUES), rng.random_range(0..TONES.len()));
        if owner(hue, tone) == split {
            return rgb(f64::from(hue) / f64::from(HUES) * 6.0, TONES[tone]);
        }
    }
}

/// From a hue in sixths of the circle, a saturation and a value.
fn rgb(hue: f64, (saturation, value): (f64, f64)) -> [u8; 3] {
    [5.0, 3.0, 1.0].map(|shift: f64| {
        let at = (shift + hue) % 6.0;
        let channel = value - value * saturation * at.min(4.0 - at).clamp(0.0, 1.0);
        (channel * 255.0).round() as u8
    })
}

/// A hash of three numbers (the finaliser of MurmurHash3): grains need no generator of their own.
fn mix(seed: u32, x: u32, y: u32) -> u32 {
    let mut hash = seed ^ x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_colour_of_the_lattice_belongs_to_one_split() {
        let mut owners: BTreeMap<[u8; 3], Split> = BTreeMap::new();
        let mut shares = BTreeMap::<Split, usize>::new();
        for hue in 0..HUES {
            for (tone, &values) in TONES.iter().enumerate() {
                let colour = rgb(f64::from(hue) / f64::from(HUES) * 6.0, values);
                let split = owner(hue, tone);
                assert_eq!(*owners.entry(colour).or_insert(split), split, "{colour:?}");
                *shares.entry(split).or_default() += 1;
            }
        }
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [192, 96, 96]);
    }

    #[test]
    fn hues() {
        assert_eq!(rgb(0.0, (1.0, 1.0)), [255, 0, 0]);
        assert_eq!(rgb(2.0, (1.0, 1.0)), [0, 255, 0]);
        assert_eq!(rgb(4.0, (0.5, 1.0)), [128, 128, 255]);
    }

    #[test]
    fn a_gradient_goes_from_one_colour_to_the_other() {
        let picture = Background::Gradient {
            top: [200, 0, 10],
            bottom: [0, 200, 10],
        }
        .paint(5);
        assert_eq!(picture.get_pixel(3, 0).0, [200, 0, 10]);
        assert_eq!(picture.get_pixel(0, 2).0, [100, 100, 10]);
        assert_eq!(picture.get_pixel(0, 4).0, [0, 200, 10]);
    }
}
