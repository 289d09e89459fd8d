//! BERT's basic tokenizer (uncased): from raw text to words and punctuation marks, before any
//! vocabulary is consulted. Follows `BasicTokenizer` of transformers 4.8.1, which ALBEF builds on.

use unicode_general_category::{GeneralCategory as Category, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// Splits text into lower-case, accent-free words; every punctuation mark and every CJK ideograph
/// is a word of its own. Control characters vanish without separating.
pub fn words(text: &str) -> Vec<String> {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if is_space(c) {
            cleaned.push(' ');
        } else if c == '\u{fffd}' || is_other(c) {
            continue;
        } else if is_cjk(c) {
            cleaned.extend([' ', c, ' ']);
        } else {
            cleaned.push(c);
        }
    }

    let mut words = Vec::new();
    for run in cleaned.split_whitespace() {
        let mut word = String::with_capacity(run.len());
        // Character by character, as the original lower-cases: a final sigma gets no special form.
        let lowered = run.chars().flat_map(char::to_lowercase).nfd();
        for c in lowered.filter(|&c| get_general_category(c) != Category::NonspacingMark) {
            if is_punctuation(c) {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                words.push(c.to_string());
            } else {
                word.push(c);
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
    }
    words
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r') || get_general_category(c) == Category::SpaceSeparator
}

/// Unicode's class C: control, format, surrogate, private use and unassigned.
fn is_other(c: char) -> bool {
    matches!(
        get_general_category(c),
        Category::Control
            | Category::Format
            | Category::Surrogate
            | Category::PrivateUse
            | Category::Unassigned
    )
}

/// Unicode's class P, and every ASCII character that is neither letter, digit nor space: BERT counts
/// `$`, `+` or `^` as punctuation although Unicode calls them symbols.
pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(
            get_general_category(c),
            Category::ConnectorPunctuation
                | Category::DashPunctuation
                | Category::OpenPunctuation
                | Category::ClosePunctuation
                | Category::InitialPunctuation
                | Category::FinalPunctuation
                | Category::OtherPunctuation
        )
}

/// The blocks BERT calls Chinese: the ideographs, not kana or hangul, which are written in words.
pub(super) fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF
        | 0x3400..=0x4DBF
        | 0x20000..=0x2A6DF
        | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F
        | 0x2B820..=0x2CEAF
        | 0xF900..=0xFAFF
        | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_marks() {
        assert_eq!(
            words("Don't  STOP\u{a0}now"),
            ["don", "'", "t", "stop", "now"]
        );
        assert_eq!(words("ÉCLAIR"), ["eclair"]);
        assert_eq!(words("a中b"), ["a", "中", "b"]);
        assert_eq!(words("ΣΑΣ"), ["σασ"]);
        assert_eq!(words("line\u{2028}break"), ["line", "break"]);
        assert!(words(" \u{200b}\n").is_empty());
    }
}
