//! The colour that a drawing has without doubt, or none.

use image::RgbaImage;

use super::graph::Colour;
use crate::pictograms::hue_saturation_value;

/// Alpha from which a pixel is measured.
const SOLID: u8 = 200;
/// Share of the drawn pixels that the winning colour must have.
const CLEAR: f64 = 0.5;
/// Share of the drawn pixels that no other colour may have.
const RIVAL: f64 = 0.15;
/// Share of the drawn pixels that may lie between two named colours.
const DOUBTFUL: f64 = 0.25;

/// The colour that clearly wins: half of the drawing at least, no second colour beside it, little in between.
/// Outlines and highlights (black, grey, white) are no rivals.
///
/// `premultiplied` holds colours multiplied by alpha.
pub(super) fn clear_colour(premultiplied: &RgbaImage) -> Option<Colour> {
    const NAMED: [Colour; 9] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
        Colour::Brown,
        Colour::Black,
    ];
    let mut counts = [0usize; NAMED.len()];
    let (mut drawn, mut doubtful) = (0usize, 0usize);
    for pixel in premultiplied.pixels() {
        let [red, green, blue, alpha] = pixel.0;
        if alpha < SOLID {
            continue;
        }
        drawn += 1;
        match of_pixel([red, green, blue]) {
            Of::Named(colour) => counts[colour as usize] += 1,
            Of::Between => doubtful += 1,
            Of::Colourless => {}
        }
    }
    let share = |count: usize| count as f64 / drawn.max(1) as f64;
    let (winner, _) = NAMED
        .iter()
        .zip(counts)
        .max_by_key(|&(_, count)| count)
        .filter(|&(_, count)| share(count) >= CLEAR)?;
    let rivals = NAMED
        .iter()
        .zip(counts)
        // Black beside another colour is an outline.
        .filter(|&(colour, _)| colour != winner && *colour != Colour::Black);
    let alone = rivals.into_iter().all(|(_, count)| share(count) <= RIVAL);
    (alone && share(doubtful) <= DOUBTFUL).then_some(*winner)
}

enum Of {
    Named(Colour),
    /// A hue, but one that people name differently.
    Between,
    Colourless,
}

/// Names only the middle of every colour's range of hues, with gaps where people disagree.
fn of_pixel(pixel: [u8; 3]) -> Of {
    let [hue, saturation, value] = hue_saturation_value(pixel);
    if value < 0.25 {
        return Of::Named(Colour::Black);
    }
    if saturation < 0.15 {
        return Of::Colourless;
    }
    if (12.0..45.0).contains(&hue) && value < 0.68 {
        return Of::Named(Colour::Brown);
    }
    // Pale and very dark colours are named by few.
    if saturation < 0.3 || value < 0.35 {
        return Of::Between;
    }
    let reddish = !(13.0..345.0).contains(&hue);
    Of::Named(match hue {
        _ if reddish && saturation > 0.6 => Colour::Red,
        _ if !(10.0..340.0).contains(&hue) && saturation < 0.5 && value > 0.85 => Colour::Pink,
        18.0..41.0 if value > 0.75 && saturation > 0.5 => Colour::Orange,
        45.0..64.0 if value > 0.7 && saturation > 0.45 => Colour::Yellow,
        75.0..165.0 => Colour::Green,
        188.0..245.0 => Colour::Blue,
        260.0..295.0 => Colour::Purple,
        310.0..340.0 if value > 0.7 => Colour::Pink,
        _ => return Of::Between,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgba;

    fn striped(parts: &[([u8; 4], u32)]) -> RgbaImage {
        let height = parts.iter().map(|&(_, rows)| rows).sum();
        let rows: Vec<[u8; 4]> = parts
            .iter()
            .flat_map(|&(colour, rows)| (0..rows).map(move |_| colour))
            .collect();
        RgbaImage::from_fn(10, height, |_, y| Rgba(rows[y as usize]))
    }

    #[test]
    fn one_colour_must_win_clearly() {
        let (red, blue) = ([220, 20, 30, 255], [40, 80, 220, 255]);
        let (white, clear) = ([255; 4], [0; 4]);
        assert_eq!(clear_colour(&striped(&[(red, 1)])), Some(Colour::Red));
        // White and what is transparent do not compete.
        assert_eq!(
            clear_colour(&striped(&[(red, 6), (white, 4), (clear, 30)])),
            Some(Colour::Red)
        );
        assert_eq!(clear_colour(&striped(&[(red, 6), (blue, 3)])), None);
        assert_eq!(clear_colour(&striped(&[(red, 4), (white, 6)])), None);
        // Turquoise is called blue by some and green by others.
        assert_eq!(clear_colour(&striped(&[([20, 190, 180, 255], 1)])), None);
        assert_eq!(clear_colour(&striped(&[(clear, 1)])), None);
    }

    #[test]
    fn middles_of_the_ranges() {
        for (pixel, colour) in [
            ([250, 140, 20], Colour::Orange),
            ([250, 220, 40], Colour::Yellow),
            ([60, 170, 60], Colour::Green),
            ([140, 60, 210], Colour::Purple),
            ([250, 170, 180], Colour::Pink),
            ([130, 80, 40], Colour::Brown),
            ([20, 20, 20], Colour::Black),
        ] {
            let picture = striped(&[([pixel[0], pixel[1], pixel[2], 255], 2)]);
            assert_eq!(clear_colour(&picture), Some(colour), "{pixel:?}");
        }
    }
}
