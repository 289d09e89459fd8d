//! Where the pictures are that annotations name by relative path, and how many of them are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Pictures that are named of those that are missing.
const SHOWN: usize = 5;

/// One or more folders in which pictures are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRoots {
    roots: Vec<PathBuf>,
}

/// How many of the pictures that annotations name are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PictureCount {
    /// Different pictures that are named.
    pub named: usize,
    /// Of these, files that are there and hold something.
    pub found: usize,
    /// The first few of those that are not there, as the annotations name them.
    pub missing: Vec<String>,
    /// Files that are there and empty: interrupted copies.
    pub empty: usize,
    /// The first few of these.
    pub empty_files: Vec<PathBuf>,
}

impl PictureCount {
    /// How many are not there.
    pub fn missing_count(&self) -> usize {
        self.named - self.found - self.empty
    }
}

impl ImageRoots {
    /// Pictures are looked for in each root, first as named, then in each of `folders` below it: authors name
    /// pictures from different starting points, and archives unpack into folders of their own.
    pub fn new(roots: &[PathBuf], folders: &[&str]) -> Self {
        let roots = roots.iter().flat_map(|root| {
            let below = folders.iter().map(|folder| root.join(folder));
            std::iter::once(root.clone()).chain(below)
        });
        Self {
            roots: roots.collect(),
        }
    }

    /// The file of a picture, if it is there. An absolute path is taken as it is.
    pub fn find(&self, image: &str) -> Option<PathBuf> {
        let mut paths = self.roots.iter().map(|root| root.join(image));
        paths.find(|path| path.is_file())
    }

    /// Counts the pictures that are there, each name once.
    pub fn count<'a>(&self, images: impl Iterator<Item = &'a str>) -> PictureCount {
        let images: BTreeSet<&str> = images.collect();
        let mut count = PictureCount {
            named: images.len(),
            ..PictureCount::default()
        };
        for image in images {
            match self.find(image) {
                None if count.missing.len() < SHOWN => count.missing.push(image.to_owned()),
                None => {}
                Some(path) if is_empty(&path) => {
                    count.empty += 1;
                    if count.empty_files.len() < SHOWN {
                        count.empty_files.push(path);
                    }
                }
                Some(_) => count.found += 1,
            }
        }
        count
    }
}

fn is_empty(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() == 0)
}
