//! HTML character references, in the two readings that CLIP's cleaning uses.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The names of the HTML standard, one a line: name (with its `;` where that is required), then
/// the code points in hexadecimal.
static NAMED: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
    include_str!("html5_entities.txt")
        .lines()
        .filter_map(|line| {
            let (name, codes) = line.split_once(' ')?;
            let codes = codes.split(' ');
            let text = codes.filter_map(|code| char::from_u32(u32::from_str_radix(code, 16).ok()?));
            Some((name, text.collect()))
        })
        .collect()
});

/// Windows-1252 at 0x80 to 0x9F: what writers of these codes mean. Holes keep their code.
const WINDOWS_1252: [u16; 32] = [
    0x20AC, 0x81, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039,
    0x0152, 0x8D, 0x017D, 0x8F, 0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
    0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D, 0x017E, 0x0178,
];

/// The character that a C1 control stands for in Windows-1252; others as they are.
pub(super) fn from_windows_1252(c: char) -> char {
    let meant = (c as usize).checked_sub(0x80);
    let meant = meant.and_then(|at| WINDOWS_1252.get(at));
    meant
        .and_then(|code| char::from_u32(u32::from(*code)))
        .unwrap_or(c)
}

/// Longest name of a reference after `&`, in characters, without `;`.
const MAX_NAME: usize = 32;

/// Resolves every reference as Python's `html.unescape`, also without `;` where browsers accept
/// that: `&copy 2020`, and `&notit;` is `¬it;`.
pub(super) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (resolved, length) = match rest.strip_prefix('#') {
            Some(_) => numeric(rest),
            None => named(rest),
        };
        match resolved {
            Some(resolved) => plain.push_str(&resolved),
            None => plain.push_str(&text[text.len() - rest.len() - 1..][..length + 1]),
        }
        rest = &rest[length..];
    }
    plain + rest
}

/// The reference at the start of `rest`, which begins with `#`, and its length.
fn numeric(rest: &str) -> (Option<String>, usize) {
    let (digits_at, radix) = match rest[1..].starts_with(['x', 'X']) {
        true => (2, 16),
        false => (1, 10),
    };
    let digits = rest[digits_at..]
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(rest.len() - digits_at);
    if digits == 0 {
        return (None, 0);
    }
    let end = digits_at + digits;
    let length = end + usize::from(rest[end..].starts_with(';'));
    // A number too long for the type is no code point either.
    let code = u32::from_str_radix(&rest[digits_at..end], radix).unwrap_or(u32::MAX);
    let forbidden = matches!(code, 0x1..=0x8 | 0xB | 0xE..=0x1F | 0x7F | 0xFDD0..=0xFDEF)
        || code & 0xFFFE == 0xFFFE;
    let resolved = match char::from_u32(code) {
        None | Some('\0') => "\u{fffd}".to_owned(),
        Some(_) if forbidden => String::new(),
        Some(c) => from_windows_1252(c).to_string(),
    };
    (Some(resolved), length)
}

/// The reference at the start of `rest`, the longest name that it begins with, and how much text
/// has been looked at.
fn named(rest: &str) -> (Option<String>, usize) {
    let stops = |c: char| matches!(c, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';');
    let name_end = rest
        .char_indices()
        .take(MAX_NAME)
        .find(|(_, c)| stops(*c))
        .map(|(at, _)| at);
    let name_end = name_end.unwrap_or_else(|| {
        let after = rest.char_indices().nth(MAX_NAME);
        after.map_or(rest.len(), |(at, _)| at)
    });
    if name_end == 0 {
        return (None, 0);
    }
    let length = name_end + usize::from(rest[name_end..].starts_with(';'));
    let whole = &rest[..length];
    // Names are ASCII, of two characters at least.
    let resolved = (2..=length).rev().find_map(|end| {
        let text = NAMED.get(whole.get(..end)?)?;
        Some(format!("{text}{}", &whole[end..]))
    });
    (resolved, length)
}

/// Resolves the unmistakable references only, as ftfy: those with `;`, and names of lower-case
/// references written in capitals (`P&EACUTE;REZ`).
pub(super) fn unescape_unmistakable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        match unmistakable(rest) {
            Some((resolved, length)) => {
                plain.push_str(&resolved);
                rest = &rest[length..];
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain + rest
}

/// The reference at the start of `rest`, which begins with `&`, and its length.
fn unmistakable(rest: &str) -> Option<(String, usize)> {
    let end = rest.find(';')?;
    let body = &rest[1..end];
    let name = body.strip_prefix('#').unwrap_or(body);
    let is_name = (1..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if !is_name {
        return None;
    }
    let whole = &rest[..=end];
    let resolved = if body.starts_with('#') {
        Some(unescape(whole)).filter(|text| !text.contains(';'))
    } else if let Some(text) = NAMED.get(&whole[1..]) {
        Some(text.clone())
    } else {
        let lower = whole[1..].to_ascii_lowercase();
        let capitals = lower.to_ascii_uppercase() == whole[1..] && unescape(whole) == whole;
        let found = NAMED.get(lower.as_str()).filter(|_| capitals);
        found.map(|text| text.to_uppercase())
    };
    Some((resolved?, whole.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        assert_eq!(NAMED.len(), 2231);
        for (text, want) in [
            ("", ""),
            ("&", "&"),
            ("a&&amp;&", "a&&&"),
            ("&amp;amp;", "&amp;"),
            ("&copy2020 &notin; &notit;", "©2020 ∉ ¬it;"),
            ("&#65&#x42;&#X43", "ABC"),
            (
                "&#128; &#0; &#xDFFF; &#x110000;",
                "€ \u{fffd} \u{fffd} \u{fffd}",
            ),
            ("&#1;&#xFFFF;&#x1FFFE;", ""),
            ("&#; &#x; &é; &é", "&#; &#x; &é; &é"),
        ] {
            assert_eq!(unescape(text), want, "{text:?}");
        }
        let long = format!("&{};", "é".repeat(40));
        assert_eq!(unescape(&long), long);
    }

    #[test]
    fn unmistakable_references() {
        for (text, want) in [
            ("&copy 2020 &notit;", "&copy 2020 &notit;"),
            ("&eacute;&EACUTE;&Eacute;&eACUTE;", "éÉÉ&eACUTE;"),
            ("&#59; &semi; &#x41;", "&#59; ; A"),
            ("&;&#;& ;", "&;&#;& ;"),
        ] {
            assert_eq!(unescape_unmistakable(text), want, "{text:?}");
        }
    }
}
