//! Scalar functions written so that the compiler turns loops over them into vector code, and
//! reductions with a fixed order of summation.

/// `a b + c`: rounded once where `FMA`, for processors that do so in one instruction. Elsewhere
/// `mul_add` is a library call and many times slower.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` for float32: Cody-Waite reduction and a polynomial of degree 6; relative error below
/// 3e-7. Inputs are clamped to `[-87, 88]`, where float32 neither underflows nor overflows.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits: no saturating
    // float-to-int conversion, which would block vectorisation.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = multiply_add::<FMA>(k, -0.693_359_4, x);
    let r = multiply_add::<FMA>(k, 2.121_944_4e-4, r);
    let mut p = 0.001_389_97;
    for coefficient in [0.008_333_45, 0.041_665_79, 0.166_666_55, 0.5, 1.0, 1.0] {
        p = multiply_add::<FMA>(p, r, coefficient);
    }
    let power_of_two = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    p * power_of_two
}

/// The standard normal distribution function at `x`, and `e^(-x^2/2)`: all that GELU and its
/// derivative need. Abramowitz and Stegun 7.1.26; absolute error below 1.5e-7.
#[inline(always)]
pub(crate) fn normal_cdf<const FMA: bool>(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let e = exp::<FMA>(-z * z);
    let t = 1.0 / multiply_add::<FMA>(z, 0.327_591_1, 1.0);
    let mut poly = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        poly = multiply_add::<FMA>(poly, t, coefficient);
    }
    let half_erfc = 0.5 * poly * t * e;
    (if x >= 0.0 { 1.0 - half_erfc } else { half_erfc }, e)
}

/// Running sums of a reduction.
pub(crate) const LANES: usize = 16;

/// `sum(a[i] * b[i])` with 16 running lanes.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] = multiply_add::<FMA>(a[i], b[i], lanes[i]);
        }
    }
    let tail: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + tail
}

/// `sum((a[i] - centre)^2)` with 16 running lanes.
#[inline(always)]
pub(crate) fn squares_around<const FMA: bool>(centre: f32, a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let apart = chunk[i] - centre;
            lanes[i] = multiply_add::<FMA>(apart, apart, lanes[i]);
        }
    }
    let tail: f32 = rest.iter().map(|x| (x - centre) * (x - centre)).sum();
    lanes.iter().sum::<f32>() + tail
}

/// Largest value of a row; `-inf` for an empty one.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] {
                chunk[i]
            } else {
                lanes[i]
            };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Sum with 16 running lanes: vectorisable, and always in the same order.
#[inline(always)]
pub(crate) fn sum_slice(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// Adds vectors of length `n` in the order given.
pub(crate) fn add_up(parts: Vec<Vec<f32>>, n: usize) -> Vec<f32> {
    let mut total = vec![0.0; n];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_libm() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let want = (x as f64).exp();
            for got in [exp::<true>(x), exp::<false>(x)] {
                assert!(((got as f64 - want) / want).abs() < 4e-7, "exp({x})");
            }
        }
        assert_eq!(exp::<false>(0.0), 1.0);
        assert!(exp::<false>(-1e30) < 1e-37);
    }

    #[test]
    fn normal_cdf_by_hand() {
        for (x, want) in [
            (0.0, 0.5),
            (1.0, 0.841_344_7),
            (-1.0, 0.158_655_3),
            (6.0, 1.0),
        ] {
            for got in [normal_cdf::<true>(x), normal_cdf::<false>(x)] {
                assert!((got.0 - want).abs() < 2e-7, "cdf({x})");
            }
        }
    }

    #[test]
    fn reductions_of_odd_lengths() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(sum_slice(&a), 666.0);
        assert_eq!(dot::<true>(&a, &a), 16_206.0);
        assert_eq!(squares_around::<false>(18.0, &a), 4_218.0);
        assert_eq!(max(&a), 36.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
