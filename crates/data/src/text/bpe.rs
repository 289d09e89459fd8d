//! CLIP's tokens: byte-level byte-pair encoding of lower-cased text (OpenAI's
//! `simple_tokenizer.py`). A text is the start token, its pieces and the end token; every text can
//! be written, since the pieces start from single bytes.

mod cleaning;
mod entities;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use thiserror::Error;
use unicode_general_category::{GeneralCategory as Category, get_general_category};

use super::tokenizer::TokenBatch;

/// Opens every text.
pub const START_OF_TEXT: &str = "<|startoftext|>";
/// Closes every text; its state stands for the text.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Marks a piece that ends a word.
const END_OF_WORD: &str = "</w>";

/// Merges that are used; the published file lists more, which the model does not know.
const MAX_MERGES: usize = 49_152 - 256 - 2;

/// More text than this is no vocabulary, but perhaps an archive made to fill the memory.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Why a vocabulary cannot be used.
#[derive(Debug, Error)]
pub enum BpeError {
    /// The file could not be read or unpacked.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The vocabulary is not a JSON object of tokens and ids.
    #[error("the vocabulary is not a JSON object from tokens to ids: {0}")]
    Vocabulary(#[from] serde_json::Error),
    /// A line of the merges is not two tokens.
    #[error("line {line} of the merges is {text:?}, expected two tokens with a space between")]
    Merge {
        /// Line number, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// The vocabulary lacks a token: a byte, a special token, or a part or result of a merge.
    #[error("the vocabulary of {size} tokens has no {token:?}")]
    Missing {
        /// The token, bytes spelt as in the vocabulary.
        token: String,
        /// Number of tokens found.
        size: usize,
    },
}

/// CLIP's tokenizer.
#[derive(Clone, Debug)]
pub struct BpeTokenizer {
    /// Id of each byte inside a word.
    inner: Vec<i64>,
    /// Id of each byte at the end of a word.
    last: Vec<i64>,
    /// Rank (the smallest is merged first) and result of each pair.
    merges: HashMap<(i64, i64), (usize, i64)>,
    start: i64,
    end: i64,
    vocab_size: usize,
}

impl BpeTokenizer {
    /// From the text of OpenAI's `bpe_simple_vocab_16e6.txt`: ids follow from the order of the
    /// merges (256 bytes, 256 bytes that end a word, the merges, start, end).
    ///
    /// # Errors
    /// [`BpeError::Merge`], and [`BpeError::Missing`] where a merge joins what no earlier line
    /// made.
    pub fn from_merges(merges: &str) -> Result<Self, BpeError> {
        let merges = parse_merges(merges)?;
        let spellings = byte_spellings();
        let mut order: Vec<usize> = (0..256).collect();
        order.sort_by_key(|&byte| spellings[byte] >= '\u{100}');
        let bytes = order.iter().map(|&byte| spellings[byte].to_string());
        let closing = bytes.clone().map(|byte| byte + END_OF_WORD);
        let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
        let special = [START_OF_TEXT, END_OF_TEXT].map(str::to_owned);
        let tokens = bytes.chain(closing).chain(merged).chain(special);
        let ids = tokens.zip(0i64..).collect();
        Self::new(&ids, &merges)
    }

    /// From the texts of Hugging Face's `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// When either is malformed, or the vocabulary lacks a byte, a special token, or a part or
    /// result of a merge.
    pub fn from_vocab_and_merges(vocab: &str, merges: &str) -> Result<Self, BpeError> {
        Self::new(&serde_json::from_str(vocab)?, &parse_merges(merges)?)
    }

    /// From OpenAI's file, plain or compressed with gzip (`.gz`).
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8, or as [`BpeTokenizer::from_merges`].
    pub fn from_merges_file(path: &Path) -> Result<Self, BpeError> {
        Self::from_merges(&read_text(path)?)
    }

    /// From Hugging Face's files.
    ///
    /// # Errors
    /// When a file cannot be read, is not UTF-8, or as [`BpeTokenizer::from_vocab_and_merges`].
    pub fn from_vocab_and_merges_files(vocab: &Path, merges: &Path) -> Result<Self, BpeError> {
        Self::from_vocab_and_merges(&read_text(vocab)?, &read_text(merges)?)
    }

    fn new(ids: &HashMap<String, i64>, merges: &[(&str, &str)]) -> Result<Self, BpeError> {
        let id = |token: &str| {
            ids.get(token).copied().ok_or_else(|| BpeError::Missing {
                token: token.to_owned(),
                size: ids.len(),
            })
        };
        let spellings = byte_spellings();
        let bytes = |end: &str| -> Result<Vec<i64>, BpeError> {
            let spellings = spellings.iter();
            spellings.map(|c| id(&format!("{c}{end}"))).collect()
        };
        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, (a, b)) in merges.iter().enumerate() {
            ranks.insert((id(a)?, id(b)?), (rank, id(&format!("{a}{b}"))?));
        }
        Ok(Self {
            inner: bytes("")?,
            last: bytes(END_OF_WORD)?,
            merges: ranks,
            start: id(START_OF_TEXT)?,
            end: id(END_OF_TEXT)?,
            vocab_size: ids.len(),
        })
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Id of [`START_OF_TEXT`].
    pub fn start(&self) -> i64 {
        self.start
    }

    /// Id of [`END_OF_TEXT`].
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Ids of the start token, the pieces of `text` and the end token. A text of more than
    /// `context_length` tokens (both special ones count) is cut, and its last token becomes the
    /// end token; `usize::MAX` keeps all. Special tokens written out in the text keep their id.
    pub fn encode(&self, text: &str, context_length: usize) -> Vec<i64> {
        let mut ids = vec![self.start];
        for word in Words(&cleaning::clean(text)) {
            match word {
                START_OF_TEXT => ids.push(self.start),
                END_OF_TEXT => ids.push(self.end),
                _ => self.pieces(word, &mut ids),
            }
            if ids.len() > context_length {
                break; // what follows would be cut
            }
        }
        ids.push(self.end);
        if ids.len() > context_length {
            ids.truncate(context_length);
            if let Some(last) = ids.last_mut() {
                *last = self.end;
            }
        }
        ids
    }

    /// Encodes several texts, each padded with `pad` to `context_length`: 0 in OpenAI's and
    /// open_clip's code, the end token in Hugging Face's configuration of OpenAI's models.
    pub fn encode_batch<T: AsRef<str>>(
        &self,
        texts: &[T],
        context_length: usize,
        pad: i64,
    ) -> TokenBatch {
        let mut batch = TokenBatch {
            input_ids: Vec::with_capacity(texts.len() * context_length),
            attention_mask: Vec::with_capacity(texts.len() * context_length),
            size: texts.len(),
            length: context_length,
        };
        for text in texts {
            let ids = self.encode(text.as_ref(), context_length);
            let end = batch.input_ids.len() + context_length;
            batch
                .attention_mask
                .resize(end - context_length + ids.len(), 1);
            batch.attention_mask.resize(end, 0);
            batch.input_ids.extend(ids);
            batch.input_ids.resize(end, pad);
        }
        batch
    }

    /// Appends the pieces of a word: bytes, of which the pair of the lowest rank is joined
    /// wherever it stands, until no pair is known.
    fn pieces(&self, word: &str, ids: &mut Vec<i64>) {
        let Some((last, inner)) = word.as_bytes().split_last() else {
            return;
        };
        let inner = inner.iter().map(|&byte| self.inner[usize::from(byte)]);
        let last = self.last[usize::from(*last)];
        let mut pieces: Vec<i64> = inner.chain([last]).collect();
        loop {
            let known = |pair: &[i64]| {
                let (rank, joined) = self.merges.get(&(pair[0], pair[1]))?;
                Some((*rank, (pair[0], pair[1]), *joined))
            };
            let Some((_, pair, joined)) = pieces.windows(2).filter_map(known).min() else {
                break;
            };
            let mut kept = 0;
            let mut at = 0;
            while at < pieces.len() {
                let is_pair = pieces
                    .get(at + 1)
                    .is_some_and(|next| (pieces[at], *next) == pair);
                pieces[kept] = if is_pair { joined } else { pieces[at] };
                kept += 1;
                at += 1 + usize::from(is_pair);
            }
            pieces.truncate(kept);
        }
        ids.extend(pieces);
    }
}

/// How each byte is spelt in the vocabulary: itself where it shows in Latin-1, else a character
/// from U+0100 on, in order.
fn byte_spellings() -> [char; 256] {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(byte),
        _ => next.next().unwrap_or_default(),
    })
}

/// Pairs in the order of the file, after its `#version` line.
fn parse_merges(text: &str) -> Result<Vec<(&str, &str)>, BpeError> {
    let lines = text.trim_end_matches(['\n', '\r']).split('\n').enumerate();
    let lines = lines.filter(|(at, line)| *at > 0 || !line.contains("#version"));
    lines
        .take(MAX_MERGES)
        .map(|(at, line)| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let pair = line.split_once(' ');
            let pair = pair.filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '));
            pair.ok_or_else(|| BpeError::Merge {
                line: at + 1,
                text: line.to_owned(),
            })
        })
        .collect()
}

fn read_text(path: &Path) -> Result<String, BpeError> {
    let io = |source: io::Error| BpeError::Io {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(io)?;
    let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if is_gzip {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut text = String::new();
    let read = reader.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    match read.map_err(io)? as u64 > MAX_FILE_BYTES {
        true => Err(io(io::Error::other("more than 64 MiB of text"))),
        false => Ok(text),
    }
}

/// What the tokenizer's expression tells apart.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Space,
    Letter,
    Number,
    Other,
}

fn kind(c: char) -> Kind {
    match c {
        'a'..='z' | 'A'..='Z' => return Kind::Letter,
        '0'..='9' => return Kind::Number,
        c if c.is_whitespace() => return Kind::Space,
        c if c.is_ascii() => return Kind::Other,
        _ => {}
    }
    match get_general_category(c) {
        Category::UppercaseLetter
        | Category::LowercaseLetter
        | Category::TitlecaseLetter
        | Category::ModifierLetter
        | Category::OtherLetter => Kind::Letter,
        Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber => Kind::Number,
        _ => Kind::Other,
    }
}

/// English contractions, each a word of its own. The original's expression ignores case, which
/// makes the long s of old prints an s.
const CONTRACTIONS: [&str; 8] = ["'s", "'ſ", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// Words of cleaned text: special tokens, contractions, runs of letters, single digits, and runs
/// of anything else but white space. A run takes what it can: the `'` of `!'s` is part of `!'`.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start();
        let first = self.0.chars().next()?;
        let whole = [START_OF_TEXT, END_OF_TEXT].into_iter().chain(CONTRACTIONS);
        let whole = whole.into_iter().find(|whole| self.0.starts_with(whole));
        let length = match (whole, kind(first)) {
            (Some(whole), _) => whole.len(),
            (None, Kind::Number) => first.len_utf8(),
            (None, run) => self.0.find(|c| kind(c) != run).unwrap_or(self.0.len()),
        };
        let (word, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_of_the_expression() {
        let words = |text| Words(text).collect::<Vec<_>>();
        assert_eq!(
            words("it's h2o42!"),
            ["it", "'s", "h", "2", "o", "4", "2", "!"]
        );
        assert_eq!(words("!'s 'sub ''t"), ["!'", "s", "'s", "ub", "''", "t"]);
        assert_eq!(
            words("<|endoftext|>!<|endoftext|>"),
            [END_OF_TEXT, "!<|", "endoftext", "|>"]
        );
        assert!(words("  ").is_empty());
    }

    #[test]
    fn merges_by_hand() {
        // a = 64, b = 65, "c</w>" = 256 + 66; "ab" = 512, "abc</w>" = 513.
        let t = BpeTokenizer::from_merges("#version: 0.2\na b\nab c</w>\n").unwrap();
        assert_eq!((t.vocab_size(), t.start(), t.end()), (516, 514, 515));
        assert_eq!(t.encode("ABC", 77), [514, 513, 515]);
        assert_eq!(t.encode("ababc", 77), [514, 512, 513, 515]);
        assert_eq!(t.encode("cab", 77), [514, 66, 64, 65 + 256, 515]);
        assert_eq!(t.encode("abc abc abc", 4), [514, 513, 513, 515]);
        assert_eq!(t.encode("abc", 0), [0i64; 0]);
        let batch = t.encode_batch(&["", "abc"], 4, 9);
        assert_eq!(batch.input_ids, [514, 515, 9, 9, 514, 513, 515, 9]);
        assert_eq!(batch.attention_mask, [1, 1, 0, 0, 1, 1, 1, 0]);
        assert_eq!((batch.size, batch.length), (2, 4));
    }

    #[test]
    fn malformed_files_are_named() {
        let message = |merges| BpeTokenizer::from_merges(merges).unwrap_err().to_string();
        assert!(message("a b\nab").starts_with("line 2 of the merges is \"ab\""));
        assert!(message("a b c").starts_with("line 1"));
        assert!(message("ab c").ends_with("has no \"ab\""));
        let error = BpeTokenizer::from_vocab_and_merges("[1]", "a b").unwrap_err();
        assert!(matches!(error, BpeError::Vocabulary(_)));
        let error = BpeTokenizer::from_merges_file(Path::new("no such file")).unwrap_err();
        assert!(error.to_string().starts_with("no such file: "));
    }

    #[test]
    fn a_compressed_file_is_read() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("merges.txt.gz");
        let file = fs::File::create(&path).unwrap();
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packer.write_all(b"#version: 0.2\na b\n").unwrap();
        packer.finish().unwrap();
        let t = BpeTokenizer::from_merges_file(&path).unwrap();
        assert_eq!(t.vocab_size(), 515);
        fs::write(&path, b"not packed").unwrap();
        let error = BpeTokenizer::from_merges_file(&path).unwrap_err();
        assert!(matches!(error, BpeError::Io { .. }));
    }
}
