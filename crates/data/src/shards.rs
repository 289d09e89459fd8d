//! Writing WebDataset shards. Reading them is [`crate::sources::webdataset`].

mod writer;

pub use writer::{ShardError, ShardSample, ShardWriter};
