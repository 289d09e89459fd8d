//! Recall at 1, 5 and 10, image to text and text to image; in modules of their own the scores of questions
//! ([`answers`]), of statements on pairs of pictures ([`pairs`]) and of boxes ([`grounding`]).
//!
//! [`itm_eval`] counts as `itm_eval` of ALBEF's `Retrieval.py` does: a picture's rank is that of
//! the best of its own captions, a text's rank is that of its one picture.
//! [`recall_with_equal_texts`] is the fairer measure where several pictures carry the very same
//! caption, and then no model can tell which of them the text was taken from.
//!
//! **Ties.** The official code sorts with numpy's unstable `argsort`, reversed, so what it counts
//! for equal scores is an accident. Here a relevant candidate ranks after every irrelevant one of
//! equal score: a model that gives one score to everything recalls nothing. Without ties the two
//! agree exactly. In a two-step ranking all pairs outside the top k share one score, so recall
//! beyond k is undefined in the official numbers and a lower bound here.

pub mod answers;
mod contractions;
pub mod grounding;
pub mod pairs;

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::matrix::ScoreMatrix;

/// Why retrieval cannot be measured.
#[derive(Debug, Error, PartialEq)]
pub enum MetricsError {
    /// A score matrix or a list has another size than the ground truth.
    #[error("`{what}` has {got} entries, the ground truth needs {expected}")]
    Size {
        /// What was given.
        what: &'static str,
        /// Entries according to the ground truth.
        expected: usize,
        /// Entries found.
        got: usize,
    },
    /// A text belongs to a picture that does not exist.
    #[error("text {text} belongs to image {image}, but there are only {images} images")]
    UnknownImage {
        /// The text's index.
        text: usize,
        /// The image it names.
        image: usize,
        /// Number of images.
        images: usize,
    },
    /// There is nothing to average over.
    #[error("there are {images} images and {texts} texts: recall needs at least one of each")]
    Empty {
        /// Number of images.
        images: usize,
        /// Number of texts.
        texts: usize,
    },
    /// A score is NaN. numpy would rank it first, which no one means.
    #[error("`{matrix}` holds NaN at row {row}, column {column}: the model gave no score there")]
    NotANumber {
        /// Which matrix.
        matrix: &'static str,
        /// The query.
        row: usize,
        /// The candidate.
        column: usize,
    },
}

/// Which text belongs to which picture: `txt2img` and `img2txt` of the official data sets.
#[derive(Clone, Debug, PartialEq)]
pub struct GroundTruth {
    txt2img: Vec<usize>,
    img2txt: Vec<Vec<usize>>,
}

impl GroundTruth {
    /// `txt2img[t]` is the one picture of text `t`; a picture may have any number of texts.
    ///
    /// # Errors
    /// [`MetricsError::UnknownImage`] where a text names a picture that is not below `images`,
    /// [`MetricsError::Empty`] without any picture or text.
    pub fn new(txt2img: Vec<usize>, images: usize) -> Result<Self, MetricsError> {
        if images == 0 || txt2img.is_empty() {
            return Err(MetricsError::Empty {
                images,
                texts: txt2img.len(),
            });
        }
        let mut img2txt = vec![Vec::new(); images];
        for (text, &image) in txt2img.iter().enumerate() {
            img2txt
                .get_mut(image)
                .ok_or(MetricsError::UnknownImage {
                    text,
                    image,
                    images,
                })?
                .push(text);
        }
        Ok(Self { txt2img, img2txt })
    }

    /// Number of pictures.
    pub fn images(&self) -> usize {
        self.img2txt.len()
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.txt2img.len()
    }

    /// The picture of every text, `[texts]`.
    pub fn txt2img(&self) -> &[usize] {
        &self.txt2img
    }

    /// The texts of every picture, in ascending order, `[images]`. A picture without texts is
    /// counted as a miss, as in the official code.
    pub fn img2txt(&self) -> &[Vec<usize>] {
        &self.img2txt
    }
}

/// Recall in percent (0 to 100), under the official names: `txt` is retrieval of texts by an
/// image (TR), `img` retrieval of images by a text (IR).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalMetrics {
    /// Image to text, recall at 1.
    pub txt_r1: f64,
    /// Image to text, recall at 5.
    pub txt_r5: f64,
    /// Image to text, recall at 10.
    pub txt_r10: f64,
    /// Mean of the three image-to-text recalls.
    pub txt_r_mean: f64,
    /// Text to image, recall at 1.
    pub img_r1: f64,
    /// Text to image, recall at 5.
    pub img_r5: f64,
    /// Text to image, recall at 10.
    pub img_r10: f64,
    /// Mean of the three text-to-image recalls.
    pub img_r_mean: f64,
    /// Mean of the two means.
    pub r_mean: f64,
}

impl RetrievalMetrics {
    fn from_ranks(txt: &[usize], img: &[usize]) -> Self {
        let [txt_r1, txt_r5, txt_r10] = [1, 5, 10].map(|k| recall(txt, k));
        let [img_r1, img_r5, img_r10] = [1, 5, 10].map(|k| recall(img, k));
        let txt_r_mean = (txt_r1 + txt_r5 + txt_r10) / 3.0;
        let img_r_mean = (img_r1 + img_r5 + img_r10) / 3.0;
        Self {
            txt_r1,
            txt_r5,
            txt_r10,
            txt_r_mean,
            img_r1,
            img_r5,
            img_r10,
            img_r_mean,
            r_mean: (txt_r_mean + img_r_mean) / 2.0,
        }
    }
}

fn recall(ranks: &[usize], k: usize) -> f64 {
    let found = ranks.iter().filter(|&&rank| rank < k).count();
    100.0 * found as f64 / ranks.len() as f64
}

/// The official retrieval evaluation, from scores image to text `[images, texts]` and text to
/// image `[texts, images]` (after two-step ranking these are no transposes of each other).
///
/// # Errors
/// [`MetricsError::Size`] where a matrix does not fit the ground truth,
/// [`MetricsError::NotANumber`] where a score is NaN.
pub fn itm_eval(
    scores_i2t: &ScoreMatrix,
    scores_t2i: &ScoreMatrix,
    truth: &GroundTruth,
) -> Result<RetrievalMetrics, MetricsError> {
    check(scores_i2t, scores_t2i, truth)?;
    let txt = ranks(scores_i2t, |image| truth.img2txt[image].as_slice());
    let img = ranks(scores_t2i, |text| {
        std::slice::from_ref(&truth.txt2img[text])
    });
    Ok(RetrievalMetrics::from_ranks(&txt, &img))
}

/// Recall where equal captions are equally right: a text's relevant pictures are all that carry
/// that very caption (compared byte for byte; clean the captions first if they should match more
/// loosely), and a picture's relevant texts are all that read like one of its own.
///
/// Equals [`itm_eval`] where no caption occurs under two pictures, and is never below it.
/// Numbers from this measure must be named as such: published ones are [`itm_eval`]'s.
///
/// # Errors
/// As [`itm_eval`], and [`MetricsError::Size`] where there is not one caption a text.
pub fn recall_with_equal_texts<S: AsRef<str>>(
    scores_i2t: &ScoreMatrix,
    scores_t2i: &ScoreMatrix,
    truth: &GroundTruth,
    captions: &[S],
) -> Result<RetrievalMetrics, MetricsError> {
    check(scores_i2t, scores_t2i, truth)?;
    check_size("captions", captions.len(), truth.texts())?;

    let mut equal_texts: HashMap<&str, Vec<usize>> = HashMap::new();
    for (text, caption) in captions.iter().enumerate() {
        equal_texts.entry(caption.as_ref()).or_default().push(text);
    }
    let images_of_text: Vec<Vec<usize>> = captions
        .iter()
        .map(|caption| {
            sorted_set(
                equal_texts[caption.as_ref()]
                    .iter()
                    .map(|&t| truth.txt2img[t]),
            )
        })
        .collect();
    let texts_of_image: Vec<Vec<usize>> = truth
        .img2txt
        .iter()
        .map(|own| {
            sorted_set(
                own.iter()
                    .flat_map(|&text| equal_texts[captions[text].as_ref()].iter().copied()),
            )
        })
        .collect();

    let txt = ranks(scores_i2t, |image| texts_of_image[image].as_slice());
    let img = ranks(scores_t2i, |text| images_of_text[text].as_slice());
    Ok(RetrievalMetrics::from_ranks(&txt, &img))
}

fn sorted_set(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// For every query the rank, from 0, of its best relevant candidate; `usize::MAX` where it has
/// none.
fn ranks<'a>(scores: &ScoreMatrix, relevant: impl Fn(usize) -> &'a [usize] + Sync) -> Vec<usize> {
    (0..scores.rows())
        .into_par_iter()
        .map(|query| rank_of_best(scores.row(query), relevant(query)))
        .collect()
}

/// No sort is needed: the rank is the number of irrelevant candidates that score at least as
/// much, since no other relevant one can be ahead of the best.
fn rank_of_best(scores: &[f32], relevant: &[usize]) -> usize {
    let Some(best) = relevant.iter().map(|&at| scores[at]).reduce(f32::max) else {
        return usize::MAX;
    };
    let at_least = |score: &f32| *score >= best;
    let all = scores.iter().filter(|score| at_least(score)).count();
    let own = relevant.iter().filter(|&&at| at_least(&scores[at])).count();
    all - own
}

fn check(
    scores_i2t: &ScoreMatrix,
    scores_t2i: &ScoreMatrix,
    truth: &GroundTruth,
) -> Result<(), MetricsError> {
    check_size("rows of scores_i2t", scores_i2t.rows(), truth.images())?;
    check_size("columns of scores_i2t", scores_i2t.columns(), truth.texts())?;
    check_size("rows of scores_t2i", scores_t2i.rows(), truth.texts())?;
    check_size(
        "columns of scores_t2i",
        scores_t2i.columns(),
        truth.images(),
    )?;
    check_numbers("scores_i2t", scores_i2t)?;
    check_numbers("scores_t2i", scores_t2i)
}

fn check_size(what: &'static str, got: usize, expected: usize) -> Result<(), MetricsError> {
    if got == expected {
        Ok(())
    } else {
        Err(MetricsError::Size {
            what,
            expected,
            got,
        })
    }
}

fn check_numbers(matrix: &'static str, scores: &ScoreMatrix) -> Result<(), MetricsError> {
    match scores.values().iter().position(|score| score.is_nan()) {
        None => Ok(()),
        Some(at) => Err(MetricsError::NotANumber {
            matrix,
            row: at / scores.columns(),
            column: at % scores.columns(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn square(values: [f32; 4]) -> ScoreMatrix {
        ScoreMatrix::new(values.to_vec(), 2)
    }

    #[test]
    fn the_best_of_a_pictures_texts_counts() {
        let truth = GroundTruth::new(vec![0, 0, 1], 2).unwrap();
        let i2t = ScoreMatrix::new(vec![0.1, 0.9, 0.5, 0.8, 0.7, 0.6], 3);
        let t2i = ScoreMatrix::new(vec![1.0, 0.0, 0.0, 1.0, 0.0, 1.0], 2);
        let metrics = itm_eval(&i2t, &t2i, &truth).unwrap();
        assert_eq!((metrics.txt_r1, metrics.txt_r5), (50.0, 100.0));
        assert!((metrics.img_r1 - 200.0 / 3.0).abs() < 1e-12);
        assert!((metrics.txt_r_mean - 250.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn one_score_for_everything_recalls_nothing() {
        let truth = GroundTruth::new((0..20).collect(), 20).unwrap();
        let same = ScoreMatrix::filled(20, 20, 0.5);
        assert_eq!(itm_eval(&same, &same, &truth).unwrap().r_mean, 0.0);
    }

    #[test]
    fn a_picture_without_texts_is_a_miss() {
        let truth = GroundTruth::new(vec![0, 0], 2).unwrap();
        let scores = square([1.0, 1.0, 1.0, 1.0]);
        let metrics = itm_eval(&scores, &scores, &truth).unwrap();
        assert_eq!((metrics.txt_r1, metrics.txt_r10), (50.0, 50.0));
    }

    #[test]
    fn equal_captions_share_their_pictures() {
        let truth = GroundTruth::new(vec![0, 1], 2).unwrap();
        let swapped = square([0.0, 1.0, 1.0, 0.0]);
        let strict = itm_eval(&swapped, &swapped, &truth).unwrap();
        assert_eq!((strict.txt_r1, strict.img_r1), (0.0, 0.0));
        let fair =
            recall_with_equal_texts(&swapped, &swapped, &truth, &["a dog", "a dog"]).unwrap();
        assert_eq!((fair.txt_r1, fair.img_r1), (100.0, 100.0));
        let distinct =
            recall_with_equal_texts(&swapped, &swapped, &truth, &["a dog", "a cat"]).unwrap();
        assert_eq!(distinct, strict);
    }

    #[test]
    fn faulty_input_is_named() {
        let truth = GroundTruth::new(vec![0, 1], 2).unwrap();
        let good = square([0.0; 4]);
        let bad = square([0.0, 0.0, f32::NAN, 0.0]);
        assert_eq!(
            itm_eval(&good, &bad, &truth),
            Err(MetricsError::NotANumber {
                matrix: "scores_t2i",
                row: 1,
                column: 0
            })
        );
        let wide = ScoreMatrix::filled(2, 3, 0.0);
        assert!(matches!(
            itm_eval(&wide, &good, &truth),
            Err(MetricsError::Size {
                expected: 2,
                got: 3,
                ..
            })
        ));
        assert!(matches!(
            recall_with_equal_texts(&good, &good, &truth, &["one"]),
            Err(MetricsError::Size {
                expected: 2,
                got: 1,
                ..
            })
        ));
        assert_eq!(
            GroundTruth::new(vec![2], 2),
            Err(MetricsError::UnknownImage {
                text: 0,
                image: 2,
                images: 2
            })
        );
        assert!(GroundTruth::new(Vec::new(), 2).is_err());
    }
}
