//! Decoding of untrusted image files into 8-bit RGB.

use std::io::{Cursor, ErrorKind};

use image::error::LimitErrorKind;
use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a file may cost. Checked against its header, before any pixel is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeLimits {
    /// Most pixels (width times height). The default is Pillow's warning limit, 89,478,485: a
    /// quarter of a gibibyte as RGB.
    pub max_pixels: u64,
    /// Longest side in pixels. A one-pixel-high strip passes the pixel limit, but resizing it needs
    /// filters as long as the strip.
    pub max_side: u32,
    /// Most bytes the decoder may allocate for pixels.
    pub max_alloc: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_pixels: 89_478_485,
            max_side: 65_535,
            max_alloc: 1 << 30,
        }
    }
}

/// Why the bytes could not be made into an image.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The bytes are those of no supported format.
    #[error(
        "unknown image format ({length} bytes, starting with {start:02x?}): \
         expected JPEG, PNG, WebP or GIF"
    )]
    UnknownFormat {
        /// Length of the input in bytes.
        length: usize,
        /// Its first bytes, at most eight.
        start: Vec<u8>,
    },
    /// The header announces more pixels than allowed.
    #[error(
        "the image is {width}x{height} pixels; the limit is {max_pixels} pixels and {max_side} \
         a side: raise `max_pixels` or `max_side`, or shrink the file"
    )]
    TooLarge {
        /// Width in pixels, from the header.
        width: u32,
        /// Height in pixels, from the header.
        height: u32,
        /// The limit on width times height.
        max_pixels: u64,
        /// The limit on either side.
        max_side: u32,
    },
    /// Decoding would allocate more than allowed.
    #[error(
        "decoding this {width}x{height} image needs more than {max_alloc} bytes: \
         raise `max_alloc`, or shrink the file"
    )]
    Allocation {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit in bytes.
        max_alloc: u64,
    },
    /// The file ends before its image does.
    #[error("the {format} file is cut short at {length} bytes: fetch it again")]
    Truncated {
        /// The format found.
        format: &'static str,
        /// Length of the input in bytes.
        length: usize,
    },
    /// The file breaks its format's rules, or uses a part of it that is not supported.
    #[error("the {format} file cannot be decoded: {reason}")]
    Corrupt {
        /// The format found.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

/// Decodes JPEG, PNG, WebP or GIF (first frame) into 8-bit RGB.
///
/// Grey, palette, CMYK and 16-bit images become RGB; transparency is composed over white (Pillow's
/// `convert("RGB")`, which the original loaders use, shows whatever colour hides under it instead);
/// the EXIF orientation is applied (the original loaders ignore it, and train on pictures lying on
/// their side). Colour profiles are ignored, as there.
///
/// # Errors
/// [`DecodeError`]; never panics, whatever the bytes.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    let unknown = || DecodeError::UnknownFormat {
        length: bytes.len(),
        start: bytes.iter().take(8).copied().collect(),
    };
    let format = image::guess_format(bytes).map_err(|_| unknown())?;
    let name = match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        _ => return Err(unknown()),
    };
    let mut size = (0, 0);
    let convert = |error: ImageError, (width, height): (u32, u32)| match error {
        ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => {
            DecodeError::Truncated {
                format: name,
                length: bytes.len(),
            }
        }
        ImageError::Limits(limit) if matches!(limit.kind(), LimitErrorKind::InsufficientMemory) => {
            DecodeError::Allocation {
                width,
                height,
                max_alloc: limits.max_alloc,
            }
        }
        other => {
            let reason = other.to_string();
            // The GIF decoder reports a missing end in words alone.
            if reason.to_lowercase().contains("unexpected end of file") {
                return DecodeError::Truncated {
                    format: name,
                    length: bytes.len(),
                };
            }
            DecodeError::Corrupt {
                format: name,
                reason,
            }
        }
    };

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allocation = Limits::no_limits();
    allocation.max_alloc = Some(limits.max_alloc);
    reader.limits(allocation);
    let mut decoder = reader.into_decoder().map_err(|e| convert(e, size))?;
    size = decoder.dimensions();
    let (width, height) = size;
    if u64::from(width) * u64::from(height) > limits.max_pixels
        || width.max(height) > limits.max_side
    {
        return Err(DecodeError::TooLarge {
            width,
            height,
            max_pixels: limits.max_pixels,
            max_side: limits.max_side,
        });
    }
    if width == 0 || height == 0 {
        return Err(DecodeError::Corrupt {
            format: name,
            reason: format!("its size is {width}x{height} pixels"),
        });
    }
    if decoder.total_bytes() > limits.max_alloc {
        return Err(DecodeError::Allocation {
            width,
            height,
            max_alloc: limits.max_alloc,
        });
    }
    // Checked here because the JPEG decoder fills what is missing with grey and reports success,
    // and the WebP decoder calls it corrupt.
    let complete = match format {
        ImageFormat::Jpeg => jpeg_is_complete(bytes),
        ImageFormat::WebP => webp_is_complete(bytes),
        _ => true,
    };
    if !complete {
        return Err(DecodeError::Truncated {
            format: name,
            length: bytes.len(),
        });
    }
    // A broken EXIF block spoils the orientation, not the pixels.
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| convert(e, size))?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(match image {
        DynamicImage::ImageRgb8(rgb) => rgb,
        other if other.color().has_alpha() => over_white(&other.into_rgba8()),
        other => other.into_rgb8(),
    })
}

/// Whether an end-of-image marker follows the first scan. Inside entropy-coded data 0xFF is always
/// stuffed, so the marker cannot appear there by chance; thumbnails, which have their own, lie in
/// the segments before the scan.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        // Fill bytes (0xFF) may stand before any marker.
        if marker == 0xff {
            at += 1;
            continue;
        }
        if marker == START_OF_SCAN {
            break;
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    bytes
        .get(at..)
        .is_some_and(|scans| scans.windows(2).rev().any(|pair| pair == [0xff, 0xd9]))
}

/// Whether the file is as long as its RIFF header says, less a padding byte that some writers omit.
fn webp_is_complete(bytes: &[u8]) -> bool {
    let Some(&[a, b, c, d]) = bytes.get(4..8) else {
        return false;
    };
    u64::from(u32::from_le_bytes([a, b, c, d])) + 8 <= bytes.len() as u64 + 1
}

fn over_white(image: &RgbaImage) -> RgbImage {
    let mut out = RgbImage::new(image.width(), image.height());
    for (to, from) in out.pixels_mut().zip(image.pixels()) {
        let alpha = u32::from(from[3]);
        for channel in 0..3 {
            let sum = u32::from(from[channel]) * alpha + 255 * (255 - alpha);
            // Rounded to nearest; at most 255, so the cast keeps the value.
            to[channel] = ((sum + 127) / 255) as u8;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use image::{GrayImage, ImageBuffer, Luma, Rgba};

    use super::*;

    fn encode(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn alpha_is_composed_over_white() {
        let mut image = RgbaImage::new(3, 1);
        image.put_pixel(0, 0, Rgba([10, 20, 30, 255]));
        image.put_pixel(1, 0, Rgba([10, 20, 30, 0]));
        image.put_pixel(2, 0, Rgba([0, 100, 255, 128]));
        let png = encode(image.clone().into(), ImageFormat::Png);
        let webp = encode(image.into(), ImageFormat::WebP);
        for bytes in [png, webp] {
            let rgb = decode(&bytes, &DecodeLimits::default()).unwrap();
            // 100 * 128 + 255 * 127 = 45185, over 255 = 177.2; 0 gives 127.
            assert_eq!(rgb.as_raw(), &[10, 20, 30, 255, 255, 255, 127, 177, 255]);
        }
    }

    #[test]
    fn grey_and_sixteen_bit_become_rgb() {
        let grey = GrayImage::from_raw(2, 1, vec![7, 200]).unwrap();
        let rgb = decode(
            &encode(grey.into(), ImageFormat::Png),
            &DecodeLimits::default(),
        )
        .unwrap();
        assert_eq!(rgb.as_raw(), &[7, 7, 7, 200, 200, 200]);

        let deep: ImageBuffer<Luma<u16>, Vec<u16>> =
            ImageBuffer::from_raw(3, 1, vec![0, 257 * 100, 65_535]).unwrap();
        let rgb = decode(
            &encode(deep.into(), ImageFormat::Png),
            &DecodeLimits::default(),
        )
        .unwrap();
        assert_eq!(rgb.as_raw(), &[0, 0, 0, 100, 100, 100, 255, 255, 255]);
    }

    #[test]
    fn limits_hold_before_decoding() {
        let bytes = encode(RgbImage::new(20, 10).into(), ImageFormat::Png);
        let exact = DecodeLimits {
            max_pixels: 200,
            ..Default::default()
        };
        assert!(decode(&bytes, &exact).is_ok());
        let pixels = DecodeLimits {
            max_pixels: 199,
            ..Default::default()
        };
        let error = decode(&bytes, &pixels).unwrap_err();
        assert!(matches!(
            error,
            DecodeError::TooLarge {
                width: 20,
                height: 10,
                max_pixels: 199,
                ..
            }
        ));
        let side = DecodeLimits {
            max_side: 19,
            ..Default::default()
        };
        assert!(matches!(
            decode(&bytes, &side).unwrap_err(),
            DecodeError::TooLarge { .. }
        ));
        let memory = DecodeLimits {
            max_alloc: 599,
            ..Default::default()
        };
        assert!(matches!(
            decode(&bytes, &memory).unwrap_err(),
            DecodeError::Allocation { max_alloc: 599, .. }
        ));
    }

    #[test]
    fn a_header_that_lies_about_its_size_costs_nothing() {
        // A PNG of 100000x100000 pixels would be 30 GB.
        let mut bytes = encode(RgbImage::new(1, 1).into(), ImageFormat::Png);
        bytes[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&100_000_u32.to_be_bytes());
        let crc = png_crc(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(
            decode(&bytes, &DecodeLimits::default()).unwrap_err(),
            DecodeError::TooLarge { width: 100_000, .. }
        ));
    }

    fn png_crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| {
                if c & 1 == 1 {
                    0xedb8_8320 ^ (c >> 1)
                } else {
                    c >> 1
                }
            })
        })
    }

    #[test]
    fn bad_bytes_name_their_fault() {
        let limits = DecodeLimits::default();
        for bytes in [&b""[..], b"BM not supported", b"<svg/>", &[0xff]] {
            assert!(matches!(
                decode(bytes, &limits).unwrap_err(),
                DecodeError::UnknownFormat { length, .. } if length == bytes.len()
            ));
        }
        let mut noise = RgbImage::new(40, 40);
        for (i, pixel) in noise.pixels_mut().enumerate() {
            pixel.0 = [
                (i * 37 % 251) as u8,
                (i * 91 % 253) as u8,
                (i * 17 % 241) as u8,
            ];
        }
        for format in [
            ImageFormat::Jpeg,
            ImageFormat::Png,
            ImageFormat::Gif,
            ImageFormat::WebP,
        ] {
            let bytes = encode(noise.clone().into(), format);
            assert!(decode(&bytes, &limits).is_ok(), "{format:?}");
            let error = decode(&bytes[..bytes.len() / 2], &limits).unwrap_err();
            assert!(
                matches!(error, DecodeError::Truncated { .. }),
                "{format:?}: {error:?}"
            );
        }
        let mut png = encode(noise.into(), ImageFormat::Png);
        let middle = png.len() / 2;
        png[middle] ^= 0xff;
        assert!(matches!(
            decode(&png, &limits).unwrap_err(),
            DecodeError::Corrupt { format: "PNG", .. }
        ));
    }
}
