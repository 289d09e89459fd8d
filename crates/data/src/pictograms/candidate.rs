//! A drawing that may become a record, as its source gives it.

use std::path::PathBuf;

use super::attribution::Source;

/// Where the picture is.
#[derive(Clone, Debug)]
pub(super) enum Picture {
    /// A whole SVG document.
    Svg(String),
    /// A PNG file.
    File(PathBuf),
}

/// A drawing with what its source says about it.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) source: &'static Source,
    pub(super) picture: Picture,
    pub(super) concept: String,
    pub(super) family: String,
    pub(super) name: String,
    pub(super) keywords: Vec<String>,
    pub(super) group: String,
    pub(super) subgroup: String,
    /// 1 to 5 where the drawing has a skin tone.
    pub(super) tone: Option<u8>,
    /// Code points with tone; `None` for clip art.
    pub(super) emoji: Option<String>,
    /// A sentence written for the drawing.
    pub(super) caption: Option<String>,
    pub(super) author: Option<String>,
}
