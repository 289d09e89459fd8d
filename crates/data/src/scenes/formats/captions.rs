//! COCO captions, and ALBEF's lists for pre-training, retrieval evaluation and retrieval training.

use serde_json::{Value, json};

use super::{Annotated, list};

pub(super) fn files(annotated: Annotated<'_>) -> Vec<(&'static str, String)> {
    let texts = |at: usize| {
        annotated.texts.captions[at]
            .iter()
            .map(|caption| caption.text.as_str())
    };
    let scenes = || annotated.scenes.iter().enumerate();
    let all = scenes().map(|(at, scene)| {
        json!({
            "image": annotated.file(at),
            "caption": texts(at).collect::<Vec<_>>(),
            "image_id": scene.image_id,
        })
    });
    let single = scenes().flat_map(|(at, scene)| {
        texts(at).map(move |text| {
            json!({ "image": annotated.file(at), "caption": text, "image_id": scene.image_id })
        })
    });
    let annotations: Vec<Value> = scenes()
        .flat_map(|(at, scene)| texts(at).map(move |text| (scene.image_id, text)))
        .enumerate()
        .map(|(id, (image_id, caption))| {
            json!({ "image_id": image_id, "id": id, "caption": caption })
        })
        .collect();
    let coco = json!({
        "info": annotated.info(),
        "images": annotated.images(),
        "licenses": [],
        "annotations": annotations,
    });
    vec![
        ("captions.json", list(all)),
        ("retrieval.json", list(single)),
        ("coco_captions.json", coco.to_string()),
    ]
}
