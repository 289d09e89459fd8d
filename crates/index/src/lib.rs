//! Features of a collection on disk, exact search over them, and the measures of retrieval and of
//! the other tasks.
//!
//! The crate knows nothing of models: it takes rows of numbers and gives back row numbers.
//!
//! - [`store`]: the features of a collection, computed once, kept beside the name of the model
//!   that made them, memory-mapped for reading.
//! - [`mod@search`]: exact search by dot product, multi-threaded.
//! - [`rerank`]: the second step of a two-step ranking, where a slower model re-scores the
//!   candidates that the first step found.
//! - [`metrics`]: recall at 1, 5 and 10 both ways, as the official evaluation counts it, and a
//!   second measure for data in which captions repeat; accuracy of answers, of statements on pairs
//!   and of boxes, as the official scripts of VQAv2, NLVR2 and ALBEF's grounding count it.
//!
//! Approximate search is planned; nothing here stands in for it yet.
//!
//! ```
//! use fitup_index::{FeatureView, search};
//!
//! let rows = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
//! let hits = search(FeatureView::f32(&rows, 2), &[1.0, 0.0], 2);
//! assert_eq!((hits[0][0].row, hits[0][1].row), (0, 2));
//! ```

pub mod features;
pub mod matrix;
pub mod metrics;
pub mod rerank;
pub mod search;
pub mod store;

pub use features::{Dtype, FeatureView};
pub use matrix::ScoreMatrix;
pub use metrics::{GroundTruth, RetrievalMetrics, itm_eval, recall_with_equal_texts};
pub use rerank::{candidates, rescore};
pub use search::{Hit, search};
pub use store::{Item, ItemKind, ModelId, Store, StoreError, StoreSpec, StoreWriter};
