//! WordPiece tokens as ALBEF's own tokenizer makes them (`models/tokenization_bert.py`): a text is
//! `[CLS] pieces`, **without** `[SEP]`; special tokens written out in the text keep their own id.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::pretokenizer;

/// The special tokens, in the order a new vocabulary lists them: `[PAD]` is id 0.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Words of more characters become `[UNK]` unseen, as in BERT.
const MAX_WORD_CHARS: usize = 100;

/// Why a vocabulary cannot be used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The vocabulary file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not UTF-8.
    #[error("{path}: not UTF-8 text; a vocabulary holds one token per line")]
    NotText {
        /// The vocabulary file.
        path: PathBuf,
    },
    /// One of the five special tokens is not in the vocabulary.
    #[error(
        "the vocabulary of {size} tokens has no {token}; add a line `{token}` (BERT's vocab.txt has all of {SPECIAL_TOKENS:?})"
    )]
    MissingSpecial {
        /// The token that is missing.
        token: &'static str,
        /// Number of tokens found.
        size: usize,
    },
    /// A token appears twice, so its id is ambiguous.
    #[error("the vocabulary lists {token:?} twice, as ids {first} and {second}; remove one")]
    Duplicate {
        /// The repeated token.
        token: String,
        /// Its first id.
        first: usize,
        /// Its second id.
        second: usize,
    },
}

/// Ids of the special tokens in one vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// `[PAD]`
    pub pad: i64,
    /// `[UNK]`
    pub unk: i64,
    /// `[CLS]`
    pub cls: i64,
    /// `[SEP]`
    pub sep: i64,
    /// `[MASK]`
    pub mask: i64,
}

/// Token ids of several texts, padded to one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// `[size, length]`, row by row, padded with `[PAD]`.
    pub input_ids: Vec<i64>,
    /// `[size, length]`: 1 on tokens, 0 on padding.
    pub attention_mask: Vec<i64>,
    /// Number of texts.
    pub size: usize,
    /// Tokens per row, `[CLS]` included.
    pub length: usize,
}

/// An uncased WordPiece tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    tokens: Vec<String>,
    /// Pieces that begin a word.
    initial: HashMap<String, i64>,
    /// Pieces that continue one, without their `##`: looked up by slices of the word, so encoding
    /// builds no strings.
    continuation: HashMap<String, i64>,
    special: SpecialIds,
}

impl Tokenizer {
    /// From tokens in id order.
    ///
    /// # Errors
    /// When a special token is missing or a token is listed twice.
    pub fn from_vocabulary(tokens: Vec<String>) -> Result<Self, TokenizerError> {
        let mut ids: HashMap<&str, usize> = HashMap::with_capacity(tokens.len());
        let mut initial = HashMap::with_capacity(tokens.len());
        let mut continuation = HashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token, id) {
                return Err(TokenizerError::Duplicate {
                    token: token.clone(),
                    first,
                    second: id,
                });
            }
            // A lone `##` is two hash marks, not an empty continuation.
            match token.strip_prefix("##") {
                Some(rest) if !rest.is_empty() => {
                    continuation.insert(rest.to_owned(), id as i64);
                    // The text "##ing" never reaches the lookup whole: `#` is punctuation.
                }
                _ => {
                    initial.insert(token.clone(), id as i64);
                }
            }
        }
        let find = |token: &'static str| {
            ids.get(token)
                .map(|&id| id as i64)
                .ok_or(TokenizerError::MissingSpecial {
                    token,
                    size: tokens.len(),
                })
        };
        let special = SpecialIds {
            pad: find("[PAD]")?,
            unk: find("[UNK]")?,
            cls: find("[CLS]")?,
            sep: find("[SEP]")?,
            mask: find("[MASK]")?,
        };
        Ok(Self {
            tokens,
            initial,
            continuation,
            special,
        })
    }

    /// From a `vocab.txt`: one token per line, the line number is the id.
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8, or is no vocabulary.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| TokenizerError::Io {
            path: path.to_owned(),
            source,
        })?;
        let text = String::from_utf8(bytes).map_err(|_| TokenizerError::NotText {
            path: path.to_owned(),
        })?;
        // Only line ends are cut: some vocabularies list exotic white space as tokens.
        let tokens = text
            .strip_suffix('\n')
            .unwrap_or(&text)
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
            .collect();
        Self::from_vocabulary(tokens)
    }

    /// Writes the vocabulary as a `vocab.txt`, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TokenizerError> {
        let path = path.as_ref();
        let write = || -> io::Result<()> {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".partial");
            let partial = path.with_file_name(name);
            let mut file = fs::File::create(&partial)?;
            file.write_all(self.tokens.join("\n").as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        write().map_err(|source| TokenizerError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// All tokens in id order.
    pub fn vocabulary(&self) -> &[String] {
        &self.tokens
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Whether each token continues the word before it, which WordPiece writes `##`; in id order.
    pub fn continuations(&self) -> Vec<bool> {
        let tokens = self.tokens.iter();
        tokens.map(|token| token.starts_with("##")).collect()
    }

    /// The token of an id, `None` outside the vocabulary.
    pub fn token(&self, id: i64) -> Option<&str> {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.tokens.get(id))
            .map(String::as_str)
    }

    /// The id of a token written exactly as in the vocabulary.
    pub fn id(&self, token: &str) -> Option<i64> {
        match token.strip_prefix("##") {
            Some(rest) if !rest.is_empty() => self.continuation.get(rest).copied(),
            _ => self.initial.get(token).copied(),
        }
    }

    /// Ids of `[CLS]` and the pieces of `text`, at most `max_tokens` of them (`[CLS]` counts).
    /// `usize::MAX` keeps all.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Vec<i64> {
        let mut ids = vec![self.special.cls];
        self.pieces(text, &mut ids, &mut |_, _| {});
        ids.truncate(max_tokens);
        ids
    }

    /// The words of a text as they are cut, each with the place after its last piece in what
    /// [`Self::encode`] gives; the first begins behind `[CLS]`, at 1.
    pub fn words(&self, text: &str) -> Vec<(String, usize)> {
        let mut ids = vec![self.special.cls];
        let mut words = Vec::new();
        self.pieces(text, &mut ids, &mut |word, end| {
            words.push((word.to_owned(), end))
        });
        words
    }

    /// Encodes several texts and pads them to the longest.
    pub fn encode_batch<T: AsRef<str>>(&self, texts: &[T], max_tokens: usize) -> TokenBatch {
        let rows: Vec<Vec<i64>> = texts
            .iter()
            .map(|text| self.encode(text.as_ref(), max_tokens))
            .collect();
        self.pad(&rows, 0)
    }

    /// Pads rows of ids to the longest row, and to at least `length`.
    pub fn pad<R: AsRef<[i64]>>(&self, rows: &[R], length: usize) -> TokenBatch {
        let length = rows
            .iter()
            .map(|row| row.as_ref().len())
            .fold(length, usize::max);
        let mut input_ids = Vec::with_capacity(rows.len() * length);
        let mut attention_mask = Vec::with_capacity(rows.len() * length);
        for row in rows {
            let row = row.as_ref();
            let end = input_ids.len() + length;
            input_ids.extend_from_slice(row);
            input_ids.resize(end, self.special.pad);
            attention_mask.resize(end - length + row.len(), 1);
            attention_mask.resize(end, 0);
        }
        TokenBatch {
            input_ids,
            attention_mask,
            size: rows.len(),
            length,
        }
    }

    /// Text of the ids: pieces joined to words, words by spaces; `[PAD]` and `[CLS]` are left out,
    /// ids outside the vocabulary read `[UNK]`. Case, accents and original spacing are gone.
    pub fn decode(&self, ids: &[i64]) -> String {
        let mut text = String::new();
        for &id in ids {
            if id == self.special.pad || id == self.special.cls {
                continue;
            }
            let token = self.token(id).unwrap_or("[UNK]");
            match token.strip_prefix("##") {
                Some(rest) if !rest.is_empty() && !text.is_empty() => text.push_str(rest),
                _ => {
                    if !text.is_empty() {
                        text.push(' ');
                    }
                    text.push_str(token);
                }
            }
        }
        text
    }

    /// Appends the ids of a text: special tokens are cut out first, the rest is split into words.
    /// `cut` is told every word and how many ids there are after it.
    fn pieces(&self, text: &str, ids: &mut Vec<i64>, cut: &mut impl FnMut(&str, usize)) {
        let mut rest = text;
        while let Some((at, token)) = next_special(rest) {
            self.word_pieces(&rest[..at], ids, cut);
            ids.push(self.id(token).unwrap_or(self.special.unk));
            cut(token, ids.len());
            rest = &rest[at + token.len()..];
        }
        self.word_pieces(rest, ids, cut);
    }

    fn word_pieces(&self, text: &str, ids: &mut Vec<i64>, cut: &mut impl FnMut(&str, usize)) {
        for word in pretokenizer::words(text) {
            let before = ids.len();
            if !self.longest_matches(&word, ids) {
                ids.truncate(before);
                ids.push(self.special.unk);
            }
            cut(&word, ids.len());
        }
    }

    /// Greedy longest match from the left; false when some part of the word matches nothing.
    fn longest_matches(&self, word: &str, ids: &mut Vec<i64>) -> bool {
        if word.chars().count() > MAX_WORD_CHARS {
            return false;
        }
        let mut rest = word;
        while !rest.is_empty() {
            let table = if rest.len() == word.len() {
                &self.initial
            } else {
                &self.continuation
            };
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
            let Some((end, id)) = ends
                .rev()
                .find_map(|end| table.get(&rest[..end]).map(|&id| (end, id)))
            else {
                return false;
            };
            ids.push(id);
            rest = &rest[end..];
        }
        true
    }
}

/// The first special token written out in a text: its byte position and the token.
fn next_special(text: &str) -> Option<(usize, &'static str)> {
    // Nearly every caption has no bracket, and this is asked once per caption.
    let first = text.find('[')?;
    SPECIAL_TOKENS
        .iter()
        .filter_map(|&token| text[first..].find(token).map(|at| (first + at, token)))
        .min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tokenizer(extra: &[&str]) -> Tokenizer {
        let tokens = SPECIAL_TOKENS.iter().chain(extra);
        Tokenizer::from_vocabulary(tokens.map(|&t| t.to_owned()).collect()).unwrap()
    }

    #[test]
    fn a_partly_unknown_word_is_one_unknown_token() {
        let t = tokenizer(&["un", "##do"]);
        assert_eq!(t.encode("undo unx", usize::MAX), [2, 5, 6, 1]);
    }

    #[test]
    fn words_end_where_their_pieces_do() {
        let t = tokenizer(&["un", "##do", "it"]);
        let ends = t.words("undo it, [MASK]x");
        let ends: Vec<(&str, usize)> = ends.iter().map(|(w, end)| (w.as_str(), *end)).collect();
        let want = [("undo", 3), ("it", 4), (",", 5), ("[MASK]", 6), ("x", 7)];
        assert_eq!(ends, want);
        assert_eq!(t.encode("undo it, [MASK]x", usize::MAX).len(), 7);
    }

    #[test]
    fn decode_joins_pieces_and_leaves_padding_out() {
        let t = tokenizer(&["un", "##do", "a"]);
        assert_eq!(t.decode(&[2, 7, 5, 6, 0, 0]), "a undo");
        assert_eq!(t.decode(&[99]), "[UNK]");
    }

    #[test]
    fn continuations_are_the_pieces_inside_words() {
        let t = tokenizer(&["un", "##do", "#", "a"]);
        let continued: Vec<usize> = t
            .continuations()
            .iter()
            .enumerate()
            .filter_map(|(id, continues)| continues.then_some(id))
            .collect();
        assert_eq!(continued, [6]);
        assert_eq!(t.continuations().len(), t.vocab_size());
    }

    #[test]
    fn a_missing_special_token_is_named() {
        let error = Tokenizer::from_vocabulary(vec!["[PAD]".into(), "[UNK]".into()]).unwrap_err();
        assert!(error.to_string().contains("[CLS]"), "{error}");
    }

    #[test]
    fn a_repeated_token_is_named() {
        let mut tokens: Vec<String> = SPECIAL_TOKENS.iter().map(|&t| t.to_owned()).collect();
        tokens.extend(["dog".to_owned(), "dog".to_owned()]);
        let error = Tokenizer::from_vocabulary(tokens).unwrap_err();
        assert!(matches!(
            error,
            TokenizerError::Duplicate {
                first: 5,
                second: 6,
                ..
            }
        ));
    }

    #[test]
    fn a_vocabulary_survives_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        let t = tokenizer(&["a", "\u{2028}", "##b"]);
        t.save(&path).unwrap();
        let back = Tokenizer::from_file(&path).unwrap();
        assert_eq!(back.vocabulary(), t.vocabulary());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
