//! `explain` and `evaluate grounding` with a tiny model on small scenes: what they give, and what
//! they say of files that do not fit.
#![allow(clippy::unwrap_used)]

mod program;

use std::path::Path;
use std::sync::OnceLock;

use program::{ALBEF, failure, fitup, has, json, samples};
use serde_json::Value;

/// A model hardly trained, and scenes.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let recipe = ALBEF.replace("SAMPLES", &samples());
        // Two fusion layers: in the last one no word has a map.
        let recipe = recipe.replace("num_hidden_layers = 2", "num_hidden_layers = 3");
        std::fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
        let steps = ["--steps", "2", "--set", "run.evaluate_every=0"];
        json(
            folder.path(),
            &[&["pretrain", "tiny.toml"], &steps[..]].concat(),
        );
        let pictograms = samples();
        let counts = ["--train", "0", "--val", "0", "--test", "12", "--side", "64"];
        let scenes = [
            "data",
            "scenes",
            "--pictograms",
            &pictograms,
            "--out",
            "scenes",
        ];
        json(folder.path(), &[&scenes[..], &counts].concat());
        folder
    });
    folder.path()
}

const MODEL: [&str; 2] = ["--model", "runs/tiny"];

fn evaluate<'a>(references: &'a str, instances: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let files = ["--references", references, "--instances", instances];
    [&["evaluate", "grounding"], &files[..], &MODEL, more].concat()
}

const REFS: &str = "scenes/test/refs.json";
const INSTANCES: &str = "scenes/test/instances.json";
const DETS: &str = "scenes/test/dets.json";

/// A file of the scenes, changed and written beside it under another name.
fn changed(file: &str, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let folder = folder();
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    let path = format!("scenes/test/{name}");
    std::fs::write(folder.join(&path), value.to_string()).unwrap();
    path
}

fn a_picture() -> String {
    let refs = std::fs::read_to_string(folder().join(REFS)).unwrap();
    let refs: Value = serde_json::from_str(&refs).unwrap();
    format!("scenes/test/{}", refs[0]["file_name"].as_str().unwrap())
}

#[test]
fn every_word_of_a_text_gets_a_map() {
    let folder = folder();
    let picture = a_picture();
    let explain = |out: &str, more: &[&str]| {
        let args = ["explain", &picture, "The dog, left", "--out", out];
        json(folder, &[&args[..], &MODEL, more].concat())
    };
    let told = explain("plain.png", &[]);
    assert_eq!(told["text"], "the dog left");
    assert_eq!(told["layer"], 1);
    let probability = told["match_probability"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&probability));
    let words = told["words"].as_array().unwrap();
    let named: Vec<&str> = words.iter().map(|w| w["word"].as_str().unwrap()).collect();
    assert_eq!(named, ["the", "dog", "left"]);
    let mass: f64 = words.iter().map(|w| w["mass"].as_f64().unwrap()).sum();
    assert!((mass - 1.0).abs() < 1e-5, "{mass}");
    for pointed in words.iter().chain([&told["all_words"]]) {
        let numbers = |field: &str| -> Option<Vec<f64>> {
            let list = pointed[field].as_array()?.iter();
            Some(list.map(|n| n.as_f64().unwrap()).collect())
        };
        let (Some(peak), Some(region)) = (numbers("peak"), numbers("box")) else {
            continue;
        };
        assert!(peak.iter().all(|at| (0.0..64.0).contains(at)), "{peak:?}");
        assert!(region[0] + region[2] <= 64.0 && region[1] + region[3] <= 64.0);
    }

    let last = explain("last.png", &["--layer", "2"]);
    assert_eq!(last["words"][1]["mass"], 0.0);
    assert!(last["words"][1]["box"].is_null() && last["all_words"]["box"].is_array());

    explain("boxes.png", &["--boxes"]);
    let [plain, boxes] = ["plain.png", "boxes.png"].map(|f| image::open(folder.join(f)).unwrap());
    // Five pictures in a row: the picture itself, all words, three words.
    assert!(plain.width() > 4 * 224 && plain.height() > 224);
    assert_ne!(plain.to_rgb8(), boxes.to_rgb8());
    let again = explain("again.png", &[]);
    assert_eq!(again["words"], told["words"]);
    assert_eq!(
        std::fs::read(folder.join("plain.png")).unwrap(),
        std::fs::read(folder.join("again.png")).unwrap()
    );
}

#[test]
fn what_cannot_be_explained_is_said() {
    let folder = folder();
    let picture = a_picture();
    let args = |text: &'static str, more: &[&'static str]| {
        let args = ["explain", picture.as_str(), text];
        failure(folder, 1, &[&args[..], &MODEL, more].concat())
    };
    has(
        &args("a dog", &["--layer", "0"]),
        &["layer 0", "layers 1 to 2"],
    );
    has(&args("?!", &[]), &["no words"]);
    has(&args("a dog", &["--out", "no/where.png"]), &["where.png"]);
}

#[test]
fn boxes_are_found_with_and_without_proposals() {
    let folder = folder();
    let args = evaluate(REFS, INSTANCES, &["--proposals", DETS, "--split", "test"]);
    let result = &json(folder, &args)["result"];
    let phrases = result["phrases"].as_u64().unwrap();
    assert!(phrases >= 12 && result["pictures"].as_u64().unwrap() <= 12);
    let scores = [
        "with_proposals",
        "random_proposal",
        "without_proposals",
        "constant_box",
    ];
    for score in scores {
        let percent = result[score].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&percent), "{score} {percent}");
    }
    let protocol = result["protocol"].as_str().unwrap();
    has(
        protocol,
        &["phrases (split test)", "layer 1", "overlap of 0.5"],
    );
    let one_by_one = json(folder, &[&args[..], &["--batch", "1"]].concat());
    assert_eq!(
        one_by_one["result"]["with_proposals"],
        result["with_proposals"]
    );

    let few = json(folder, &evaluate(REFS, INSTANCES, &["--limit", "3"]));
    assert_eq!(few["result"]["phrases"], 3);
    assert!(few["result"]["with_proposals"].is_null());
    let table = String::from_utf8(fitup(folder, &args).stdout).unwrap();
    has(
        &table,
        &[
            "best proposed box",
            "found on the map",
            "one box for all",
            "seed 5",
        ],
    );
}

#[test]
fn annotations_that_do_not_fit_are_named_with_record_and_field() {
    let folder = folder();
    let error = |args: Vec<&str>| failure(folder, 1, &args);

    let instances = changed(INSTANCES, "bad_box.json", |all| {
        all["annotations"][1]["bbox"] = "left".into();
    });
    has(
        &error(evaluate(REFS, &instances, &[])),
        &["bad_box.json", "record 2", "`bbox`", "left"],
    );
    let refs = changed(REFS, "bad_ref.json", |refs| refs[2]["ann_id"] = 7.into());
    has(
        &error(evaluate(&refs, INSTANCES, &[])),
        &["bad_ref.json", "record 3", "`ann_id`", "7"],
    );
    let mut taken = String::new();
    let dets = changed(DETS, "few_dets.json", |dets| {
        let dets = dets.as_object_mut().unwrap();
        taken = dets.keys().next().unwrap().clone();
        dets.remove(&taken);
    });
    has(
        &error(evaluate(REFS, INSTANCES, &["--proposals", &dets])),
        &["few_dets.json", &taken, "--proposals"],
    );
    has(
        &error(evaluate(REFS, INSTANCES, &["--split", "val"])),
        &["refs.json", "val", "some of test"],
    );
    failure(folder, 2, &evaluate(REFS, INSTANCES, &["--split", "all"]));
}

#[test]
fn pictures_that_do_not_fit_are_named() {
    let folder = folder();
    let error = |args: Vec<&str>| failure(folder, 1, &args);
    let gone = changed(INSTANCES, "gone.json", |all| {
        all["images"][0]["file_name"] = "images/nowhere.jpg".into();
    });
    has(
        &error(evaluate(REFS, &gone, &[])),
        &[
            "gone.json",
            "`file_name`",
            "nowhere.jpg",
            "1 of 12 pictures",
            "--images",
        ],
    );
    let large = changed(INSTANCES, "large.json", |all| {
        all["images"][0]["width"] = 640.into();
    });
    has(
        &error(evaluate(REFS, &large, &[])),
        &["large.json", "`width`", "64 by 64", "640 by 64"],
    );
    has(
        &error(evaluate(REFS, INSTANCES, &["--images", "no-folder"])),
        &["no-folder", "--images"],
    );
}
