//! All scenes of a split, where statements find pictures in which they are false.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::graph::Scene;
use super::lexicon::Lexicon;

/// Scenes of one split with the rules of their names.
#[derive(Clone, Copy)]
pub(super) struct Pool<'a> {
    pub(super) scenes: &'a [Scene],
    pub(super) lexicon: &'a Lexicon,
}

/// Other scenes tried for a name that this one lacks.
const TRIES: usize = 50;

impl<'a> Pool<'a> {
    /// A name that another picture shows and this one does not, and that says nothing about this picture.
    ///
    /// It is drawn as often as pictures show it, so the absent names of a data set are distributed as the
    /// present ones, and a text alone does not tell which it is.
    pub(super) fn absent_name(&self, scene: &Scene, rng: &mut ChaCha8Rng) -> Option<&'a str> {
        let here = scene.names();
        (0..TRIES).find_map(|_| {
            let other = &self.scenes[rng.random_range(0..self.scenes.len())];
            let name = *other.names().choose(rng)?;
            let absent = !here.contains(&name) && !self.lexicon.clashes_with_any(name, &here);
            absent.then_some(name)
        })
    }

    /// Whether a statement with this name means something clear of a picture.
    pub(super) fn is_askable(&self, name: &str, scene: &Scene) -> bool {
        !self.lexicon.clashes_with_any(name, &scene.names())
    }

    /// The scenes that show a name, by name.
    pub(super) fn by_name(&self) -> BTreeMap<&'a str, Vec<usize>> {
        let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, scene) in self.scenes.iter().enumerate() {
            for name in scene.names() {
                places.entry(name).or_default().push(at);
            }
        }
        places
    }
}
