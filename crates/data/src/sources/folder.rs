//! A folder of pictures: captions from its `captions.csv` (columns `image` and `caption`), else from
//! a `.txt` beside each picture with one caption a line.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{IMAGE_EXTENSIONS, Record, RecordTexts, Source, SourceError, stable_hash};

/// Name of the caption table.
const TABLE: &str = "captions.csv";

#[derive(Debug)]
struct Picture {
    /// Relative to the folder, with `/` on every system.
    name: String,
    /// `None`: in the file beside the picture.
    captions: Option<Vec<String>>,
}

/// The pictures of a folder: in table order when it has a table, else sorted by path, subfolders
/// included.
#[derive(Debug)]
pub struct Folder {
    folder: PathBuf,
    pictures: Vec<Picture>,
}

impl Folder {
    /// Lists the folder, or reads its table. In a table several rows of one image make one record
    /// with several captions.
    ///
    /// # Errors
    /// When the folder cannot be listed or the table lacks a column.
    pub fn open(folder: &Path) -> Result<Self, SourceError> {
        let table = folder.join(TABLE);
        let pictures = if table.is_file() {
            read_table(&table)?
        } else {
            let mut names = Vec::new();
            list(folder, "", &mut names)?;
            names.sort();
            names
                .into_iter()
                .map(|name| Picture {
                    name,
                    captions: None,
                })
                .collect()
        };
        Ok(Self {
            folder: folder.to_owned(),
            pictures,
        })
    }

    fn picture(&self, index: usize) -> Result<&Picture, SourceError> {
        self.pictures.get(index).ok_or(SourceError::OutOfRange {
            index,
            len: self.pictures.len(),
        })
    }
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        let path = self.folder.join(&self.picture(index)?.name);
        let image = fs::read(&path).map_err(SourceError::io(path))?;
        let RecordTexts {
            key,
            captions,
            image_id,
        } = self.texts(index)?;
        Ok(Record {
            key,
            image,
            captions,
            image_id,
            metadata: None,
            second_image: None,
            target: None,
        })
    }

    fn texts(&self, index: usize) -> Result<RecordTexts, SourceError> {
        let picture = self.picture(index)?;
        let captions = match &picture.captions {
            Some(captions) => captions.clone(),
            None => {
                let path = self.folder.join(&picture.name).with_extension("txt");
                let text = match fs::read_to_string(&path) {
                    Ok(text) => text,
                    // A folder of plain photographs can be indexed and searched; training counts
                    // each as a picture without a caption.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
                    Err(e) => return Err(SourceError::io(path)(e)),
                };
                text.lines()
                    .filter(|line| !line.trim().is_empty())
                    .map(str::to_owned)
                    .collect()
            }
        };
        Ok(RecordTexts {
            key: picture.name.clone(),
            captions,
            image_id: stable_hash(picture.name.as_bytes()),
        })
    }

    fn describe(&self) -> String {
        format!(
            "{} pictures in {}",
            self.pictures.len(),
            self.folder.display()
        )
    }
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), SourceError> {
    for entry in fs::read_dir(folder).map_err(SourceError::io(folder))? {
        let entry = entry.map_err(SourceError::io(folder))?;
        // A name that is not Unicode cannot be a key that is the same on every machine.
        let Ok(name) = entry.file_name().into_string() else {
            return Err(SourceError::malformed(
                entry.path(),
                "the file name is not Unicode; rename it",
            ));
        };
        let name = format!("{prefix}{name}");
        if entry.file_type().map_err(SourceError::io(folder))?.is_dir() {
            list(&entry.path(), &format!("{name}/"), names)?;
        } else if is_picture(&entry.path()) {
            names.push(name);
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    path.extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| {
            IMAGE_EXTENSIONS
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known))
        })
}

fn read_table(path: &Path) -> Result<Vec<Picture>, SourceError> {
    let malformed = |error: csv::Error| SourceError::malformed(path, error.to_string());
    let mut table = csv::Reader::from_path(path).map_err(malformed)?;
    let header = table.headers().map_err(malformed)?.clone();
    let column = |name: &str| {
        header
            .iter()
            // Spreadsheets begin a table with a byte-order mark.
            .position(|found| found.trim_start_matches('\u{feff}').trim() == name)
            .ok_or_else(|| {
                SourceError::malformed(
                    path,
                    format!(
                        "no column `{name}`; the first line must name `image` and `caption`, it has {:?}",
                        header.iter().collect::<Vec<_>>()
                    ),
                )
            })
    };
    let (image, caption) = (column("image")?, column("caption")?);

    let mut pictures: Vec<Picture> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for row in table.records() {
        let row = row.map_err(malformed)?;
        let (name, text) = (&row[image], row[caption].to_owned());
        match places.get(name) {
            Some(&place) => pictures[place].captions.get_or_insert_default().push(text),
            None => {
                places.insert(name.to_owned(), pictures.len());
                pictures.push(Picture {
                    name: name.to_owned(),
                    captions: Some(vec![text]),
                });
            }
        }
    }
    Ok(pictures)
}
