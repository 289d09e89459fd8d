//! What the builder does with words: comparing names, plurals, articles.

use std::sync::LazyLock;

use regex::Regex;

/// Lower case letters and digits only: names that differ in spelling alone become equal.
pub(super) fn slug(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .filter(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        .collect()
}

/// Lower-case words without their plural ending.
pub(super) fn stems(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|letter: char| !letter.is_ascii_lowercase())
        .filter(|word| !word.is_empty())
        .map(singular)
        .collect()
}

fn singular(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ies") {
        return format!("{stem}y");
    }
    match word.strip_suffix('s') {
        Some(stem) if !stem.is_empty() && !stem.ends_with('s') => stem.to_owned(),
        _ => word.to_owned(),
    }
}

/// Words that say too little to tell two concepts apart.
pub(super) fn is_common(word: &str) -> bool {
    const COMMON: &str = "a an the of with and in on for to at face button sign symbol person man woman people hand \
        hands up down right left arrow heavy black white red blue green yellow orange purple brown flag o clock mark \
        light dark open closed large small medium big double two three one no new old high low half full question \
        baby body box animal first";
    COMMON.split_whitespace().any(|common| common == word)
}

/// The name with an indefinite article where English wants one.
pub(crate) fn with_article(name: &str) -> String {
    static DETERMINER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^(?i:a|an|the|some|no)\b").ok());
    let determined = DETERMINER
        .as_ref()
        .is_some_and(|pattern| pattern.is_match(name));
    let Some(first) = name.chars().next() else {
        return String::new();
    };
    if determined || is_plural_or_mass(name) || first.is_uppercase() || first.is_numeric() {
        return name.to_owned();
    }
    // "a unicorn", "a euro": written with a vowel, spoken with a consonant.
    let spoken_consonant = ["uni", "eu", "one", "u-"]
        .iter()
        .any(|start| name.starts_with(start));
    let article = if "aeiou".contains(first) && !spoken_consonant {
        "an"
    } else {
        "a"
    };
    format!("{article} {name}")
}

fn is_plural_or_mass(name: &str) -> bool {
    const MASS: &str = "rice bread cheese butter salt honey fire water snow rain money sushi bacon popcorn broccoli \
        garlic sake tea coffee wind fog corn ginger seafood meat grass";
    let Some(last) = name.split_whitespace().next_back() else {
        return false;
    };
    let plural = last.ends_with('s') && !["ss", "us", "is"].iter().any(|end| name.ends_with(end));
    plural || MASS.split_whitespace().any(|mass| mass == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_lose_their_plural() {
        assert_eq!(
            stems("Cherries & glasses, two bus-stops"),
            ["cherry", "glasse", "two", "bu", "stop"]
        );
        assert_eq!(stems("glass s"), ["glass", "s"]);
    }

    #[test]
    fn articles() {
        assert_eq!(with_article("apple"), "an apple");
        assert_eq!(with_article("unicorn"), "a unicorn");
        assert_eq!(with_article("glasses"), "glasses");
        assert_eq!(with_article("octopus"), "an octopus");
        assert_eq!(with_article("sweet corn"), "sweet corn");
        assert_eq!(with_article("no entry"), "no entry");
        assert_eq!(with_article("nose"), "a nose");
        assert_eq!(with_article("Japanese castle"), "Japanese castle");
        assert_eq!(with_article("\"ok\" button"), "a \"ok\" button");
    }

    #[test]
    fn slugs() {
        assert_eq!(slug("Man\u{2019}s shoe"), "mansshoe");
        assert_eq!(slug("茶壶"), "");
    }
}
