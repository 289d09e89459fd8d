//! Captions: lists, relations, categories, places. A caption names everything in the picture wherever it has room, so that
//! few other pictures fit it.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::graph::{Category, Scene, Side};
use super::phrases::{counted, listed, number_word, on_side};
use super::program::Relation;
use crate::pictograms::with_article;

/// Captions of a scene at most, as COCO has.
pub(super) const CAPTIONS: usize = 5;

/// Names that a caption of categories spells out at most.
const NAMED: usize = 3;
/// Names that it spells out where there are more.
const NAMED_AMONG: usize = 2;
/// Places that a caption tells at most: more make it too long for the models' texts.
const PLACES: usize = 3;

/// How a caption describes its picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptionKind {
    /// "a dog, two cars and a pear"
    List,
    /// The same with sizes and clear colours: "a large red car and a small dog".
    Attributes,
    /// "a dog to the left of a pear, and two cars"
    Relation,
    /// "an animal and two vehicles: a large dog and two cars"
    Category,
    /// "a dog on the left side, a pear in the top half and two cars"
    Place,
}

/// The captions of a scene, all true of it and all different: two lists, one of relations, of categories and of
/// places, as far as the scene has them.
pub(super) fn captions(scene: &Scene, rng: &mut ChaCha8Rng) -> Vec<(CaptionKind, String)> {
    use CaptionKind::{Attributes, Category, List, Place, Relation};
    let mut captions: Vec<(CaptionKind, String)> = Vec::with_capacity(CAPTIONS);
    for kind in [List, Attributes, Relation, Category, Place] {
        if let Some(text) = caption(scene, kind, rng)
            && captions.iter().all(|(_, other)| *other != text)
        {
            captions.push((kind, text));
        }
    }
    captions
}

/// One caption of one kind; `None` where the scene has nothing to say in that way.
pub(super) fn caption(scene: &Scene, kind: CaptionKind, rng: &mut ChaCha8Rng) -> Option<String> {
    let mut names = scene.names();
    names.shuffle(rng);
    let things = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|name| counted(scene.count(name), name))
            .collect()
    };
    let described = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| described(scene, name)).collect()
    };
    Some(match kind {
        CaptionKind::List => {
            let list = listed(&things(&names));
            match rng.random_range(0..3) {
                0 => format!("a picture of {list}"),
                _ => list,
            }
        }
        CaptionKind::Attributes => listed(&described(&names)),
        CaptionKind::Relation => {
            let (relation, subject, object) = related(scene, rng)?;
            names.retain(|&name| name != subject && name != object);
            let pair = format!(
                "{} {} {}",
                with_article(subject),
                relation.phrase(),
                with_article(object)
            );
            match things(&names).as_slice() {
                [] => pair,
                rest => format!("{pair}, and {}", listed(rest)),
            }
        }
        CaptionKind::Place => {
            let mut told = 0;
            let parts: Vec<String> = names
                .iter()
                .map(|name| match place(scene, name, rng) {
                    Some(side) if told < PLACES => {
                        told += 1;
                        format!("{}{}", with_article(name), on_side(side))
                    }
                    _ => counted(scene.count(name), name),
                })
                .collect();
            if told == 0 {
                return None;
            }
            listed(&parts)
        }
        CaptionKind::Category => {
            let kinds = categories(scene);
            match names.len() {
                // More names than these make a caption too long for the models' texts, and kinds alone fit many
                // pictures.
                1..=NAMED => format!("{}: {}", listed(&kinds), listed(&described(&names))),
                _ => format!(
                    "{}, among them {}",
                    listed(&kinds),
                    listed(&described(&names[..NAMED_AMONG]))
                ),
            }
        }
    })
}

/// "a large red car", "two dogs".
fn described(scene: &Scene, name: &str) -> String {
    match scene.objects.iter().find(|object| object.name == name) {
        Some(object) if scene.count(name) == 1 => {
            let colour = object
                .colour
                .map_or_else(String::new, |colour| format!("{} ", colour.name()));
            format!("a {} {colour}{name}", object.size.name())
        }
        _ => counted(scene.count(name), name),
    }
}

/// A half of the picture that the one thing of a name clearly lies in.
fn place(scene: &Scene, name: &str, rng: &mut ChaCha8Rng) -> Option<Side> {
    let singles = scene.singles();
    let object = singles.iter().find(|object| object.name == name)?;
    let sides: Vec<Side> = object
        .clear_sides(scene.side)
        .into_iter()
        .flatten()
        .collect();
    sides.choose(rng).copied()
}

/// A relation between two things that are alone in bearing their names.
fn related<'a>(scene: &'a Scene, rng: &mut ChaCha8Rng) -> Option<(Relation, &'a str, &'a str)> {
    let singles = scene.singles();
    let mut holding = Vec::new();
    for subject in &singles {
        for object in &singles {
            for relation in Relation::ALL {
                if relation.holds(subject.region, object.region) {
                    holding.push((relation, subject.name.as_str(), object.name.as_str()));
                }
            }
        }
    }
    holding.choose(rng).copied()
}

/// "two animals", "some food", most frequent first.
fn categories(scene: &Scene) -> Vec<String> {
    let mut counts: Vec<(usize, Category)> = Category::ALL
        .into_iter()
        .map(|category| {
            let members = scene.objects.iter();
            let count = members.filter(|object| object.category == category).count();
            (count, category)
        })
        .filter(|&(count, _)| count > 0)
        .collect();
    counts.sort_by_key(|&(count, category)| (std::cmp::Reverse(count), category));
    counts
        .into_iter()
        .map(|(count, category)| match (category, count) {
            (Category::Food, _) => "some food".to_owned(),
            (Category::Clothing, _) => "some clothing".to_owned(),
            (Category::Household, 1) => "a household item".to_owned(),
            (Category::Household, _) => format!("{} household items", number_word(count)),
            (category, _) => counted(count, category.noun().unwrap_or(category.name())),
        })
        .collect()
}
