//! Captions and questions on their way to the text encoder: [`cleaning`], then [`tokenizer`]
//! (with a vocabulary built by [`vocabulary`] when none is given), then [`masking`], of single tokens
//! or of whole words ([`whole_word`]). CLIP has its own cleaning and tokens: [`bpe`].

pub mod bpe;
pub mod cleaning;
pub mod masking;
pub mod pretokenizer;
pub mod tokenizer;
pub mod vocabulary;
pub mod whole_word;

pub use bpe::{BpeError, BpeTokenizer};
pub use cleaning::{pre_caption, pre_question};
pub use tokenizer::{SpecialIds, TokenBatch, Tokenizer, TokenizerError};
pub use vocabulary::build_vocabulary;
