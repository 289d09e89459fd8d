//! Scores of questions and of grounding, against what the official scripts give.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fitup_index::metrics::answers::{
    Answered, answer_accuracy, in_plain_words, normalise, without_punctuation,
};
use fitup_index::metrics::grounding::{GroundingAccuracy, HeatMap, is_found, overlap};
use safetensors::SafeTensors;
use serde::Deserialize;

fn golden(file: &str) -> Vec<u8> {
    std::fs::read(format!(
        "{}/tests/golden/{file}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

#[derive(Deserialize)]
struct Vqa {
    cases: Vec<Case>,
    annotations: Vec<Annotation>,
    results: Vec<Prediction>,
    accuracy: Accuracy,
    #[serde(rename = "evalQA")]
    per_question: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    punct: String,
    digit: String,
    full: String,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: u64,
    question_type: String,
    answer_type: String,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
}

#[derive(Deserialize)]
struct Prediction {
    question_id: u64,
    answer: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accuracy {
    overall: f64,
    per_question_type: BTreeMap<String, f64>,
    per_answer_type: BTreeMap<String, f64>,
}

#[test]
fn answers_are_normalised_as_the_official_script_does() {
    let vqa: Vqa = serde_json::from_slice(&golden("vqa_eval.json")).unwrap();
    for case in &vqa.cases {
        assert_eq!(
            without_punctuation(&case.text),
            case.punct,
            "{:?}",
            case.text
        );
        assert_eq!(in_plain_words(&case.text), case.digit, "{:?}", case.text);
        assert_eq!(normalise(&case.text), case.full, "{:?}", case.text);
    }
}

#[test]
fn answers_score_as_the_official_script_does() {
    let vqa: Vqa = serde_json::from_slice(&golden("vqa_eval.json")).unwrap();
    let predicted: BTreeMap<u64, &str> = vqa
        .results
        .iter()
        .map(|result| (result.question_id, result.answer.as_str()))
        .collect();
    let accuracy = answer_accuracy(vqa.annotations.iter().map(|annotation| {
        Answered {
            predicted: predicted[&annotation.question_id],
            answers: annotation
                .answers
                .iter()
                .map(|answer| answer.answer.as_str())
                .collect(),
            question_type: &annotation.question_type,
            answer_type: &annotation.answer_type,
        }
    }));
    // The script rounds to two decimals of a percentage.
    let same = |share: f64, percent: f64| (100.0 * share - percent).abs() < 0.005 + 1e-9;
    for (annotation, &share) in vqa.annotations.iter().zip(&accuracy.questions) {
        let percent = vqa.per_question[&annotation.question_id.to_string()];
        assert!(same(share, percent), "{}: {share}", annotation.question_id);
    }
    assert!(same(accuracy.overall, vqa.accuracy.overall));
    for (got, expected) in [
        (&accuracy.by_question_type, &vqa.accuracy.per_question_type),
        (&accuracy.by_answer_type, &vqa.accuracy.per_answer_type),
    ] {
        assert_eq!(got.len(), expected.len());
        for (name, &percent) in expected {
            assert!(same(got[name], percent), "{name}: {}", got[name]);
        }
    }
}

#[derive(Deserialize)]
struct Grounding {
    config: Config,
    refs: Vec<Reference>,
    eval: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Config {
    mask_size: usize,
    alpha: f64,
}

#[derive(Deserialize)]
struct Reference {
    split: String,
    width: usize,
    height: usize,
    ref_box: [f64; 4],
    dets: Vec<[f64; 4]>,
    pred_box: [f64; 4],
    iou: f64,
}

#[test]
fn grounding_scores_as_the_official_code_does() {
    let grounding: Grounding =
        serde_json::from_slice(&golden("albef_grounding_eval.json")).unwrap();
    let bytes = golden("albef_grounding_eval.safetensors");
    let maps: Vec<f32> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensor("in.maps")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let side = grounding.config.mask_size;
    let mut accuracy: BTreeMap<String, GroundingAccuracy> = BTreeMap::new();
    for (reference, map) in grounding.refs.iter().zip(maps.chunks_exact(side * side)) {
        let best = HeatMap::new(map, side, side)
            .best(
                [reference.width, reference.height],
                &reference.dets,
                grounding.config.alpha,
            )
            .unwrap();
        let chosen = reference.dets[best];
        assert_eq!(chosen, reference.pred_box);
        assert!((overlap(reference.ref_box, chosen) - reference.iou).abs() < 1e-12);
        assert_eq!(is_found(reference.ref_box, chosen), reference.iou >= 0.5);
        let split = accuracy
            .entry(format!("{}_d", reference.split))
            .or_default();
        split.add(reference.ref_box, Some(chosen));
    }
    for (split, expected) in grounding.eval {
        assert!(
            (accuracy[&split].accuracy() - expected).abs() < 1e-12,
            "{split}"
        );
    }
}
