//! Referring expressions: for every thing the shortest description that fits it alone (Dale and Reiter,
//! "Computational interpretations of the Gricean maxims in the generation of referring expressions", 1995).

use serde::{Deserialize, Serialize};

use super::graph::{Object, Scene};
use super::program::Query;

/// A description of one thing of a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Referring {
    /// Index of the scene in its split.
    pub scene: usize,
    /// Index of the thing in the scene.
    pub object: usize,
    /// The description.
    pub text: String,
}

/// Least distance of the outermost thing's middle from the next one's, as a share of the side.
const OUTERMOST: f64 = 0.05;

/// A description for every thing that has one.
pub(super) fn referring(scene: &Scene, index: usize) -> Vec<Referring> {
    (0..scene.objects.len())
        .filter_map(|object| {
            Some(Referring {
                scene: index,
                object,
                text: describe(scene, object)?,
            })
        })
        .collect()
}

fn describe(scene: &Scene, index: usize) -> Option<String> {
    let object = &scene.objects[index];
    attributes(object)
        .into_iter()
        .find(|query| fits_alone(query, scene, object))
        .map(|query| query.definite())
        .or_else(|| outermost(scene, object))
}

/// Descriptions by category, name, colour and size, the short ones first.
fn attributes(object: &Object) -> Vec<Query> {
    let name = || Query::name(&object.name);
    let category = || {
        let noun = object.category.noun();
        noun.map(|_| Query::category(object.category))
    };
    let coloured = |query: Query| object.colour.map(|colour| query.coloured(colour));
    [
        category(),
        Some(name()),
        category().and_then(coloured),
        Some(name().sized(object.size)),
        coloured(name()),
        coloured(name().sized(object.size)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn fits_alone(query: &Query, scene: &Scene, object: &Object) -> bool {
    match query.select(scene).as_deref() {
        Some([only]) => std::ptr::eq(*only, object),
        _ => false,
    }
}

/// "the leftmost dog", where its middle lies clearly beyond those of the others of its name.
fn outermost(scene: &Scene, object: &Object) -> Option<String> {
    let clear = OUTERMOST * f64::from(scene.side);
    let others: Vec<&Object> = scene
        .objects
        .iter()
        .filter(|other| other.name == object.name && !std::ptr::eq(*other, object))
        .collect();
    [
        ("leftmost", 0, -1.0),
        ("rightmost", 0, 1.0),
        ("top", 1, -1.0),
        ("bottom", 1, 1.0),
    ]
    .into_iter()
    .find(|&(_, axis, direction)| {
        let along =
            |object: &Object| direction * f64::from(object.region.doubled_centre()[axis]) / 2.0;
        others
            .iter()
            .all(|other| along(object) > along(other) + clear)
    })
    .map(|(word, _, _)| format!("the {word} {}", object.name))
}
