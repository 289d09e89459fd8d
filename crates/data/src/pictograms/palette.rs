//! Small PNG files for drawings: at most 256 colours, chosen by median cut where a drawing has more.

use std::collections::HashMap;

use image::RgbaImage;

/// The largest palette a PNG can have.
const PALETTE: usize = 256;
/// Mean squared error of a channel, of 255 squared, below which more colours show no difference.
const CLOSE_ENOUGH: f64 = 2.0;

/// Encodes a picture as a palette PNG: exactly where it has at most 256 colours, else reduced to 256.
///
/// Colours of fully transparent pixels are not kept, since nothing shows them.
///
/// # Errors
/// [`png::EncodingError`] when the picture is empty.
pub(super) fn encode_png(picture: &RgbaImage) -> Result<Vec<u8>, png::EncodingError> {
    let mut counts: HashMap<[u8; 4], u32> = HashMap::new();
    for pixel in picture.pixels() {
        *counts.entry(visible(pixel.0)).or_default() += 1;
    }
    let mut colours: Vec<([u8; 4], u32)> = counts.into_iter().collect();
    colours.sort_unstable();
    let (palette, index) = if colours.len() <= PALETTE {
        let index = colours
            .iter()
            .enumerate()
            .map(|(at, &(colour, _))| (colour, at as u8))
            .collect();
        (colours.iter().map(|&(colour, _)| colour).collect(), index)
    } else {
        median_cut(colours)
    };
    write_indexed(picture, &palette, &index)
}

fn visible(pixel: [u8; 4]) -> [u8; 4] {
    if pixel[3] == 0 { [0; 4] } else { pixel }
}

/// Heckbert, "Color image quantization for frame buffer display" (1982), boxes cut where the weighted
/// spread is largest, until the picture is close enough. Returns the palette and the entry of every colour.
fn median_cut(colours: Vec<([u8; 4], u32)>) -> (Vec<[u8; 4]>, HashMap<[u8; 4], u8>) {
    let pixels: f64 = colours.iter().map(|&(_, count)| f64::from(count)).sum();
    let mut boxes = vec![ColourBox::new(colours)];
    while boxes.len() < PALETTE
        && boxes.iter().map(|cell| cell.error).sum::<f64>() > CLOSE_ENOUGH * pixels
    {
        let Some(widest) = (0..boxes.len())
            .filter(|&at| boxes[at].colours.len() > 1)
            .max_by(|&a, &b| boxes[a].error.total_cmp(&boxes[b].error))
        else {
            break;
        };
        let (low, high) = boxes.swap_remove(widest).cut();
        boxes.push(low);
        boxes.push(high);
    }
    let mut palette: Vec<([u8; 4], ColourBox)> = boxes
        .into_iter()
        .map(|cell| (cell.colour(), cell))
        .collect();
    palette.sort_by_key(|&(colour, _)| colour);
    let mut index = HashMap::new();
    for (at, (_, cell)) in palette.iter().enumerate() {
        index.extend(cell.colours.iter().map(|&(colour, _)| (colour, at as u8)));
    }
    (
        palette.into_iter().map(|(colour, _)| colour).collect(),
        index,
    )
}

struct ColourBox {
    colours: Vec<([u8; 4], u32)>,
    mean: [f64; 4],
    /// The channel with the largest squared error around its mean.
    channel: usize,
    error: f64,
}

impl ColourBox {
    fn new(colours: Vec<([u8; 4], u32)>) -> Self {
        let total: f64 = colours.iter().map(|&(_, count)| f64::from(count)).sum();
        let (mut sum, mut squares) = ([0.0; 4], [0.0; 4]);
        for &(colour, count) in &colours {
            for (channel, value) in premultiplied(colour).into_iter().enumerate() {
                sum[channel] += value * f64::from(count);
                squares[channel] += value * value * f64::from(count);
            }
        }
        let mean = sum.map(|sum| sum / total);
        let errors: [f64; 4] =
            std::array::from_fn(|channel| squares[channel] - sum[channel] * mean[channel]);
        let channel = (0..4)
            .max_by(|&a, &b| errors[a].total_cmp(&errors[b]))
            .unwrap_or_default();
        Self {
            colours,
            mean,
            channel,
            error: errors[channel],
        }
    }

    /// Cuts at the mean of the widest channel; both halves get at least one colour.
    fn cut(mut self) -> (Self, Self) {
        let channel = self.channel;
        let value = |colour: [u8; 4]| premultiplied(colour)[channel];
        self.colours.sort_by(|a, b| {
            value(a.0)
                .total_cmp(&value(b.0))
                .then_with(|| a.0.cmp(&b.0))
        });
        let at = self
            .colours
            .partition_point(|&(colour, _)| value(colour) <= self.mean[channel]);
        let high = self.colours.split_off(at.clamp(1, self.colours.len() - 1));
        (Self::new(self.colours), Self::new(high))
    }

    /// The mean with straight alpha.
    fn colour(&self) -> [u8; 4] {
        let [red, green, blue, alpha] = self.mean;
        if alpha < 0.5 {
            return [0; 4];
        }
        let straight = |channel: f64| (channel * 255.0 / alpha).round().clamp(0.0, 255.0) as u8;
        [
            straight(red),
            straight(green),
            straight(blue),
            alpha.round() as u8,
        ]
    }
}

/// The colour as far as it shows: a nearly transparent red and blue are nearly the same.
fn premultiplied([red, green, blue, alpha]: [u8; 4]) -> [f64; 4] {
    let share = f64::from(alpha) / 255.0;
    [
        f64::from(red) * share,
        f64::from(green) * share,
        f64::from(blue) * share,
        f64::from(alpha),
    ]
}

fn write_indexed(
    picture: &RgbaImage,
    palette: &[[u8; 4]],
    index: &HashMap<[u8; 4], u8>,
) -> Result<Vec<u8>, png::EncodingError> {
    let (depth, bits) = match palette.len() {
        0..=2 => (png::BitDepth::One, 1),
        3..=4 => (png::BitDepth::Two, 2),
        5..=16 => (png::BitDepth::Four, 4),
        _ => (png::BitDepth::Eight, 8),
    };
    let row_bytes = (picture.width() as usize * bits).div_ceil(8);
    let mut packed = vec![0u8; row_bytes * picture.height() as usize];
    for (x, y, pixel) in picture.enumerate_pixels() {
        let entry = index.get(&visible(pixel.0)).copied().unwrap_or_default();
        let bit = x as usize * bits;
        packed[y as usize * row_bytes + bit / 8] |= entry << (8 - bits - bit % 8);
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(depth);
    encoder.set_palette(
        palette
            .iter()
            .flat_map(|colour| [colour[0], colour[1], colour[2]])
            .collect::<Vec<_>>(),
    );
    // Sorted colours start with the transparent ones only by chance, so the table covers all of them.
    if palette.iter().any(|colour| colour[3] < 255) {
        encoder.set_trns(palette.iter().map(|colour| colour[3]).collect::<Vec<_>>());
    }
    encoder.set_deflate_compression(png::DeflateCompression::Level(9));
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&packed)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use image::Rgba;

    fn decode(bytes: &[u8]) -> RgbaImage {
        image::load_from_memory(bytes).unwrap().to_rgba8()
    }

    #[test]
    fn few_colours_survive_exactly_at_every_bit_depth() {
        for colours in [1u32, 2, 4, 16, 17, 256] {
            let picture = RgbaImage::from_fn(37, 29, |x, y| {
                let value = ((x + 37 * y) % colours) as u8;
                Rgba([value, 255 - value, value / 2, 255 - value % 3])
            });
            assert_eq!(
                decode(&encode_png(&picture).unwrap()),
                picture,
                "{colours} colours"
            );
        }
    }

    #[test]
    fn many_colours_stay_close() {
        let picture = RgbaImage::from_fn(128, 128, |x, y| {
            Rgba([x as u8 * 2, y as u8 * 2, (x + y) as u8, 255])
        });
        let restored = decode(&encode_png(&picture).unwrap());
        let mean: f64 = picture
            .as_raw()
            .iter()
            .zip(restored.as_raw())
            .map(|(&a, &b)| f64::from(a.abs_diff(b)))
            .sum::<f64>()
            / picture.as_raw().len() as f64;
        assert!(mean < 5.0, "mean error {mean}");
    }
}
