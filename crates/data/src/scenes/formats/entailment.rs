//! SNLI-VE's lines, and ALBEF's list.

use serde_json::json;

use super::{Annotated, lines, list};
use crate::scenes::graph::Scene;
use crate::scenes::phrases::{counted, listed};

pub(super) fn files(annotated: Annotated<'_>) -> Vec<(&'static str, String)> {
    let hypotheses = || annotated.texts.hypotheses.iter();
    let official = hypotheses().enumerate().map(|(at, hypothesis)| {
        let stem = annotated.stem(hypothesis.scene);
        let picture = stem.rsplit('/').next().unwrap_or(&stem);
        json!({
            "Flickr30K_ID": picture,
            "captionID": format!("{picture}.jpg#0"),
            "pairID": format!("{picture}.jpg#0r{at}"),
            "gold_label": hypothesis.label.name(),
            "annotator_labels": [hypothesis.label.name()],
            "sentence1": premise(&annotated.scenes[hypothesis.scene]),
            "sentence2": hypothesis.text,
        })
    });
    // ALBEF's code adds the ending itself.
    let albef = hypotheses().map(|hypothesis| {
        json!({
            "image": annotated.stem(hypothesis.scene),
            "sentence": hypothesis.text,
            "label": hypothesis.label.name(),
        })
    });
    vec![("snli_ve.jsonl", lines(official)), ("ve.json", list(albef))]
}

/// What can be seen, in words: SNLI's premise before it became a picture.
fn premise(scene: &Scene) -> String {
    let things: Vec<String> = scene
        .names()
        .into_iter()
        .map(|name| counted(scene.count(name), name))
        .collect();
    listed(&things)
}
