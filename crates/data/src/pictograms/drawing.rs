//! From a raw picture to a drawing: trimmed to what is drawn, brought to size, measured.

use image::imageops::{self, FilterType};
use image::{Rgba, RgbaImage};

use super::hash::hex_digest;
use super::ordered::Ordered;
use super::palette::encode_png;

/// Alpha above which a pixel belongs to the drawing when it is trimmed.
const TRACE: u8 = 8;
/// Alpha above which a pixel counts as drawn when it is measured.
const SOLID: u8 = 128;
/// Side of the thumbnails that near duplicates are found with.
const THUMBNAIL: u32 = 16;

/// A finished picture with what the later steps need to know of it.
#[derive(Clone, Debug)]
pub(super) struct Drawing {
    /// Palette PNG.
    pub(super) png: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) colors: Ordered<f64>,
    /// Digest of the picture centred on a white square: equal for pixel duplicates.
    pub(super) digest: String,
    /// 16x16 RGB of the same square.
    pub(super) thumbnail: Vec<u8>,
}

/// Why a picture is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Useless(pub(super) &'static str);

/// Trims transparent borders and scales the longer side to `size`; the colours of the result are straight alpha.
///
/// `premultiplied` holds colours multiplied by alpha, without which scaling would draw dark fringes.
/// `oversampling` says how much larger than `size` it was rasterised.
pub(super) fn trim(
    premultiplied: &RgbaImage,
    size: u32,
    oversampling: u32,
) -> Result<RgbaImage, Useless> {
    let [left, top, width, height] = tight_box(premultiplied).ok_or(Useless("blank"))?;
    let scale = f64::from(size) / f64::from(width.max(height));
    let area = f64::from(width * height) / f64::from(oversampling * oversampling);
    if area < 24.0 * 24.0 && scale * f64::from(oversampling) > 3.0 {
        return Err(Useless("tiny"));
    }
    let part = imageops::crop_imm(premultiplied, left, top, width, height).to_image();
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    let mut scaled = if scale == 1.0 {
        part
    } else {
        imageops::resize(&part, side(width), side(height), FilterType::Lanczos3)
    };
    for Rgba([red, green, blue, alpha]) in scaled.pixels_mut() {
        for channel in [red, green, blue] {
            // Lanczos may overshoot the alpha it was multiplied with.
            let straight = u32::from(*channel) * 255 + u32::from(*alpha) / 2;
            *channel = straight
                .checked_div(u32::from(*alpha))
                .unwrap_or(0)
                .min(255) as u8;
        }
    }
    Ok(scaled)
}

/// Left, top, width and height of what is drawn; `None` when nothing is.
pub(crate) fn tight_box(picture: &RgbaImage) -> Option<[u32; 4]> {
    let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
    for (x, y, pixel) in picture.enumerate_pixels() {
        if pixel.0[3] > TRACE {
            (left, top) = (left.min(x), top.min(y));
            (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
        }
    }
    (left != u32::MAX).then(|| [left, top, right - left, bottom - top])
}

/// Multiplies colours by alpha.
pub(crate) fn premultiply(mut picture: RgbaImage) -> RgbaImage {
    for Rgba([red, green, blue, alpha]) in picture.pixels_mut() {
        for channel in [red, green, blue] {
            *channel = ((u32::from(*channel) * u32::from(*alpha) + 127) / 255) as u8;
        }
    }
    picture
}

/// Measures a trimmed picture and encodes it.
pub(super) fn measure(picture: &RgbaImage, size: u32) -> Result<Drawing, Useless> {
    let solid: Vec<[u8; 3]> = picture
        .pixels()
        .filter(|pixel| pixel.0[3] > SOLID)
        .map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2]])
        .collect();
    let (width, height) = picture.dimensions();
    if (solid.len() as f64) < 0.02 * f64::from(width * height) || width.min(height) < 12 {
        return Err(Useless("nearly blank or too thin"));
    }
    if solid.iter().flatten().all(|&channel| channel > 245) {
        return Err(Useless("white on white"));
    }
    let mut square = RgbaImage::from_pixel(size, size, Rgba([255; 4]));
    let (x, y) = (
        size.saturating_sub(width) / 2,
        size.saturating_sub(height) / 2,
    );
    imageops::overlay(&mut square, picture, i64::from(x), i64::from(y));
    let png = encode_png(picture).map_err(|_| Useless("cannot be encoded"))?;
    Ok(Drawing {
        png,
        width,
        height,
        colors: colours(&solid),
        digest: hex_digest(square.as_raw()),
        thumbnail: thumbnail(&square),
    })
}

/// Mean colours of a grid of boxes.
fn thumbnail(square: &RgbaImage) -> Vec<u8> {
    let side = square.width();
    let mut values = Vec::with_capacity((THUMBNAIL * THUMBNAIL * 3) as usize);
    for row in 0..THUMBNAIL {
        for column in 0..THUMBNAIL {
            let span = |at: u32| (at * side / THUMBNAIL, ((at + 1) * side).div_ceil(THUMBNAIL));
            let ((top, bottom), (left, right)) = (span(row), span(column));
            for channel in 0..3 {
                let sum: u32 = (top..bottom)
                    .flat_map(|y| (left..right).map(move |x| (x, y)))
                    .map(|(x, y)| u32::from(square.get_pixel(x, y).0[channel]))
                    .sum();
                values.push((sum / ((bottom - top) * (right - left)).max(1)) as u8);
            }
        }
    }
    values
}

/// The up to four most frequent colour names with their share, rounded to three digits.
fn colours(pixels: &[[u8; 3]]) -> Ordered<f64> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for &pixel in pixels {
        let name = colour_name(pixel);
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let share = |count: usize| (count as f64 / pixels.len() as f64 * 1000.0).round() / 1000.0;
    Ordered(
        counts
            .into_iter()
            .take(4)
            .map(|(name, count)| (name.to_owned(), share(count)))
            .collect(),
    )
}

/// Hue in degrees, `[0, 360)` (0 for greys), saturation and value, `[0, 1]`.
pub(crate) fn hue_saturation_value(pixel: [u8; 3]) -> [f64; 3] {
    let [red, green, blue] = pixel.map(|channel| f64::from(channel) / 255.0);
    let value = red.max(green).max(blue);
    let range = value - red.min(green).min(blue);
    if range == 0.0 {
        return [0.0, 0.0, value];
    }
    let hue = 60.0
        * if value == red {
            ((green - blue) / range).rem_euclid(6.0)
        } else if value == green {
            (blue - red) / range + 2.0
        } else {
            (red - green) / range + 4.0
        };
    [hue, range / value, value]
}

/// The English name of a colour, from hue, saturation and value.
fn colour_name(pixel: [u8; 3]) -> &'static str {
    let [hue, saturation, value] = hue_saturation_value(pixel);
    if value < 0.22 {
        return "black";
    }
    if saturation < 0.14 {
        return if value > 0.9 { "white" } else { "gray" };
    }
    let reddish = !(16.0..344.0).contains(&hue);
    if reddish && saturation < 0.5 && value > 0.7 {
        return "pink";
    }
    if (10.0..50.0).contains(&hue) && value < 0.62 {
        return "brown";
    }
    match hue {
        _ if reddish => "red",
        ..42.0 => "orange",
        ..70.0 => "yellow",
        ..165.0 => "green",
        ..258.0 => "blue",
        ..310.0 => "purple",
        _ => "pink",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn colour_names_of_plain_colours() {
        for (pixel, name) in [
            ([255, 0, 0], "red"),
            ([255, 140, 0], "orange"),
            ([255, 220, 0], "yellow"),
            ([0, 160, 0], "green"),
            ([30, 60, 220], "blue"),
            ([130, 40, 200], "purple"),
            ([255, 20, 180], "pink"),
            ([255, 190, 200], "pink"),
            ([120, 70, 20], "brown"),
            ([10, 10, 10], "black"),
            ([128, 128, 128], "gray"),
            ([250, 250, 250], "white"),
        ] {
            assert_eq!(colour_name(pixel), name, "{pixel:?}");
        }
    }

    #[test]
    fn trimming_finds_the_drawing_and_scales_it() {
        let mut picture = RgbaImage::new(100, 100);
        for (x, y) in (20..60).flat_map(|x| (30..50).map(move |y| (x, y))) {
            picture.put_pixel(x, y, Rgba([200, 0, 0, 255]));
        }
        let trimmed = trim(&picture, 128, 1).unwrap();
        assert_eq!(trimmed.dimensions(), (128, 64));
        let drawing = measure(&trimmed, 128).unwrap();
        assert_eq!((drawing.width, drawing.height), (128, 64));
        assert_eq!(drawing.colors.0, [("red".to_owned(), 1.0)]);
    }

    #[test]
    fn pictures_of_no_use_say_why() {
        assert_eq!(trim(&RgbaImage::new(50, 50), 128, 1), Err(Useless("blank")));
        let mut dot = RgbaImage::new(50, 50);
        dot.put_pixel(3, 3, Rgba([0, 0, 0, 255]));
        assert_eq!(trim(&dot, 128, 1), Err(Useless("tiny")));
        let white = RgbaImage::from_pixel(128, 128, Rgba([255; 4]));
        assert_eq!(measure(&white, 128).err(), Some(Useless("white on white")));
        let line = RgbaImage::from_pixel(128, 4, Rgba([9, 9, 9, 255]));
        assert_eq!(
            measure(&line, 128).err(),
            Some(Useless("nearly blank or too thin"))
        );
    }

    #[test]
    fn duplicates_share_a_digest() {
        let first = RgbaImage::from_pixel(64, 128, Rgba([1, 200, 3, 255]));
        let a = measure(&first, 128).unwrap();
        let b = measure(&first.clone(), 128).unwrap();
        let c = measure(&RgbaImage::from_pixel(64, 128, Rgba([2, 200, 3, 255])), 128).unwrap();
        assert_eq!(a.digest, b.digest);
        assert_ne!(a.digest, c.digest);
        assert_eq!(a.thumbnail.len(), 16 * 16 * 3);
    }
}
