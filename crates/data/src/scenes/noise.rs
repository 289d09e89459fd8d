//! Noise on captions, as alt texts from the web have it: text that belongs to another picture, bare keywords, and
//! descriptions that are partly wrong.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::captions::{CaptionKind, caption, captions};
use super::graph::Scene;
use super::pool::Pool;

/// What is wrong with a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// It belongs to another picture.
    Wrong,
    /// It is a heap of keywords, of which some name the things.
    Keywords,
    /// One name in it is another thing's.
    PartlyWrong,
}

/// A caption as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// How it describes; of noisy ones, how the caption did that it replaces.
    pub kind: CaptionKind,
    /// What is wrong with it, or `None` if it is true.
    pub noise: Option<Noise>,
}

/// Words that surround pictures on the web and say nothing of them.
const CHATTER: [&str; 12] = [
    "image",
    "clipart",
    "free",
    "download",
    "stock",
    "png",
    "hd",
    "icon",
    "wallpaper",
    "vector",
    "new",
    "sale",
];

/// The captions of the scene at `index`, each with probability `share` replaced by one of the three kinds of noise,
/// which are equally frequent.
pub(super) fn noisy_captions(
    pool: Pool<'_>,
    index: usize,
    share: f64,
    texts: &mut ChaCha8Rng,
    noise: &mut ChaCha8Rng,
) -> Vec<Caption> {
    let scene = &pool.scenes[index];
    let written = captions(scene, texts);
    written
        .into_iter()
        .map(|(kind, text)| {
            // Drawn for every caption, so that a larger share only adds to the captions that are noisy.
            let (draw, which): (f64, usize) = (noise.random(), noise.random_range(0..3));
            let replaced = match which {
                _ if draw >= share => None,
                0 => wrong(pool, scene, noise).map(|text| (Noise::Wrong, text)),
                1 => Some((Noise::Keywords, keywords(scene, noise))),
                _ => partly_wrong(pool, scene, kind, noise).map(|text| (Noise::PartlyWrong, text)),
            };
            match replaced {
                Some((noise, text)) => Caption {
                    text,
                    kind,
                    noise: Some(noise),
                },
                None => Caption {
                    text,
                    kind,
                    noise: None,
                },
            }
        })
        .collect()
}

/// A caption of a picture that has no name in common with this one.
fn wrong(pool: Pool<'_>, scene: &Scene, rng: &mut ChaCha8Rng) -> Option<String> {
    let here = scene.names();
    (0..50).find_map(|_| {
        let other = &pool.scenes[rng.random_range(0..pool.scenes.len())];
        let differs = other.names().iter().all(|name| !here.contains(name));
        differs.then(|| caption(other, CaptionKind::List, rng))?
    })
}

/// Half of the names or one more, without articles and numbers, among words of no meaning.
fn keywords(scene: &Scene, rng: &mut ChaCha8Rng) -> String {
    let mut words = scene.names();
    words.shuffle(rng);
    words.truncate(words.len() / 2 + 1);
    words.extend(CHATTER.sample(rng, 3).copied());
    words.shuffle(rng);
    words.join(" ")
}

/// The caption of a scene in which one name has become another's.
fn partly_wrong(
    pool: Pool<'_>,
    scene: &Scene,
    kind: CaptionKind,
    rng: &mut ChaCha8Rng,
) -> Option<String> {
    let mut other = scene.clone();
    let replaced = scene.names().choose(rng).map(|name| (*name).to_owned())?;
    let absent = pool.absent_name(scene, rng)?;
    let entry = pool
        .lexicon
        .entries
        .iter()
        .find(|entry| entry.name == absent)?;
    for object in &mut other.objects {
        if object.name == replaced {
            absent.clone_into(&mut object.name);
            object.category = entry.category;
        }
    }
    // Categories may be the same with the other name, and the caption would stay true.
    let kind = match kind {
        CaptionKind::Category => CaptionKind::List,
        kind => kind,
    };
    caption(&other, kind, rng)
}
