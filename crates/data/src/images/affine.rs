//! Affine warps, equal to OpenCV 4.5.5's `warpAffine` (bilinear, constant border, 8 bits).
//!
//! OpenCV maps every destination pixel back with 10 fractional bits, keeps 5 of them (positions in
//! 1/32 pixel) and weights four neighbours with 15-bit integers. OpenCV 5 is exact there, and
//! differs by up to 3 grey levels.

use image::{Rgb, RgbImage};

/// Fractional bits of a source position while it is computed.
const POSITION_BITS: u32 = 10;
/// Fractional bits of a source position when pixels are read.
const SUBPIXEL_BITS: u32 = 5;
const SUBPIXELS: i64 = 1 << SUBPIXEL_BITS;

/// A map from source to destination: `x' = m[0] x + m[1] y + m[2]`, `y' = m[3] x + m[4] y + m[5]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine([f64; 6]);

impl Affine {
    /// The original builds its matrices in single precision; rotations alone come in double.
    pub(super) fn from_f32(matrix: [f32; 6]) -> Self {
        Self(matrix.map(f64::from))
    }

    /// A counter-clockwise rotation about the centre of an image, in degrees:
    /// `getRotationMatrix2D`.
    pub(super) fn rotation(degrees: f64, image: &RgbImage) -> Self {
        let (x, y) = (
            f64::from(image.width()) / 2.0,
            f64::from(image.height()) / 2.0,
        );
        let angle = degrees * (std::f64::consts::PI / 180.0);
        let (sin, cos) = (angle.sin(), angle.cos());
        Self([
            cos,
            sin,
            (1.0 - cos) * x - sin * y,
            -sin,
            cos,
            sin * x + (1.0 - cos) * y,
        ])
    }

    /// The order of the operations is OpenCV's: another one rounds differently.
    fn inverse(self) -> [f64; 6] {
        let m = self.0;
        let determinant = m[0] * m[4] - m[1] * m[3];
        let scale = if determinant == 0.0 {
            0.0
        } else {
            1.0 / determinant
        };
        let (a, b, c, d) = (m[4] * scale, m[1] * -scale, m[3] * -scale, m[0] * scale);
        [a, b, -a * m[2] - b * m[5], c, d, -c * m[2] - d * m[5]]
    }

    /// The warped image, in the same size; what lies outside of the source is `fill`.
    pub(super) fn warp(self, image: &RgbImage, fill: [u8; 3]) -> RgbImage {
        let (width, height) = image.dimensions();
        let m = self.inverse();
        // Rounded half to even, like the `cvRound` of the reference.
        let fixed = |value: f64| (value * f64::from(1 << POSITION_BITS)).round_ties_even() as i64;
        let shift = POSITION_BITS - SUBPIXEL_BITS;
        let half = 1 << (shift - 1);
        let steps: Vec<(i64, i64)> = (0..width)
            .map(|x| (fixed(m[0] * f64::from(x)), fixed(m[3] * f64::from(x))))
            .collect();
        let mut out = RgbImage::new(width, height);
        for (y, row) in (0..height).zip(out.rows_mut()) {
            let x0 = fixed(m[1] * f64::from(y) + m[2]) + half;
            let y0 = fixed(m[4] * f64::from(y) + m[5]) + half;
            for (pixel, &(dx, dy)) in row.zip(&steps) {
                *pixel = bilinear(image, (x0 + dx) >> shift, (y0 + dy) >> shift, fill);
            }
        }
        out
    }
}

/// The image at a position given in 1/32 pixel.
fn bilinear(image: &RgbImage, x: i64, y: i64, fill: [u8; 3]) -> Rgb<u8> {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let (left, top) = (x >> SUBPIXEL_BITS, y >> SUBPIXEL_BITS);
    if left >= width || left < -1 || top >= height || top < -1 {
        return Rgb(fill);
    }
    let pitch = image.width() as usize * 3;
    let values = image.as_raw();
    let taps: [&[u8]; 4] = if left >= 0 && left + 1 < width && top >= 0 && top + 1 < height {
        let start = top as usize * pitch + left as usize * 3;
        let (above, below) = (
            &values[start..start + 6],
            &values[start + pitch..start + pitch + 6],
        );
        [&above[..3], &above[3..], &below[..3], &below[3..]]
    } else {
        let read = |x: i64, y: i64| {
            if (0..width).contains(&x) && (0..height).contains(&y) {
                let start = y as usize * pitch + x as usize * 3;
                &values[start..start + 3]
            } else {
                &fill[..]
            }
        };
        [
            read(left, top),
            read(left + 1, top),
            read(left, top + 1),
            read(left + 1, top + 1),
        ]
    };
    // Ten bits; the reference's 15-bit weights are these times 32, which changes no result.
    let (fx, fy) = ((x & (SUBPIXELS - 1)) as u32, (y & (SUBPIXELS - 1)) as u32);
    let (gx, gy) = (SUBPIXELS as u32 - fx, SUBPIXELS as u32 - fy);
    let weights = [gx * gy, fx * gy, gx * fy, fx * fy];
    Rgb(std::array::from_fn(|channel| {
        let sum: u32 = taps
            .iter()
            .zip(weights)
            .map(|(tap, w)| u32::from(tap[channel]) * w)
            .sum();
        ((sum + (1 << (2 * SUBPIXEL_BITS - 1))) >> (2 * SUBPIXEL_BITS)) as u8
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip() -> RgbImage {
        RgbImage::from_raw(3, 1, vec![10, 10, 10, 50, 50, 50, 90, 90, 90]).expect("nine values")
    }

    fn reds(image: &RgbImage) -> Vec<u8> {
        image.pixels().map(|p| p[0]).collect()
    }

    #[test]
    fn translations_move_the_content() {
        let right = Affine::from_f32([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(reds(&right.warp(&strip(), [0; 3])), [0, 10, 50]);
        let half_left = Affine::from_f32([1.0, 0.0, -0.5, 0.0, 1.0, 0.0]);
        assert_eq!(reds(&half_left.warp(&strip(), [128; 3])), [30, 70, 109]);
        let away = Affine::from_f32([1.0, 0.0, 1e9, 0.0, 1.0, 0.0]);
        assert_eq!(reds(&away.warp(&strip(), [7; 3])), [7, 7, 7]);
    }

    #[test]
    fn a_full_turn_and_a_singular_map() {
        let image = strip();
        assert_eq!(Affine::rotation(0.0, &image).warp(&image, [0; 3]), image);
        // The reference inverts a singular matrix to zero: every pixel reads the origin.
        let singular = Affine::from_f32([0.0; 6]);
        assert_eq!(reds(&singular.warp(&image, [0; 3])), [10, 10, 10]);
    }
}
