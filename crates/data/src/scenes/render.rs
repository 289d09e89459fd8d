//! From a scene graph to a picture.

use std::collections::HashMap;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage, RgbaImage};

use super::graph::{Object, Region, Scene};
use super::lexicon::Lexicon;

/// JPEG quality of written pictures.
const QUALITY: u8 = 90;
const CURTAIN: [u8; 3] = [92, 92, 102];
const FOLD: [u8; 3] = [70, 70, 80];
const HEM: [u8; 3] = [42, 42, 48];

/// Draws scenes of one split.
pub(super) struct Renderer<'a> {
    drawings: HashMap<(&'a str, u32), &'a RgbaImage>,
}

impl<'a> Renderer<'a> {
    pub(super) fn new(lexicon: &'a Lexicon) -> Self {
        Self {
            drawings: lexicon
                .drawings
                .iter()
                .map(|drawing| ((drawing.key.as_str(), drawing.variant), &drawing.picture))
                .collect(),
        }
    }

    /// Draws a scene composed of this split's drawings.
    pub(super) fn draw(&self, scene: &Scene) -> RgbImage {
        let mut canvas = scene.background.paint(scene.side);
        for object in &scene.objects {
            if let Some(drawing) = self
                .drawings
                .get(&(object.pictogram.as_str(), object.variant))
            {
                paste(&mut canvas, drawing, object);
            }
        }
        if let Some(curtain) = scene.curtain {
            hang(&mut canvas, curtain);
        }
        canvas
    }

    /// Draws a scene and encodes it as JPEG.
    pub(super) fn jpeg(&self, scene: &Scene) -> Result<Vec<u8>, image::ImageError> {
        let mut bytes = Vec::new();
        self.draw(scene)
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))?;
        Ok(bytes)
    }
}

/// `drawing` holds colours multiplied by alpha, without which scaling would draw dark fringes.
fn paste(canvas: &mut RgbImage, drawing: &RgbaImage, object: &Object) {
    let region = object.region;
    let mut fitted = imageops::resize(
        drawing,
        region.width(),
        region.height(),
        FilterType::CatmullRom,
    );
    if object.mirrored {
        imageops::flip_horizontal_in_place(&mut fitted);
    }
    for (x, y, pixel) in fitted.enumerate_pixels() {
        let [colour @ .., alpha] = pixel.0;
        let under = canvas.get_pixel_mut(region.left + x, region.top + y);
        let through = u32::from(255 - alpha);
        for (under, colour) in under.0.iter_mut().zip(colour) {
            let mixed = u32::from(colour) + (u32::from(*under) * through + 127) / 255;
            *under = mixed.min(255) as u8;
        }
    }
}

fn hang(canvas: &mut RgbImage, curtain: Region) {
    let fold = (curtain.width() / 8).max(2);
    let hem = (canvas.width() / 100).max(1);
    for y in curtain.top..curtain.bottom {
        for x in curtain.left..curtain.right {
            let edge = (x - curtain.left)
                .min(curtain.right - 1 - x)
                .min(y - curtain.top)
                .min(curtain.bottom - 1 - y);
            let colour = if edge < hem {
                HEM
            } else if ((x - curtain.left) / (fold / 2).max(1)).is_multiple_of(2) {
                CURTAIN
            } else {
                FOLD
            };
            canvas.put_pixel(x, y, Rgb(colour));
        }
    }
}
