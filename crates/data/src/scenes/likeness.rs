//! Which names their makers draw alike: a drawing is recognised where the nearest drawing by another maker, as a
//! thumbnail, is of its own name.

use std::collections::BTreeMap;

use image::RgbaImage;
use image::imageops::{self, FilterType};

/// Side of a thumbnail in pixels.
const SIDE: u32 = 16;
/// What a difference in outline counts beside one in colour.
const OUTLINE: f32 = 1.5;

/// A drawing, small.
#[derive(Clone, Debug)]
pub(super) struct Thumbnail {
    name: String,
    maker: String,
    /// Colours multiplied by alpha, and alpha, of every pixel.
    values: Vec<f32>,
}

impl Thumbnail {
    /// `picture` holds colours multiplied by alpha.
    pub(super) fn new(name: &str, maker: &str, picture: &RgbaImage) -> Self {
        let small = imageops::resize(picture, SIDE, SIDE, FilterType::CatmullRom);
        let values = small.pixels().flat_map(|pixel| {
            let [red, green, blue, alpha] = pixel.0.map(|value| f32::from(value) / 255.0);
            [red, green, blue, OUTLINE * alpha]
        });
        Self {
            name: name.to_owned(),
            maker: maker.to_owned(),
            values: values.collect(),
        }
    }

    fn distance(&self, other: &Self) -> f32 {
        let pairs = self.values.iter().zip(&other.values);
        pairs.map(|(a, b)| (a - b) * (a - b)).sum()
    }
}

/// Of every name the share of its drawings that are recognised by those of other makers, `[0, 1]`.
pub(super) fn recognised(thumbnails: &[Thumbnail]) -> BTreeMap<String, f32> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for one in thumbnails {
        // A maker's own drawings of the name would give it away.
        let others = thumbnails
            .iter()
            .filter(|other| other.name != one.name || other.maker != one.maker);
        let nearest = others.min_by(|a, b| one.distance(a).total_cmp(&one.distance(b)));
        let (right, all) = counts.entry(&one.name).or_default();
        *right += usize::from(nearest.is_some_and(|nearest| nearest.name == one.name));
        *all += 1;
    }
    let shares = counts.into_iter();
    shares
        .map(|(name, (right, all))| (name.to_owned(), right as f32 / all as f32))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgba;

    fn plain(name: &str, maker: &str, colour: [u8; 4]) -> Thumbnail {
        Thumbnail::new(name, maker, &RgbaImage::from_pixel(20, 30, Rgba(colour)))
    }

    #[test]
    fn a_name_is_alike_where_another_maker_is_nearest() {
        let (red, reddish, blue) = ([250, 0, 0, 255], [220, 20, 0, 255], [0, 0, 250, 255]);
        let shares = recognised(&[
            plain("tomato", "one", red),
            plain("tomato", "two", reddish),
            plain("hat", "one", blue),
            // Nearest to a tomato.
            plain("hat", "two", red),
            // The same maker's second one does not count.
            plain("hat", "one", blue),
        ]);
        assert_eq!(shares["tomato"], 0.5);
        assert_eq!(shares["hat"], 0.0);
    }
}
