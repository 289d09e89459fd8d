//! The operations of RandAugment that change values and not positions.
//!
//! They reproduce `dataset/randaugment.py` of ALBEF (the same file in BLIP and VLMo): NumPy
//! arithmetic, truncation to 8 bits, and the luminance weights in BGR order applied to RGB images.

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Weights of the channels in a grey value: BGR's, although the images are RGB, as in the original.
const GREY: [f64; 3] = [0.114, 0.587, 0.299];

/// How the smallest value of a channel is moved to 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AutoContrastRule {
    /// As the authors trained: the smallest value is negated as an unsigned byte, so a channel
    /// whose minimum is above 0 turns almost entirely white.
    Parity,
    /// What is meant, and what Pillow's `ImageOps.autocontrast` does: each channel is stretched to
    /// 0..=255.
    #[default]
    Correct,
}

/// What becomes of sharpened values below 0 and above 255.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharpnessRule {
    /// As the authors trained: they wrap around, so dark edges get bright specks.
    Parity,
    /// They are clipped, as by Pillow's `ImageEnhance.Sharpness`.
    #[default]
    Correct,
}

/// Replaces every value by its channel's table.
fn look_up(image: &mut RgbImage, tables: &[[u8; 256]; 3]) {
    for pixel in image.pixels_mut() {
        for (value, table) in pixel.0.iter_mut().zip(tables) {
            *value = table[usize::from(*value)];
        }
    }
}

fn table(f: impl Fn(u8) -> u8) -> [u8; 256] {
    std::array::from_fn(|value| f(value as u8))
}

fn histograms(image: &RgbImage) -> [[u64; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in image.pixels() {
        for (value, counts) in pixel.0.iter().zip(&mut counts) {
            counts[usize::from(*value)] += 1;
        }
    }
    counts
}

/// Stretches every channel so that its least value becomes 0 and its greatest 255.
pub(super) fn auto_contrast(image: &mut RgbImage, rule: AutoContrastRule) {
    let tables = histograms(image).map(|counts| {
        let low = counts.iter().position(|&n| n > 0).unwrap_or(0) as u8;
        let high = counts.iter().rposition(|&n| n > 0).unwrap_or(0) as u8;
        if high <= low {
            return table(|value| value);
        }
        let scale = 255.0 / f64::from(high - low);
        let negated_low = match rule {
            AutoContrastRule::Parity => f64::from(low.wrapping_neg()),
            AutoContrastRule::Correct => -f64::from(low),
        };
        let offset = negated_low * scale;
        // Casts saturate and truncate.
        table(|value| (f64::from(value) * scale + offset) as u8)
    });
    look_up(image, &tables);
}

/// Spreads the values of every channel evenly over 0..=255.
pub(super) fn equalize(image: &mut RgbImage) {
    let tables = histograms(image).map(|counts| {
        // All pixels but those of the greatest value.
        let greatest = counts.iter().rfind(|&&n| n > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<u64>() - greatest) / 255;
        if step == 0 {
            return table(|value| value);
        }
        let mut below = step / 2;
        counts.map(|count| {
            let value = (below / step).min(255) as u8;
            below += count;
            value
        })
    });
    look_up(image, &tables);
}

/// Inverts the values from `threshold` (0..=256) on.
pub(super) fn solarize(image: &mut RgbImage, threshold: f64) {
    let table = table(|value| {
        if f64::from(value) < threshold {
            value
        } else {
            255 - value
        }
    });
    look_up(image, &[table; 3]);
}

/// Keeps the `bits` highest bits (0..=8) of every value.
pub(super) fn posterize(image: &mut RgbImage, bits: f64) {
    let dropped = 8 - (bits as u32).min(8);
    let mask = (255_u32 << dropped) as u8;
    look_up(image, &[table(|value| value & mask); 3]);
}

/// Blends with the grey image: 0 is grey, 1 leaves as it is, more saturates.
pub(super) fn color(image: &mut RgbImage, factor: f64) {
    const TO_COLOR: [[f32; 3]; 3] = [
        [0.886, -0.114, -0.114],
        [-0.587, 0.413, -0.587],
        [-0.299, -0.299, 0.701],
    ];
    let matrix: [[f32; 3]; 3] = std::array::from_fn(|from| {
        std::array::from_fn(|to| TO_COLOR[from][to] * factor as f32 + GREY[from] as f32)
    });
    for pixel in image.pixels_mut() {
        let values = pixel.0.map(f32::from);
        pixel.0 = std::array::from_fn(|to| {
            (values[0] * matrix[0][to] + values[1] * matrix[1][to] + values[2] * matrix[2][to])
                as u8
        });
    }
}

/// Blends with the mean grey of the image: 0 is flat, 1 leaves as it is, more spreads.
pub(super) fn contrast(image: &mut RgbImage, factor: f64) {
    let pixels = (u64::from(image.width()) * u64::from(image.height())).max(1);
    let mut sums = [0_u64; 3];
    for pixel in image.pixels() {
        for (sum, value) in sums.iter_mut().zip(pixel.0) {
            *sum += u64::from(value);
        }
    }
    let mean: f64 = sums
        .iter()
        .zip(GREY)
        .map(|(&sum, weight)| sum as f64 / pixels as f64 * weight)
        .sum();
    let table = table(|value| ((f64::from(value) - mean) * factor + mean) as u8);
    look_up(image, &[table; 3]);
}

/// Multiplies every value.
pub(super) fn brightness(image: &mut RgbImage, factor: f64) {
    let table = table(|value| (f32::from(value) * factor as f32) as u8);
    look_up(image, &[table; 3]);
}

/// Blends with the smoothed image: 0 is smooth, 1 leaves as it is, more sharpens. The outermost
/// pixels stay as they are.
pub(super) fn sharpness(image: &mut RgbImage, factor: f64, rule: SharpnessRule) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width < 3 || height < 3 || factor == 1.0 {
        return;
    }
    let factor = factor as f32;
    let pitch = width * 3;
    let source = image.as_raw().clone();
    for y in 1..height - 1 {
        let [above, row, below] = [y - 1, y, y + 1].map(|y| &source[y * pitch..(y + 1) * pitch]);
        let out = &mut image.as_mut()[y * pitch..(y + 1) * pitch];
        for at in 3..pitch - 3 {
            let sum: u32 = [above, row, below]
                .iter()
                .map(|r| u32::from(r[at - 3]) + u32::from(r[at]) + u32::from(r[at + 3]))
                .sum();
            // The kernel is ones around a five, over 13. A sum of integers over 13 is never
            // half-way between two, so integer rounding equals the reference's rounded float.
            let smooth = ((2 * (sum + 4 * u32::from(row[at])) + 13) / 26) as f32;
            let value = smooth + factor * (f32::from(row[at]) - smooth);
            out[at] = match rule {
                SharpnessRule::Parity => value as i32 as u8,
                SharpnessRule::Correct => value as u8,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// An image of one row, the same in all channels.
    fn row(values: &[u8]) -> RgbImage {
        RgbImage::from_fn(values.len() as u32, 1, |x, _| Rgb([values[x as usize]; 3]))
    }

    fn greens(image: &RgbImage) -> Vec<u8> {
        image.pixels().map(|p| p[1]).collect()
    }

    #[test]
    fn auto_contrast_by_hand() {
        let mut image = row(&[50, 101, 152]);
        auto_contrast(&mut image, AutoContrastRule::Correct);
        assert_eq!(greens(&image), [0, 127, 255]);
        let mut image = row(&[50, 101, 152]);
        auto_contrast(&mut image, AutoContrastRule::Parity);
        assert_eq!(greens(&image), [255, 255, 255]);
        for rule in [AutoContrastRule::Correct, AutoContrastRule::Parity] {
            let mut image = row(&[0, 51]);
            auto_contrast(&mut image, rule);
            assert_eq!(
                greens(&image),
                [0, 255],
                "the rules agree when the minimum is 0"
            );
            let mut image = row(&[9]);
            auto_contrast(&mut image, rule);
            assert_eq!(greens(&image), [9], "a flat channel stays");
        }
    }

    #[test]
    fn equalize_by_hand() {
        // 510 pixels of 10, 255 of 20, 1 of 30: step 3, tables 1/3, 511/3 and 766/3.
        let mut values = vec![10; 510];
        values.extend([20; 255]);
        values.push(30);
        let mut image = row(&values);
        equalize(&mut image);
        let out = greens(&image);
        assert_eq!((out[0], out[510], out[765]), (0, 170, 255));
        let mut small = row(&[1, 2, 3]);
        equalize(&mut small);
        assert_eq!(greens(&small), [1, 2, 3], "too few pixels to spread");
    }

    #[test]
    fn tables_by_hand() {
        let mut image = row(&[0, 100, 179, 255]);
        solarize(&mut image, 179.0);
        assert_eq!(greens(&image), [0, 100, 76, 0]);
        let mut image = row(&[0b1011_0111, 255]);
        posterize(&mut image, 2.0);
        assert_eq!(greens(&image), [0b1000_0000, 0b1100_0000]);
        posterize(&mut image, 0.0);
        assert_eq!(greens(&image), [0, 0]);
        let mut image = row(&[10, 200]);
        brightness(&mut image, 1.5);
        assert_eq!(greens(&image), [15, 255]);
        let mut image = row(&[0, 100]);
        contrast(&mut image, 0.5);
        assert_eq!(greens(&image), [25, 75]);
        let mut image = RgbImage::from_pixel(1, 1, Rgb([200, 100, 50]));
        color(&mut image, 0.0);
        // 0.114 * 200 + 0.587 * 100 + 0.299 * 50 = 96.45
        assert_eq!(image.as_raw(), &[96, 96, 96]);
    }

    #[test]
    fn sharpness_by_hand() {
        let mut image = RgbImage::from_pixel(3, 3, Rgb([130; 3]));
        image.put_pixel(1, 1, Rgb([0; 3]));
        let mut parity = image.clone();
        // Smooth is 8 * 130 / 13 = 80; 80 + 1.5 * (0 - 80) = -40.
        sharpness(&mut image, 1.5, SharpnessRule::Correct);
        assert_eq!(image.get_pixel(1, 1).0, [0; 3]);
        sharpness(&mut parity, 1.5, SharpnessRule::Parity);
        assert_eq!(parity.get_pixel(1, 1).0, [216; 3]);
        assert_eq!(parity.get_pixel(0, 1).0, [130; 3]);
    }
}
