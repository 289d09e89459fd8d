//! Contact sheets: a grid of pictures with their captions, to look at data before training on it,
//! and at what a model looks at after.

mod heat;

pub use heat::{outline, overlay};

use embedded_graphics::mono_font::{MonoTextStyle, iso_8859_15::FONT_6X10};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::{Dimensions, DrawTarget, Drawable, Pixel, Point, Size};
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Baseline, Text};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use unicode_normalization::UnicodeNormalization;

/// Lines of text below a picture, where nothing else is asked.
pub const LINES: usize = 4;
/// Height of a line in pixels; glyphs are 6x10.
const LINE_HEIGHT: u32 = 11;
const GLYPH_WIDTH: u32 = 6;
/// White around every picture.
const GAP: u32 = 8;
/// Narrower cells could not hold a word.
const SMALLEST_CELL: u32 = 48;
const LARGEST_CELL: u32 = 2048;
const ELLIPSIS: &str = "..";
const INK: Rgb<u8> = Rgb([30, 30, 30]);
const FRAME: Rgb<u8> = Rgb([225, 225, 225]);

/// A picture and what is written below it.
#[derive(Clone, Debug)]
pub struct SheetItem {
    /// The picture, of any size.
    pub image: RgbImage,
    /// Its caption; what does not fit ends in `..`.
    pub caption: String,
}

/// Draws the items row by row into a grid of `columns`, each picture fitted into a square of `cell` pixels, with `lines`
/// lines of text below.
///
/// `columns` is at least 1, `cell` between 48 and 2048; other values are moved into that range. Letters beyond
/// Latin-9 lose their accents, or become `?` where they are not Latin.
pub fn contact_sheet(items: &[SheetItem], columns: usize, cell: u32, lines: usize) -> RgbImage {
    let cell = cell.clamp(SMALLEST_CELL, LARGEST_CELL);
    let columns = columns.clamp(1, items.len().max(1)) as u32;
    let rows = (items.len() as u32).div_ceil(columns);
    let (across, down) = (cell + GAP, cell + GAP + lines as u32 * LINE_HEIGHT);
    let mut sheet = RgbImage::from_pixel(GAP + columns * across, GAP + rows * down, Rgb([255; 3]));
    for (at, item) in items.iter().enumerate() {
        let (column, row) = (at as u32 % columns, at as u32 / columns);
        let (left, top) = (GAP + column * across, GAP + row * down);
        draw_picture(&mut sheet, &item.image, left, top, cell);
        let width = (cell / GLYPH_WIDTH) as usize;
        for (line, text) in written(&item.caption, width, lines).iter().enumerate() {
            draw_text(
                &mut sheet,
                text,
                left,
                top + cell + 2 + line as u32 * LINE_HEIGHT,
            );
        }
    }
    sheet
}

/// A picture as large as a cell lets it be, its proportions kept; one without pixels as it is.
pub fn fitted(picture: &RgbImage, cell: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return picture.clone();
    }
    let scale = f64::from(cell) / f64::from(width.max(height));
    let fit = |length: u32| ((f64::from(length) * scale).round() as u32).clamp(1, cell);
    // Enlarged pixels stay visible as pixels: a preview should not make small pictures look better.
    let filter = if scale > 1.0 {
        FilterType::Nearest
    } else {
        FilterType::CatmullRom
    };
    imageops::resize(picture, fit(width), fit(height), filter)
}

fn draw_picture(sheet: &mut RgbImage, picture: &RgbImage, left: u32, top: u32, cell: u32) {
    let fitted = fitted(picture, cell);
    let (x, y) = (
        left + (cell - fitted.width()) / 2,
        top + (cell - fitted.height()) / 2,
    );
    imageops::replace(sheet, &fitted, i64::from(x), i64::from(y));
    // White drawings on white paper need an edge.
    for along in 0..cell {
        for (x, y) in [(along, 0), (along, cell - 1), (0, along), (cell - 1, along)] {
            let pixel = sheet.get_pixel_mut(left + x, top + y);
            if pixel.0 == [255; 3] {
                *pixel = FRAME;
            }
        }
    }
}

fn draw_text(sheet: &mut RgbImage, text: &str, left: u32, top: u32) {
    let style = MonoTextStyle::new(&FONT_6X10, BinaryColor::On);
    let start = Point::new(left as i32, top as i32);
    // Drawing on a canvas that cannot fail does not fail.
    let _ = Text::with_baseline(text, start, style, Baseline::Top).draw(&mut Canvas(sheet));
}

/// The sheet as the font crate wants it.
struct Canvas<'a>(&'a mut RgbImage);

impl Dimensions for Canvas<'_> {
    fn bounding_box(&self) -> Rectangle {
        Rectangle::new(Point::zero(), Size::new(self.0.width(), self.0.height()))
    }
}

impl DrawTarget for Canvas<'_> {
    type Color = BinaryColor;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<BinaryColor>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Self::Error> {
        for Pixel(Point { x, y }, color) in pixels {
            let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
            if let (Some((x, y)), BinaryColor::On) = (place, color)
                && let Some(pixel) = self.0.get_pixel_mut_checked(x, y)
            {
                *pixel = INK;
            }
        }
        Ok(())
    }
}

/// Letters that the font has, or their nearest.
fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.nfc() {
        match letter {
            ' '..='~' | '\u{a1}'..='\u{ff}' | '€' | 'Š' | 'š' | 'Ž' | 'ž' | 'Œ' | 'œ' | 'Ÿ' => {
                plain.push(letter)
            }
            '\u{2018}' | '\u{2019}' => plain.push('\''),
            '\u{201c}' | '\u{201d}' => plain.push('"'),
            '\u{2010}'..='\u{2014}' => plain.push('-'),
            '\u{2026}' => plain.push_str("..."),
            letter if letter.is_whitespace() || letter.is_control() => plain.push(' '),
            letter => match std::iter::once(letter).nfd().next() {
                Some(base) if base.is_ascii() => plain.push(base),
                _ => plain.push('?'),
            },
        }
    }
    plain
}

/// The lines of a caption; the last ends in `..` if text is left.
fn written(caption: &str, width: usize, most: usize) -> Vec<String> {
    let lines = caption
        .lines()
        .flat_map(|line| wrap(&printable(line), width));
    let mut lines: Vec<String> = lines.collect();
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            let kept: String = last
                .chars()
                .take(width.saturating_sub(ELLIPSIS.len()))
                .collect();
            *last = format!("{}{ELLIPSIS}", kept.trim_end());
        }
    }
    lines
}

/// Breaks at spaces, and inside words that are longer than a line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = word.chars().collect();
        if let Some(line) = lines.last_mut()
            && line.chars().count() + 1 + letters.len() <= width
        {
            line.push(' ');
            line.extend(letters);
            continue;
        }
        while letters.len() > width {
            let rest = letters.split_off(width);
            lines.push(letters.into_iter().collect());
            letters = rest;
        }
        lines.push(letters.into_iter().collect());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(width: u32, height: u32, caption: &str) -> SheetItem {
        SheetItem {
            image: RgbImage::from_pixel(width, height, Rgb([200, 0, 0])),
            caption: caption.to_owned(),
        }
    }

    #[test]
    fn wrapping_keeps_words_and_marks_what_is_left_out() {
        assert_eq!(wrap("a small red teapot", 9), ["a small", "red", "teapot"]);
        assert_eq!(wrap("extraordinarily", 6), ["extrao", "rdinar", "ily"]);
        assert_eq!(
            written("one two three four five six", 5, 4),
            ["one", "two", "three", "fou.."]
        );
        assert_eq!(written("one two\nthree", 9, 4), ["one two", "three"]);
        assert!(wrap("  ", 10).is_empty());
    }

    #[test]
    fn letters_degrade_to_what_the_font_has() {
        assert_eq!(
            printable("man\u{2019}s “théière” – Łódź \u{1e9}…"),
            "man's \"théière\" - ?ódz k..."
        );
        assert_eq!(printable("茶壶\n"), "?? ");
    }

    #[test]
    fn every_picture_is_on_the_sheet_at_its_place_with_ink_below() {
        let items = [
            item(10, 10, "first"),
            item(200, 100, ""),
            item(30, 90, "third"),
        ];
        let sheet = contact_sheet(&items, 2, 64, LINES);
        let row = 64 + 8 + 44;
        assert_eq!(sheet.dimensions(), (8 + 2 * 72, 8 + 2 * row));
        for (column, row_at) in [(0, 0), (1, 0), (0, 1)] {
            let centre = sheet.get_pixel(8 + column * 72 + 32, 8 + row_at * row + 32);
            assert!(centre.0[0] > 190 && centre.0[1] < 10, "{centre:?}");
        }
        let ink = |left: u32, top: u32| {
            (left..left + 64)
                .flat_map(|x| (top..top + 44).map(move |y| (x, y)))
                .filter(|&(x, y)| *sheet.get_pixel(x, y) == INK)
                .count()
        };
        assert!(ink(8, 8 + 64) > 20);
        assert_eq!(ink(8 + 72, 8 + 64), 0);
    }

    #[test]
    fn odd_sizes_do_not_panic() {
        assert_eq!(contact_sheet(&[], 0, 0, LINES).dimensions(), (8 + 56, 8));
        contact_sheet(&[item(0, 0, "empty"), item(1, 4000, "thin")], 9, 1, LINES);
    }
}
