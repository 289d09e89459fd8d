//! Pictograms: real image-text pairs that anyone can fetch. Pictures people drew (emoji sets, clip art) with
//! the names, keywords and categories people gave them.
//!
//! [`build`] makes WebDataset shards (`key.png`, `key.txt`, `key.json`) from packages pinned by version, all
//! under permissive terms (Apache-2.0, MIT, CC-BY-4.0, public domain). The splits ask four questions:
//!
//! | split | what was never seen in training |
//! |---|---|
//! | `val`, `test` | this maker's drawing of a concept that others drew there |
//! | `test_style` | anything of one whole maker |
//! | `test_zeroshot` | any drawing or mention of 120 concepts |
//!
//! [`check_splits`] verifies that on the finished shards; [`write_sample`] picks the small sample that is
//! committed to the repository.

mod attribution;
mod build;
mod candidate;
mod captions;
mod concepts;
mod drawing;
mod duplicates;
mod entities;
mod fetch;
mod hash;
mod icons;
mod leaks;
mod openclipart;
mod ordered;
mod palette;
mod rasterise;
mod record;
mod sample;
mod splits;
mod words;
mod write;

pub(crate) use attribution::{attribution, maker};
pub use build::{BuildError, BuildOptions, BuildReport, SplitReport, build};
pub(crate) use drawing::{hue_saturation_value, premultiply, tight_box};
pub use fetch::FetchError;
pub(crate) use hash::hash48;
pub use leaks::{LeakReport, check_splits};
pub use ordered::Ordered;
pub use record::{Pictogram, ReadError, Record, list_shards, read_shard};
pub use sample::{SampleError, SampleOptions, SampleReport, write_sample};
pub(crate) use words::with_article;
pub use write::WriteError;
pub(crate) use write::{create_folder, write_file};
