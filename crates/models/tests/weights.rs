//! Files of weights: every format that is read, files made to do harm, and initial weights from
//! published encoders.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "weights/hostile.rs"]
mod hostile;
#[path = "weights/initial.rs"]
mod initial;
#[path = "weights/pytorch_files.rs"]
mod pytorch_files;

use std::path::{Path, PathBuf};

/// A file that PyTorch wrote; see the folder's README.
fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pytorch");
    folder.join(name)
}

/// Where a test may write; names are the test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("weights");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}
