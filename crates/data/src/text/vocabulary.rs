//! A WordPiece vocabulary from a corpus of captions, for models trained without BERT's own: start
//! from characters and join the most frequent pair of neighbouring pieces until the size is reached.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use super::pretokenizer::{is_cjk, is_punctuation, words};
use super::tokenizer::SPECIAL_TOKENS;

type Pair = (u32, u32);

/// Builds a vocabulary of at most `size` tokens: the special tokens (`[PAD]` is id 0), then single
/// characters, then joined pieces from the most to the least frequent pair.
///
/// Every letter and digit of the corpus is listed both as a beginning and as a continuation, so a
/// word never seen but spelt with known letters is never `[UNK]`. When `size` cannot hold all
/// characters the most frequent are kept. The result depends only on the texts and the size: ties
/// are settled by the earlier id. A small corpus may yield fewer tokens than `size`.
pub fn build_vocabulary<'a>(texts: impl Iterator<Item = &'a str>, size: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for text in texts {
        for word in words(text) {
            *counts.entry(word).or_default() += 1;
        }
    }
    let mut vocabulary: Vec<String> = SPECIAL_TOKENS.iter().map(|&t| t.to_owned()).collect();
    vocabulary.extend(alphabet(&counts, size.saturating_sub(SPECIAL_TOKENS.len())));
    Merger::new(&counts, vocabulary).grow(size)
}

/// Single-character tokens, sorted; at most `room`, the most frequent first in line.
fn alphabet(counts: &BTreeMap<String, u64>, room: usize) -> BTreeSet<String> {
    let mut frequency: BTreeMap<char, u64> = BTreeMap::new();
    for (word, count) in counts {
        for c in word.chars() {
            *frequency.entry(c).or_default() += count;
        }
    }
    let mut by_frequency: Vec<(char, u64)> = frequency.into_iter().collect();
    by_frequency.sort_by_key(|&(c, count)| (Reverse(count), c));

    let mut tokens = BTreeSet::new();
    for (c, _) in by_frequency {
        let alone = is_punctuation(c) || is_cjk(c);
        if tokens.len() + if alone { 1 } else { 2 } > room {
            break;
        }
        tokens.insert(c.to_string());
        if !alone {
            tokens.insert(format!("##{c}"));
        }
    }
    tokens
}

struct Word {
    pieces: Vec<u32>,
    count: u64,
}

/// Pair counts kept up to date while words shrink, so one merge costs only the words it touches.
struct Merger {
    vocabulary: Vec<String>,
    ids: HashMap<String, u32>,
    words: Vec<Word>,
    counts: HashMap<Pair, u64>,
    /// Words that held the pair when it was last counted; may name words that no longer do.
    places: HashMap<Pair, Vec<usize>>,
    /// Largest count first, then the smallest ids; entries whose count is out of date are re-queued.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Merger {
    fn new(counts: &BTreeMap<String, u64>, vocabulary: Vec<String>) -> Self {
        let ids: HashMap<String, u32> = (0..)
            .zip(&vocabulary)
            .map(|(id, t)| (t.clone(), id))
            .collect();
        let words = counts
            .iter()
            .filter_map(|(word, &count)| {
                // A word with a character outside the alphabet is `[UNK]` as a whole.
                let pieces: Option<Vec<u32>> = word
                    .chars()
                    .enumerate()
                    .map(|(at, c)| {
                        let token = if at == 0 {
                            c.to_string()
                        } else {
                            format!("##{c}")
                        };
                        ids.get(&token).copied()
                    })
                    .collect();
                pieces.map(|pieces| Word { pieces, count })
            })
            .collect();
        let mut merger = Self {
            vocabulary,
            ids,
            words,
            counts: HashMap::new(),
            places: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for word in 0..merger.words.len() {
            merger.count_pairs(word);
        }
        for (&pair, &count) in &merger.counts {
            merger.queue.push((count, Reverse(pair)));
        }
        merger
    }

    fn count_pairs(&mut self, word: usize) -> Vec<Pair> {
        let Word { pieces, count } = &self.words[word];
        let pairs: Vec<Pair> = pieces.windows(2).map(|w| (w[0], w[1])).collect();
        for &pair in &pairs {
            *self.counts.entry(pair).or_default() += count;
            let places = self.places.entry(pair).or_default();
            if places.last() != Some(&word) {
                places.push(word);
            }
        }
        pairs
    }

    fn discount_pairs(&mut self, word: usize) {
        let Word { pieces, count } = &self.words[word];
        for pair in pieces.windows(2) {
            if let Some(total) = self.counts.get_mut(&(pair[0], pair[1])) {
                *total -= count;
            }
        }
    }

    fn grow(mut self, size: usize) -> Vec<String> {
        while self.vocabulary.len() < size {
            let Some((queued, Reverse(pair))) = self.queue.pop() else {
                break;
            };
            let count = self.counts.get(&pair).copied().unwrap_or(0);
            if count != queued {
                // Counts of queued pairs only fall here: a rise queues a fresh entry.
                if count > 0 && count < queued {
                    self.queue.push((count, Reverse(pair)));
                }
                continue;
            }
            self.merge(pair);
        }
        self.vocabulary
    }

    fn merge(&mut self, pair: Pair) {
        let right = &self.vocabulary[pair.1 as usize];
        let joined = format!(
            "{}{}",
            self.vocabulary[pair.0 as usize],
            right.strip_prefix("##").unwrap_or(right)
        );
        // Two different merges may spell the same piece.
        let next = self.vocabulary.len() as u32;
        let id = *self.ids.entry(joined.clone()).or_insert(next);
        if id == next {
            self.vocabulary.push(joined);
        }

        let mut touched: BTreeSet<Pair> = BTreeSet::new();
        for word in self.places.remove(&pair).unwrap_or_default() {
            if !self.words[word]
                .pieces
                .windows(2)
                .any(|w| (w[0], w[1]) == pair)
            {
                continue;
            }
            self.discount_pairs(word);
            let pieces = std::mem::take(&mut self.words[word].pieces);
            self.words[word].pieces = join(&pieces, pair, id);
            touched.extend(self.count_pairs(word));
        }
        self.counts.remove(&pair);
        for pair in touched {
            self.queue.push((self.counts[&pair], Reverse(pair)));
        }
    }
}

fn join(pieces: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(pieces.len());
    let mut at = 0;
    while at < pieces.len() {
        if at + 1 < pieces.len() && (pieces[at], pieces[at + 1]) == pair {
            out.push(id);
            at += 2;
        } else {
            out.push(pieces[at]);
            at += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_pair_is_joined_first() {
        let built = build_vocabulary(["abab ab", "ab cd"].into_iter(), 100);
        let expected_letters = ["##a", "##b", "##c", "##d", "a", "b", "c", "d"];
        assert_eq!(built[..5], SPECIAL_TOKENS);
        assert_eq!(built[5..13], expected_letters);
        // "ab" opens three words; then ("##a", "##b") of "abab" and ("c", "##d") tie at one.
        assert_eq!(built[13..], ["ab", "##ab", "cd", "abab"]);
    }

    #[test]
    fn a_small_size_keeps_the_frequent_characters() {
        let built = build_vocabulary(["aaa bb c"].into_iter(), 9);
        assert_eq!(built[5..], ["##a", "##b", "a", "b"]);
        assert_eq!(build_vocabulary([].into_iter(), 2).len(), 5);
    }
}
