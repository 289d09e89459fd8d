//! Visual Genome's questions as published: `question_answers.json`, and `image_data.json`, which tells the folder of
//! every picture.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::fields::Fields;
use super::vqa::{Collection, VqaRecord};
use super::{AnnotationError, Annotations, BadRecord, Collector, OnBad, read};

/// Folders of the pictures, as the authors' two archives unpack.
pub const FOLDERS: [&str; 2] = ["VG_100K", "VG_100K_2"];

/// Whether a list is one of the two published files, and not ALBEF's list of the same questions.
///
/// # Errors
/// When it cannot be read.
pub fn is_published(file: &Path) -> Result<bool, AnnotationError> {
    let first = read::first(file)?;
    // Any of them, so that a record of ALBEF's that lacks one is named as such.
    let of_list = ["question", "question_id", "dataset"];
    Ok(first.is_some_and(|record| of_list.iter().all(|field| record.get(field).is_none())))
}

/// Reads the two files, told apart by what they hold. Without `image_data.json` a picture's path is its number, to be
/// found in one of the two [`FOLDERS`].
///
/// # Errors
/// When a file cannot be read, is no list, or holds a record that is not of its form, or a question about an unknown
/// picture, and must not.
pub fn read(files: &[PathBuf], on_bad: OnBad) -> Result<Annotations<VqaRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let mut paths: HashMap<u64, String> = HashMap::new();
    // Each with its picture and where it stands: which file, which record.
    let mut questions: Vec<(VqaRecord, u64, usize, usize)> = Vec::new();
    let mut seen = HashSet::new();
    for (number, file) in files.iter().enumerate() {
        read::list(file, |at, value| {
            let read = Fields::of(file, at, &value).and_then(|fields| {
                if fields.get("qas").is_none() && fields.get("url").is_some() {
                    let (id, path) = picture(fields)?;
                    return match paths.insert(id, path) {
                        None => Ok(()),
                        Some(_) => {
                            Err(fields.bad("image_id", format!("picture {id} is there already")))
                        }
                    };
                }
                for question in fields.parts("qas")? {
                    match asked(question, &mut seen) {
                        Ok((question, picture)) => questions.push((question, picture, number, at)),
                        // One bad question is no reason to leave out the others of its picture.
                        Err(bad) if on_bad == OnBad::Skip => collector.skipped.add(bad),
                        Err(bad) => return Err(bad),
                    }
                }
                Ok(())
            });
            read.map_or_else(|bad| collector.skip(bad), Ok)
        })?;
    }
    for (mut question, picture, file, record) in questions {
        match paths.get(&picture) {
            Some(path) => question.image.clone_from(path),
            None if paths.is_empty() => question.image = format!("{picture}.jpg"),
            None => {
                collector.skip(BadRecord {
                    file: files[file].clone(),
                    record,
                    field: "image_id".to_owned(),
                    problem: format!("no picture of id {picture} in the image data"),
                })?;
                continue;
            }
        }
        collector.add(Ok(question))?;
    }
    Ok(collector.finish())
}

/// Identity and path: the last two parts of the address.
fn picture(fields: Fields<'_>) -> Result<(u64, String), BadRecord> {
    let url = fields.text("url")?;
    let mut parts = url.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(file), Some(folder)) if !file.is_empty() && !folder.is_empty() => {
            Ok((fields.number("image_id")?, format!("{folder}/{file}")))
        }
        _ => Err(fields.bad("url", format!("expected .../FOLDER/FILE, found {url:?}"))),
    }
}

fn asked(fields: Fields<'_>, seen: &mut HashSet<u64>) -> Result<(VqaRecord, u64), BadRecord> {
    let question = VqaRecord {
        question_id: fields.number("qa_id")?,
        question: fields.text("question")?,
        image: String::new(),
        collection: Collection::VisualGenome,
        answers: vec![fields.text("answer")?],
        question_type: None,
        answer_type: None,
    };
    let picture = fields.number("image_id")?;
    if !seen.insert(question.question_id) {
        return Err(fields.bad(
            "qa_id",
            format!("question {} is there already", question.question_id),
        ));
    }
    Ok((question, picture))
}
