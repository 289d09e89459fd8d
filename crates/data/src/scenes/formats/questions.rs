//! VQAv2: a file of questions and one of annotations with ten answers each; ALBEF's list; its list of answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Annotated, list};
use crate::scenes::graph::Split;
use crate::scenes::questions::Question;

/// Answers of a question. The truth is known, so all ten people agree.
const ANSWERS: usize = 10;

pub(super) fn files(annotated: Annotated<'_>) -> Vec<(&'static str, String)> {
    let questions = numbered(annotated);
    let asked: Vec<Value> = questions
        .iter()
        .map(|&(question_id, image_id, question)| {
            json!({ "image_id": image_id, "question": question.text, "question_id": question_id })
        })
        .collect();
    let answered: Vec<Value> = questions
        .iter()
        .map(|&(question_id, image_id, question)| {
            let answers: Vec<Value> = (1..=ANSWERS)
                .map(|person| {
                    json!({
                        "answer": question.answer,
                        "answer_confidence": "yes",
                        "answer_id": person,
                    })
                })
                .collect();
            json!({
                "question_type": question.template.question_type(),
                "multiple_choice_answer": question.answer,
                "answers": answers,
                "image_id": image_id,
                "answer_type": question.template.answer_type(),
                "question_id": question_id,
            })
        })
        .collect();
    let albef = questions.iter().map(|&(question_id, _, question)| {
        json!({
            "question_id": question_id,
            "question": question.text,
            "image": annotated.file(question.scene),
            "dataset": "vqa",
            "answer": vec![question.answer.as_str(); ANSWERS],
        })
    });
    let document = |field: &str, entries: Vec<Value>| {
        let mut document = json!({
            "info": annotated.info(),
            "task_type": "Open-Ended",
            "data_type": "scenes",
            "data_subtype": annotated.split.name(),
            "license": {},
        });
        document[field] = entries.into();
        document.to_string()
    };
    let mut files = vec![
        ("vqa.json", list(albef)),
        ("v2_questions.json", document("questions", asked)),
        ("v2_annotations.json", document("annotations", answered)),
    ];
    if annotated.split == Split::Train {
        files.push(("answer_list.json", answer_list(annotated)));
    }
    files
}

/// Every question with its identity, the picture's times a hundred and its place, and its picture's.
fn numbered(annotated: Annotated<'_>) -> Vec<(u64, u64, &Question)> {
    let (mut scene, mut place) = (usize::MAX, 0);
    annotated
        .texts
        .questions
        .iter()
        .map(|question| {
            place = if question.scene == scene {
                place + 1
            } else {
                0
            };
            scene = question.scene;
            let image_id = annotated.scenes[scene].image_id;
            (image_id * 100 + place, image_id, question)
        })
        .collect()
}

/// All answers, the frequent ones first.
fn answer_list(annotated: Annotated<'_>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for question in &annotated.texts.questions {
        *counts.entry(&question.answer).or_default() += 1;
    }
    let mut answers: Vec<(&str, usize)> = counts.into_iter().collect();
    answers.sort_by_key(|&(answer, count)| (std::cmp::Reverse(count), answer));
    let answers: Vec<&str> = answers.into_iter().map(|(answer, _)| answer).collect();
    format!("{}\n", json!(answers))
}
