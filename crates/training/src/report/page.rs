//! The frame of a self-contained page: one style sheet for light and dark, no scripts, nothing
//! fetched.

use std::path::Path;

const STYLE: &str = include_str!("page.css");

/// Text as HTML, safe inside elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

/// A whole page. `title` is escaped here; `body` is HTML; `style` is added to the common style
/// sheet.
pub fn page(title: &str, style: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Writes a page whole or not at all.
///
/// # Errors
/// What the system says.
pub fn write_page(path: &Path, html: &str) -> std::io::Result<()> {
    fitup_models::weights::write_whole(path, html.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_that_ends_a_tag_or_an_attribute_survives() {
        assert_eq!(
            escape("<a href='x'>&\"é\"</a>"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;é&quot;&lt;/a&gt;"
        );
    }

    #[test]
    fn a_page_that_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        write_page(&path, "old").unwrap();
        write_page(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_page(&folder.path().join("no/page.html"), "x").is_err());
    }
}
