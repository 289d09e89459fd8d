//! The text cleaning of ALBEF (`dataset/utils.py`, `pre_caption` and `pre_question`), character for
//! character: a model sees at test time exactly what it saw in training.

/// Deleted outright: `[,.'!?"()*#:;~]` in the original.
const DELETED: &str = ",.'!?\"()*#:;~";

/// Python's `\s` on text: what Rust calls white space, and the four ASCII information separators.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn lower_and_strip_punctuation(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .filter(|&c| !DELETED.contains(c))
        .map(|c| if c == '-' || c == '/' { ' ' } else { c })
        .collect()
}

/// Runs of two or more white-space characters become one space; a single tab or newline stays.
fn collapse_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if is_python_space(c) && chars.peek().copied().is_some_and(is_python_space) {
            while chars.peek().copied().is_some_and(is_python_space) {
                chars.next();
            }
            out.push(' ');
        } else {
            out.push(c);
        }
    }
    out
}

/// The first `max_words` pieces between single spaces; empty pieces count, as in the original.
fn first_words(text: &str, max_words: usize) -> String {
    text.split(' ')
        .take(max_words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Cleans a caption as ALBEF's `pre_caption` does: lower case, punctuation deleted, `-` and `/` to
/// spaces, `<person>` to `person`, runs of white space to one space, the first `max_words` words.
///
/// `None` when nothing is left: the original trains on the empty string, which teaches that an
/// arbitrary picture matches no words at all. Callers that score fixed test sets keep such captions
/// with `unwrap_or_default`.
pub fn pre_caption(text: &str, max_words: usize) -> Option<String> {
    let text = lower_and_strip_punctuation(text).replace("<person>", "person");
    let text = collapse_spaces(&text);
    let text = text.trim_end_matches('\n').trim_matches(' ');
    let text = first_words(text, max_words);
    (!text.is_empty()).then_some(text)
}

/// Cleans a question as ALBEF's `pre_question` does. Unlike [`pre_caption`] it keeps runs of white
/// space and leading spaces, so `max_words` also counts the empty words between two spaces.
pub fn pre_question(text: &str, max_words: usize) -> String {
    let text = lower_and_strip_punctuation(text);
    first_words(text.trim_end_matches(' '), max_words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_separators_count_as_white_space() {
        assert_eq!(pre_caption("a\u{1c}\u{1d}b", 30).as_deref(), Some("a b"));
    }

    #[test]
    fn a_cut_may_leave_trailing_white_space_but_no_extra_word() {
        assert_eq!(pre_caption("a b c d", 2).as_deref(), Some("a b"));
        assert_eq!(pre_caption("a", 0), None);
    }
}
