//! What text alone and pictures alone get right. A task that either of them solves is badly balanced.
//!
//! - text only: logistic regression on words and pairs of neighbouring words;
//! - picture only: logistic regression on a coarse thumbnail and a colour histogram of the picture, or of both;
//! - for referring expressions, which have no labels: the box that is right most often.
//!
//! All are fitted to the split `train` and scored on `test`.

mod features;
mod pictures;
mod regression;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::images::DecodeError;
use crate::sources::SourceError;
use features::{PICTURE, WORDS, words};
use pictures::Pictures;
use regression::{Features, Regression};

/// Intersection over union from which a box counts as found.
const FOUND: f64 = 0.5;
/// Boxes tried as the constant one.
const BOXES: usize = 400;

/// Scores of one task, each the share of test items that are right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskCheck {
    /// The task, and of questions the kind of answer.
    pub task: String,
    /// Items to learn from.
    pub train: usize,
    /// Items to score.
    pub test: usize,
    /// Different answers.
    pub answers: usize,
    /// Always the most frequent answer of training; for referring expressions always the same box.
    pub majority: f64,
    /// Logistic regression on the text; none for referring expressions.
    pub text_only: Option<f64>,
    /// Logistic regression on the picture; none for referring expressions.
    pub picture_only: Option<f64>,
}

impl TaskCheck {
    /// By how much the better baseline exceeds always giving the most frequent answer.
    pub fn excess(&self) -> f64 {
        let scores = [self.text_only, self.picture_only].into_iter().flatten();
        scores.fold(self.majority, f64::max) - self.majority
    }
}

/// Scores of all tasks of a folder of scenes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// One for each task.
    pub tasks: Vec<TaskCheck>,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20}{:>8}{:>8}{:>9}{:>10}{:>11}{:>14}",
            "task", "train", "test", "answers", "majority", "text only", "picture only"
        )?;
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
        };
        for task in &self.tasks {
            writeln!(
                f,
                "{:<20}{:>8}{:>8}{:>9}{:>10}{:>11}{:>14}",
                task.task,
                task.train,
                task.test,
                task.answers,
                percent(Some(task.majority)),
                percent(task.text_only),
                percent(task.picture_only)
            )?;
        }
        Ok(())
    }
}

/// Why a folder could not be checked.
#[derive(Debug, Error)]
pub enum CheckError {
    /// A file could not be read.
    #[error(
        "{path}: {source}; make scenes with the splits train and test with `fitup data scenes`"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not of its form.
    #[error("{path}: {reason}; make the scenes again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A shard or a picture in it cannot be read.
    #[error(transparent)]
    Shard(#[from] SourceError),
    /// A picture is broken.
    #[error("{path}: {source}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DecodeError,
    },
}

#[derive(Deserialize)]
struct VqaEntry {
    question: String,
    image: String,
    answer: Vec<String>,
}

#[derive(Deserialize)]
struct VeEntry {
    image: String,
    sentence: String,
    label: String,
}

#[derive(Deserialize)]
struct NlvrEntry {
    images: [String; 2],
    sentence: String,
    label: String,
}

#[derive(Deserialize)]
struct Reference {
    ann_id: u64,
}

#[derive(Deserialize)]
struct Instances {
    annotations: Vec<Instance>,
}

#[derive(Deserialize)]
struct Instance {
    id: u64,
    bbox: [f64; 4],
}

/// A text about pictures with the answer that belongs to it.
struct Item {
    text: Features,
    images: Vec<String>,
    answer: String,
}

/// Items by task.
type Tasks = BTreeMap<&'static str, Vec<Item>>;

/// Fits and scores the baselines on the splits `train` and `test` of a folder that
/// [`generate`](super::generate) wrote, with pictures as files or in shards.
///
/// # Errors
/// [`CheckError`] for a file that is missing or not of its form.
pub fn check(
    folder: &Path,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<CheckReport, CheckError> {
    let folders = ["train", "test"].map(|split| folder.join(split));
    let mut report = CheckReport::default();
    let [train, test] = [items(&folders[0])?, items(&folders[1])?];
    let mut features = [HashMap::new(), HashMap::new()];
    for ((tasks, folder), features) in [&train, &test].into_iter().zip(&folders).zip(&mut features)
    {
        progress("pictures", 0, 1);
        *features = Pictures::open(folder)?.features(tasks)?;
    }
    let none = Vec::new();
    let all = train.len();
    for (done, (task, train)) in train.iter().enumerate() {
        progress("baselines", done, all);
        let test = test.get(task).unwrap_or(&none);
        report.tasks.push(score(task, train, test, &features));
    }
    report.tasks.push(constant_box(&folders)?);
    Ok(report)
}

fn items(folder: &Path) -> Result<Tasks, CheckError> {
    let mut tasks = Tasks::new();
    for entry in read::<Vec<VqaEntry>>(&folder.join("vqa.json"))? {
        let answer = entry.answer.into_iter().next().unwrap_or_default();
        tasks.entry(kind_of(&answer)).or_default().push(Item {
            text: words(&entry.question),
            images: vec![entry.image],
            answer,
        });
    }
    for entry in read::<Vec<VeEntry>>(&folder.join("ve.json"))? {
        tasks.entry("entailment").or_default().push(Item {
            text: words(&entry.sentence),
            images: vec![format!("{}.jpg", entry.image)],
            answer: entry.label,
        });
    }
    for entry in read::<Vec<NlvrEntry>>(&folder.join("nlvr.json"))? {
        tasks.entry("pairs").or_default().push(Item {
            text: words(&entry.sentence),
            images: entry.images.to_vec(),
            answer: entry.label,
        });
    }
    Ok(tasks)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CheckError> {
    let bytes = fs::read(path).map_err(|source| CheckError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|error| CheckError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn kind_of(answer: &str) -> &'static str {
    match answer {
        "yes" | "no" => "questions: yes/no",
        "left" | "right" => "questions: left/right",
        "top" | "bottom" => "questions: top/bottom",
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => "questions: number",
        _ => "questions: colour",
    }
}

fn score(
    task: &str,
    train: &[Item],
    test: &[Item],
    features: &[HashMap<String, Vec<f32>>; 2],
) -> TaskCheck {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for item in train {
        *counts.entry(&item.answer).or_default() += 1;
    }
    let answers: Vec<&str> = counts.keys().copied().collect();
    let label = |item: &Item| answers.iter().position(|answer| *answer == item.answer);
    let labels: Vec<usize> = train.iter().filter_map(label).collect();
    let frequent = counts
        .iter()
        .max_by_key(|&(_, count)| count)
        .map(|(answer, _)| *answer);
    let right = |predict: &dyn Fn(&Item) -> Option<usize>| {
        let right = test
            .iter()
            .filter(|item| label(item).is_some() && predict(item) == label(item));
        right.count() as f64 / test.len().max(1) as f64
    };

    let texts: Vec<&Features> = train.iter().map(|item| &item.text).collect();
    let text_model = Regression::fit(&texts, &labels, WORDS, answers.len());

    let seen = |item: &Item, features: &HashMap<String, Vec<f32>>| -> Features {
        let pictures = item.images.iter().filter_map(|image| features.get(image));
        pictures
            .flatten()
            .enumerate()
            .map(|(index, &value)| (index as u32, value))
            .collect()
    };
    let shown: Vec<Features> = train.iter().map(|item| seen(item, &features[0])).collect();
    let borrowed: Vec<&Features> = shown.iter().collect();
    let width = PICTURE * train.first().map_or(1, |item| item.images.len());
    let picture_model = Regression::fit(&borrowed, &labels, width, answers.len());

    TaskCheck {
        task: task.to_owned(),
        train: train.len(),
        test: test.len(),
        answers: answers.len(),
        majority: right(&|_| answers.iter().position(|&answer| Some(answer) == frequent)),
        text_only: Some(right(&|item| Some(text_model.predict(&item.text)))),
        picture_only: Some(right(&|item| {
            Some(picture_model.predict(&seen(item, &features[1])))
        })),
    }
}

/// The box, of those of training, that is right most often there, scored on the test split.
fn constant_box(folders: &[PathBuf; 2]) -> Result<TaskCheck, CheckError> {
    let mut boxes: Vec<Vec<[f64; 4]>> = Vec::new();
    for folder in folders {
        let instances: Instances = read(&folder.join("instances.json"))?;
        let by_id: HashMap<u64, [f64; 4]> = instances
            .annotations
            .into_iter()
            .map(|instance| (instance.id, instance.bbox))
            .collect();
        let references: Vec<Reference> = read(&folder.join("refs.json"))?;
        boxes.push(
            references
                .iter()
                .filter_map(|reference| by_id.get(&reference.ann_id).copied())
                .collect(),
        );
    }
    let found = |constant: [f64; 4], boxes: &[[f64; 4]]| {
        let right = boxes
            .iter()
            .filter(|&&other| overlap(constant, other) >= FOUND);
        right.count() as f64 / boxes.len().max(1) as f64
    };
    let learned = &boxes[0][..boxes[0].len().min(10 * BOXES)];
    let best = learned
        .iter()
        .take(BOXES)
        .map(|&constant| (found(constant, learned), constant))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, constant)| constant);
    Ok(TaskCheck {
        task: "referring".to_owned(),
        train: boxes[0].len(),
        test: boxes[1].len(),
        answers: 0,
        majority: best.map_or(0.0, |best| found(best, &boxes[1])),
        text_only: None,
        picture_only: None,
    })
}

/// Intersection over union of two boxes (left, top, width, height).
fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
    let side = |axis: usize| {
        let (start, end) = (
            a[axis].max(b[axis]),
            (a[axis] + a[axis + 2]).min(b[axis] + b[axis + 2]),
        );
        (end - start).max(0.0)
    };
    let both = side(0) * side(1);
    let union = a[2] * a[3] + b[2] * b[3] - both;
    if union > 0.0 { both / union } else { 0.0 }
}
