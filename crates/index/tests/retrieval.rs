//! Retrieval metrics and two-step ranking against recordings of the official evaluation.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use fitup_index::rerank::{FinalScore, OUTSIDE};
use fitup_index::{
    GroundTruth, RetrievalMetrics, ScoreMatrix, candidates, itm_eval, recall_with_equal_texts,
    rescore,
};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;

const METRICS: &[u8] = include_bytes!("golden/retrieval_metrics.safetensors");
const METRICS_JSON: &str = include_str!("golden/retrieval_metrics.json");
const EVALUATION: &[u8] = include_bytes!("golden/retrieval_evaluation.safetensors");
const EVALUATION_JSON: &str = include_str!("golden/retrieval_evaluation.json");

fn matrix(file: &[u8], name: &str) -> ScoreMatrix {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let values = tensor
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    ScoreMatrix::new(values, tensor.shape()[1])
}

fn truth(txt2img: &Value, images: usize) -> GroundTruth {
    let txt2img: Vec<usize> = serde_json::from_value(txt2img.clone()).unwrap();
    GroundTruth::new(txt2img, images).unwrap()
}

/// Compares the named fields, all that `expected` holds.
fn assert_metrics(name: &str, got: &RetrievalMetrics, expected: &Value) {
    let got = serde_json::to_value(got).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(!expected.is_empty());
    for (field, value) in expected {
        let difference = (got[field].as_f64().unwrap() - value.as_f64().unwrap()).abs();
        assert!(
            difference < 1e-9,
            "{name}.{field}: {} is not {value}",
            got[field]
        );
    }
}

#[test]
fn itm_eval_equals_the_recording() {
    let json: Value = serde_json::from_str(METRICS_JSON).unwrap();
    let i2t = matrix(METRICS, "in.scores_i2t");
    let t2i = matrix(METRICS, "in.scores_t2i");
    for name in ["regular", "irregular"] {
        let truth = truth(&json[name]["txt2img"], 30);
        let metrics = itm_eval(&i2t, &t2i, &truth).unwrap();
        assert_eq!(json["expected"][name].as_object().unwrap().len(), 9);
        assert_metrics(name, &metrics, &json["expected"][name]);

        let captions: Vec<String> = (0..150).map(|text| format!("caption {text}")).collect();
        let distinct = recall_with_equal_texts(&i2t, &t2i, &truth, &captions).unwrap();
        assert_eq!(distinct, metrics);
    }
}

#[test]
fn filled_matrices_agree_up_to_k() {
    let json: Value = serde_json::from_str(METRICS_JSON).unwrap();
    let metrics = itm_eval(
        &matrix(METRICS, "in.filled_i2t"),
        &matrix(METRICS, "in.filled_t2i"),
        &truth(&json["regular"]["txt2img"], 30),
    )
    .unwrap();
    let expected = &json["expected"]["topk_filled_r1_r5_only"];
    assert_metrics("topk_filled", &metrics, expected);
}

#[test]
fn two_step_ranking_equals_the_recording() {
    let json: Value = serde_json::from_str(EVALUATION_JSON).unwrap();
    let k = json["k_test"].as_u64().unwrap() as usize;
    let similarity = matrix(EVALUATION, "out.eval_sims");
    let mut results = Vec::new();
    for (name, similarity) in [
        ("out.eval_scores_i2t", similarity.clone()),
        ("out.eval_scores_t2i", similarity.transposed()),
    ] {
        let recorded = matrix(EVALUATION, name);
        let chosen = candidates(&similarity, k);
        // The recording stands in for the model: a pair it never scored is -100 and refused.
        let scores = rescore(
            &similarity,
            &chosen,
            FinalScore::Matching,
            |query, chosen| {
                Ok::<_, Infallible>(chosen.iter().map(|&c| recorded.row(query)[c]).collect())
            },
        )
        .unwrap();
        assert_eq!(scores, recorded, "{name}");
        results.push(scores);
    }
    let metrics = itm_eval(&results[0], &results[1], &truth(&json["txt2img"], 5)).unwrap();
    let mut expected = json["itm_eval"].clone();
    // With 3 candidates, recall at 5 and 10 depends on how -100 ties are sorted.
    expected
        .as_object_mut()
        .unwrap()
        .retain(|field, _| field.ends_with("_r1"));
    assert_metrics("evaluation", &metrics, &expected);
}

proptest! {
    /// The rank by counting equals the rank by sorting, as the official code finds it.
    #[test]
    fn counting_equals_sorting(
        (images, txt2img, seed) in (1usize..8, 1usize..20).prop_flat_map(|(images, texts)| (
            Just(images),
            prop::collection::vec(0..images, texts),
            prop::collection::vec(any::<u32>(), images * texts),
        ))
    ) {
        let texts = txt2img.len();
        // Distinct scores, in an order given by the seed.
        let mut order: Vec<usize> = (0..seed.len()).collect();
        order.sort_by_key(|&at| (seed[at], at));
        let mut values = vec![0.0; seed.len()];
        for (rank, &at) in order.iter().enumerate() {
            values[at] = rank as f32;
        }
        let i2t = ScoreMatrix::new(values, texts);
        let t2i = i2t.transposed();
        let truth = GroundTruth::new(txt2img.clone(), images).unwrap();
        let got = itm_eval(&i2t, &t2i, &truth).unwrap();

        let sorted = |row: &[f32]| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order
        };
        let found = (0..texts)
            .filter(|&t| sorted(t2i.row(t)).iter().take(5).any(|&i| i == txt2img[t]))
            .count();
        prop_assert_eq!(got.img_r5, 100.0 * found as f64 / texts as f64);
        let found = (0..images)
            .filter(|&i| sorted(i2t.row(i)).iter().take(5).any(|&t| txt2img[t] == i))
            .count();
        prop_assert_eq!(got.txt_r5, 100.0 * found as f64 / images as f64);

        let captions: Vec<String> = txt2img.iter().map(|i| format!("{}", i % 2)).collect();
        let fair = recall_with_equal_texts(&i2t, &t2i, &truth, &captions).unwrap();
        prop_assert!(fair.txt_r1 >= got.txt_r1 && fair.img_r10 >= got.img_r10);
    }

    /// With every pair a candidate, nothing is left at -100 and the order is the scorer's.
    #[test]
    fn all_candidates_means_all_scored(values in prop::collection::vec(-1.0f32..1.0, 12)) {
        let similarity = ScoreMatrix::new(values, 4);
        let chosen = candidates(&similarity, 4);
        let scores = rescore(&similarity, &chosen, FinalScore::Matching, |query, chosen| {
            Ok::<_, Infallible>(chosen.iter().map(|&c| similarity.row(query)[c]).collect())
        })
        .unwrap();
        prop_assert!(scores.values().iter().all(|&score| score > OUTSIDE));
        prop_assert_eq!(scores, similarity);
    }
}
