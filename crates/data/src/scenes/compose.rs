//! Drawing a scene graph: which things, how many of each, where.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::background::Background;
use super::graph::{Category, Colour, Object, Region, Scene, Size, Split};
use super::lexicon::{Entry, Lexicon};
use super::questions::COLOURS_ASKED_IN;

/// Empty pixels between two boxes, of 256.
const GAP: f64 = 4.0 / 256.0;
/// Empty pixels at the border, of 256.
const MARGIN: f64 = 2.0 / 256.0;
/// Range of the curtain's sides, as a share of the picture's side.
const CURTAIN: (f64, f64) = (0.27, 0.39);
/// Places tried for one thing before the layout is begun anew.
const PLACES: usize = 60;
/// Layouts tried before a large thing is made small.
const LAYOUTS: usize = 8;
/// Share of the things after the first that come from the category of the first: distractors that look alike.
const SAME_CATEGORY: f64 = 0.5;
/// How often a drawing of a clear colour is preferred.
const CLEAR_COLOUR: f64 = 0.5;
/// Share of the scenes without a curtain whose things all have clear colours, as far as possible different ones.
/// Colours are asked for in these: where only two are seen, nobody needs the question to be right half the time.
const COLOURFUL: f64 = 0.3;
/// What is written on would be written backwards.
const WRITTEN_ON: [&str; 9] = [
    "calendar",
    "clipboard",
    "convenience store",
    "credit card",
    "department store",
    "newspaper",
    "police car",
    "post office",
    "taxi",
];

/// Where things can stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Canvas {
    /// Side of the picture in pixels.
    pub(super) side: u32,
    /// Side of a cell of the lattice in pixels; `None` for any place.
    pub(super) cell: Option<u32>,
}

/// Draws the graph of one scene.
pub(super) fn compose(
    lexicon: &Lexicon,
    split: Split,
    image_id: u64,
    canvas: Canvas,
    curtained: bool,
    rng: &mut ChaCha8Rng,
) -> Scene {
    let background = Background::draw(split, rng);
    let colourful = !curtained && rng.random_bool(COLOURFUL);
    let things = colourful
        .then(|| choose_colourful(lexicon, rng))
        .flatten()
        .unwrap_or_else(|| choose(lexicon, rng));
    let mut sizes: Vec<Size> = things
        .iter()
        .map(|_| {
            if rng.random_bool(0.5) {
                Size::Large
            } else {
                Size::Small
            }
        })
        .collect();
    loop {
        for _ in 0..LAYOUTS {
            if let Some((curtain, boxes)) =
                lay_out(lexicon, &things, &sizes, canvas, curtained, rng)
            {
                let objects = things
                    .iter()
                    .zip(&sizes)
                    .zip(boxes)
                    .map(|((&(entry, drawing), &size), region)| {
                        let drawing = &lexicon.drawings[drawing];
                        Object {
                            name: entry.name.to_owned(),
                            category: entry.category,
                            colour: drawing.colour,
                            size,
                            maker: drawing.record.source.clone(),
                            pictogram: drawing.key.clone(),
                            variant: drawing.variant,
                            mirrored: !WRITTEN_ON.contains(&entry.name) && rng.random_bool(0.5),
                            region,
                        }
                    })
                    .collect();
                return Scene {
                    image_id,
                    side: canvas.side,
                    background,
                    curtain,
                    objects,
                };
            }
        }
        // Six small things always fit in the end, so this ends.
        if let Some(size) = sizes.iter_mut().find(|size| **size == Size::Large) {
            *size = Size::Small;
        }
    }
}

/// Two to six things: names with how often each is shown, then a drawing for every one of them.
fn choose<'a>(lexicon: &'a Lexicon, rng: &mut ChaCha8Rng) -> Vec<(&'a Entry, usize)> {
    let total = rng.random_range(2..=6);
    let mut theme: Option<Category> = None;
    let mut names: Vec<&str> = Vec::new();
    let mut things = Vec::with_capacity(total);
    let mut tries = 0;
    while things.len() < total {
        let entry = match theme {
            Some(category) if rng.random_bool(SAME_CATEGORY) => {
                let alike: Vec<&Entry> = lexicon
                    .entries
                    .iter()
                    .filter(|entry| entry.category == category)
                    .collect();
                alike.choose(rng).copied()
            }
            _ => lexicon.entries.choose(rng),
        };
        let Some(entry) = entry else { break };
        tries += 1;
        // In a lexicon of very few names all others may clash; then one name fills the picture.
        let usable = !names.contains(&entry.name) && !lexicon.clashes_with_any(entry.name, &names);
        if !usable && tries < 500 {
            continue;
        }
        theme = theme.or(Some(entry.category));
        let entry = if usable || names.is_empty() {
            names.push(entry.name);
            entry
        } else {
            things.last().map_or(entry, |&(last, _)| last)
        };
        let times = *[1, 1, 1, 2, 2, 3].choose(rng).unwrap_or(&1);
        // A picture of one thing repeated leaves nothing to compare, and many pictures of it have one caption.
        let room = total - things.len() - usize::from(names.len() == 1);
        for _ in 0..times.min(room.max(1)) {
            if let Some(drawing) = draw(lexicon, entry, rng) {
                things.push((entry, drawing));
            }
        }
    }
    things
}

/// Four to six things of different names and, as long as there are any left, of different clear colours. `None` where
/// the lexicon does not have so many.
fn choose_colourful<'a>(
    lexicon: &'a Lexicon,
    rng: &mut ChaCha8Rng,
) -> Option<Vec<(&'a Entry, usize)>> {
    let total = rng.random_range(COLOURS_ASKED_IN..=6);
    let mut by_colour: BTreeMap<Colour, Vec<(&Entry, usize)>> = BTreeMap::new();
    for entry in &lexicon.entries {
        for &drawing in &entry.drawings {
            if let Some(colour) = lexicon.drawings[drawing].colour {
                by_colour.entry(colour).or_default().push((entry, drawing));
            }
        }
    }
    let mut colours: Vec<Colour> = by_colour.keys().copied().collect();
    colours.shuffle(rng);
    let mut names: Vec<&str> = Vec::new();
    let mut things = Vec::with_capacity(total);
    for colour in colours {
        if things.len() == total {
            break;
        }
        let usable: Vec<(&Entry, usize)> = by_colour[&colour]
            .iter()
            .copied()
            .filter(|(entry, _)| {
                !names.contains(&entry.name) && !lexicon.clashes_with_any(entry.name, &names)
            })
            .collect();
        if let Some(&(entry, drawing)) = usable.choose(rng) {
            names.push(entry.name);
            things.push((entry, drawing));
        }
    }
    (things.len() >= COLOURS_ASKED_IN).then_some(things)
}

/// One of a name's drawings, often one of a clear colour: few drawings have one, and colours are asked for.
fn draw(lexicon: &Lexicon, entry: &Entry, rng: &mut ChaCha8Rng) -> Option<usize> {
    let clear: Vec<usize> = entry
        .drawings
        .iter()
        .copied()
        .filter(|&drawing| lexicon.drawings[drawing].colour.is_some())
        .collect();
    if rng.random_bool(CLEAR_COLOUR)
        && let Some(drawing) = clear.choose(rng)
    {
        return Some(*drawing);
    }
    entry.drawings.choose(rng).copied()
}

/// Places the curtain and all things, or gives up.
fn lay_out(
    lexicon: &Lexicon,
    things: &[(&Entry, usize)],
    sizes: &[Size],
    canvas: Canvas,
    curtained: bool,
    rng: &mut ChaCha8Rng,
) -> Option<(Option<Region>, Vec<Region>)> {
    let side = canvas.side;
    let pixels = |share: f64| share * f64::from(side);
    let gap = pixels(GAP).round() as u32;
    let margin = pixels(MARGIN).round() as u32;
    let curtain = curtained.then(|| {
        let mut length = || {
            rng.random_range(pixels(CURTAIN.0)..pixels(CURTAIN.1))
                .round() as u32
        };
        let (width, height) = (length(), length());
        let (left, top) = (
            rng.random_range(0..=side - width),
            rng.random_range(0..=side - height),
        );
        Region::from([left, top, left + width, top + height])
    });
    let mut taken: Vec<Region> = curtain.into_iter().collect();
    let mut boxes = Vec::with_capacity(things.len());
    for (&(_, drawing), size) in things.iter().zip(sizes) {
        let (least, most) = size.range();
        let longer = rng.random_range(pixels(least)..pixels(most));
        let (width, height) = lexicon.drawings[drawing].picture.dimensions();
        let scale = longer / f64::from(width.max(height));
        let fit = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
        let (width, height) = (fit(width), fit(height));
        let place = (0..PLACES).find_map(|_| {
            let (left, top) = match canvas.cell {
                Some(cell) => {
                    let block = (longer.ceil() as u32).next_multiple_of(cell);
                    let mut start = || rng.random_range(0..=(side - block) / cell) * cell;
                    let (left, top) = (start(), start());
                    (left + (block - width) / 2, top + (block - height) / 2)
                }
                None => (
                    rng.random_range(margin..=side.checked_sub(width + margin)?),
                    rng.random_range(margin..=side.checked_sub(height + margin)?),
                ),
            };
            let place = Region::from([left, top, left + width, top + height]);
            taken
                .iter()
                .all(|&other| place.is_apart(other, gap))
                .then_some(place)
        })?;
        taken.push(place);
        boxes.push(place);
    }
    Some((curtain, boxes))
}
