//! The same picture twice teaches nothing and leaks between splits.

use std::collections::HashMap;

use super::attribution::SOURCES;
use super::candidate::Candidate;
use super::drawing::Drawing;

/// Mean difference of thumbnail values below which two clip art drawings of one name are the same.
const NEAR: f64 = 4.0;

/// A candidate with its drawing.
pub(super) struct Drawn {
    pub(super) candidate: Candidate,
    pub(super) drawing: Drawing,
    /// Names of other concepts with this very picture.
    pub(super) aliases: Vec<String>,
}

/// How many were merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) exact: usize,
    pub(super) near: usize,
}

/// Keeps one of every set of pixel duplicates, and of clip art with one name and nearly one look.
///
/// Drawings without skin tone come first, then the order of the sources; the kept one remembers other names.
pub(super) fn merge_duplicates(mut drawn: Vec<Drawn>) -> (Vec<Drawn>, Merged) {
    let rank = |drawn: &Drawn| {
        SOURCES
            .iter()
            .position(|source| source.name == drawn.candidate.source.name)
    };
    drawn.sort_by_key(|drawn| (drawn.candidate.tone.is_some(), rank(drawn)));
    let mut merged = Merged::default();
    let mut by_digest: HashMap<String, usize> = HashMap::new();
    let mut distinct: Vec<Drawn> = Vec::with_capacity(drawn.len());
    for next in drawn {
        if let Some(&at) = by_digest.get(&next.drawing.digest) {
            merged.exact += 1;
            let kept = &mut distinct[at];
            let name = next.candidate.name;
            if kept.candidate.name != name && !kept.aliases.contains(&name) {
                kept.aliases.push(name);
            }
            continue;
        }
        by_digest.insert(next.drawing.digest.clone(), distinct.len());
        distinct.push(next);
    }
    let mut by_concept: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    distinct.retain(|drawn| {
        if drawn.candidate.emoji.is_some() {
            return true;
        }
        let seen = by_concept
            .entry(drawn.candidate.concept.clone())
            .or_default();
        if seen
            .iter()
            .any(|other| difference(other, &drawn.drawing.thumbnail) < NEAR)
        {
            merged.near += 1;
            return false;
        }
        seen.push(drawn.drawing.thumbnail.clone());
        true
    });
    (distinct, merged)
}

fn difference(a: &[u8], b: &[u8]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a.abs_diff(b)))
        .sum::<f64>()
        / a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictograms::candidate::Picture;
    use crate::pictograms::ordered::Ordered;

    fn drawn(source: usize, name: &str, emoji: bool, digest: &str, grey: u8) -> Drawn {
        let source = &SOURCES[source];
        Drawn {
            candidate: Candidate {
                source,
                picture: Picture::Svg(String::new()),
                concept: name.to_owned(),
                family: name.to_owned(),
                name: name.to_owned(),
                keywords: Vec::new(),
                group: String::new(),
                subgroup: String::new(),
                tone: None,
                emoji: emoji.then(String::new),
                caption: None,
                author: None,
            },
            drawing: Drawing {
                png: Vec::new(),
                width: 1,
                height: 1,
                colors: Ordered::default(),
                digest: digest.to_owned(),
                thumbnail: vec![grey; 768],
            },
            aliases: Vec::new(),
        }
    }

    #[test]
    fn the_first_source_keeps_the_picture_and_learns_the_other_name() {
        let (kept, merged) = merge_duplicates(vec![
            drawn(2, "flag of France", true, "a", 1),
            drawn(0, "flag of Clipperton", true, "a", 1),
        ]);
        assert_eq!(merged, Merged { exact: 1, near: 0 });
        assert_eq!(kept[0].candidate.source.name, "noto");
        assert_eq!(kept[0].aliases, ["flag of France"]);
    }

    #[test]
    fn near_duplicates_need_the_same_name_and_be_clip_art() {
        let (kept, merged) = merge_duplicates(vec![
            drawn(7, "cow", false, "a", 10),
            drawn(7, "cow", false, "b", 12),
            drawn(7, "cow", false, "c", 20),
            drawn(7, "dog", false, "d", 10),
            drawn(0, "pig", true, "e", 10),
            drawn(1, "pig", true, "f", 10),
        ]);
        assert_eq!(merged, Merged { exact: 0, near: 1 });
        assert_eq!(kept.len(), 5);
    }
}
