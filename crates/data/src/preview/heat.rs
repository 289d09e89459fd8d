//! Where a model looks, drawn on the picture.

use image::imageops::grayscale;
use image::{Rgb, RgbImage};

/// Inferno, at equal distances from cold to hot: its lightness grows evenly with the heat, so twice
/// as hot looks twice as hot, on a grey print and to colour-blind eyes too.
const INFERNO: [[u8; 3]; 9] = [
    [0, 0, 4],
    [31, 12, 72],
    [85, 15, 109],
    [136, 34, 106],
    [186, 54, 85],
    [227, 89, 51],
    [249, 140, 10],
    [249, 201, 50],
    [252, 255, 164],
];
/// How much of the colour is laid over the picture.
const OPACITY: f32 = 0.7;
const LINE: Rgb<u8> = Rgb([255; 3]);
const EDGE: Rgb<u8> = Rgb([0; 3]);

/// A picture in grey with a heat map over it, the hottest place in the lightest colour.
///
/// `heat`: one value for every pixel, row by row; below 0 counts as 0.
///
/// # Panics
/// If there are not as many values as pixels.
pub fn overlay(picture: &RgbImage, heat: &[f32]) -> RgbImage {
    let (width, height) = picture.dimensions();
    assert_eq!(heat.len(), (width * height) as usize, "one value a pixel");
    let hottest = heat.iter().copied().fold(0.0, f32::max);
    let scale = if hottest > 0.0 { hottest.recip() } else { 0.0 };
    let grey = grayscale(picture);
    let mut drawn = picture.clone();
    for ((pixel, grey), heat) in drawn.pixels_mut().zip(grey.pixels()).zip(heat) {
        let colour = inferno(heat * scale);
        *pixel = Rgb(colour.map(|channel| {
            let mixed = OPACITY * channel + (1.0 - OPACITY) * f32::from(grey.0[0]);
            mixed.round() as u8
        }));
    }
    drawn
}

/// Between the two nearest colours; `heat` is cut to 0 to 1.
fn inferno(heat: f32) -> [f32; 3] {
    let place = heat.clamp(0.0, 1.0) * (INFERNO.len() - 1) as f32;
    let below = (place as usize).min(INFERNO.len() - 2);
    let past = place - below as f32;
    std::array::from_fn(|channel| {
        let [cold, hot] = [below, below + 1].map(|at| f32::from(INFERNO[at][channel]));
        cold + past * (hot - cold)
    })
}

/// Draws a box (left, top, width, height in pixels): a white line, with a black one around it that
/// keeps it apart from white. What lies outside of the picture is left out.
pub fn outline(picture: &mut RgbImage, region: [f64; 4]) {
    let [left, top, width, height] = region.map(|length| length.round() as i64);
    frame(
        picture,
        [left - 1, top - 1, left + width, top + height],
        EDGE,
    );
    frame(
        picture,
        [left, top, left + width - 1, top + height - 1],
        LINE,
    );
}

/// The pixels on the edge from left, top to right, bottom, these included.
fn frame(picture: &mut RgbImage, [left, top, right, bottom]: [i64; 4], colour: Rgb<u8>) {
    // An edge far outside is as invisible as one just outside, and sooner drawn.
    let [width, height] = [picture.width(), picture.height()].map(i64::from);
    let [left, right] = [left, right].map(|x| x.clamp(-1, width));
    let [top, bottom] = [top, bottom].map(|y| y.clamp(-1, height));
    let across = (left..=right).flat_map(|x| [(x, top), (x, bottom)]);
    let down = (top..=bottom).flat_map(|y| [(left, y), (right, y)]);
    for (x, y) in across.chain(down) {
        let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
        if let Some((x, y)) = place
            && let Some(pixel) = picture.get_pixel_mut_checked(x, y)
        {
            *pixel = colour;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hotter_is_lighter() {
        let light = |heat: f32| {
            let [r, g, b] = inferno(heat);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let steps: Vec<f32> = (0..=100).map(|i| light(i as f32 / 100.0)).collect();
        assert!(steps.is_sorted_by(|a, b| a < b));
        assert_eq!(inferno(0.125), [31.0, 12.0, 72.0]);
        assert_eq!(inferno(7.0), [252.0, 255.0, 164.0]);
    }

    #[test]
    fn the_scale_of_the_heat_does_not_matter_and_nothing_is_cold() {
        let picture = RgbImage::from_pixel(2, 1, Rgb([200, 200, 200]));
        let drawn = overlay(&picture, &[1.0, -3.0]);
        assert_eq!(drawn, overlay(&picture, &[0.01, 0.0]));
        assert_eq!(drawn.get_pixel(1, 0), &Rgb([60, 60, 63]));
        let nothing = overlay(&picture, &[0.0, 0.0]);
        assert_eq!(nothing.get_pixel(0, 0), nothing.get_pixel(1, 0));
    }

    #[test]
    fn boxes_are_cut_at_the_edge() {
        let mut picture = RgbImage::from_pixel(6, 6, Rgb([9; 3]));
        outline(&mut picture, [2.0, 2.0, 3.0, 9.0]);
        let column: Vec<u8> = (0..6).map(|y| picture.get_pixel(2, y).0[0]).collect();
        assert_eq!(column, [9, 0, 255, 255, 255, 255]);
        assert_eq!(picture.get_pixel(3, 3).0[0], 9);
        assert_eq!(picture.get_pixel(4, 5).0[0], 255);
        assert_eq!(picture.get_pixel(5, 5).0[0], 0);
        outline(&mut picture, [-4.0, -4.0, 1e9, 2.0]);
    }
}
