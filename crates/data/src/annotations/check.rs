//! What of a published data set is on this machine, and where to get the rest.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::pictures::{ImageRoots, PictureCount};
use super::{
    AnnotationError, Annotations, OnBad, Shape, Skipped, by_shape, captions, karpathy, nlvr2, read,
    refcoco, shape, snli_ve, visual_genome, vqa,
};

/// A published data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// COCO captions.
    Coco,
    /// Flickr30K captions.
    Flickr30k,
    /// VQAv2.
    Vqa,
    /// Questions of Visual Genome.
    VisualGenome,
    /// NLVR2.
    Nlvr2,
    /// SNLI-VE.
    SnliVe,
    /// RefCOCO, RefCOCO+, RefCOCOg.
    Refcoco,
}

/// A part of a data set and where its authors give it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// What is to be had there.
    pub what: &'static str,
    /// Address of the page.
    pub url: &'static str,
}

const COCO_PICTURES: Place = Place {
    what: "COCO's pictures (train2014, val2014, test2015)",
    url: "https://cocodataset.org/#download",
};
const FLICKR_PICTURES: Place = Place {
    what: "Flickr30K's pictures (after a request)",
    url: "https://shannon.cs.illinois.edu/DenotationGraph/",
};
const KARPATHY: Place = Place {
    what: "Karpathy's splits (dataset_coco.json, dataset_flickr30k.json)",
    url: "https://cs.stanford.edu/people/karpathy/deepimagesent/",
};
const VISUAL_GENOME: Place = Place {
    what: "Visual Genome's pictures, image_data.json and question_answers.json",
    url: "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html",
};
const ALBEF: Place = Place {
    what: "ALBEF's lists, and the box proposals of RefCOCO+",
    url: "https://github.com/salesforce/ALBEF#download",
};

impl Kind {
    /// Where the authors give out annotations and pictures.
    pub fn places(self) -> Vec<Place> {
        let own = |what, url| Place { what, url };
        match self {
            Self::Coco => vec![KARPATHY, ALBEF, COCO_PICTURES],
            Self::Flickr30k => vec![KARPATHY, ALBEF, FLICKR_PICTURES],
            Self::Vqa => vec![
                own(
                    "VQAv2's questions and annotations",
                    "https://visualqa.org/download.html",
                ),
                ALBEF,
                COCO_PICTURES,
                VISUAL_GENOME,
            ],
            Self::VisualGenome => vec![VISUAL_GENOME],
            Self::Nlvr2 => vec![
                own(
                    "NLVR2's sentences, and its pictures after a request",
                    "https://github.com/lil-lab/nlvr/tree/master/nlvr2",
                ),
                ALBEF,
            ],
            Self::SnliVe => vec![
                own("SNLI-VE's lines", "https://github.com/necla-ml/SNLI-VE"),
                ALBEF,
                FLICKR_PICTURES,
            ],
            Self::Refcoco => vec![
                own(
                    "the references and instances of RefCOCO, RefCOCO+ and RefCOCOg",
                    "https://github.com/lichengunc/refer",
                ),
                ALBEF,
                COCO_PICTURES,
            ],
        }
    }

    /// Folders below an image root in which its pictures may be.
    pub fn folders(self) -> &'static [&'static str] {
        match self {
            Self::Coco => &["images", "train2014", "val2014"],
            Self::Vqa => &["images", "VG_100K", "VG_100K_2"],
            Self::Flickr30k | Self::SnliVe => &["images", "flickr30k-images", "flickr30k_images"],
            Self::VisualGenome => &visual_genome::FOLDERS,
            Self::Nlvr2 => &["images"],
            Self::Refcoco => &["images", "train2014"],
        }
    }
}

/// What there is of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The data set.
    pub kind: Kind,
    /// Records that can be used.
    pub records: usize,
    /// The same by part: split, label or kind of answer.
    pub parts: BTreeMap<String, usize>,
    /// Texts of the records: captions, questions, sentences or phrases.
    pub texts: usize,
    /// Records that were left out.
    pub skipped: Skipped,
    /// The pictures.
    pub pictures: PictureCount,
    /// Pictures of references that no box is proposed for; none where no proposals are given.
    pub without_proposals: Option<usize>,
    /// Where to get what is missing.
    pub places: Vec<Place>,
}

impl Check {
    /// Why nothing can be done with it, or `None`.
    pub fn unusable(&self) -> Option<String> {
        if self.records == 0 {
            return Some("no record can be used".to_owned());
        }
        if self.pictures.found == 0 {
            return Some(format!("none of {} pictures is there", self.pictures.named));
        }
        None
    }

    /// Whether every record and every picture is there.
    pub fn is_whole(&self) -> bool {
        self.unusable().is_none()
            && self.skipped.count == 0
            && self.pictures.found == self.pictures.named
            && self.without_proposals.unwrap_or(0) == 0
    }
}

/// Reads annotation files of a data set, told apart by what they hold, and looks for the pictures they name in
/// `images`. Records that are not of their form are skipped and counted.
///
/// # Errors
/// When a file cannot be read or is of no form that the data set is published in.
pub fn check(kind: Kind, files: &[PathBuf], images: &[PathBuf]) -> Result<Check, AnnotationError> {
    let mut check = Check {
        kind,
        records: 0,
        parts: BTreeMap::new(),
        texts: 0,
        skipped: Skipped::default(),
        pictures: PictureCount::default(),
        without_proposals: None,
        places: kind.places(),
    };
    let mut named = Vec::new();
    match kind {
        Kind::Coco | Kind::Flickr30k => check.captions(files, &mut named)?,
        Kind::Vqa => {
            let (lists, objects) = by_shape(files)?;
            let mut answered = |annotations: Annotations<vqa::VqaRecord>, part: Option<&str>| {
                check.add(annotations, &mut named, |question| {
                    let part = part.or(question.answer_type.as_deref());
                    (
                        part.unwrap_or("without answer").to_owned(),
                        1,
                        vec![&question.image],
                    )
                });
            };
            if !lists.is_empty() {
                answered(vqa::read_lists(&lists, OnBad::Skip)?, Some("in lists"));
            }
            if !objects.is_empty() {
                answered(vqa::read_official(&objects, OnBad::Skip)?, None);
            }
        }
        Kind::VisualGenome => {
            let annotations = visual_genome::read(files, OnBad::Skip)?;
            check.add(annotations, &mut named, |question| {
                ("questions".to_owned(), 1, vec![&question.image])
            });
        }
        Kind::Nlvr2 => {
            let (lists, lines) = by_shape(files)?;
            let mut all = vec![nlvr2::read_lists(&lists, OnBad::Skip)?];
            for file in &lines {
                all.push(nlvr2::read_lines(file, OnBad::Skip)?);
            }
            for annotations in all {
                check.add(annotations, &mut named, |pair| {
                    let [left, right] = &pair.images;
                    (pair.label.to_string(), 1, vec![left, right])
                });
            }
        }
        Kind::SnliVe => {
            let (lists, lines) = by_shape(files)?;
            let mut all = vec![snli_ve::read_lists(&lists, OnBad::Skip)?];
            for file in &lines {
                all.push(snli_ve::read_lines(file, OnBad::Skip)?);
            }
            for annotations in all {
                check.add(annotations, &mut named, |hypothesis| {
                    let part = hypothesis.label.name().to_owned();
                    (part, 1, vec![&hypothesis.image])
                });
            }
        }
        Kind::Refcoco => check.references(files, &mut named)?,
    }
    let roots = ImageRoots::new(images, kind.folders());
    check.pictures = roots.count(named.iter().map(String::as_str));
    Ok(check)
}

impl Check {
    /// Adds records; `describe` gives a record's part, how many texts it has and its pictures.
    fn add<T>(
        &mut self,
        annotations: Annotations<T>,
        named: &mut Vec<String>,
        describe: impl Fn(&T) -> (String, usize, Vec<&String>),
    ) {
        for record in &annotations.records {
            let (part, texts, images) = describe(record);
            self.records += 1;
            self.texts += texts;
            *self.parts.entry(part).or_default() += 1;
            named.extend(images.into_iter().cloned());
        }
        self.skipped.join(annotations.skipped);
    }

    fn captions(
        &mut self,
        files: &[PathBuf],
        named: &mut Vec<String>,
    ) -> Result<(), AnnotationError> {
        let (lists, objects) = by_shape(files)?;
        let lists = captions::read_lists(&lists, OnBad::Skip)?;
        self.add(lists, named, |picture| {
            (
                "in lists".to_owned(),
                picture.captions.len(),
                vec![&picture.image],
            )
        });
        for file in &objects {
            // Both have a list of pictures; only Karpathy's hold their captions.
            let picture = read::first_of(file, "images")?;
            if picture.is_some_and(|picture| picture.get("sentences").is_none()) {
                let coco = captions::read_coco(file, OnBad::Skip)?;
                self.add(coco, named, |picture| {
                    (
                        "in COCO's files".to_owned(),
                        picture.captions.len(),
                        vec![&picture.image],
                    )
                });
            } else {
                let splits = karpathy::read(file, OnBad::Skip)?;
                self.add(splits, named, |record| {
                    let picture = &record.picture;
                    (
                        record.split.to_string(),
                        picture.captions.len(),
                        vec![&picture.image],
                    )
                });
            }
        }
        Ok(())
    }

    fn references(
        &mut self,
        files: &[PathBuf],
        named: &mut Vec<String>,
    ) -> Result<(), AnnotationError> {
        let (mut phrases, mut references) = (Vec::new(), Vec::new());
        let (mut instances, mut proposals) = (None, None);
        for file in files {
            match shape(file)? {
                Shape::Pickle => references.push(file),
                Shape::List if is_references(file)? => references.push(file),
                Shape::List => phrases.push(file.clone()),
                Shape::Object if read::first_of(file, "images")?.is_some() => {
                    instances = Some(file)
                }
                Shape::Object => proposals = Some(file),
            }
        }
        let phrases = refcoco::read_lists(&phrases, OnBad::Skip)?;
        self.add(phrases, named, |phrase| {
            ("phrases".to_owned(), 1, vec![&phrase.image])
        });
        let mut pictures = HashSet::new();
        for file in references {
            let Some(instances) = instances else {
                return Err(AnnotationError::malformed(
                    file,
                    "references have no boxes of their own; give the instances.json that is published beside them too",
                ));
            };
            let references = refcoco::read_references(file, instances, OnBad::Skip)?;
            pictures.extend(references.records.iter().map(|thing| thing.image_id));
            self.add(references, named, |thing| {
                (
                    thing.split.to_string(),
                    thing.sentences.len(),
                    vec![&thing.image],
                )
            });
        }
        if let Some(file) = proposals {
            let proposals = refcoco::read_proposals(file)?;
            let lacking = pictures
                .iter()
                .filter(|id| proposals.get(id).is_none_or(Vec::is_empty));
            self.without_proposals = Some(lacking.count());
        }
        Ok(())
    }
}

/// Whether a list holds references and not phrases: its first record tells.
fn is_references(file: &Path) -> Result<bool, AnnotationError> {
    let first = read::first(file)?;
    Ok(first.is_some_and(|record| record.get("ann_id").is_some()))
}
