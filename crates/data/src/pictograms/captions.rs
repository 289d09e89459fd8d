//! Sentences from names, keywords, categories and colours.

use super::concepts::TONES;
use super::duplicates::Drawn;
use super::hash::hash48;
use super::words::{slug, with_article};

/// Longer keywords are sentences.
const KEYWORD: usize = 25;
const KEYWORDS: usize = 8;

/// The title of a drawing: its name, with "flag: X" as "flag of X".
pub(super) fn title(drawn: &Drawn) -> String {
    let name = &drawn.candidate.name;
    name.strip_prefix("flag: ")
        .map_or_else(|| name.clone(), |country| format!("flag of {country}"))
}

/// All captions of a drawing, the best first, none twice, at least one.
pub(super) fn captions(drawn: &Drawn) -> Vec<String> {
    let candidate = &drawn.candidate;
    let name = title(drawn);
    let is_flag = candidate.name.starts_with("flag: ");
    let mut thing = if is_flag {
        format!("the {name}")
    } else if let Some(label) = name.strip_suffix(" button") {
        with_article(&format!("\"{label}\" button"))
    } else {
        with_article(&name)
    };
    if let Some(tone) = candidate.tone.and_then(|tone| TONES.get(usize::from(tone))) {
        thing.push_str(&format!(" with {tone} skin tone"));
    }
    let style = candidate.source.style;
    let article = if style.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    let shown = if style.ends_with("emoji") {
        "showing"
    } else {
        "of"
    };
    let picture = format!("{article} {style} {shown} {thing}");

    let mut captions: Vec<String> = candidate.caption.iter().cloned().collect();
    captions.extend([thing.clone(), picture]);
    captions.extend(keyword_captions(drawn, &name, &thing));
    let separator = if candidate.emoji.is_some() { "-" } else { "_" };
    let category = candidate.subgroup.replace(separator, " ");
    if !slug(&name).contains(&slug(&category)) {
        captions.push(format!("{thing} ({category})"));
    }
    if let Some((colour, share)) = drawn.drawing.colors.0.first() {
        let telling = *share > 0.5
            && colour != "white"
            && colour != "gray"
            && !name.contains(colour.as_str());
        if telling && !is_flag && candidate.tone.is_none() {
            captions.push(format!("{article} {style} of {thing}, mostly {colour}"));
        }
    }
    let mut distinct: Vec<String> = Vec::with_capacity(captions.len());
    for caption in captions.iter().map(|caption| caption.trim()) {
        if !distinct.iter().any(|known| known == caption) {
            distinct.push(caption.to_owned());
        }
    }
    distinct
}

/// Keywords that say more than the name; makers start at different ones, so their captions differ.
fn keyword_captions(drawn: &Drawn, name: &str, thing: &str) -> Vec<String> {
    let known = slug(name);
    let keywords: Vec<&str> = drawn
        .candidate
        .keywords
        .iter()
        .map(String::as_str)
        .filter(|keyword| !known.contains(&slug(keyword)) && keyword.chars().count() < KEYWORD)
        .take(KEYWORDS)
        .collect();
    if keywords.is_empty() {
        return Vec::new();
    }
    let count = keywords.len();
    let start = (hash48(&format!("{name}{}", drawn.candidate.source.name)) % count as u64) as usize;
    let rotated: Vec<&str> = (0..count.min(4))
        .map(|step| keywords[(start + step) % count])
        .collect();
    let short = match rotated.get(1) {
        Some(second) => format!("{thing}, {} and {second}", rotated[0]),
        None => format!("{thing}, {}", rotated[0]),
    };
    vec![short, format!("{name}: {}", rotated.join(", "))]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pictograms::attribution::source;
    use crate::pictograms::candidate::{Candidate, Picture};
    use crate::pictograms::drawing::Drawing;
    use crate::pictograms::ordered::Ordered;

    fn drawn(source_name: &str, name: &str, subgroup: &str, keywords: &[&str]) -> Drawn {
        Drawn {
            candidate: Candidate {
                source: source(source_name).unwrap(),
                picture: Picture::Svg(String::new()),
                concept: name.to_owned(),
                family: name.to_owned(),
                name: name.to_owned(),
                keywords: keywords.iter().map(|&keyword| keyword.to_owned()).collect(),
                group: String::new(),
                subgroup: subgroup.to_owned(),
                tone: None,
                emoji: Some("1FAD6".to_owned()),
                caption: None,
                author: None,
            },
            drawing: Drawing {
                png: Vec::new(),
                width: 1,
                height: 1,
                colors: Ordered(vec![("red".to_owned(), 0.746), ("pink".to_owned(), 0.203)]),
                digest: String::new(),
                thumbnail: Vec::new(),
            },
            aliases: Vec::new(),
        }
    }

    // The captions of this drawing in the set the rules come from.
    #[test]
    fn a_teapot() {
        let keywords = ["brew", "drink", "food", "pot", "tea"];
        let teapot = drawn("fluent-flat", "teapot", "drink", &keywords);
        assert_eq!(
            captions(&teapot),
            [
                "a teapot",
                "a flat icon of a teapot",
                "a teapot, brew and drink",
                "teapot: brew, drink, food",
                "a teapot (drink)",
                "a flat icon of a teapot, mostly red",
            ]
        );
    }

    #[test]
    fn flags_tones_and_buttons() {
        let flag = drawn("noto", "flag: Kenya", "country-flag", &[]);
        assert_eq!(title(&flag), "flag of Kenya");
        assert_eq!(
            captions(&flag),
            [
                "the flag of Kenya",
                "an emoji showing the flag of Kenya",
                "the flag of Kenya (country flag)"
            ]
        );
        let mut hand = drawn("twemoji", "waving hand", "hand", &[]);
        hand.candidate.tone = Some(5);
        assert_eq!(
            captions(&hand),
            [
                "a waving hand with dark skin tone",
                "a flat emoji showing a waving hand with dark skin tone",
            ]
        );
        assert_eq!(
            captions(&drawn("noto", "OK button", "alphanum", &[]))[0],
            "a \"OK\" button"
        );
    }

    #[test]
    fn a_written_sentence_comes_first_and_nothing_twice() {
        let mut cow = drawn("openclipart", "cow", "cow", &["farm_animal"]);
        cow.candidate.emoji = None;
        cow.candidate.caption = Some("a cow ".to_owned());
        let captions = captions(&cow);
        assert_eq!(captions[..2], ["a cow", "a clip art picture of a cow"]);
        assert!(!captions[1..].contains(&"a cow".to_owned()));
    }
}
