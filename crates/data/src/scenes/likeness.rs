//! Which names can be told apart: a held-out drawing, seen small, should be nearer to the training drawings of its own
//! name than to those of any other.

use std::collections::{BTreeMap, BTreeSet};

use image::RgbaImage;
use image::imageops::{self, FilterType};

/// Side of a thumbnail in pixels.
const SIDE: u32 = 16;
/// What is behind the drawing, between the lightest and the darkest background of scenes.
const BEHIND: u8 = 217;

/// A drawing, small.
#[derive(Clone, Debug)]
pub(super) struct Thumbnail {
    name: usize,
    held_out: bool,
    /// Colours of every pixel, and the same mirrored.
    values: [Vec<f32>; 2],
}

impl Thumbnail {
    /// `picture` holds colours multiplied by alpha; `name` is any number that stands for it.
    pub(super) fn new(name: usize, held_out: bool, picture: &RgbaImage) -> Self {
        let scale = f64::from(SIDE) / f64::from(picture.width().max(picture.height()));
        let fit = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
        let (width, height) = (fit(picture.width()), fit(picture.height()));
        let fitted = imageops::resize(picture, width, height, FilterType::CatmullRom);
        let mut small = RgbaImage::new(SIDE, SIDE);
        let middle = |length: u32| i64::from((SIDE - length) / 2);
        imageops::replace(&mut small, &fitted, middle(width), middle(height));
        let values = |picture: &RgbaImage| -> Vec<f32> {
            let pixels = picture.pixels().flat_map(|pixel| {
                let [red, green, blue, alpha] = pixel.0.map(f32::from);
                let behind = f32::from(BEHIND) * (1.0 - alpha / 255.0);
                [red, green, blue].map(|colour| (colour + behind) / 255.0)
            });
            pixels.collect()
        };
        let mirrored = imageops::flip_horizontal(&small);
        Self {
            name,
            held_out,
            values: [values(&small), values(&mirrored)],
        }
    }

    fn distance(&self, other: &Self) -> f32 {
        let distance = |own: &[f32]| -> f32 {
            let pairs = own.iter().zip(&other.values[0]);
            pairs.map(|(a, b)| (a - b) * (a - b)).sum()
        };
        distance(&self.values[0]).min(distance(&self.values[1]))
    }
}

/// A held-out drawing, and how far the nearest training drawing of every name is from it.
struct Held {
    name: usize,
    nearest: BTreeMap<usize, f32>,
}

impl Held {
    fn new(drawing: &Thumbnail, thumbnails: &[Thumbnail]) -> Self {
        let mut nearest = BTreeMap::new();
        for shown in thumbnails.iter().filter(|one| !one.held_out) {
            let least = nearest.entry(shown.name).or_insert(f32::INFINITY);
            *least = least.min(drawing.distance(shown));
        }
        Self {
            name: drawing.name,
            nearest,
        }
    }

    /// How many times as far as its own name the nearest other one of these is.
    fn margin(&self, names: &BTreeSet<usize>) -> f32 {
        let others = self
            .nearest
            .iter()
            .filter(|&(name, _)| *name != self.name && names.contains(name));
        let other = others.map(|(_, &distance)| distance).min_by(f32::total_cmp);
        let own = self.nearest.get(&self.name).copied();
        other.unwrap_or(f32::INFINITY) / own.unwrap_or(f32::INFINITY)
    }
}

/// The `most` names left after those are struck out, one by one, of which a held-out drawing is mistaken most easily:
/// whose distance to another name's nearest training drawing is the least multiple of the one to its own name's.
pub(super) fn told_apart(thumbnails: &[Thumbnail], most: usize) -> BTreeSet<usize> {
    let mut names: BTreeSet<usize> = thumbnails.iter().map(|one| one.name).collect();
    let held: Vec<Held> = thumbnails
        .iter()
        .filter(|one| one.held_out)
        .map(|one| Held::new(one, thumbnails))
        .collect();
    while names.len() > most {
        let margins = held
            .iter()
            .filter(|held| names.contains(&held.name))
            .map(|held| (held.margin(&names), held.name));
        let worst = margins.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // Names without a held-out drawing cannot be judged: the last ones go.
        let Some(name) = worst
            .map(|(_, name)| name)
            .or_else(|| names.last().copied())
        else {
            break;
        };
        names.remove(&name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgba;

    fn plain(name: usize, held_out: bool, colour: [u8; 4]) -> Thumbnail {
        Thumbnail::new(name, held_out, &RgbaImage::from_pixel(20, 30, Rgba(colour)))
    }

    #[test]
    fn the_name_that_is_mistaken_most_easily_goes_first() {
        const TOMATO: usize = 5;
        const HAT: usize = 7;
        const LEAF: usize = 9;
        let thumbnails = [
            plain(TOMATO, false, [250, 0, 0, 255]),
            plain(TOMATO, true, [220, 20, 0, 255]),
            plain(HAT, false, [0, 0, 250, 255]),
            // Nearer to a tomato than to a hat.
            plain(HAT, true, [200, 0, 60, 255]),
            plain(LEAF, false, [0, 250, 0, 255]),
            plain(LEAF, true, [60, 200, 0, 255]),
        ];
        assert_eq!(told_apart(&thumbnails, 3), [TOMATO, HAT, LEAF].into());
        assert_eq!(told_apart(&thumbnails, 2), [TOMATO, LEAF].into());
        assert_eq!(told_apart(&thumbnails, 1), [TOMATO].into());
        assert_eq!(told_apart(&thumbnails, 0), [].into());
    }

    #[test]
    fn mirrored_drawings_are_alike_and_shapes_keep_their_form() {
        let arrow = |flip: bool| {
            RgbaImage::from_fn(30, 15, |x, _| {
                let near = if flip { x >= 15 } else { x < 15 };
                Rgba(if near {
                    [255, 0, 0, 255]
                } else {
                    [0, 0, 255, 255]
                })
            })
        };
        let (one, other) = (arrow(false), arrow(true));
        let one = Thumbnail::new(0, false, &one);
        assert_eq!(one.distance(&Thumbnail::new(0, true, &other)), 0.0);
        // Above and below a drawing that is wide there is background.
        assert_eq!(one.values[0][0], f32::from(BEHIND) / 255.0);
    }
}
