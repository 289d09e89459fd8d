//! The shorthand by which commands name a data set.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use fitup_data::sources::{OnTruncated, SourceSpec};

/// For help texts.
pub const HELP: &str = "\
A data set is one of
  FOLDER                 pictures with captions.csv, or with a .txt beside each
  SHARD.tar ...          WebDataset shards; * in the file name stands for anything
  LIST.json[:IMAGE_ROOT] ALBEF's list [{\"image\": .., \"caption\": ..}]";

/// The data set that `words` name.
pub fn parse(words: &[String]) -> Result<SourceSpec> {
    if words.iter().all(|word| word.ends_with(".tar")) {
        return Ok(SourceSpec::Shards {
            paths: words.iter().map(PathBuf::from).collect(),
            on_truncated: OnTruncated::Error,
            limit: None,
        });
    }
    let [word] = words else {
        bail!(
            "{}: several names are read as shards, so all of them must end in .tar\n{HELP}",
            words.join(" ")
        );
    };
    if let Some((file, root)) = split_list(word) {
        return Ok(SourceSpec::AlbefJson {
            files: vec![file],
            image_root: root,
            limit: None,
        });
    }
    let path = Path::new(word);
    if path.is_dir() {
        if let Some(shard) = shard_in(path) {
            bail!(
                "{word} holds shards, and a folder may hold those of several splits: name them, for example {word}/*.tar or {}",
                shard.display()
            );
        }
        return Ok(SourceSpec::Folder {
            path: path.to_owned(),
            limit: None,
        });
    }
    if path.exists() {
        bail!("{word} is a file, but no .tar and no .json\n{HELP}");
    }
    bail!("{word} does not exist\n{HELP}");
}

/// `file.json` or `file.json:image_root`.
fn split_list(word: &str) -> Option<(PathBuf, Option<PathBuf>)> {
    if word.ends_with(".json") {
        return Some((PathBuf::from(word), None));
    }
    let at = word.rfind(".json:")? + ".json".len();
    Some((
        PathBuf::from(&word[..at]),
        Some(PathBuf::from(&word[at + 1..])),
    ))
}

fn shard_in(folder: &Path) -> Option<PathBuf> {
    let mut shards: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "tar"))
        .collect();
    shards.sort();
    shards.into_iter().next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(words: &[&str]) -> Result<SourceSpec> {
        parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_three_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert!(matches!(words(&[path]).unwrap(), SourceSpec::Folder { .. }));
        assert!(matches!(
            words(&["a-*.tar", "b.tar"]).unwrap(),
            SourceSpec::Shards { paths, .. } if paths.len() == 2
        ));
        for (word, root) in [("a.json", None), ("x/a.json:img/", Some("img/"))] {
            let SourceSpec::AlbefJson { image_root, .. } = words(&[word]).unwrap() else {
                panic!("{word} is a list");
            };
            assert_eq!(image_root, root.map(PathBuf::from));
        }
    }

    #[test]
    fn what_is_none_of_them_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.tar"), "").unwrap();
        let path = folder.path().to_str().unwrap();
        let error = words(&[path]).unwrap_err().to_string();
        assert!(error.contains("x.tar"), "{error}");
        assert!(
            words(&["nowhere"])
                .unwrap_err()
                .to_string()
                .contains("does not exist")
        );
        assert!(
            words(&["a.tar", "b"])
                .unwrap_err()
                .to_string()
                .contains(".tar")
        );
    }
}
