//! Images, text, data sets and the loader that feeds training. Knows nothing of tensors libraries:
//! batches are plain vectors with documented shapes.

pub mod annotations;
pub mod images;
pub mod loader;
pub mod pictograms;
pub mod preview;
pub mod scenes;
pub mod shards;
pub mod sources;
pub mod stats;
pub mod text;
