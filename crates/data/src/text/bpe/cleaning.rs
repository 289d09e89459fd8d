//! The cleaning in front of CLIP's tokenizer: ftfy's `fix_text`, `html.unescape` twice, white
//! space to single spaces, lower case.
//!
//! Of ftfy everything but the repair of wrongly decoded text (mojibake: `cafÃ©`) is done: such
//! text is rare in today's data sets, and stays as it is.

use unicode_normalization::UnicodeNormalization;

use super::entities::{from_windows_1252, unescape, unescape_unmistakable};

/// The text as CLIP's tokenizer splits it.
pub(super) fn clean(text: &str) -> String {
    let text = unescape(&unescape(&fix_text(text)));
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// Line by line; from the first line with a `<` on, the text is taken for markup, whose
/// references are not resolved here.
fn fix_text(text: &str) -> String {
    let mut is_markup = false;
    let lines = text.split_inclusive('\n').map(|line| {
        is_markup |= line.contains('<');
        fix_line(line, is_markup)
    });
    lines.collect()
}

/// Repeats the fixes until nothing changes: one may uncover work for another.
fn fix_line(line: &str, is_markup: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let mut fixed = String::with_capacity(text.len());
        let resolved = if is_markup {
            text.clone()
        } else {
            unescape_unmistakable(&text)
        };
        for c in resolved.chars().map(from_windows_1252) {
            match ligature(c) {
                Some(letters) => letters.chars().for_each(|c| push_plain(c, &mut fixed)),
                None => push_plain(c, &mut fixed),
            }
        }
        let fixed = without_terminal_escapes(&fixed);
        let visible = fixed.chars().filter(|c| !is_invisible_control(*c));
        let fixed: String = visible.nfc().collect();
        if fixed == text {
            return fixed;
        }
        text = fixed;
    }
}

/// Appends a character in its standard width, curly quotes straightened.
fn push_plain(c: char, out: &mut String) {
    let straight = |c: char| match c {
        '\u{02bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        other => other,
    };
    match c {
        '\u{3000}' => out.push(' '),
        '\u{ff01}'..='\u{ffef}' => out.extend(std::iter::once(c).nfkc().map(straight)),
        other => out.push(straight(other)),
    }
}

/// The letters of a Latin ligature or digraph that fonts, not writers, put together.
fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}

/// Without sequences such as `ESC[31m`, which colour text in a terminal.
fn without_terminal_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        plain.push_str(&rest[..at]);
        let after = rest[at + 2..].trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = match after.strip_prefix(|c: char| c.is_ascii_alphabetic()) {
            Some(after) => after,
            None => {
                plain.push('\x1b');
                &rest[at + 1..]
            }
        };
    }
    plain + rest
}

/// Control characters that neither show nor shape text.
fn is_invisible_control(c: char) -> bool {
    matches!(c,
        '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_noticed_line_by_line() {
        assert_eq!(clean("&rsquo;x\n<b>&rsquo;"), "'x <b>’");
        assert_eq!(clean("<b>&rsquo;\n&rsquo;x"), "<b>’ ’x");
    }

    #[test]
    fn an_unfinished_terminal_escape_stays() {
        assert_eq!(without_terminal_escapes("a\x1b[1;"), "a\x1b[1;");
        assert_eq!(
            without_terminal_escapes("\x1b[0mb\x1b[\x1b[1;2Kc"),
            "b\x1b[c"
        );
    }
}
