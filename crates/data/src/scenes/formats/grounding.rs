//! RefCOCO: references and COCO instances (the original's pickle as JSON); ALBEF's list and box proposals.

use std::collections::BTreeSet;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use super::{Annotated, list};
use crate::scenes::draws::{Purpose, generator};
use crate::scenes::graph::{Region, Scene};
use crate::scenes::names::names;

/// Boxes around nothing among the proposals of a picture.
const DISTRACTORS: usize = 4;
/// How far a side of a proposal lies off at most, as a share of the box's length: a detector's boxes are not exact.
const JITTER: f64 = 0.08;

pub(super) fn files(annotated: Annotated<'_>) -> Vec<(&'static str, String)> {
    let referring = || annotated.texts.referring.iter();
    let refs = referring().enumerate().map(|(at, referring)| {
        let scene = &annotated.scenes[referring.scene];
        let object = &scene.objects[referring.object];
        let ann_id = annotation_id(scene, referring.object);
        json!({
            "ref_id": ann_id,
            "ann_id": ann_id,
            "category_id": category_id(&object.name),
            "image_id": scene.image_id,
            "file_name": annotated.file(referring.scene),
            "split": annotated.split.name(),
            "sent_ids": [at],
            "sentences": [{
                "tokens": referring.text.split(' ').collect::<Vec<_>>(),
                "raw": referring.text,
                "sent_id": at,
                "sent": referring.text,
            }],
        })
    });
    let albef = referring().map(|referring| {
        let scene = &annotated.scenes[referring.scene];
        json!({
            "image": annotated.file(referring.scene),
            "text": referring.text,
            "ref_id": annotation_id(scene, referring.object),
        })
    });
    vec![
        ("refs.json", list(refs)),
        ("grounding.json", list(albef)),
        ("instances.json", instances(annotated)),
        ("dets.json", proposals(annotated)),
    ]
}

fn annotation_id(scene: &Scene, object: usize) -> u64 {
    scene.image_id * 10 + object as u64
}

/// Place in the table of names, from 1 as COCO counts.
fn category_id(name: &str) -> usize {
    names()
        .iter()
        .position(|known| known.name == name)
        .map_or(0, |at| at + 1)
}

fn instances(annotated: Annotated<'_>) -> String {
    let mut annotations = Vec::new();
    let mut used = BTreeSet::new();
    for scene in annotated.scenes {
        for (at, object) in scene.objects.iter().enumerate() {
            let region = object.region;
            used.insert(category_id(&object.name));
            annotations.push(json!({
                "id": annotation_id(scene, at),
                "image_id": scene.image_id,
                "category_id": category_id(&object.name),
                "bbox": corner_and_size(region),
                "area": region.width() * region.height(),
                "iscrowd": 0,
                "segmentation": [[
                    region.left, region.top, region.right, region.top,
                    region.right, region.bottom, region.left, region.bottom,
                ]],
            }));
        }
    }
    let categories: Vec<Value> = names()
        .iter()
        .enumerate()
        .filter(|(at, _)| used.contains(&(at + 1)))
        .map(|(at, name)| {
            json!({ "id": at + 1, "name": name.name, "supercategory": name.category.name() })
        })
        .collect();
    json!({
        "info": annotated.info(),
        "images": annotated.images(),
        "annotations": annotations,
        "categories": categories,
        "licenses": [],
    })
    .to_string()
}

/// By picture: a box near every thing and around the curtain, and some around nothing.
fn proposals(annotated: Annotated<'_>) -> String {
    let mut boxes = Map::new();
    for (at, scene) in annotated.scenes.iter().enumerate() {
        let mut rng = generator(annotated.seed, annotated.split, Purpose::Proposals, at);
        let mut near: Vec<Region> = scene
            .objects
            .iter()
            .map(|object| object.region)
            .chain(scene.curtain)
            .map(|region| jittered(region, scene.side, &mut rng))
            .collect();
        for _ in 0..DISTRACTORS {
            let side = f64::from(scene.side);
            let mut length = || rng.random_range(0.15 * side..0.4 * side) as u32;
            let (width, height) = (length(), length());
            let (left, top) = (
                rng.random_range(0..scene.side - width),
                rng.random_range(0..scene.side - height),
            );
            near.push([left, top, left + width, top + height].into());
        }
        let place = rng.random_range(0..near.len());
        // Things first, in the order of the graph, would be a hint.
        near.rotate_left(place);
        boxes.insert(
            scene.image_id.to_string(),
            near.into_iter().map(corner_and_size).collect(),
        );
    }
    Value::Object(boxes).to_string()
}

fn jittered(region: Region, side: u32, rng: &mut ChaCha8Rng) -> Region {
    let mut shift = |at: u32, length: u32| {
        let most = JITTER * f64::from(length);
        let moved = f64::from(at) + rng.random_range(-most..=most);
        moved.round().clamp(0.0, f64::from(side)) as u32
    };
    let (width, height) = (region.width(), region.height());
    let moved = Region {
        left: shift(region.left, width),
        top: shift(region.top, height),
        right: shift(region.right, width),
        bottom: shift(region.bottom, height),
    };
    if moved.width() > 0 && moved.height() > 0 {
        moved
    } else {
        region
    }
}

fn corner_and_size(region: Region) -> Value {
    json!([region.left, region.top, region.width(), region.height()])
}
