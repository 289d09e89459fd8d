//! The demo as a self-contained page.

use std::fmt::Write;
use std::time::Duration;

use fitup_training::report::chart::{significant, thousands};
use fitup_training::report::page::{escape, page};
use fitup_training::report::{duration, losses};

use super::album::Album;
use super::answers::{CANDIDATES, Caption, GapAnswer, PictureAnswer, SHOWN, Shown, TextAnswer};
use super::lesson::Lesson;

const STYLE: &str = include_str!("page.css");

/// Everything that the demo did.
#[derive(Debug)]
pub(super) struct Shows<'a> {
    pub(super) album: &'a Album,
    /// Name and fingerprint of the shipped model.
    pub(super) model: (&'a str, &'a str),
    pub(super) indexed: usize,
    pub(super) indexing: Duration,
    pub(super) texts: &'a [TextAnswer],
    pub(super) pictures: &'a [PictureAnswer],
    pub(super) gaps: &'a [GapAnswer],
    pub(super) lesson: &'a Lesson,
}

impl Shows<'_> {
    pub(super) fn render(&self) -> String {
        let parts = [
            self.opening(),
            self.text_answers(),
            self.picture_answers(),
            self.gap_answers(),
            self.training(),
        ];
        page("fitup demo", STYLE, &parts.concat())
    }

    fn opening(&self) -> String {
        let indexed = thousands(&self.indexed.to_string());
        let tiles = [
            (indexed, "pictures indexed".to_owned()),
            (
                format!("{:.2} s", self.indexing.as_secs_f64()),
                "to index them all".into(),
            ),
            (
                self.lesson.steps().to_string(),
                "training steps, live".into(),
            ),
            (
                format!(
                    "{} \u{2192} {}",
                    significant(self.lesson.loss[0]),
                    significant(self.lesson.loss[1])
                ),
                "loss, from the first steps to the last".into(),
            ),
        ];
        let tiles: String = tiles
            .iter()
            .map(|(value, what)| {
                format!("<div class=\"tile\"><b>{value}</b><span>{what}</span></div>")
            })
            .collect();
        let (name, fingerprint) = self.model;
        format!(
            "<h1>A small model that sees and reads</h1>\n\
             <p>Everything on this page was computed by <code>fitup demo</code> on the machine that \
             wrote it, on its processor alone. The model is ALBEF (<i>Align before Fuse</i>, 2021) at a \
             tiny size, trained on pictograms and the names people gave them.</p>\n\
             <p class=\"soft\">Weights: {} ({}). A green <b>new</b> marks pictures kept out of all \
             training; the others it may have trained on.</p>\n<div class=\"tiles\">{tiles}</div>\n",
            escape(name),
            escape(fingerprint)
        )
    }

    fn text_answers(&self) -> String {
        let mut html = format!(
            "<h2>1. Words find pictures</h2>\n\
             <p>The search has two steps. First, <b>contrastive</b>: picture and words were each turned \
             into a list of numbers without seeing the other, and the nearest lists win. It is fast \
             enough for millions of pictures. Then <b>re-ranked</b>: for the best {CANDIDATES}, the model \
             reads the words while looking at the picture and says how surely they belong \
             together. An arrow tells how many places a picture has moved.</p>\n"
        );
        for answer in self.texts {
            let _ = write!(
                html,
                "<section class=\"query\">\n<h3>{}<span class=\"soft\">both steps: {:.0} ms</span></h3>\n{}{}</section>\n",
                escape(&format!("\u{201c}{}\u{201d}", answer.query)),
                answer.took.as_secs_f64() * 1e3,
                self.row(
                    "Contrastive",
                    "nearest embedding",
                    &answer.contrastive,
                    false
                ),
                self.row(
                    "Re-ranked",
                    "read and looked at together",
                    &answer.reranked,
                    true
                ),
            );
        }
        html
    }

    fn picture_answers(&self) -> String {
        let mut html = String::from(
            "<h2>2. Pictures find pictures, and words</h2>\n\
             <p>The same lists of numbers compare a picture with other pictures. Matching needs words, so \
             the second step is shown on captions: which of all the captions here describe the \
             picture?</p>\n",
        );
        for answer in self.pictures {
            let _ = write!(
                html,
                "<section class=\"query\">\n<div class=\"beside\">{}<div class=\"scroll\">{}</div></div>\n{}</section>\n",
                self.picture(answer.picture, "<span class=\"score\">the query</span>"),
                caption_table(answer),
                self.row("Contrastive", "pictures like it", &answer.similar, false),
            );
        }
        html
    }

    fn gap_answers(&self) -> String {
        let mut html = String::from(
            "<h2>3. A word is missing</h2>\n\
             <p>The model looks at the picture and guesses the hidden word. Beside it, its <b>momentum \
             model</b>: a slow average of all its earlier selves, whose guesses serve as soft answers in \
             training with noisy captions.</p>\n",
        );
        for answer in self.gaps {
            let _ = write!(
                html,
                "<section class=\"query\">\n<h3>{}</h3>\n<div class=\"beside\">{}<div class=\"scroll\">{}</div></div>\n</section>\n",
                escape(answer.text),
                self.picture(answer.picture, ""),
                word_table(answer),
            );
        }
        html
    }

    fn training(&self) -> String {
        let lesson = self.lesson;
        format!(
            "<h2>4. Learning, from nothing</h2>\n\
             <p>A new model of the same size, all its weights drawn at random, was trained for {} on the \
             sample's training pictures: {} steps, {} pairs, {} pairs per second. Three losses are \
             added: <b>ITC</b> brings a picture and its words together, <b>ITM</b> asks whether they \
             belong together, <b>MLM</b> fills in hidden words. The thin line is each step, the strong \
             one its moving mean. The settings are those of the model above, but for a shorter memory of \
             earlier pictures and no soft answers: a minute is short.</p>\n<div class=\"charts\">\n{}</div>\n\
             <p class=\"soft\">It is thrown away afterwards; <code>fitup pretrain</code> makes one to \
             keep.</p>\n",
            duration(lesson.seconds),
            thousands(&lesson.steps().to_string()),
            thousands(&lesson.pairs.to_string()),
            significant(lesson.pairs as f64 / lesson.seconds.max(1e-9)),
            losses(&lesson.events)
        )
    }

    fn row(&self, name: &str, how: &str, shown: &[Shown], reranked: bool) -> String {
        let mut html = format!("<div class=\"row\"><div class=\"how\"><b>{name}</b>{how}</div>\n");
        for (place, shown) in (1..).zip(shown.iter().take(SHOWN)) {
            let score = match shown.matching.filter(|_| reranked) {
                Some(matching) => format!(
                    "{}{}",
                    escape(&percent(matching)),
                    moved(shown.before, place)
                ),
                None => format!("{:.3}", shown.similarity),
            };
            let score = format!("<span class=\"score\">{score}</span>");
            html += &self.picture(shown.picture, &score);
        }
        html + "</div>\n"
    }

    fn picture(&self, picture: usize, below: &str) -> String {
        let picture = &self.album.pictures[picture];
        let caption = escape(&picture.caption);
        let new = match picture.unseen {
            true => "<span class=\"new\">new</span>",
            false => "",
        };
        format!(
            "<figure class=\"shot\"><div class=\"paper\"><img alt=\"{caption}\" \
             src=\"data:{};base64,{}\">{new}</div><figcaption>{caption}{below}</figcaption></figure>\n",
            media_type(&picture.bytes),
            base64(&picture.bytes)
        )
    }
}

fn caption_table(answer: &PictureAnswer) -> String {
    let mut html = String::from(
        "<table>\n<thead><tr><th scope=\"col\">captions, contrastive</th><th scope=\"col\">cosine</th>\
         <th scope=\"col\">captions, re-ranked</th><th scope=\"col\">match</th></tr></thead>\n<tbody>\n",
    );
    for (place, (a, b)) in (1..).zip(answer.contrastive.iter().zip(&answer.reranked)) {
        let Caption {
            text,
            matching,
            before,
            ..
        } = b;
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{:.3}</td><td>{}</td><td>{}{}</td></tr>",
            escape(&a.text),
            a.similarity,
            escape(text),
            escape(&percent(*matching)),
            moved(*before, place)
        );
    }
    html + "</tbody></table>\n"
}

fn word_table(answer: &GapAnswer) -> String {
    let mut html = String::from(
        "<table>\n<thead><tr><th scope=\"col\">model</th><th scope=\"col\">probability</th>\
         <th scope=\"col\">momentum model</th><th scope=\"col\">probability</th></tr></thead>\n<tbody>\n",
    );
    let none = Vec::new();
    let momentum = answer.words.momentum.as_ref().unwrap_or(&none);
    let cell = |word: Option<&(String, f32)>| match word {
        Some((word, p)) => format!(
            "<td>{}</td><td><span class=\"bar\" style=\"width:{:.1}rem\"></span>{}</td>",
            escape(word),
            5.0 * p,
            escape(&percent(*p))
        ),
        None => "<td>\u{2013}</td><td></td>".into(),
    };
    for (place, word) in answer.words.model.iter().enumerate() {
        let _ = writeln!(
            html,
            "<tr>{}{}</tr>",
            cell(Some(word)),
            cell(momentum.get(place))
        );
    }
    html + "</tbody></table>\n"
}

/// How far something moved from the contrastive order.
fn moved(before: usize, now: usize) -> String {
    match before.cmp(&now) {
        std::cmp::Ordering::Greater => format!(
            " <span class=\"up\" title=\"from place {before}\">\u{25b2}{}</span>",
            before - now
        ),
        std::cmp::Ordering::Less => format!(
            " <span class=\"down\" title=\"from place {before}\">\u{25bc}{}</span>",
            now - before
        ),
        std::cmp::Ordering::Equal => String::new(),
    }
}

/// A share in words short enough for a table.
pub(super) fn percent(share: f32) -> String {
    match 100.0 * share {
        p if p < 0.1 => "<0.1 %".into(),
        p if p < 10.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// By the file's first bytes, as browsers do.
fn media_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, ..] => "image/jpeg",
        [b'G', b'I', b'F', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', ..] => "image/webp",
        _ => "image/png",
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let [a, b, c] = three.map(u32::from);
        let bits = a << 16 | b << 8 | c;
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            let present = place <= group.len();
            text.push(if present { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standards_examples() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn shares_and_moves_read_like_words() {
        assert_eq!(percent(0.000_5), "<0.1 %");
        assert_eq!(percent(0.051), "5.1 %");
        assert_eq!(percent(0.987), "99 %");
        assert!(moved(5, 2).contains("\u{25b2}3"));
        assert!(moved(1, 2).contains("\u{25bc}1"));
        assert_eq!(moved(2, 2), "");
    }
}
