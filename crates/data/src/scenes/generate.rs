//! From pictograms to a folder of scenes with all their annotation files.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::compose::{Canvas, compose};
use super::draws::{Purpose, generator};
use super::formats::{Annotated, files};
use super::graph::{Scene, Split};
use super::lexicon::{Drawings, Lexicon, LexiconError};
use super::options::ScenesOptions;
use super::parallel;
use super::pictures::PictureWriter;
use super::pool::Pool;
use super::render::Renderer;
use super::report::SplitReport;
use super::texts;
use crate::pictograms::{WriteError, attribution, create_folder, write_file};
use crate::shards::ShardError;

/// Why scenes could not be made.
#[derive(Debug, Error)]
pub enum ScenesError {
    /// An option is out of range.
    #[error("{option} is {got}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The pictograms are of no use.
    #[error(transparent)]
    Lexicon(#[from] LexiconError),
    /// A split is there already, made otherwise.
    #[error(
        "{path}: made with other options ({field} is {there} there and {wanted} here); remove the folder or choose another one"
    )]
    Different {
        /// The folder of the split.
        path: PathBuf,
        /// The first option that differs.
        field: String,
        /// Its value in the folder.
        there: String,
        /// Its value now.
        wanted: String,
    },
    /// A folder of a split's name that this did not write.
    #[error(
        "{path}: not a finished split (its split.json is missing or broken: {reason}); remove the folder or choose another one"
    )]
    Foreign {
        /// The folder of the split.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be written.
    #[error("{path}: {source}; check free space and permissions")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A shard could not be written.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A picture could not be encoded.
    #[error("picture {image_id} cannot be encoded: {source}")]
    Encode {
        /// Its identity.
        image_id: u64,
        /// What the encoder said.
        source: image::ImageError,
    },
}

/// Scenes drawn between two calls of the progress function.
const CHUNK: usize = 256;

/// One split as it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MadeSplit {
    /// Its name.
    pub split: Split,
    /// Its folder.
    pub folder: PathBuf,
    /// Whether it was there already, made with the same options.
    pub kept: bool,
    /// What is in it.
    pub report: SplitReport,
}

/// Makes the splits that are not there yet. Each is written into a hidden folder and renamed when it is whole, so a
/// run that was stopped goes on with the split it was at.
///
/// `progress` is told the phase, how many scenes are done and how many there are.
///
/// # Errors
/// [`ScenesError`] for options out of range, unusable pictograms, a split made with other options, or files that
/// cannot be written.
pub fn generate(
    options: &ScenesOptions,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Vec<MadeSplit>, ScenesError> {
    options.validate()?;
    let mut drawings = None;
    let mut made = Vec::new();
    create_folder(&options.out)?;
    for split in Split::ALL {
        if options.scenes[split as usize] == 0 {
            continue;
        }
        let folder = options.out.join(split.name());
        let report = finished(&folder, &options.recipe(split))?;
        let kept = report.is_some();
        let report = match report {
            Some(report) => report,
            None => {
                let drawings = match &mut drawings {
                    Some(drawings) => drawings,
                    none => {
                        progress("pictograms", 0, 1);
                        none.insert(Drawings::read(
                            &options.pictograms,
                            options.names,
                            options.held_out,
                        )?)
                    }
                };
                let variants = match split {
                    Split::Train => options.variants,
                    _ => 0,
                };
                let lexicon = drawings.lexicon(split)?.varied(variants, options);
                make(options, split, &lexicon, &folder, progress)?
            }
        };
        made.push(MadeSplit {
            split,
            folder,
            kept,
            report,
        });
    }
    Ok(made)
}

/// The report of a split that is there, or `None` if it is not.
fn finished(folder: &Path, recipe: &Value) -> Result<Option<SplitReport>, ScenesError> {
    if !folder.exists() {
        return Ok(None);
    }
    let foreign = |reason: String| ScenesError::Foreign {
        path: folder.to_owned(),
        reason,
    };
    let bytes = fs::read(folder.join("split.json")).map_err(|error| foreign(error.to_string()))?;
    let there: Value =
        serde_json::from_slice(&bytes).map_err(|error| foreign(error.to_string()))?;
    if let Some((field, wanted)) = recipe
        .as_object()
        .into_iter()
        .flatten()
        .find(|(field, wanted)| there["recipe"].get(field) != Some(wanted))
    {
        return Err(ScenesError::Different {
            path: folder.to_owned(),
            field: field.clone(),
            there: there["recipe"][field].to_string(),
            wanted: wanted.to_string(),
        });
    }
    serde_json::from_value(there["report"].clone())
        .map(Some)
        .map_err(|error| foreign(error.to_string()))
}

fn make(
    options: &ScenesOptions,
    split: Split,
    lexicon: &Lexicon,
    folder: &Path,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<SplitReport, ScenesError> {
    let partial = options.out.join(format!(".{}.partial", split.name()));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ScenesError::Io { path, source }
    };
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io(&partial))?;
    }
    create_folder(&partial)?;

    let count = options.scenes[split as usize];
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let name = split.name();
    progress(&format!("{name} texts"), 0, count);
    let scenes = parallel::map(0..count, threads, |index| {
        scene(options, split, lexicon, index)
    });
    let pool = Pool {
        scenes: &scenes,
        lexicon,
    };
    let noise = if split == Split::Train {
        options.noise
    } else {
        0.0
    };
    let texts = texts::write(pool, split, options.seed, noise, threads);
    let annotated = Annotated {
        split,
        seed: options.seed,
        scenes: &scenes,
        texts: &texts,
    };
    for (file, content) in files(annotated) {
        write_file(&partial.join(file), content.as_bytes())?;
    }

    let mut writer = PictureWriter::create(options.storage, &partial, annotated)?;
    let renderer = Renderer::new(lexicon);
    let pictures = format!("{name} pictures");
    for start in (0..count).step_by(CHUNK) {
        let end = (start + CHUNK).min(count);
        let drawn = parallel::map(start..end, threads, |index| renderer.jpeg(&scenes[index]));
        for (index, jpeg) in (start..end).zip(drawn) {
            let jpeg = jpeg.map_err(|source| ScenesError::Encode {
                image_id: scenes[index].image_id,
                source,
            })?;
            writer.write(index, &jpeg)?;
        }
        progress(&pictures, end, count);
    }
    let bytes = writer.finish()?;

    write_file(
        &partial.join("ATTRIBUTION.md"),
        notice(&scenes, lexicon).as_bytes(),
    )?;
    let report = SplitReport::of(&scenes, &texts, lexicon, bytes);
    let description = json!({ "recipe": options.recipe(split), "report": report });
    write_file(
        &partial.join("split.json"),
        format!("{description:#}\n").as_bytes(),
    )?;
    fs::rename(&partial, folder).map_err(io(folder))?;
    Ok(report)
}

fn scene(options: &ScenesOptions, split: Split, lexicon: &Lexicon, index: usize) -> Scene {
    let draws = |purpose| generator(options.seed, split, purpose, index);
    let curtained = draws(Purpose::Curtain).random_bool(options.curtains);
    compose(
        lexicon,
        split,
        split.image_id(index),
        Canvas {
            side: options.side,
            cell: options.lattice.map(|cells| options.side / cells),
        },
        curtained,
        &mut draws(Purpose::Scene),
    )
}

/// Who drew what is in these pictures.
fn notice(scenes: &[Scene], lexicon: &Lexicon) -> String {
    let used: std::collections::BTreeSet<&str> = scenes
        .iter()
        .flat_map(|scene| &scene.objects)
        .map(|object| object.pictogram.as_str())
        .collect();
    let records = lexicon
        .drawings
        .iter()
        .filter(|drawing| drawing.variant == 0 && used.contains(drawing.key.as_str()))
        .map(|drawing| &drawing.record);
    format!(
        "The pictures of this folder are composed of the drawings below, scaled and placed on generated\n\
         backgrounds; `scenes.json` says which drawing stands where (`pictogram`). Backgrounds, curtains and texts\n\
         are generated.\n\n{}",
        attribution(records)
    )
}
