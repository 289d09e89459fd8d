//! The scene graph: what is in a picture and where. Everything that is ever said of a picture is computed from it.

use serde::{Deserialize, Serialize};

use super::background::Background;

/// The part of the data that a scene belongs to. Splits share neither pictogram nor background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose by.
    Val,
    /// To report.
    Test,
}

impl Split {
    /// All three, in the order in which they are made.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// The name of folders and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// Image identities are numbers that differ over all splits, as in COCO: the split's number, then six digits.
    pub fn image_id(self, index: usize) -> u64 {
        (self as u64 + 1) * Self::LARGEST as u64 + index as u64
    }

    /// Scenes that a split can hold at most.
    pub const LARGEST: usize = 1_000_000;
}

/// A rectangle in pixels, from `left`, `top` up to and without `right`, `bottom`. In JSON a list of these four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u32; 4]", into = "[u32; 4]")]
pub struct Region {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Column behind the last.
    pub right: u32,
    /// Row behind the last.
    pub bottom: u32,
}

impl From<[u32; 4]> for Region {
    fn from([left, top, right, bottom]: [u32; 4]) -> Self {
        Self {
            left,
            top,
            right,
            bottom,
        }
    }
}

impl From<Region> for [u32; 4] {
    fn from(region: Region) -> Self {
        [region.left, region.top, region.right, region.bottom]
    }
}

impl Region {
    /// Columns.
    pub fn width(self) -> u32 {
        self.right.saturating_sub(self.left)
    }

    /// Rows.
    pub fn height(self) -> u32 {
        self.bottom.saturating_sub(self.top)
    }

    /// Twice the middle, horizontally and vertically: whole numbers.
    pub fn doubled_centre(self) -> [u32; 2] {
        [self.left + self.right, self.top + self.bottom]
    }

    /// Whether at least `gap` empty pixels lie between the two.
    pub fn is_apart(self, other: Self, gap: u32) -> bool {
        self.left >= other.right + gap
            || other.left >= self.right + gap
            || self.top >= other.bottom + gap
            || other.top >= self.bottom + gap
    }

    /// What both cover, or `None`.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        };
        (both.width() > 0 && both.height() > 0).then_some(both)
    }

    /// Whether all of `inner` lies in this one.
    pub fn contains(self, inner: Self) -> bool {
        self.intersection(inner) == Some(inner)
    }
}

/// Coarse kind of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Category {
    Animal,
    Food,
    Vehicle,
    Plant,
    Clothing,
    Instrument,
    Tool,
    Building,
    Household,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Animal,
        Self::Food,
        Self::Vehicle,
        Self::Plant,
        Self::Clothing,
        Self::Instrument,
        Self::Tool,
        Self::Building,
        Self::Household,
    ];

    /// The name in the table of names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Animal => "animal",
            Self::Food => "food",
            Self::Vehicle => "vehicle",
            Self::Plant => "plant",
            Self::Clothing => "clothing",
            Self::Instrument => "instrument",
            Self::Tool => "tool",
            Self::Building => "building",
            Self::Household => "household",
        }
    }

    /// The noun that counts members, where its borders are clear: a tomato may or may not be a plant and a
    /// knife a tool, so only these four are ever asked for.
    pub fn noun(self) -> Option<&'static str> {
        match self {
            Self::Animal => Some("animal"),
            Self::Vehicle => Some("vehicle"),
            Self::Instrument => Some("musical instrument"),
            Self::Building => Some("building"),
            _ => None,
        }
    }
}

/// A colour that a drawing clearly has. White and grey are left out: they are also outlines and highlights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    Black,
}

impl Colour {
    /// Its English name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::Brown => "brown",
            Self::Black => "black",
        }
    }
}

/// One of two sizes with a wide gap between them, so that "larger" is never a matter of opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Size {
    Small,
    Large,
}

impl Size {
    /// Its English name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
        }
    }

    /// Range of the longer side, as a share of the picture's side.
    pub fn range(self) -> (f64, f64) {
        match self {
            Self::Small => (0.18, 0.23),
            Self::Large => (0.3, 0.355),
        }
    }
}

/// One half of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Side {
    Left,
    Right,
    Top,
    Bottom,
}

impl Side {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Top, Self::Bottom];

    /// Its English name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
            Self::Top => "top",
            Self::Bottom => "bottom",
        }
    }

    /// The pixels of this half of a square picture of `side` pixels.
    pub fn region(self, side: u32) -> Region {
        let half = side / 2;
        match self {
            Self::Left => [0, 0, half, side],
            Self::Right => [half, 0, side, side],
            Self::Top => [0, 0, side, half],
            Self::Bottom => [0, half, side, side],
        }
        .into()
    }
}

/// Least distance of a thing's middle from the picture's, as a share of the side, for it to be on a side.
const OFF_CENTRE: f64 = 0.15;

/// One thing in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is, a name of the table.
    pub name: String,
    /// Its coarse kind.
    pub category: Category,
    /// Its colour, where one clearly wins.
    pub colour: Option<Colour>,
    /// Small or large.
    pub size: Size,
    /// The set that the drawing comes from.
    pub maker: String,
    /// Key of the drawing in the pictogram shards.
    pub pictogram: String,
    /// Which variant of the drawing is shown; 0 is the drawing itself.
    #[serde(default)]
    pub variant: u32,
    /// Whether left and right of the drawing are exchanged.
    #[serde(default)]
    pub mirrored: bool,
    /// The tight box around what is drawn.
    #[serde(rename = "box")]
    pub region: Region,
}

impl Object {
    /// The halves of a picture of `side` pixels that it clearly lies in, at most one of each axis, left and right first.
    pub(super) fn clear_sides(&self, side: u32) -> [Option<Side>; 2] {
        let axes = [[Side::Left, Side::Right], [Side::Top, Side::Bottom]];
        [0, 1].map(|axis| {
            let middle = f64::from(self.region.doubled_centre()[axis]) / 2.0;
            let off = middle / f64::from(side) - 0.5;
            (off.abs() > OFF_CENTRE).then(|| axes[axis][usize::from(off > 0.0)])
        })
    }
}

/// A square picture: a background, things on it, and perhaps a curtain behind which there may be more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Identity over all splits.
    pub image_id: u64,
    /// Side of the picture in pixels.
    pub side: u32,
    /// What is behind the things.
    pub background: Background,
    /// An opaque rectangle: what it hides is unknown.
    pub curtain: Option<Region>,
    /// Two to six things, whose boxes touch neither each other nor the curtain.
    pub objects: Vec<Object>,
}

impl Scene {
    /// The names in the picture, each once, in the order of the objects.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for object in &self.objects {
            if !names.contains(&object.name.as_str()) {
                names.push(&object.name);
            }
        }
        names
    }

    /// How many things of this name can be seen.
    pub fn count(&self, name: &str) -> usize {
        self.objects
            .iter()
            .filter(|object| object.name == name)
            .count()
    }

    /// The things that are alone in bearing their name.
    pub fn singles(&self) -> Vec<&Object> {
        self.objects
            .iter()
            .filter(|object| self.count(&object.name) == 1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        let a = Region::from([0, 0, 10, 10]);
        assert!(a.is_apart([14, 0, 20, 10].into(), 4));
        assert!(!a.is_apart([13, 0, 20, 10].into(), 4));
        assert_eq!(
            a.intersection([5, 8, 20, 20].into()),
            Some([5, 8, 10, 10].into())
        );
        assert_eq!(a.intersection([10, 0, 20, 10].into()), None);
        assert!(a.contains([2, 2, 10, 10].into()) && !a.contains([2, 2, 11, 10].into()));
    }

    #[test]
    fn image_identities_differ_between_splits() {
        assert_eq!(Split::Train.image_id(7), 1_000_007);
        assert_eq!(Split::Test.image_id(0), 3_000_000);
    }
}
