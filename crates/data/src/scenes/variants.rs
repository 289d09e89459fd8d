//! Variants of a drawing: turned, slanted, stretched, in other colours, outlined. A few drawings of a name, each shown
//! in many variants, teach what the name means; shown as they are, they are learnt by heart.

use image::imageops::{self, FilterType};
use image::{Rgba, RgbaImage};
use rand::{Rng, RngExt};

/// Greatest turn in degrees.
const TURN: f32 = 18.0;
/// Factor of the width relative to the height at most, and one over it at least.
const STRETCH: f32 = 1.25;
/// Farthest that a corner moves, as a share of the side.
const CORNER: f32 = 0.1;
/// Greatest turn of the hue in degrees.
const HUE: f32 = 15.0;
/// Share of the variants of any hue.
const ANY_HUE: f64 = 0.1;
/// Range of the saturation's factor.
const SATURATION: (f32, f32) = (0.6, 1.3);
/// Range of the brightness' factor.
const BRIGHTNESS: (f32, f32) = (0.75, 1.1);
/// Farthest that the factor of one channel is from 1.
const CAST: f32 = 0.1;
/// Range of the exponent of the tone curve, on a logarithmic scale to base 2.
const TONE: f32 = 0.5;
/// Share of the variants with a dark outline.
const OUTLINED: f64 = 0.15;
/// How far the outline lets through what is behind it.
const OUTLINE: f32 = 0.85;
/// The drawn corners reach at most so far from the middle, in half sides, after all moves.
const REACH: f32 = 2.0;

/// A variant of a drawing, colours multiplied by alpha, not trimmed; its longer side is at most `longer` pixels.
pub(super) fn variant(drawing: &RgbaImage, longer: u32, rng: &mut impl Rng) -> RgbaImage {
    let (width, height) = drawing.dimensions();
    let scale = (longer as f32 / REACH / width.max(height) as f32).min(1.0);
    let fit = |length: u32| ((length as f32 * scale).round() as u32).max(2);
    let small = imageops::resize(drawing, fit(width), fit(height), FilterType::CatmullRom);
    let mut shown = moved(&small, rng);
    recolour(&mut shown, rng);
    if rng.random_bool(OUTLINED) {
        shown = outlined(&shown);
    }
    shown
}

/// Every pixel looks up a place of the drawing: the corners lie on a quadrilateral around the drawing, the places
/// between them are interpolated.
fn moved(drawing: &RgbaImage, rng: &mut impl Rng) -> RgbaImage {
    let (width, height) = drawing.dimensions();
    let half = [width as f32 / 2.0, height as f32 / 2.0];
    let (sin, cos) = rng.random_range(-TURN..TURN).to_radians().sin_cos();
    let stretch = STRETCH.powf(rng.random_range(-0.5..0.5));
    let corners = [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0f32]].map(|corner| {
        let mut at = |along: f32| REACH * (along + 2.0 * rng.random_range(-CORNER..CORNER));
        let x = half[0] * at(corner[0]) * stretch;
        let y = half[1] * at(corner[1]) / stretch;
        [half[0] + cos * x - sin * y, half[1] + sin * x + cos * y]
    });
    let whole = |length: u32| ((length as f32 * REACH).round() as u32).max(2);
    let (width, height) = (whole(width), whole(height));
    RgbaImage::from_fn(width, height, |column, row| {
        let u = (column as f32 + 0.5) / width as f32;
        let v = (row as f32 + 0.5) / height as f32;
        let [x, y] = [0, 1].map(|axis| {
            let top = corners[0][axis] * (1.0 - u) + corners[1][axis] * u;
            let bottom = corners[2][axis] * (1.0 - u) + corners[3][axis] * u;
            top * (1.0 - v) + bottom * v
        });
        Rgba(look_up(drawing, x - 0.5, y - 0.5).map(|value| value.round() as u8))
    })
}

/// Another hue, saturation, brightness, cast and tone curve.
fn recolour(picture: &mut RgbaImage, rng: &mut impl Rng) {
    let most = if rng.random_bool(ANY_HUE) { 180.0 } else { HUE };
    let hue = turned_hue(rng.random_range(-most..most));
    let saturation = rng.random_range(SATURATION.0..SATURATION.1);
    let brightness = rng.random_range(BRIGHTNESS.0..BRIGHTNESS.1);
    let gains = [(); 3].map(|()| brightness * (1.0 + rng.random_range(-CAST..CAST)));
    let exponent = rng.random_range(-TONE..TONE).exp2();
    for pixel in picture.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0.map(f32::from);
        if alpha == 0.0 {
            continue;
        }
        let turned = hue.map(|row| row[0] * red + row[1] * green + row[2] * blue);
        let luma = LUMA[0] * turned[0] + LUMA[1] * turned[1] + LUMA[2] * turned[2];
        for (channel, value) in turned.into_iter().enumerate() {
            let value = gains[channel] * (luma + saturation * (value - luma));
            // No colour is brighter than its alpha: colours are multiplied by it.
            let share = (value / alpha).clamp(0.0, 1.0).powf(exponent);
            pixel.0[channel] = (alpha * share).round() as u8;
        }
    }
}

/// Share of red, green and blue in how bright a colour looks (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// The matrix that turns the hue and keeps the luma (a turn of the plane IQ of YIQ).
fn turned_hue(degrees: f32) -> [[f32; 3]; 3] {
    const ACROSS: [[f32; 3]; 3] = [
        [0.168, 0.330, -0.498],
        [-0.328, 0.035, 0.293],
        [1.250, -1.050, -0.200],
    ];
    let (sin, cos) = degrees.to_radians().sin_cos();
    std::array::from_fn(|to| {
        std::array::from_fn(|from| {
            let own = if to == from { 1.0 } else { 0.0 };
            LUMA[from] + cos * (own - LUMA[from]) + sin * ACROSS[to][from]
        })
    })
}

/// The same with a dark line of one pixel around what is drawn.
fn outlined(picture: &RgbaImage) -> RgbaImage {
    RgbaImage::from_fn(picture.width(), picture.height(), |x, y| {
        let own = picture.get_pixel(x, y).0;
        let columns = x.saturating_sub(1)..=(x + 1).min(picture.width() - 1);
        let nearby = columns.flat_map(|column| {
            let rows = y.saturating_sub(1)..=(y + 1).min(picture.height() - 1);
            rows.map(move |row| picture.get_pixel(column, row).0[3])
        });
        let line = OUTLINE * f32::from(nearby.max().unwrap_or(0));
        let alpha = f32::from(own[3]) + line * (1.0 - f32::from(own[3]) / 255.0);
        // The line is black: it adds to alpha and nothing to the colours.
        Rgba([own[0], own[1], own[2], alpha.round() as u8])
    })
}

/// The pixel at a place between pixels, `[0, 255]`; nothing is drawn outside.
fn look_up(picture: &RgbaImage, x: f32, y: f32) -> [f32; 4] {
    let (left, top) = (x.floor(), y.floor());
    let mut mixed = [0.0; 4];
    for (dx, dy) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        let (column, row) = (left + dx, top + dy);
        if column < 0.0 || row < 0.0 {
            continue;
        }
        let share = (1.0 - (x - column).abs()) * (1.0 - (y - row).abs());
        if let Some(pixel) = picture.get_pixel_checked(column as u32, row as u32) {
            for (mixed, value) in mixed.iter_mut().zip(pixel.0) {
                *mixed += share * f32::from(value);
            }
        }
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn between_pixels() {
        let picture = RgbaImage::from_fn(2, 1, |x, _| Rgba([100 * x as u8, 0, 0, 200]));
        assert_eq!(look_up(&picture, 0.0, 0.0), [0.0, 0.0, 0.0, 200.0]);
        assert_eq!(look_up(&picture, 0.25, 0.0), [25.0, 0.0, 0.0, 200.0]);
        assert_eq!(look_up(&picture, 1.0, 0.5), [50.0, 0.0, 0.0, 100.0]);
        assert_eq!(look_up(&picture, -1.0, 0.0), [0.0; 4]);
    }

    #[test]
    fn a_hue_turns_and_keeps_its_luma() {
        let same = turned_hue(0.0);
        for (to, row) in same.iter().enumerate() {
            for (from, &share) in row.iter().enumerate() {
                assert!((share - if to == from { 1.0 } else { 0.0 }).abs() < 1e-6);
            }
        }
        for degrees in [40.0, 120.0, -170.0] {
            let matrix = turned_hue(degrees);
            for from in 0..3 {
                let luma: f32 = (0..3).map(|to| LUMA[to] * matrix[to][from]).sum();
                assert!((luma - LUMA[from]).abs() < 2e-3, "{degrees}: {luma}");
            }
            // Grey has no hue.
            assert!(
                matrix
                    .iter()
                    .all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5)
            );
        }
    }

    #[test]
    fn an_outline_is_black_and_around() {
        let mut dot = RgbaImage::new(5, 5);
        dot.put_pixel(2, 2, Rgba([200, 10, 0, 255]));
        let shown = outlined(&dot);
        assert_eq!(shown.get_pixel(2, 2).0, [200, 10, 0, 255]);
        assert_eq!(shown.get_pixel(1, 3).0, [0, 0, 0, 217]);
        assert_eq!(shown.get_pixel(0, 2).0, [0; 4]);
    }

    #[test]
    fn a_variant_is_whole_differs_and_stays_multiplied_by_alpha() {
        let drawing = RgbaImage::from_pixel(40, 30, Rgba([200, 60, 20, 255]));
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let shown = variant(&drawing, 48, &mut rng);
            assert!(shown.width().max(shown.height()) <= 48);
            let area: u32 = shown.pixels().map(|pixel| u32::from(pixel.0[3])).sum();
            // The drawing takes 1 / REACH of both sides, but for what moves and the outline add or take.
            let share = area as f32 / 255.0 / (shown.width() * shown.height()) as f32;
            assert!((0.15..0.5).contains(&share), "{share}");
            let on_border = |x: u32, y: u32| {
                x == 0 || y == 0 || x + 1 == shown.width() || y + 1 == shown.height()
            };
            for (x, y, pixel) in shown.enumerate_pixels() {
                let [red, green, blue, alpha] = pixel.0;
                assert!(alpha == 0 || !on_border(x, y), "cut off at {x}, {y}");
                assert!(red.max(green).max(blue) <= alpha);
            }
            seen.insert(shown.into_raw());
        }
        assert_eq!(seen.len(), 50);
    }
}
