//! Statements as programs over a scene graph, true, false or undecidable.
//!
//! An opaque curtain hides an unknown part of the scene. A program's value is what all completions of the scene
//! agree on: [`Truth::True`] or [`Truth::False`] if whatever might stand behind the curtain changes nothing,
//! [`Truth::Unknown`] otherwise. A completion adds things whose boxes lie wholly behind the curtain.
//!
//! "The X" presupposes that there is one X: it means the only one that can be seen, or, if none can be seen, one
//! that may stand behind the curtain. A program has no value ([`evaluate`](Program::evaluate) gives `None`) where
//! that fails, or where an object neither clearly fits a query nor clearly does not: its colour is not clear, or
//! it stands across the middle when a half of the picture is asked for. Such programs are never written.

use serde::{Deserialize, Serialize};

use super::graph::{Category, Colour, Object, Region, Scene, Side, Size};

/// A value of three-valued logic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Truth {
    True,
    False,
    /// It depends on what is behind the curtain.
    Unknown,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// What a thing must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Bears this name.
    Name(String),
    /// Belongs to this category.
    Category(Category),
}

/// A description that things fit or do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Name or category.
    pub kind: Kind,
    /// Size, if it matters.
    pub size: Option<Size>,
    /// Colour, if it matters.
    pub colour: Option<Colour>,
    /// The half of the picture that the whole thing stands in, if it matters.
    pub side: Option<Side>,
}

impl Query {
    /// Things of this name.
    pub fn name(name: &str) -> Self {
        Self {
            kind: Kind::Name(name.to_owned()),
            size: None,
            colour: None,
            side: None,
        }
    }

    /// Things of this category.
    pub fn category(category: Category) -> Self {
        Self {
            kind: Kind::Category(category),
            size: None,
            colour: None,
            side: None,
        }
    }

    /// Of these, the ones in one half of the picture.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    /// Of these, the ones of one size.
    #[must_use]
    pub fn sized(mut self, size: Size) -> Self {
        self.size = Some(size);
        self
    }

    /// Of these, the ones of one colour.
    #[must_use]
    pub fn coloured(mut self, colour: Colour) -> Self {
        self.colour = Some(colour);
        self
    }

    /// Whether an object fits; `None` when it neither clearly does nor clearly does not.
    pub fn matches(&self, object: &Object, side: u32) -> Option<bool> {
        let kind = match &self.kind {
            Kind::Name(name) => object.name == *name,
            Kind::Category(category) => object.category == *category,
        };
        let size = self.size.is_none_or(|size| object.size == size);
        let colour = match (self.colour, object.colour) {
            (None, _) => Some(true),
            (Some(_), None) => None,
            (Some(wanted), Some(colour)) => Some(wanted == colour),
        };
        let place = self.side.map_or(Some(true), |half| {
            let half = half.region(side);
            match half.intersection(object.region) {
                None => Some(false),
                Some(part) if part == object.region => Some(true),
                Some(_) => None,
            }
        });
        let clear = [Some(kind), Some(size), colour, place];
        if clear.contains(&Some(false)) {
            Some(false)
        } else if clear.contains(&None) {
            None
        } else {
            Some(true)
        }
    }

    /// The visible objects that fit; `None` when that is not clear of every object.
    pub fn select<'a>(&self, scene: &'a Scene) -> Option<Vec<&'a Object>> {
        let mut fitting = Vec::new();
        for object in &scene.objects {
            if self.matches(object, scene.side)? {
                fitting.push(object);
            }
        }
        Some(fitting)
    }

    /// Where a fitting object could stand unseen.
    fn hiding_place(&self, scene: &Scene) -> Option<Region> {
        let curtain = scene.curtain?;
        match self.side {
            None => Some(curtain),
            Some(side) => curtain.intersection(side.region(scene.side)),
        }
    }

    /// What "the X" means in a scene; `None` when it means nothing.
    fn referent(&self, scene: &Scene) -> Option<Place> {
        match self.select(scene)?.as_slice() {
            [] => self.hiding_place(scene).map(Place::Hidden),
            [object] => Some(Place::Seen(object.region)),
            _ => None,
        }
    }
}

/// How two things lie to each other: strictly, no row or column in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    /// All four.
    pub const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// Whether it holds between two boxes.
    pub fn holds(self, subject: Region, object: Region) -> bool {
        self.is_possible(Place::Seen(subject), Place::Seen(object))
    }

    /// The relation with subject and object exchanged.
    #[must_use]
    pub fn inverse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    /// Whether it holds for some position of whatever is hidden.
    fn is_possible(self, subject: Place, object: Place) -> bool {
        match self {
            Self::LeftOf => subject.least_right() <= object.greatest_left(),
            Self::RightOf => object.least_right() <= subject.greatest_left(),
            Self::Above => subject.least_bottom() <= object.greatest_top(),
            Self::Below => object.least_bottom() <= subject.greatest_top(),
        }
    }
}

/// Where something stands: in a box that can be seen, or somewhere inside a hidden one.
#[derive(Clone, Copy, Debug)]
enum Place {
    Seen(Region),
    Hidden(Region),
}

impl Place {
    fn least_right(self) -> u32 {
        match self {
            Self::Seen(region) => region.right,
            Self::Hidden(region) => region.left + 1,
        }
    }

    fn greatest_left(self) -> u32 {
        match self {
            Self::Seen(region) => region.left,
            Self::Hidden(region) => region.right - 1,
        }
    }

    fn least_bottom(self) -> u32 {
        match self {
            Self::Seen(region) => region.bottom,
            Self::Hidden(region) => region.top + 1,
        }
    }

    fn greatest_top(self) -> u32 {
        match self {
            Self::Seen(region) => region.top,
            Self::Hidden(region) => region.bottom - 1,
        }
    }

    fn is_seen(self) -> bool {
        matches!(self, Self::Seen(_))
    }
}

/// Whether a relation is about some pair of things or about two that are presupposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// "an X is above a Y"
    Some,
    /// "the X is above the Y"
    The,
}

/// A property that "the X" may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Attribute {
    Size(Size),
    Colour(Colour),
}

/// A statement about one picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// There is one that fits.
    Exists(Query),
    /// Exactly so many fit.
    Count {
        /// What is counted.
        query: Query,
        /// How many there must be.
        count: usize,
    },
    /// One thing lies so to another.
    Relation {
        /// Any two, or the only two.
        reading: Reading,
        /// How they lie.
        relation: Relation,
        /// What lies so.
        subject: Query,
        /// To what.
        object: Query,
    },
    /// The only fitting thing has a property.
    Attribute {
        /// The thing.
        subject: Query,
        /// The property.
        attribute: Attribute,
    },
    /// The one is large and the other small.
    Larger {
        /// The thing said to be larger.
        subject: Query,
        /// The other.
        object: Query,
    },
}

impl Program {
    /// The program's value, or `None` where it has none (see the module).
    pub fn evaluate(&self, scene: &Scene) -> Option<Truth> {
        match self {
            Self::Exists(query) => exists(query, scene),
            Self::Count { query, count } => {
                let seen = query.select(scene)?.len();
                let more = query.hiding_place(scene).is_some();
                Some(if more && seen <= *count {
                    Truth::Unknown
                } else {
                    (seen == *count).into()
                })
            }
            Self::Relation {
                reading: Reading::Some,
                relation,
                subject,
                object,
            } => some_relation(*relation, subject, object, scene),
            Self::Relation {
                reading: Reading::The,
                relation,
                subject,
                object,
            } => {
                let (subject, object) = (subject.referent(scene)?, object.referent(scene)?);
                let possible = relation.is_possible(subject, object);
                Some(if possible && !(subject.is_seen() && object.is_seen()) {
                    Truth::Unknown
                } else {
                    possible.into()
                })
            }
            Self::Attribute { subject, attribute } => match subject.select(scene)?.as_slice() {
                [] => subject.hiding_place(scene).map(|_| Truth::Unknown),
                [object] => match attribute {
                    Attribute::Size(size) => Some((object.size == *size).into()),
                    Attribute::Colour(colour) => {
                        object.colour.map(|clear| (clear == *colour).into())
                    }
                },
                _ => None,
            },
            Self::Larger { subject, object } => {
                let size = |query: &Query| match query.select(scene)?.as_slice() {
                    [] => query.hiding_place(scene).map(|_| None),
                    [object] => Some(Some(object.size)),
                    _ => None,
                };
                Some(match (size(subject)?, size(object)?) {
                    (Some(Size::Small), _) | (_, Some(Size::Large)) => Truth::False,
                    (Some(Size::Large), Some(Size::Small)) => Truth::True,
                    _ => Truth::Unknown,
                })
            }
        }
    }
}

fn exists(query: &Query, scene: &Scene) -> Option<Truth> {
    let fits: Vec<Option<bool>> = scene
        .objects
        .iter()
        .map(|object| query.matches(object, scene.side))
        .collect();
    if fits.contains(&Some(true)) {
        Some(Truth::True)
    } else if fits.contains(&None) {
        None
    } else if query.hiding_place(scene).is_some() {
        Some(Truth::Unknown)
    } else {
        Some(Truth::False)
    }
}

fn some_relation(
    relation: Relation,
    subject: &Query,
    object: &Query,
    scene: &Scene,
) -> Option<Truth> {
    let places = |query: &Query| -> Option<Vec<Place>> {
        let seen = query.select(scene)?.into_iter();
        let hidden = query.hiding_place(scene).map(Place::Hidden);
        Some(
            seen.map(|object| Place::Seen(object.region))
                .chain(hidden)
                .collect(),
        )
    };
    let (subjects, objects) = (places(subject)?, places(object)?);
    let mut value = Truth::False;
    for &subject in &subjects {
        for &object in &objects {
            if relation.is_possible(subject, object) {
                if subject.is_seen() && object.is_seen() {
                    return Some(Truth::True);
                }
                value = Truth::Unknown;
            }
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests;
