//! RefCOCO, RefCOCO+, RefCOCOg: a phrase that singles one thing out. The references (`refs(unc).p`, a pickle, or the
//! same as JSON) with COCO's instances as published, ALBEF's list, and the boxes that are proposed for a picture
//! (`dets.json` and `cocos.json` of ALBEF's data).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fields::{Fields, named, region};
use super::{AnnotationError, Annotations, BadRecord, Collector, OnBad, Shape, read, shape};
use crate::text::pre_caption;

/// The part of the data that a reference belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefSplit {
    /// To learn from.
    Train,
    /// To choose by.
    Val,
    /// To report: people.
    TestA,
    /// To report: everything else.
    TestB,
    /// To report, where it is one part (RefCOCOg, scenes).
    Test,
}

impl RefSplit {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Train, Self::Val, Self::TestA, Self::TestB, Self::Test];

    /// The name in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::TestA => "testA",
            Self::TestB => "testB",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for RefSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An entry of ALBEF's list: a phrase about a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroundingRecord {
    /// Path of the picture, as written.
    pub image: String,
    /// The phrase, as written.
    pub text: String,
    /// Which reference it is; several phrases share one.
    pub ref_id: u64,
}

impl GroundingRecord {
    /// The phrase as ALBEF's model reads it.
    pub fn cleaned(&self, max_words: usize) -> String {
        pre_caption(&self.text, max_words).unwrap_or_default()
    }

    /// What ALBEF tells pictures apart by: the file's name without its folders.
    pub fn picture_key(&self) -> &str {
        self.image.rsplit('/').next().unwrap_or(&self.image)
    }
}

/// A thing that is referred to, with its box.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// Its identity.
    pub ref_id: u64,
    /// Its split.
    pub split: RefSplit,
    /// Identity of the picture, under which boxes are proposed.
    pub image_id: u64,
    /// File of the picture, as the instances name it.
    pub image: String,
    /// Width and height of the picture in pixels.
    pub size: [u32; 2],
    /// Left, top, width, height in pixels.
    pub region: [f64; 4],
    /// What people said, as written.
    pub sentences: Vec<String>,
}

/// Boxes (left, top, width, height) proposed for every picture, by its identity.
pub type Proposals = HashMap<u64, Vec<[f64; 4]>>;

/// Reads ALBEF's lists (`refcoco+_train.json`), joined.
///
/// # Errors
/// When a file cannot be read, is no list, or holds a record that is not of its form and must be.
pub fn read_lists(
    files: &[PathBuf],
    on_bad: OnBad,
) -> Result<Annotations<GroundingRecord>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    for file in files {
        read::list(file, |at, value| {
            collector.add(Fields::of(file, at, &value).and_then(|fields| {
                Ok(GroundingRecord {
                    image: fields.image("image")?,
                    text: fields.text("text")?,
                    ref_id: fields.number("ref_id")?,
                })
            }))
        })?;
    }
    Ok(collector.finish())
}

/// Reads references with their boxes: the file of references, a pickle or a JSON list, and COCO's instances.
///
/// # Errors
/// When a file cannot be read or is not of its form, or when a reference is not of its form, is there twice or names
/// a picture or a thing that the instances lack, and must not.
pub fn read_references(
    references: &Path,
    instances: &Path,
    on_bad: OnBad,
) -> Result<Annotations<Reference>, AnnotationError> {
    let mut collector = Collector::new(on_bad);
    let things = Instances::read(instances, &mut collector)?;
    let mut seen = HashSet::new();
    let each = |at: usize, value: Value| {
        let read = Fields::of(references, at, &value).and_then(|fields| {
            let reference = things.reference(fields)?;
            if !seen.insert(reference.ref_id) {
                let problem = format!("reference {} is there already", reference.ref_id);
                return Err(fields.bad("ref_id", problem));
            }
            Ok(reference)
        });
        collector.add(read)
    };
    match shape(references)? {
        Shape::List => read::list(references, each)?,
        Shape::Pickle => read::pickled(references, each)?,
        Shape::Object => {
            return Err(AnnotationError::malformed(
                references,
                "expected a list of references, as a pickle or as JSON, found an object",
            ));
        }
    }
    Ok(collector.finish())
}

/// Reads the boxes proposed for pictures: an object with a list of boxes for every picture's identity, each a list of
/// four numbers and perhaps more, or an object with `bbox`.
///
/// # Errors
/// When the file cannot be read or an entry is not of its form: pictures without proposals cannot be scored.
pub fn read_proposals(file: &Path) -> Result<Proposals, AnnotationError> {
    let mut proposals = Proposals::new();
    read::entries(file, |at, name, value| {
        let bad = |problem: String| BadRecord {
            file: file.to_owned(),
            record: at,
            field: name.to_owned(),
            problem,
        };
        let id = name
            .parse()
            .map_err(|_| bad("expected a picture's number as the entry's name".to_owned()))?;
        let Value::Array(boxes) = value else {
            return Err(bad(format!("expected a list of boxes, found {}", named(&value))).into());
        };
        let mut regions = Vec::with_capacity(boxes.len());
        for proposed in &boxes {
            let proposed = proposed.get("bbox").unwrap_or(proposed);
            regions.push(region(proposed).ok_or_else(|| {
                bad(format!(
                    "expected boxes of four numbers (left, top, width, height; no negative lengths), found {}",
                    named(proposed)
                ))
            })?);
        }
        proposals.insert(id, regions);
        Ok(())
    })?;
    Ok(proposals)
}

/// What COCO's instances say of pictures and things.
struct Instances {
    pictures: HashMap<u64, (String, [u32; 2])>,
    /// Box and picture of every thing.
    things: HashMap<u64, ([f64; 4], u64)>,
}

impl Instances {
    fn read<T>(file: &Path, collector: &mut Collector<T>) -> Result<Self, AnnotationError> {
        let mut instances = Self {
            pictures: HashMap::new(),
            things: HashMap::new(),
        };
        let found = read::lists_of(file, ["images", "annotations"], |list, at, value| {
            let read = Fields::of(file, at, &value).and_then(|fields| {
                let id = fields.number("id")?;
                let known = if list == 0 {
                    let length = |field| {
                        let length = fields.number(field)?;
                        match u32::try_from(length) {
                            Ok(length) if length > 0 => Ok(length),
                            _ => Err(fields.bad(field, format!("expected pixels, found {length}"))),
                        }
                    };
                    let size = [length("width")?, length("height")?];
                    let picture = (fields.image("file_name")?, size);
                    instances.pictures.insert(id, picture).is_some()
                } else {
                    let thing = (fields.region("bbox")?, fields.number("image_id")?);
                    instances.things.insert(id, thing).is_some()
                };
                match known {
                    false => Ok(()),
                    true => Err(fields.bad("id", format!("{id} is there already"))),
                }
            });
            read.map_or_else(|bad| collector.skip(bad), Ok)
        })?;
        if found != [true; 2] {
            return Err(AnnotationError::malformed(
                file,
                "expected COCO's lists `images` and `annotations`",
            ));
        }
        Ok(instances)
    }

    fn reference(&self, fields: Fields<'_>) -> Result<Reference, BadRecord> {
        let ref_id = fields.number("ref_id")?;
        let name = fields.text("split")?;
        let Some(split) = RefSplit::ALL.into_iter().find(|split| split.name() == name) else {
            return Err(fields.bad(
                "split",
                format!("expected train, val, testA, testB or test, found {name:?}"),
            ));
        };
        let ann_id = fields.number("ann_id")?;
        let Some(&(region, shown)) = self.things.get(&ann_id) else {
            return Err(fields.bad(
                "ann_id",
                format!("no thing of id {ann_id} in the instances"),
            ));
        };
        let image_id = fields.number("image_id")?;
        if shown != image_id {
            return Err(fields.bad(
                "image_id",
                format!("picture {image_id}, but thing {ann_id} is in picture {shown}"),
            ));
        }
        let Some((image, size)) = self.pictures.get(&image_id) else {
            return Err(fields.bad(
                "image_id",
                format!("no picture of id {image_id} in the instances"),
            ));
        };
        let sentences = fields.parts("sentences")?;
        let sentences = sentences.iter().map(|sentence| sentence.text("sent"));
        Ok(Reference {
            ref_id,
            split,
            image_id,
            image: image.clone(),
            size: *size,
            region,
            sentences: sentences.collect::<Result<_, _>>()?,
        })
    }
}
