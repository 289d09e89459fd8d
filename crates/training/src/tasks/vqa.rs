//! Questions about pictures: answers out of a list or written freely, and VQAv2's accuracy.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::loader::EncodedAnswer;
use fitup_data::sources::{Source, Target};
use fitup_data::text::Tokenizer;
use fitup_index::metrics::answers::{Answered, answer_accuracy};
use fitup_models::albef::vqa::{AlbefVqa, FirstToken, Generation};
use fitup_models::layers::packing::Packing;
use serde::{Deserialize, Serialize};

use super::examples::{ExampleError, Examples, Preparation, asks, chunks};

/// The answers that are chosen among.
#[derive(Clone, Debug)]
pub struct AnswerList {
    /// As written.
    pub texts: Vec<String>,
    /// Their tokens one after another, `[CLS] pieces [SEP]` each, `[rows]`.
    pub input_ids: Tensor<1, Int>,
    /// Where each lies.
    pub packing: Packing,
}

impl AnswerList {
    /// With tokens on `device`, at most `max_tokens` each.
    pub fn new(
        texts: &[String],
        tokenizer: &Tokenizer,
        max_tokens: usize,
        device: &Device,
    ) -> Self {
        let encoded = texts
            .iter()
            .map(|text| EncodedAnswer::new(text, 1.0, tokenizer, max_tokens).input_ids);
        let encoded: Vec<Vec<i64>> = encoded.collect();
        let ids = encoded.concat();
        let rows = ids.len();
        Self {
            texts: texts.to_vec(),
            input_ids: Tensor::from_data(TensorData::new(ids, [rows]), device),
            packing: Packing::new(encoded.iter().map(Vec::len).collect()),
        }
    }
}

/// How an answer is found.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoding {
    /// Out of the list: the `k` with the likeliest first token are ranked as a whole.
    Ranked {
        /// Answers ranked.
        k: usize,
        /// How often the first token counts.
        first_token: FirstToken,
    },
    /// Written token by token.
    OpenEnded {
        /// Answers kept at each step; 1: the likeliest token each time.
        beams: usize,
        /// Most tokens of an answer.
        max_tokens: usize,
    },
}

impl Decoding {
    /// In words, for a result.
    pub fn describe(&self, list: usize) -> String {
        match self {
            Self::Ranked { k, first_token } => format!(
                "ranked among {list} answers, top {} by the first token{}",
                k.min(&list),
                match first_token {
                    FirstToken::Once => "",
                    FirstToken::Twice => ", which counts twice as in the original",
                }
            ),
            Self::OpenEnded { beams: 1, .. } => "written freely, greedily".to_owned(),
            Self::OpenEnded { beams, .. } => format!("written freely, {beams} beams"),
        }
    }
}

/// An answer with its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// In words.
    pub text: String,
    /// Among those that were considered, `[0, 1]`.
    pub probability: f32,
}

/// A model that answers questions about pictures.
pub trait Answering {
    /// The best answers to each question, the best first.
    fn answers(
        &self,
        examples: Examples,
        list: &AnswerList,
        decoding: &Decoding,
        tokenizer: &Tokenizer,
    ) -> Vec<Vec<Answer>>;

    /// Whether it can write answers token by token.
    fn writes(&self) -> bool;

    /// How it finds answers in a list of `count`, in words.
    fn describe(&self, decoding: &Decoding, count: usize) -> String;
}

impl Answering for AlbefVqa {
    fn writes(&self) -> bool {
        true
    }

    fn describe(&self, decoding: &Decoding, count: usize) -> String {
        decoding.describe(count)
    }

    fn answers(
        &self,
        examples: Examples,
        list: &AnswerList,
        decoding: &Decoding,
        tokenizer: &Tokenizer,
    ) -> Vec<Vec<Answer>> {
        let packing = Packing::from_mask(examples.attention_mask);
        let ids = packing.pack(examples.input_ids);
        let questions = self.read_questions(examples.image, ids, &packing, None);
        match *decoding {
            Decoding::Ranked { k, first_token } => {
                let ids = list.input_ids.clone();
                let ranked = self.rank_answers(&questions, ids, &list.packing, k, first_token);
                let named = ranked.into_iter().map(|answers| {
                    let answers = answers.into_iter().map(|ranked| Answer {
                        text: list.texts[ranked.answer].clone(),
                        probability: ranked.prob,
                    });
                    answers.collect()
                });
                named.collect()
            }
            Decoding::OpenEnded { beams, max_tokens } => {
                let special = tokenizer.special();
                let how = Generation {
                    start: special.cls,
                    end: special.sep,
                    max_tokens,
                    beams,
                    length_penalty: 0.0,
                };
                let written = self.generate_answers(&questions, &how).into_iter();
                let written = written.map(|answers| {
                    let answers = answers.into_iter().map(|answer| Answer {
                        text: tokenizer.decode(&answer.tokens),
                        probability: answer.log_likelihood.exp(),
                    });
                    answers.collect()
                });
                written.collect()
            }
        }
    }
}

/// Accuracy of answers, in percent, as VQAv2's script counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerScores {
    /// What was asked and how answers were found.
    pub protocol: String,
    /// Questions.
    pub questions: usize,
    /// Over all of them.
    pub accuracy: f64,
    /// By kind of answer, where the annotations tell it.
    pub by_answer_type: BTreeMap<String, f64>,
    /// By kind of question, where the annotations tell it.
    pub by_question_type: BTreeMap<String, f64>,
}

/// An answer in the form that the evaluation server takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The question.
    pub question_id: u64,
    /// The best answer.
    pub answer: String,
}

/// What an evaluation gives.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerResult {
    /// `None` where the answers are not public.
    pub scores: Option<AnswerScores>,
    /// Of every question, in order.
    pub predictions: Vec<Prediction>,
}

/// Who is asked, and how it answers.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The model, on the plain device.
    pub model: &'a dyn Answering,
    /// The answers it chooses among.
    pub list: &'a AnswerList,
    /// How it finds them.
    pub decoding: &'a Decoding,
}

/// Answers the first `count` questions of a source and scores them.
///
/// `progress` is told how many are done.
///
/// # Errors
/// When a record cannot be used.
pub fn evaluate(
    asked: Asked<'_>,
    source: &dyn Source,
    count: usize,
    preparation: &Preparation<'_>,
    workers: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<AnswerResult, ExampleError> {
    let Asked {
        model,
        list,
        decoding,
    } = asked;
    if count == 0 {
        return Err(ExampleError::Empty(source.describe()));
    }
    let mut questions = Vec::with_capacity(count);
    let mut predictions = Vec::with_capacity(count);
    for range in chunks(count) {
        let end = range.end;
        let (examples, targets) = preparation.read(source, range, workers)?;
        let found = model.answers(examples, list, decoding, preparation.tokenizer);
        for ((key, target), answers) in targets.into_iter().zip(found) {
            let Target::Answers(question) = target else {
                return Err(ExampleError::OtherTask {
                    key,
                    expected: "for an answer to a question",
                    got: asks(&target),
                });
            };
            let best = answers.into_iter().next();
            predictions.push(Prediction {
                question_id: question.question_id,
                answer: best.map(|answer| answer.text).unwrap_or_default(),
            });
            questions.push(question);
        }
        progress(end);
    }
    let public = questions
        .iter()
        .all(|question| !question.answers.is_empty());
    let scores = public.then(|| {
        let answered = questions.iter().zip(&predictions);
        let accuracy = answer_accuracy(answered.map(|(question, prediction)| Answered {
            predicted: &prediction.answer,
            answers: question.answers.iter().map(String::as_str).collect(),
            question_type: question.question_type.as_deref().unwrap_or_default(),
            answer_type: question.answer_type.as_deref().unwrap_or_default(),
        }));
        let percent = |means: BTreeMap<String, f64>| {
            let named = means.into_iter().filter(|(name, _)| !name.is_empty());
            named.map(|(name, mean)| (name, 100.0 * mean)).collect()
        };
        AnswerScores {
            protocol: format!(
                "{count} questions, {}",
                model.describe(decoding, list.texts.len())
            ),
            questions: count,
            accuracy: 100.0 * accuracy.overall,
            by_answer_type: percent(accuracy.by_answer_type),
            by_question_type: percent(accuracy.by_question_type),
        }
    });
    Ok(AnswerResult {
        scores,
        predictions,
    })
}
