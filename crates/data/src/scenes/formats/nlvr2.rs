//! NLVR2's lines, and ALBEF's list.

use serde_json::json;

use super::{Annotated, lines, list};

pub(super) fn files(annotated: Annotated<'_>) -> Vec<(&'static str, String)> {
    let label = |label: bool| if label { "True" } else { "False" };
    let pairs = || annotated.texts.pairs.iter();
    let official = pairs().map(|pair| {
        let [left, right] = pair.scenes.map(|scene| annotated.file(scene));
        let split = annotated.split.name();
        json!({
            // Split, group of pairs, pair, statement: as the original counts them.
            "identifier": format!("{split}-{}-{}-{}", pair.set, pair.pair, pair.statement),
            "sentence": pair.text,
            "label": label(pair.label),
            "left_url": left,
            "right_url": right,
            "writer": "0",
            "validation": { "0": label(pair.label) },
            "synset": "",
            "query": "",
        })
    });
    let albef = pairs().map(|pair| {
        json!({
            "images": pair.scenes.map(|scene| annotated.file(scene)),
            "sentence": pair.text,
            "label": label(pair.label),
        })
    });
    vec![("nlvr2.jsonl", lines(official)), ("nlvr.json", list(albef))]
}
