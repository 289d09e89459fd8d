//! Whether anything held out is seen, drawn or named in training.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attribution::source;
use super::hash::hex_digest;
use super::record::{Pictogram, ReadError, list_shards, read_shard};

/// What a look through all shards of a built set found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeakReport {
    /// Pictures by split.
    pub images: BTreeMap<String, usize>,
    /// Keys that occur more than once over all splits.
    pub repeated_keys: Vec<String>,
    /// Held-out pictures whose bytes are also a training picture.
    pub same_picture: Vec<String>,
    /// Pictures of `val` and `test` whose maker also drew that family in training.
    pub same_maker: Vec<String>,
    /// Pictures of `test_style` whose source occurs in training.
    pub seen_style: Vec<String>,
    /// Concepts of `test_zeroshot` with a training picture.
    pub seen_concepts: Vec<String>,
    /// Names of `test_zeroshot` concepts that stand in training captions.
    pub named_concepts: Vec<String>,
}

impl LeakReport {
    /// Whether nothing leaks.
    pub fn is_clean(&self) -> bool {
        [
            &self.repeated_keys,
            &self.same_picture,
            &self.same_maker,
            &self.seen_style,
            &self.seen_concepts,
            &self.named_concepts,
        ]
        .iter()
        .all(|leaks| leaks.is_empty())
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (split, images) in &self.images {
            writeln!(formatter, "{split:<14} {images:>7} images")?;
        }
        let checks = [
            ("keys used twice", &self.repeated_keys),
            (
                "held-out pictures that are training pictures",
                &self.same_picture,
            ),
            (
                "val and test pictures whose maker drew the family in training",
                &self.same_maker,
            ),
            (
                "test_style pictures of a source seen in training",
                &self.seen_style,
            ),
            ("zero-shot concepts drawn in training", &self.seen_concepts),
            ("zero-shot concepts named in training", &self.named_concepts),
        ];
        for (check, leaks) in checks {
            let examples: Vec<&str> = leaks.iter().take(5).map(String::as_str).collect();
            let examples = if examples.is_empty() {
                String::new()
            } else {
                format!(" ({})", examples.join(", "))
            };
            writeln!(formatter, "{:>7} {check}{examples}", leaks.len())?;
        }
        Ok(())
    }
}

/// Reads every shard of `folder` and compares training with all other splits.
///
/// # Errors
/// [`ReadError`] for a folder without shards or a shard that cannot be read.
pub fn check_splits(folder: &Path) -> Result<LeakReport, ReadError> {
    let mut splits: BTreeMap<String, Vec<Pictogram>> = BTreeMap::new();
    for (split, path) in list_shards(folder)? {
        splits.entry(split).or_default().extend(read_shard(&path)?);
    }
    let train = splits.remove("train").unwrap_or_default();
    let mut report = compare(&train, &splits);
    report.images.insert("train".to_owned(), train.len());
    Ok(report)
}

fn compare(train: &[Pictogram], held_out: &BTreeMap<String, Vec<Pictogram>>) -> LeakReport {
    let mut report = LeakReport::default();
    let mut keys: HashSet<&str> = HashSet::new();
    for pictogram in train.iter().chain(held_out.values().flatten()) {
        if !keys.insert(&pictogram.key) {
            report.repeated_keys.push(pictogram.key.clone());
        }
    }
    let pictures: HashSet<String> = train
        .iter()
        .map(|pictogram| hex_digest(&pictogram.image))
        .collect();
    let maker =
        |pictogram: &Pictogram| source(&pictogram.record.source).map_or("", |source| source.maker);
    let drawn: HashSet<(&str, &str)> = train
        .iter()
        .map(|pictogram| (pictogram.record.family.as_str(), maker(pictogram)))
        .collect();
    let styles: HashSet<&str> = train
        .iter()
        .map(|pictogram| pictogram.record.source.as_str())
        .collect();
    let concepts: HashSet<&str> = train
        .iter()
        .map(|pictogram| pictogram.record.concept.as_str())
        .collect();
    let phrases = Phrases::of(train);
    let (mut seen, mut named) = (BTreeSet::new(), BTreeSet::new());
    for (split, pictograms) in held_out {
        report.images.insert(split.clone(), pictograms.len());
        for pictogram in pictograms {
            let (key, record) = (&pictogram.key, &pictogram.record);
            if pictures.contains(&hex_digest(&pictogram.image)) {
                report.same_picture.push(key.clone());
            }
            match split.as_str() {
                "val" | "test" if drawn.contains(&(record.family.as_str(), maker(pictogram))) => {
                    report.same_maker.push(key.clone());
                }
                "test_style" if styles.contains(record.source.as_str()) => {
                    report.seen_style.push(key.clone())
                }
                "test_zeroshot" => {
                    if concepts.contains(record.concept.as_str()) {
                        seen.insert(record.concept.clone());
                    }
                    if phrases.contain(&record.name) {
                        named.insert(record.name.clone());
                    }
                }
                _ => {}
            }
        }
    }
    report.seen_concepts = seen.into_iter().collect();
    report.named_concepts = named.into_iter().collect();
    report
}

/// The training captions by their words, to look names up whole-word and in order.
struct Phrases {
    captions: Vec<Vec<String>>,
    by_word: HashMap<String, Vec<usize>>,
}

impl Phrases {
    fn of(pictograms: &[Pictogram]) -> Self {
        let captions: Vec<Vec<String>> = pictograms
            .iter()
            .flat_map(|pictogram| &pictogram.record.captions)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|caption| words(caption))
            .collect();
        let mut by_word: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, caption) in captions.iter().enumerate() {
            for word in caption {
                by_word.entry(word.clone()).or_default().push(at);
            }
        }
        Self { captions, by_word }
    }

    /// Whether the name stands in a caption, as it is or with a plural `s`.
    fn contain(&self, name: &str) -> bool {
        let singular = words(name);
        let Some(last) = singular.last() else {
            return false;
        };
        let mut plural = singular.clone();
        plural.pop();
        plural.push(format!("{last}s"));
        [singular, plural].iter().any(|phrase| {
            let places = phrase
                .last()
                .and_then(|word| self.by_word.get(word))
                .into_iter()
                .flatten();
            places.into_iter().any(|&at| {
                self.captions[at]
                    .windows(phrase.len())
                    .any(|window| window == phrase)
            })
        })
    }
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictograms::Record;

    fn pictogram(key: &str, source: &str, concept: &str, caption: &str) -> Pictogram {
        let record = Record {
            name: concept.to_owned(),
            concept: concept.to_owned(),
            family: concept.to_owned(),
            source: source.to_owned(),
            captions: vec![caption.to_owned()],
            ..Record::default()
        };
        Pictogram {
            key: key.to_owned(),
            image: key.as_bytes().to_vec(),
            record,
        }
    }

    #[test]
    fn every_kind_of_leak_is_found() {
        let train = [
            pictogram("a", "noto", "teapot", "a teapot and two pandas"),
            pictogram("b", "twemoji", "crab", "x"),
        ];
        let mut copied = pictogram("c", "fxemoji", "cup", "a cup");
        copied.image = b"a".to_vec();
        let held_out = BTreeMap::from([
            (
                "test".to_owned(),
                vec![pictogram("d", "noto-v1", "teapot", "a teapot"), copied],
            ),
            (
                "test_style".to_owned(),
                vec![pictogram("a", "noto", "mug", "a mug")],
            ),
            (
                "test_zeroshot".to_owned(),
                vec![
                    pictogram("e", "noto", "crab", "a crab"),
                    pictogram("f", "noto", "panda", "a panda"),
                ],
            ),
        ]);
        let report = compare(&train, &held_out);
        assert_eq!(report.repeated_keys, ["a"]);
        assert_eq!(report.same_picture, ["c", "a"]);
        assert_eq!(report.same_maker, ["d"], "noto and noto-v1 are one maker");
        assert_eq!(report.seen_style, ["a"]);
        assert_eq!(report.seen_concepts, ["crab"]);
        assert_eq!(report.named_concepts, ["panda"]);
        assert!(!report.is_clean());
        assert!(
            report
                .to_string()
                .contains("1 zero-shot concepts named in training (panda)")
        );
    }

    #[test]
    fn a_word_inside_a_word_is_no_leak() {
        let train = [pictogram("a", "noto", "antenna", "antennas and eggplant")];
        let held_out = BTreeMap::from([(
            "test_zeroshot".to_owned(),
            vec![
                pictogram("e", "noto", "ant", ""),
                pictogram("f", "noto", "egg", ""),
            ],
        )]);
        assert!(compare(&train, &held_out).is_clean());
    }
}
