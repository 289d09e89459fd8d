//! Bicubic resizing, bit-equal to Pillow's (`Image.resize(size, Image.BICUBIC)`, 8-bit RGB).
//!
//! The filter is antialiased: its support grows with the reduction. Weights are fixed-point with 22
//! fractional bits, the rows are resampled before the columns, and the values between the two
//! passes are rounded to 8 bits. Follows `src/libImaging/Resample.c` of Pillow 9.5.

use image::RgbImage;
use multiversion::multiversion;

/// Fractional bits of the weights: 32, less 8 for the pixel and 2 for the filter's negative lobes.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half of the filter's width at scale 1, in pixels.
const SUPPORT: f64 = 2.0;
/// Values of a row summed together: enough to fill vector registers, few enough to stay in them.
const LANES: usize = 16;
/// Rows resampled together.
const ROWS: usize = 8;

/// A rectangle of an image, in pixels from its top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// First row.
    pub top: u32,
    /// First column.
    pub left: u32,
    /// Number of rows, at least 1.
    pub height: u32,
    /// Number of columns, at least 1.
    pub width: u32,
}

impl CropBox {
    /// The whole image.
    pub fn whole(image: &RgbImage) -> Self {
        Self {
            top: 0,
            left: 0,
            height: image.height(),
            width: image.width(),
        }
    }
}

/// Resizes to `width` by `height`, not keeping the aspect ratio.
///
/// # Panics
/// If either size is zero, the image's included.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    crop_resize(image, CropBox::whole(image), width, height)
}

/// Crops, then resizes: pixels outside of the crop have no influence.
///
/// # Panics
/// If a size is zero, or the crop is not inside of the image.
pub fn crop_resize(image: &RgbImage, crop: CropBox, width: u32, height: u32) -> RgbImage {
    assert!(width > 0 && height > 0, "cannot resize to {width}x{height}");
    assert!(
        crop.width > 0
            && crop.height > 0
            && u64::from(crop.left) + u64::from(crop.width) <= u64::from(image.width())
            && u64::from(crop.top) + u64::from(crop.height) <= u64::from(image.height()),
        "{crop:?} is not inside of the {}x{} image",
        image.width(),
        image.height()
    );
    let pitch = image.width() as usize * 3;
    let row = |y: u32| {
        let start = (crop.top + y) as usize * pitch + crop.left as usize * 3;
        &image.as_raw()[start..start + crop.width as usize * 3]
    };

    let columns = (crop.width != width).then(|| Taps::new(crop.width, width));
    let rows = (crop.height != height).then(|| Taps::new(crop.height, height));
    // Only the rows that the second pass reads.
    let (first, last) = match &rows {
        Some(taps) => taps.span(),
        None => (0, crop.height),
    };
    let row_values = width as usize * 3;
    let mut resized_rows = vec![0; (last - first) as usize * row_values];
    match &columns {
        Some(taps) => {
            let start = (crop.top + first) as usize * pitch + crop.left as usize * 3;
            let width = crop.width as usize * 3;
            let end = (crop.top + last - 1) as usize * pitch + crop.left as usize * 3 + width;
            let input = &image.as_raw()[start..end];
            taps.resample_rows(input, pitch, crop.width as usize, &mut resized_rows);
        }
        None => {
            for (y, out) in (first..last).zip(resized_rows.chunks_exact_mut(row_values)) {
                out.copy_from_slice(row(y));
            }
        }
    }
    let values = match &rows {
        Some(taps) => taps.resample_columns(&resized_rows, row_values, first),
        None => resized_rows,
    };
    RgbImage::from_raw(width, height, values).expect("one value per channel and pixel")
}

/// For every output position, the input positions it is summed from and their weights.
struct Taps {
    /// First input position and number of weights.
    bounds: Vec<(u32, u32)>,
    /// `[output, stride]`, unused ones zero.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    fn new(input: u32, output: u32) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut bounds = Vec::with_capacity(output as usize);
        let mut weights = vec![0; output as usize * stride];
        let mut exact = Vec::with_capacity(stride);
        for (position, weights) in (0..output).zip(weights.chunks_exact_mut(stride)) {
            let center = (f64::from(position) + 0.5) * scale;
            // The casts cut the fraction off, as the reference does; below zero they give zero.
            let start = (center - support + 0.5) as u32;
            let end = ((center + support + 0.5) as u32).min(input);
            exact.clear();
            exact.extend(
                (start..end).map(|x| bicubic((f64::from(x) - center + 0.5) * (1.0 / filter_scale))),
            );
            let sum: f64 = exact.iter().sum();
            for (fixed, weight) in weights.iter_mut().zip(&exact) {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let scaled = weight * f64::from(1 << PRECISION_BITS);
                *fixed = (scaled + 0.5_f64.copysign(weight)) as i32;
            }
            bounds.push((start, end - start));
        }
        Self {
            bounds,
            weights,
            stride,
        }
    }

    /// First and one past the last input position used.
    fn span(&self) -> (u32, u32) {
        let first = self.bounds.first().map_or(0, |b| b.0);
        let last = self.bounds.last().map_or(0, |b| b.0 + b.1);
        (first, last)
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.bounds
            .iter()
            .zip(self.weights.chunks_exact(self.stride))
            .map(|(&(start, count), weights)| (start as usize, &weights[..count as usize]))
    }

    /// The rows of `input`, each `pitch` values apart and `width * 3` values long, to as many rows
    /// of `output`.
    fn resample_rows(&self, input: &[u8], pitch: usize, width: usize, output: &mut [u8]) {
        let out_pitch = self.bounds.len() * 3;
        let mut together = vec![0; width * 3 * ROWS];
        let blocks = input.chunks(pitch * ROWS);
        for (block, out) in blocks.zip(output.chunks_mut(out_pitch * ROWS)) {
            for (row, values) in block.chunks(pitch).enumerate() {
                for (column, value) in together.chunks_exact_mut(ROWS).zip(values) {
                    column[row] = *value;
                }
            }
            resample_rows(&self.bounds, &self.weights, self.stride, &together, out);
        }
    }

    /// `rows` holds rows of `pitch` values, the first of them being input row `first`.
    fn resample_columns(&self, rows: &[u8], pitch: usize, first: u32) -> Vec<u8> {
        let mut output = vec![0; self.bounds.len() * pitch];
        for ((start, weights), out) in self.iter().zip(output.chunks_exact_mut(pitch)) {
            sum_rows(&rows[(start - first as usize) * pitch..], weights, out);
        }
        output
    }
}

/// At most [`ROWS`] rows at once, which share their weights. `together`: `[input width, 3, ROWS]`;
/// `output`: `[rows, output width, 3]`.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
fn resample_rows(
    bounds: &[(u32, u32)],
    weights: &[i32],
    stride: usize,
    together: &[u8],
    output: &mut [u8],
) {
    let pixels = together.as_chunks::<{ 3 * ROWS }>().0;
    let positions = bounds.iter().zip(weights.chunks_exact(stride));
    for (x, (&(start, count), weights)) in positions.enumerate() {
        let mut sums = [1 << (PRECISION_BITS - 1); 3 * ROWS];
        let read = &pixels[start as usize..(start + count) as usize];
        for (values, weight) in read.iter().zip(weights) {
            for lane in 0..3 * ROWS {
                sums[lane] += i32::from(values[lane]) * weight;
            }
        }
        let rounded = sums.map(round);
        for (row, out) in output.chunks_exact_mut(bounds.len() * 3).enumerate() {
            for channel in 0..3 {
                out[3 * x + channel] = rounded[channel * ROWS + row];
            }
        }
    }
}

/// The weighted sum of the first rows, each as long as `out`.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
fn sum_rows(rows: &[u8], weights: &[i32], out: &mut [u8]) {
    let pitch = out.len();
    let mut blocks = out.chunks_exact_mut(LANES);
    let mut at = 0;
    for block in &mut blocks {
        let mut sums = [1 << (PRECISION_BITS - 1); LANES];
        for (row, weight) in rows.chunks_exact(pitch).zip(weights) {
            let values = &row[at..at + LANES];
            for lane in 0..LANES {
                sums[lane] += i32::from(values[lane]) * weight;
            }
        }
        for lane in 0..LANES {
            block[lane] = round(sums[lane]);
        }
        at += LANES;
    }
    for (offset, value) in blocks.into_remainder().iter_mut().enumerate() {
        let column = rows.iter().skip(at + offset).step_by(pitch);
        let sum: i32 = column.zip(weights).map(|(&v, w)| i32::from(v) * w).sum();
        *value = round(sum + (1 << (PRECISION_BITS - 1)));
    }
}

/// The sum already holds the half that makes the shift round to nearest.
#[inline(always)]
fn round(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The cubic convolution kernel with a = -1/2.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_kernel_interpolates() {
        assert_eq!(bicubic(0.0), 1.0);
        assert_eq!(bicubic(1.0), 0.0);
        assert_eq!(bicubic(-2.0), 0.0);
        assert_eq!(bicubic(0.5), 0.5625);
        assert_eq!(bicubic(-1.5), -0.0625);
    }

    #[test]
    fn flat_images_stay_flat() {
        for (from, to) in [
            ((1, 1), (7, 5)),
            ((13, 4), (3, 9)),
            ((1, 300), (16, 16)),
            ((300, 1), (2, 2)),
        ] {
            let image = RgbImage::from_pixel(from.0, from.1, Rgb([3, 128, 255]));
            let resized = resize(&image, to.0, to.1);
            assert_eq!(resized.dimensions(), to);
            assert!(
                resized.pixels().all(|p| p.0 == [3, 128, 255]),
                "{from:?} to {to:?}"
            );
        }
    }

    #[test]
    fn two_pixels_to_three_by_hand() {
        // Scale 2/3, centres 1/3, 1 and 5/3. Seen from 1/3 the pixels lie at 1/6 and 7/6, where the
        // kernel is 0.9375 and -0.0579. Divided by their sum: 1.0658 and -0.0658, so 100 becomes
        // 107 beside 0, and 0 beside 100 clips to 0.
        let image = RgbImage::from_raw(2, 1, vec![0, 50, 100, 100, 50, 0]).expect("six values");
        let resized = resize(&image, 3, 1);
        assert_eq!(resized.as_raw(), &[0, 50, 107, 50, 50, 50, 107, 50, 0]);
    }

    #[test]
    fn a_crop_ignores_its_surroundings() {
        let mut image = RgbImage::from_pixel(9, 9, Rgb([255; 3]));
        for y in 2..6 {
            for x in 3..8 {
                image.put_pixel(x, y, Rgb([x as u8 * 20, y as u8 * 30, 7]));
            }
        }
        let crop = CropBox {
            top: 2,
            left: 3,
            height: 4,
            width: 5,
        };
        let cut = image::imageops::crop_imm(&image, 3, 2, 5, 4).to_image();
        assert_eq!(crop_resize(&image, crop, 11, 3), resize(&cut, 11, 3));
        assert_eq!(crop_resize(&image, crop, 5, 4), cut);
    }

    #[test]
    #[should_panic(expected = "is not inside")]
    fn a_crop_outside_of_the_image_panics() {
        let crop = CropBox {
            top: 0,
            left: 1,
            height: 1,
            width: u32::MAX,
        };
        crop_resize(&RgbImage::new(2, 2), crop, 1, 1);
    }
}
