//! Scenes made of the committed sample: rules of the graph, balance, determinism, splits, formats.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fitup_data::images::{DecodeLimits, decode};
use fitup_data::scenes::{
    Caption, Label, MadeSplit, Noise, Region, Scene, ScenesError, ScenesOptions, Split, Storage,
    check, generate,
};
use fitup_data::sources::{OnTruncated, SourceSpec, open};
use serde::Deserialize;
use serde_json::Value;

const SCENES: [usize; 3] = [240, 60, 60];

fn options(out: &Path) -> ScenesOptions {
    let sample = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../samples/pictograms");
    ScenesOptions {
        scenes: SCENES,
        side: 96,
        ..ScenesOptions::new(sample, out)
    }
}

fn make(options: &ScenesOptions) -> Vec<MadeSplit> {
    generate(options, &mut |_, _, _| {}).unwrap()
}

/// One folder of scenes that the tests read.
static MADE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    make(&ScenesOptions {
        storage: Storage::Both,
        ..options(folder.path())
    });
    folder
});

#[derive(Deserialize)]
struct Entry {
    #[serde(flatten)]
    scene: Scene,
    image: String,
    captions: Vec<Caption>,
}

fn read<T: serde::de::DeserializeOwned>(split: &str, file: &str) -> T {
    let bytes = fs::read(MADE.path().join(split).join(file)).unwrap();
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{split}/{file}: {error}"))
}

fn lines(split: &str, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(MADE.path().join(split).join(file)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn list(split: &str, file: &str) -> Vec<Value> {
    read(split, file)
}

fn scenes(split: Split) -> Vec<Entry> {
    read(split.name(), "scenes.json")
}

fn count<'a>(values: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

#[test]
fn boxes_are_disjoint_inside_the_picture_and_tight_enough_to_paint() {
    for split in Split::ALL {
        for Entry { scene, .. } in scenes(split) {
            assert!((2..=6).contains(&scene.objects.len()));
            let whole = Region::from([0, 0, scene.side, scene.side]);
            let mut regions: Vec<Region> =
                scene.objects.iter().map(|object| object.region).collect();
            regions.extend(scene.curtain);
            for (at, region) in regions.iter().enumerate() {
                assert!(whole.contains(*region), "{region:?}");
                for other in &regions[..at] {
                    assert!(region.is_apart(*other, 1), "{region:?} {other:?}");
                }
            }
            for object in &scene.objects {
                let longer = object.region.width().max(object.region.height());
                let (least, most) = object.size.range();
                let share = f64::from(longer) / f64::from(scene.side);
                // A pixel is 1/96 of the side.
                assert!(
                    (least - 0.011..=most + 0.011).contains(&share),
                    "{object:?}"
                );
            }
        }
    }
}

#[test]
fn something_is_painted_into_every_box() {
    for Entry { scene, image, .. } in scenes(Split::Val).iter().take(20) {
        let bytes = fs::read(MADE.path().join("val").join(image)).unwrap();
        let picture = decode(&bytes, &DecodeLimits::default()).unwrap();
        assert_eq!(picture.dimensions(), (scene.side, scene.side));
        for object in &scene.objects {
            let region = object.region;
            let pixels: Vec<[u8; 3]> = (region.top..region.bottom)
                .flat_map(|y| (region.left..region.right).map(move |x| (x, y)))
                .map(|(x, y)| picture.get_pixel(x, y).0)
                .collect();
            let spread = (0..3)
                .map(|channel| {
                    let values = || pixels.iter().map(|pixel| pixel[channel]);
                    values().max().unwrap() - values().min().unwrap()
                })
                .max();
            assert!(spread > Some(40), "{object:?}");
        }
    }
}

#[test]
fn splits_share_neither_pictogram_nor_background() {
    let all = Split::ALL.map(scenes);
    let pictograms = all.each_ref().map(|entries| {
        let objects = entries.iter().flat_map(|entry| &entry.scene.objects);
        objects
            .map(|object| object.pictogram.as_str())
            .collect::<BTreeSet<_>>()
    });
    let colours = all.each_ref().map(|entries| {
        let backgrounds = entries.iter().map(|entry| &entry.scene.background);
        backgrounds
            .flat_map(|background| background.colours())
            .collect::<BTreeSet<_>>()
    });
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert!(pictograms[one].is_disjoint(&pictograms[other]));
        assert!(colours[one].is_disjoint(&colours[other]));
    }
    let names = |at: usize| -> BTreeSet<&str> {
        let objects = all[at].iter().flat_map(|entry| &entry.scene.objects);
        objects.map(|object| object.name.as_str()).collect()
    };
    assert!(
        names(2).is_subset(&names(0)),
        "nothing is asked for that was never shown"
    );
}

#[test]
fn variants_are_of_training_alone_and_every_drawing_may_still_be_shown_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    make(&ScenesOptions {
        scenes: [60, 0, 20],
        variants: 3,
        ..options(folder.path())
    });
    let shown = |split: &str| -> Vec<u32> {
        let path = folder.path().join(split).join("scenes.json");
        let scenes: Vec<serde_json::Value> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let objects = scenes.iter().flat_map(|scene| {
            let objects = scene["objects"].as_array().unwrap();
            objects
                .iter()
                .map(|object| object["variant"].as_u64().unwrap() as u32)
        });
        objects.collect()
    };
    let train: BTreeSet<u32> = shown("train").into_iter().collect();
    assert_eq!(train, BTreeSet::from([0, 1, 2, 3]));
    assert!(shown("test").into_iter().all(|variant| variant == 0));
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let [one, two, other] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let small = |out: &Path| ScenesOptions {
        scenes: [40, 0, 12],
        storage: Storage::Both,
        noise: 0.3,
        threads: 1,
        ..options(out)
    };
    make(&small(one.path()));
    make(&ScenesOptions {
        threads: 2,
        ..small(two.path())
    });
    make(&ScenesOptions {
        seed: 1,
        ..small(other.path())
    });
    let files = files_below(one.path());
    assert!(files.len() > 60);
    assert_eq!(files, files_below(two.path()));
    for file in &files {
        let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
        assert!(read(one.path()) == read(two.path()), "{}", file.display());
    }
    let graphs = |folder: &Path| fs::read(folder.join("train/scenes.json")).unwrap();
    assert_ne!(graphs(one.path()), graphs(other.path()));
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_finished_split_is_kept_and_other_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let small = ScenesOptions {
        scenes: [0, 8, 0],
        ..options(folder.path())
    };
    assert!(!make(&small)[0].kept);
    let picture = folder.path().join("val/images/val_2000000.jpg");
    fs::remove_file(&picture).unwrap();
    let again = make(&small);
    assert!(
        again[0].kept && !picture.exists(),
        "a finished split is not touched"
    );

    let error = generate(
        &ScenesOptions {
            seed: 9,
            ..small.clone()
        },
        &mut |_, _, _| {},
    )
    .unwrap_err();
    assert!(matches!(&error, ScenesError::Different { field, .. } if field == "seed"));
    assert!(error.to_string().contains("seed is 0 there and 9 here"));

    // What a killed run left behind is no obstacle.
    fs::create_dir_all(folder.path().join(".test.partial/images")).unwrap();
    make(&ScenesOptions {
        scenes: [0, 8, 8],
        ..small.clone()
    });
    assert!(!folder.path().join(".test.partial").exists());

    fs::create_dir_all(folder.path().join("train")).unwrap();
    let error = generate(
        &ScenesOptions {
            scenes: [5, 0, 0],
            ..small
        },
        &mut |_, _, _| {},
    )
    .unwrap_err();
    assert!(matches!(error, ScenesError::Foreign { .. }));
}

#[test]
fn options_out_of_range_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (bad, name) in [
        (
            ScenesOptions {
                noise: 1.5,
                ..options(folder.path())
            },
            "noise",
        ),
        (
            ScenesOptions {
                noise: f64::NAN,
                ..options(folder.path())
            },
            "noise",
        ),
        (
            ScenesOptions {
                curtains: -0.1,
                ..options(folder.path())
            },
            "curtains",
        ),
        (
            ScenesOptions {
                side: 20,
                ..options(folder.path())
            },
            "side",
        ),
        (
            ScenesOptions {
                scenes: [0; 3],
                ..options(folder.path())
            },
            "scenes",
        ),
        (
            ScenesOptions {
                scenes: [1_000_001, 0, 0],
                ..options(folder.path())
            },
            "scenes",
        ),
    ] {
        let error = generate(&bad, &mut |_, _, _| {}).unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
    }
    let few = ScenesOptions {
        names: Some(3),
        ..options(folder.path())
    };
    let error = generate(&few, &mut |_, _, _| {}).unwrap_err();
    assert!(error.to_string().contains("at least 8"), "{error}");
}

#[test]
fn answers_are_balanced_and_true() {
    let entries = scenes(Split::Train);
    let by_image: BTreeMap<u64, &Scene> = entries
        .iter()
        .map(|entry| (entry.scene.image_id, &entry.scene))
        .collect();
    let questions: Value = read("train", "v2_questions.json");
    let annotations: Value = read("train", "v2_annotations.json");
    let mut answers: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for (question, annotation) in questions["questions"]
        .as_array()
        .unwrap()
        .iter()
        .zip(annotations["annotations"].as_array().unwrap())
    {
        assert_eq!(question["question_id"], annotation["question_id"]);
        let text = question["question"].as_str().unwrap();
        let answer = annotation["multiple_choice_answer"].as_str().unwrap();
        let scene = by_image[&question["image_id"].as_u64().unwrap()];
        assert!(scene.curtain.is_none());
        let template = if text.starts_with("is there") {
            let name = text
                .trim_start_matches("is there a")
                .trim_start_matches("n ")
                .trim_end_matches(" in the picture?")
                .trim();
            assert_eq!(scene.count(name) > 0, answer == "yes", "{text} {answer}");
            "exists"
        } else if text.starts_with("how many") {
            "count"
        } else if text.contains("larger than") {
            "larger"
        } else if text.contains("left or the right side") {
            "left-right"
        } else if annotation["answer_type"] == "yes/no" {
            "relation"
        } else {
            continue;
        };
        *answers
            .entry(template.to_owned())
            .or_default()
            .entry(answer.to_owned())
            .or_default() += 1;
    }
    assert_eq!(answers.len(), 5, "{answers:?}");
    assert!(answers["relation"]["yes"] > 20, "{answers:?}");
    for (template, answers) in &answers {
        let counts: BTreeSet<usize> = answers.values().copied().collect();
        assert_eq!(counts.len(), 1, "{template}: {answers:?}");
    }
}

#[test]
fn every_premise_has_all_labels_and_a_curtain() {
    let entries = scenes(Split::Train);
    let mut labels: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for entry in list("train", "ve.json") {
        let image = format!("{}.jpg", entry["image"].as_str().unwrap());
        let label = entry["label"].as_str().unwrap().to_owned();
        *labels.entry(image).or_default().entry(label).or_default() += 1;
    }
    assert!(labels.len() > 50, "{}", labels.len());
    for (image, labels) in &labels {
        let entry = entries.iter().find(|entry| entry.image == *image).unwrap();
        assert!(entry.scene.curtain.is_some());
        assert_eq!(labels.len(), Label::ALL.len());
        assert_eq!(
            labels.values().collect::<BTreeSet<_>>().len(),
            1,
            "{labels:?}"
        );
    }
}

#[test]
fn every_statement_is_true_of_two_pairs_and_every_pair_of_one_statement() {
    let statements = list("train", "nlvr.json");
    assert!(statements.len() >= 80 && statements.len().is_multiple_of(8));
    for group in statements.chunks(8) {
        for field in ["sentence", "images"] {
            let values: Vec<String> = group.iter().map(|entry| entry[field].to_string()).collect();
            for value in &values {
                let labels = group
                    .iter()
                    .zip(&values)
                    .filter(|(_, other)| *other == value)
                    .map(|(entry, _)| entry["label"].as_str().unwrap());
                let labels = count(labels);
                assert_eq!(labels["True"], labels["False"], "{field} {value}");
            }
        }
    }
}

#[test]
fn a_referring_expression_fits_one_thing() {
    let entries = scenes(Split::Train);
    let instances: Value = read("train", "instances.json");
    let boxes: BTreeMap<u64, &Value> = instances["annotations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|annotation| (annotation["id"].as_u64().unwrap(), &annotation["bbox"]))
        .collect();
    let mut kinds = BTreeSet::new();
    for reference in list("train", "refs.json") {
        let image_id = reference["image_id"].as_u64().unwrap();
        let ann_id = reference["ann_id"].as_u64().unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry.scene.image_id == image_id)
            .unwrap();
        let object = &entry.scene.objects[(ann_id - 10 * image_id) as usize];
        let region = object.region;
        let expected = [region.left, region.top, region.width(), region.height()];
        assert_eq!(*boxes[&ann_id], serde_json::json!(expected));

        let text = reference["sentences"][0]["raw"].as_str().unwrap();
        let words = text.strip_prefix("the ").unwrap();
        let fits: Vec<bool> = entry
            .scene
            .objects
            .iter()
            .map(|other| {
                let category = other.category.noun().unwrap_or("-");
                let rest = words
                    .strip_suffix(other.name.as_str())
                    .or_else(|| words.strip_suffix(category));
                rest.is_some_and(|rest| {
                    rest.split_whitespace().all(|word| match word {
                        "small" | "large" => other.size.name() == word,
                        "leftmost" | "rightmost" | "top" | "bottom" => {
                            is_outermost(word, other, &entry.scene)
                        }
                        colour => other.colour.is_some_and(|known| known.name() == colour),
                    })
                })
            })
            .collect();
        assert_eq!(
            fits.iter().filter(|&&fits| fits).count(),
            1,
            "{text}: {fits:?}"
        );
        assert!(fits[(ann_id - 10 * image_id) as usize], "{text}");
        kinds.insert(words.split(' ').next().unwrap().to_owned());
    }
    for word in ["small", "leftmost", "animal"] {
        assert!(kinds.contains(word), "no expression begins with {word}");
    }
}

fn is_outermost(word: &str, object: &fitup_data::scenes::Object, scene: &Scene) -> bool {
    let along = |other: &fitup_data::scenes::Object| {
        let [x, y] = other.region.doubled_centre().map(i64::from);
        match word {
            "leftmost" => -x,
            "rightmost" => x,
            "top" => -y,
            _ => y,
        }
    };
    scene
        .objects
        .iter()
        .filter(|other| other.name == object.name && other.region != object.region)
        .all(|other| along(object) > along(other))
}

#[test]
fn the_noise_dial_sets_the_share_of_each_kind() {
    let folder = tempfile::tempdir().unwrap();
    let made = make(&ScenesOptions {
        scenes: [400, 20, 0],
        noise: 0.6,
        ..options(folder.path())
    });
    let report = &made[0].report;
    let share = |count: usize| count as f64 / report.captions as f64;
    assert_eq!(report.noise.len(), 3, "{:?}", report.noise);
    for (kind, &count) in &report.noise {
        assert!(
            (share(count) - 0.2).abs() < 0.04,
            "{kind}: {}",
            share(count)
        );
    }
    assert!(
        made[1].report.noise.is_empty(),
        "held-out captions are true"
    );

    let bytes = fs::read(folder.path().join("train/scenes.json")).unwrap();
    let entries: Vec<Entry> = serde_json::from_slice(&bytes).unwrap();
    for entry in &entries {
        let here = entry.scene.names();
        for caption in &entry.captions {
            // A name within another (a cap in a cupcake) is no mention.
            let padded = format!(" {} ", caption.text.replace([',', ':'], ""));
            let named = |name: &&str| padded.contains(&format!(" {name} "));
            match caption.noise {
                Some(Noise::Keywords) => assert!(here.iter().any(named)),
                Some(Noise::Wrong) => assert!(!here.iter().any(named)),
                Some(Noise::PartlyWrong) | None => {}
            }
        }
    }
}

#[test]
fn formats_have_their_fields() {
    let has = |value: &Value, fields: &[&str]| {
        for field in fields {
            assert!(value.get(field).is_some(), "{field} is missing in {value}");
        }
    };
    let split = "test";
    for entry in &list(split, "captions.json") {
        has(entry, &["image", "image_id"]);
        assert!(entry["caption"].as_array().unwrap().len() >= 2);
        assert!(
            MADE.path()
                .join(split)
                .join(entry["image"].as_str().unwrap())
                .exists()
        );
    }
    for entry in &list(split, "retrieval.json") {
        has(entry, &["image", "image_id"]);
        assert!(entry["caption"].is_string());
    }
    let coco: Value = read(split, "coco_captions.json");
    has(&coco["images"][0], &["id", "file_name", "width", "height"]);
    has(&coco["annotations"][0], &["image_id", "id", "caption"]);

    let annotations: Value = read(split, "v2_annotations.json");
    let first = &annotations["annotations"][0];
    has(
        first,
        &[
            "question_type",
            "multiple_choice_answer",
            "image_id",
            "answer_type",
            "question_id",
        ],
    );
    assert_eq!(first["answers"].as_array().unwrap().len(), 10);
    has(
        &first["answers"][0],
        &["answer", "answer_confidence", "answer_id"],
    );
    for entry in &list(split, "vqa.json") {
        has(entry, &["question_id", "question", "image"]);
        assert_eq!(entry["dataset"], "vqa");
        assert_eq!(entry["answer"].as_array().unwrap().len(), 10);
    }
    let ids: BTreeSet<u64> = list(split, "vqa.json")
        .iter()
        .map(|entry| entry["question_id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), list(split, "vqa.json").len());
    let answers: Vec<String> = read("train", "answer_list.json");
    assert!(answers.contains(&"yes".to_owned()));

    for entry in &lines(split, "snli_ve.jsonl") {
        has(
            entry,
            &[
                "Flickr30K_ID",
                "captionID",
                "pairID",
                "gold_label",
                "sentence1",
                "sentence2",
            ],
        );
    }
    for entry in &list(split, "ve.json") {
        has(entry, &["image", "sentence", "label"]);
    }
    let mut identifiers = BTreeSet::new();
    for entry in lines(split, "nlvr2.jsonl") {
        has(&entry, &["sentence", "left_url", "right_url", "label"]);
        identifiers.insert(entry["identifier"].as_str().unwrap().to_owned());
    }
    assert_eq!(identifiers.len(), list(split, "nlvr.json").len());
    for entry in &list(split, "nlvr.json") {
        assert_eq!(entry["images"].as_array().unwrap().len(), 2);
        assert!(["True", "False"].contains(&entry["label"].as_str().unwrap()));
    }
    for entry in &list(split, "grounding.json") {
        has(entry, &["image", "text", "ref_id"]);
    }
    let reference = &list(split, "refs.json")[0];
    has(
        reference,
        &[
            "ref_id",
            "ann_id",
            "category_id",
            "image_id",
            "file_name",
            "split",
            "sent_ids",
        ],
    );
    has(
        &reference["sentences"][0],
        &["tokens", "raw", "sent_id", "sent"],
    );
    let proposals: BTreeMap<String, Vec<[f64; 4]>> = read(split, "dets.json");
    assert_eq!(proposals.len(), SCENES[2]);
    assert!(proposals.values().all(|boxes| boxes.len() >= 6));
    let attribution = fs::read_to_string(MADE.path().join(split).join("ATTRIBUTION.md")).unwrap();
    assert!(attribution.contains("Noto Emoji"));
}

#[test]
fn pictures_open_as_lists_and_as_shards() {
    let folder = MADE.path().join("train");
    let list = open(&SourceSpec::AlbefJson {
        files: vec![folder.join("captions.json")],
        image_root: Some(folder.clone()),
        limit: None,
    })
    .unwrap();
    let shards = open(&SourceSpec::Shards {
        paths: vec![folder.join("train-*.tar")],
        on_truncated: OnTruncated::Error,
        limit: None,
    })
    .unwrap();
    assert_eq!((list.len(), shards.len()), (SCENES[0], SCENES[0]));
    for at in [0, 100, 239] {
        let (one, other) = (list.get(at).unwrap(), shards.get(at).unwrap());
        assert_eq!(one.image, other.image);
        assert_eq!(one.captions, other.captions);
        assert_eq!(one.image_id, other.image_id);
        let metadata = other.metadata.unwrap();
        serde_json::from_value::<Scene>(metadata["scene"].clone()).unwrap();
    }
}

#[test]
fn baselines_score_every_task() {
    let report = check(MADE.path(), &mut |_, _, _| {}).unwrap();
    let tasks: Vec<&str> = report.tasks.iter().map(|task| task.task.as_str()).collect();
    assert_eq!(
        tasks,
        [
            "entailment",
            "pairs",
            "questions: colour",
            "questions: left/right",
            "questions: number",
            "questions: top/bottom",
            "questions: yes/no",
            "referring"
        ]
    );
    let score = |name: &str| {
        let task = report.tasks.iter().find(|task| task.task == name);
        task.unwrap()
    };
    // Exactly balanced, so always giving one answer is right exactly so often.
    assert!((score("pairs").majority - 0.5).abs() < 1e-9);
    assert!((score("entailment").majority - 1.0 / 3.0).abs() < 1e-9);
    assert!(score("referring").text_only.is_none());
    // Pictures in shards alone score the same: the files are those of the same draws.
    let shards = tempfile::tempdir().unwrap();
    make(&ScenesOptions {
        storage: Storage::Shards,
        ..options(shards.path())
    });
    assert_eq!(check(shards.path(), &mut |_, _, _| {}).unwrap(), report);
    let missing = check(Path::new("nowhere"), &mut |_, _, _| {}).unwrap_err();
    assert!(
        missing.to_string().contains("fitup data scenes"),
        "{missing}"
    );
}
