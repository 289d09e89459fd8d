//! Which drawing is trained on and which is held out, so that nothing held out is seen, drawn or named.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::captions::{captions, title};
use super::duplicates::Drawn;
use super::hash::hash48;
use super::words::{is_common, stems};

/// The maker whose drawings are all held out.
const HELD_OUT_STYLE: &str = "emojione";
/// The frozen list of held-out concepts.
const ZEROSHOT: &str = include_str!("zeroshot_concepts.txt");

/// The splits in the order in which they are reported.
pub(super) const SPLITS: [&str; 5] = ["train", "val", "test", "test_style", "test_zeroshot"];

/// A held-out concept and the words that name it.
pub(super) struct HeldOut {
    pub(super) concept: &'static str,
    pub(super) name: &'static str,
    words: Vec<String>,
}

/// The 120 concepts of `test_zeroshot`.
pub(super) fn held_out_concepts() -> Vec<HeldOut> {
    let lines = ZEROSHOT.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('\t'))
        .map(|(concept, name)| HeldOut {
            concept,
            name,
            words: stems(name)
                .into_iter()
                .filter(|word| !is_common(word))
                .collect(),
        })
        .collect()
}

/// The split and the captions of every drawing, in their order; `None` where the drawing would leak.
///
/// - `test_zeroshot`: the concept is held out. Other drawings that name such a concept are dropped, and
///   training captions that name one are left out.
/// - `test_style`: the maker is held out.
/// - `val`, `test`: half of the emoji families with three makers or more give up one maker's drawings;
///   sister styles of one maker share outlines, so they leave training together.
pub(super) fn assign(drawn: &[Drawn]) -> Vec<Option<(&'static str, Vec<String>)>> {
    let held_out = held_out_concepts();
    let concepts: HashSet<&str> = held_out.iter().map(|concept| concept.concept).collect();
    let frequency = word_frequency(drawn);
    let mut makers: HashMap<&str, BTreeSet<&'static str>> = HashMap::new();
    for drawn in drawn {
        makers
            .entry(&drawn.candidate.family)
            .or_default()
            .insert(drawn.candidate.source.maker);
    }
    drawn
        .iter()
        .map(|drawn| {
            let candidate = &drawn.candidate;
            let captions = captions(drawn);
            if concepts.contains(candidate.concept.as_str()) {
                return Some(("test_zeroshot", captions));
            }
            let text = format!(
                "{} {}",
                candidate.name,
                candidate.caption.as_deref().unwrap_or_default()
            );
            if held_out
                .iter()
                .any(|concept| concept.is_hinted(&text, &frequency))
            {
                return None;
            }
            if candidate.source.name == HELD_OUT_STYLE {
                return Some(("test_style", captions));
            }
            let split = if candidate.emoji.is_some() {
                family_split(
                    &candidate.family,
                    candidate.source.maker,
                    makers.get(candidate.family.as_str()),
                )
            } else {
                "train"
            };
            if split != "train" {
                return Some((split, captions));
            }
            let mut clean: Vec<String> = captions
                .into_iter()
                .filter(|caption| {
                    !held_out
                        .iter()
                        .any(|concept| concept.is_named(&stems(caption)))
                })
                .collect();
            if clean.is_empty() {
                clean.push(title(drawn));
            }
            Some((split, clean))
        })
        .collect()
}

impl HeldOut {
    /// Whether all of its words are there.
    fn is_named(&self, words: &[String]) -> bool {
        self.words.iter().all(|word| words.contains(word))
    }

    /// Whether it is named, or its rare head word is ("traffic light" by "light").
    fn is_hinted(&self, text: &str, frequency: &HashMap<String, usize>) -> bool {
        let words: Vec<String> = stems(text)
            .into_iter()
            .filter(|word| !is_common(word))
            .collect();
        let rare_head = match self.words.as_slice() {
            [_, head] => {
                words.contains(head) && frequency.get(head).is_none_or(|&count| count <= 2)
            }
            _ => false,
        };
        self.is_named(&words) || rare_head
    }
}

/// In how many emoji names a word occurs.
fn word_frequency(drawn: &[Drawn]) -> HashMap<String, usize> {
    let names: HashMap<&str, &str> = drawn
        .iter()
        .filter(|drawn| drawn.candidate.emoji.is_some())
        .map(|drawn| {
            (
                drawn.candidate.concept.as_str(),
                drawn.candidate.name.as_str(),
            )
        })
        .collect();
    let mut frequency = HashMap::new();
    for name in names.values() {
        for word in stems(name).into_iter().collect::<HashSet<_>>() {
            *frequency.entry(word).or_default() += 1;
        }
    }
    frequency
}

fn family_split(
    family: &str,
    maker: &str,
    makers: Option<&BTreeSet<&'static str>>,
) -> &'static str {
    if hash48(&format!("v{family}")) % 100 >= 50 {
        return "train";
    }
    let makers: Vec<&str> = makers
        .into_iter()
        .flatten()
        .copied()
        .filter(|&maker| maker != HELD_OUT_STYLE)
        .collect();
    if makers.len() < 3
        || makers[(hash48(&format!("w{family}")) % makers.len() as u64) as usize] != maker
    {
        return "train";
    }
    if hash48(&format!("t{family}")) % 2 == 1 {
        "val"
    } else {
        "test"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole() {
        let concepts = held_out_concepts();
        assert_eq!(concepts.len(), 120);
        assert!(
            concepts
                .iter()
                .all(|concept| !concept.words.is_empty() && concept.words.len() <= 2)
        );
        assert_eq!(
            concepts
                .iter()
                .map(|concept| concept.concept)
                .collect::<HashSet<_>>()
                .len(),
            120
        );
    }

    #[test]
    fn hints() {
        let concepts = held_out_concepts();
        let hinted = |text: &str| {
            let frequency = HashMap::from([("face".to_owned(), 90), ("glass".to_owned(), 5)]);
            concepts
                .iter()
                .any(|concept| concept.is_hinted(text, &frequency))
        };
        assert!(hinted("two pandas on a bench"));
        assert!(hinted("Cherry tree"));
        assert!(!hinted("teapot"));
    }

    #[test]
    fn one_maker_of_a_family_leaves_training() {
        let makers = BTreeSet::from(["google", "microsoft", "mozilla", "twitter"]);
        let mut held = 0;
        for number in 0..200 {
            let family = format!("{number:X}");
            let out: Vec<&str> = makers
                .iter()
                .copied()
                .filter(|maker| family_split(&family, maker, Some(&makers)) != "train")
                .collect();
            assert!(out.len() <= 1, "{family}: {out:?}");
            held += out.len();
        }
        assert!(
            (70..130).contains(&held),
            "{held} of 200 families hold a maker out"
        );
        let two = BTreeSet::from(["google", "microsoft"]);
        assert!(
            (0..200).all(
                |number| family_split(&format!("{number:X}"), "google", Some(&two)) == "train"
            )
        );
    }
}
