//! The demo on the console.

use std::fmt::Display;
use std::io::Write;

use anyhow::Result;

use super::album::Album;
use super::answers::{GapAnswer, PictureAnswer, SHOWN, TextAnswer};
use super::page::percent;

/// Widest text of a column.
const COLUMN: usize = 24;

/// Tells what happens: on standard output, or beside it where that is for a JSON document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Console {
    pub(super) json: bool,
}

impl Console {
    pub(super) fn tell(self, line: impl Display) -> Result<()> {
        if self.json {
            eprintln!("{line}");
        } else {
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(())
    }

    pub(super) fn text(self, answer: &TextAnswer, album: &Album) -> Result<()> {
        self.tell(format!(
            "\n   \u{201c}{}\u{201d}   {:.0} ms",
            answer.query,
            answer.took.as_secs_f64() * 1e3
        ))?;
        self.head("contrastive", "re-ranked")?;
        for (place, (a, b)) in (1..)
            .zip(answer.contrastive.iter().zip(&answer.reranked))
            .take(SHOWN)
        {
            let caption = |picture: usize| &album.pictures[picture].caption;
            self.row(
                place,
                (caption(a.picture), a.similarity),
                (caption(b.picture), b.matching.unwrap_or_default()),
            )?;
        }
        Ok(())
    }

    pub(super) fn picture(self, answer: &PictureAnswer, album: &Album) -> Result<()> {
        let captions = answer
            .similar
            .iter()
            .map(|s| album.pictures[s.picture].caption.as_str());
        let captions: Vec<&str> = captions.collect();
        self.tell(format!(
            "\n   a picture of {}",
            album.pictures[answer.picture].caption
        ))?;
        self.tell(format!("   pictures like it: {}", captions.join(", ")))?;
        self.head("captions, contrastive", "captions, re-ranked")?;
        for (place, (a, b)) in (1..).zip(answer.contrastive.iter().zip(&answer.reranked)) {
            self.row(place, (&a.text, a.similarity), (&b.text, b.matching))?;
        }
        Ok(())
    }

    pub(super) fn gap(self, answer: &GapAnswer, album: &Album) -> Result<()> {
        self.tell(format!(
            "\n   a picture of {}: \u{201c}{}\u{201d}",
            album.pictures[answer.picture].caption, answer.text
        ))?;
        let words = |words: &[(String, f32)]| {
            let words = words
                .iter()
                .map(|(word, p)| format!("{word} {}", percent(*p)));
            words.collect::<Vec<_>>().join(", ")
        };
        self.tell(format!(
            "   model            {}",
            words(&answer.words.model)
        ))?;
        if let Some(momentum) = &answer.words.momentum {
            self.tell(format!("   momentum model   {}", words(momentum)))?;
        }
        Ok(())
    }

    fn head(self, left: &str, right: &str) -> Result<()> {
        self.tell(format!("      {left:COLUMN$}          {right}"))
    }

    fn row(
        self,
        place: usize,
        (left, cosine): (&str, f32),
        (right, matching): (&str, f32),
    ) -> Result<()> {
        self.tell(format!(
            "   {place}  {:COLUMN$}  {cosine:5.3}   {:COLUMN$}  {:>7}",
            cut(left),
            cut(right),
            percent(matching)
        ))
    }
}

/// At most [`COLUMN`] letters.
fn cut(text: &str) -> String {
    match text.chars().count() {
        0..=COLUMN => text.to_owned(),
        _ => text.chars().take(COLUMN - 1).chain(['\u{2026}']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_captions_are_cut_between_letters() {
        assert_eq!(cut("a heart"), "a heart");
        let long = "é".repeat(COLUMN + 1);
        let cut = cut(&long);
        assert_eq!(cut.chars().count(), COLUMN);
        assert!(cut.ends_with('…'));
    }
}
