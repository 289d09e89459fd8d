//! The built binary on a tiny model: what people type, and what they get when it goes wrong.
#![allow(clippy::unwrap_used)]

mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use program::{ALBEF, failure, fitup, has, json, samples};
use serde_json::Value;

/// A folder that is empty at the start of the test.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("cli")
        .join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn write_recipe(folder: &Path) {
    let recipe = ALBEF.replace("SAMPLES", &samples());
    std::fs::write(folder.join("tiny.toml"), recipe).unwrap();
}

/// One trained run with an index and a picture, for the tests that only look.
fn trained() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = fresh("trained");
        write_recipe(&folder);
        json(&folder, &["pretrain", "tiny.toml"]);
        let shard = format!("{}/test-00000.tar", samples());
        let built = json(
            &folder,
            &[
                "index",
                "build",
                "--model",
                "runs/tiny",
                "--data",
                &shard,
                "--out",
                "index",
                "--texts",
                "--dtype",
                "f16",
            ],
        );
        let images = built["report"]["images"].as_u64().unwrap();
        assert!(images > 100);
        assert!(built["report"]["texts"].as_u64().unwrap() >= images);
        image::RgbImage::from_fn(50, 40, |x, y| {
            image::Rgb([(x * 5) as u8, (y * 6) as u8, 90])
        })
        .save(folder.join("picture.png"))
        .unwrap();
        folder
    })
}

const MODEL: [&str; 2] = ["--model", "runs/tiny"];

fn with_model<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &MODEL].concat()
}

#[test]
fn a_run_is_trained_and_goes_on() {
    let folder = fresh("resume");
    write_recipe(&folder);
    let first = json(
        &folder,
        &["pretrain", "tiny.toml", "--out", "broken", "--steps", "4"],
    );
    assert_eq!(first["outcome"], "finished");
    assert_eq!(first["step"], 4);
    let again = failure(&folder, 1, &["pretrain", "tiny.toml", "--out", "broken"]);
    has(&again, &["broken", "--resume", "--out"]);

    let resumed = json(
        &folder,
        &["pretrain", "tiny.toml", "--out", "broken", "--resume"],
    );
    let whole = json(&folder, &["pretrain", "tiny.toml", "--out", "whole"]);
    assert_eq!(whole["step"], 6);
    let loss = |run: &Value| run["last_step"]["total"].as_f64().unwrap();
    assert_eq!(loss(&resumed), loss(&whole));
    assert_eq!(
        std::fs::read(folder.join("broken/model.safetensors"))
            .unwrap()
            .len(),
        std::fs::read(folder.join("whole/model.safetensors"))
            .unwrap()
            .len()
    );
    assert!(whole["last_evaluation"]["itc"]["official"]["txt_r10"].is_number());
    for file in [
        "recipe.toml",
        "metrics.jsonl",
        "report.html",
        "checkpoints/step-00000006.safetensors",
    ] {
        assert!(folder.join("whole").join(file).is_file(), "{file}");
    }
    let changed = failure(
        &folder,
        1,
        &[
            "pretrain",
            "tiny.toml",
            "--out",
            "whole",
            "--resume",
            "--set",
            "schedule.lr=1.0",
        ],
    );
    has(&changed, &["whole", "lr = 0.001", "lr = 1.0"]);
}

#[test]
fn in_a_pipe_progress_is_lines() {
    let folder = fresh("lines");
    write_recipe(&folder);
    let output = fitup(
        &folder,
        &[
            "pretrain",
            "tiny.toml",
            "--steps",
            "4",
            "--set",
            "run.evaluate_every=2",
        ],
    );
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    has(
        &text,
        &[
            "4 steps of 8 records",
            "step 2/4  loss ",
            "itm acc",
            "records/s",
            "step 4: text retrieval",
            "saved runs",
            "report.html",
        ],
    );
    assert!(!text.contains("step 1/4") && !text.contains('\u{1b}'));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_so() {
    use std::io::{BufRead, BufReader};
    let folder = fresh("stop");
    write_recipe(&folder);
    let mut child = Command::new(env!("CARGO_BIN_EXE_fitup"))
        .current_dir(&folder)
        .args([
            "pretrain",
            "tiny.toml",
            "--steps",
            "1000000",
            "--set",
            "run.evaluate_every=0",
        ])
        .args(["--set", "run.checkpoint_every=0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().contains("step 4/"))
        .unwrap()
        .unwrap();
    let signal = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(signal.unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    has(&rest.join("\n"), &["saved", "stopped at step", "--resume"]);

    let checkpoints = std::fs::read_dir(folder.join("runs/tiny/checkpoints")).unwrap();
    let name = checkpoints.map(|f| f.unwrap().file_name()).next().unwrap();
    let name = name.to_str().unwrap().to_owned();
    let step: u64 = name
        .trim_start_matches("step-")
        .trim_end_matches(".safetensors")
        .parse()
        .unwrap();
    assert!(step >= 4);
    let resumed = json(
        &folder,
        &[
            "pretrain",
            "tiny.toml",
            "--resume",
            "--steps",
            &(step + 1).to_string(),
            "--set",
            "run.evaluate_every=0",
        ],
    );
    assert_eq!(resumed["step"], step + 1);
}

#[test]
fn an_index_goes_on_and_tells_what_it_holds() {
    let folder = trained();
    let info = json(folder, &["index", "info", "index"]);
    assert_eq!(info["images"]["dtype"], "f16");
    assert_eq!(info["images"]["complete"], true);
    assert!(info["texts"]["items"].as_u64() >= info["images"]["items"].as_u64());
    let shard = format!("{}/test-00000.tar", samples());
    let again = json(
        folder,
        &with_model(&[
            "index", "build", "--data", &shard, "--out", "index", "--dtype", "f16",
        ]),
    );
    assert_eq!(again["report"]["images"], 0);
    assert_eq!(again["report"]["present"], info["images"]["items"]);
}

#[test]
fn an_index_of_nothing_is_a_failure() {
    let folder = trained();
    let data = fresh("nothing");
    std::fs::write(data.join("a.png"), "no picture").unwrap();
    std::fs::write(data.join("a.txt"), "a caption").unwrap();
    let data = data.to_str().unwrap();
    let args = ["index", "build", "--data", data, "--out", "nothing-index"];
    let error = failure(folder, 1, &with_model(&args));
    has(&error, &["no picture", "1 bad image", "a.png"]);
}

#[test]
fn searches_in_all_four_directions() {
    let folder = trained();
    let search = |args: &[&str]| {
        let fixed = ["--index", "index", "--top", "5", "--rerank", "8"];
        json(folder, &with_model(&[&["search"], args, &fixed].concat()))
    };
    for (query, by_text) in [
        (vec!["a red heart"], true),
        (vec!["--image", "picture.png"], false),
    ] {
        for find in ["images", "texts"] {
            let result = search(&[&query[..], &["--find", find]].concat());
            let found = result["found"].as_array().unwrap();
            assert_eq!(found.len(), 5);
            let kind = if find == "images" { "image" } else { "text" };
            assert!(found.iter().all(|f| f["item"]["kind"] == kind));
            // Only a picture and a text can match.
            let matched = by_text == (find == "images");
            let probabilities: Vec<Option<f64>> =
                found.iter().map(|f| f["matching"].as_f64()).collect();
            assert!(probabilities.iter().all(|p| p.is_some() == matched));
            assert!(!matched || probabilities.is_sorted_by(|a, b| a >= b));
            assert_eq!(result["unreadable"].as_array().unwrap().len(), 0);
        }
    }
    let plain = fitup(
        folder,
        &with_model(&["search", "a red heart", "--index", "index", "--no-rerank"]),
    );
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert_eq!(plain.lines().count(), 11);
    has(&plain, &["similarity", "test-00000.tar#"]);
}

#[test]
fn a_picture_and_a_text_are_matched_and_completed() {
    let folder = trained();
    let matched = json(
        folder,
        &with_model(&["match", "picture.png", "a red heart"]),
    );
    let probability = matched["match_probability"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&probability));
    assert!(matched["similarity"].as_f64().unwrap().abs() <= 1.0);
    let filled = json(
        folder,
        &with_model(&["fill", "picture.png", "A [mask] heart", "--top", "3"]),
    );
    assert_eq!(filled["text"], "a [MASK] heart");
    let mask = &filled["masks"][0];
    for side in ["model", "momentum"] {
        assert_eq!(mask[side].as_array().unwrap().len(), 3);
    }
    let best = mask["model"][0]["word"].as_str().unwrap();
    assert_eq!(filled["best"], format!("a {best} heart"));
    let unfilled = failure(folder, 1, &with_model(&["fill", "picture.png", "a heart"]));
    has(&unfilled, &["a heart", "[MASK]"]);
}

#[test]
fn retrieval_is_evaluated() {
    let folder = trained();
    let shard = format!("{}/test-00000.tar", samples());
    let args = with_model(&[
        "evaluate",
        "retrieval",
        "--data",
        &shard,
        "--images",
        "20",
        "--k",
        "4",
    ]);
    let result = json(folder, &args);
    assert_eq!(result["seed"], 5);
    assert_eq!(result["result"]["images"], 20);
    assert!(result["result"]["reranked"]["official"]["txt_r1"].is_number());
    let table = String::from_utf8(fitup(folder, &args).stdout).unwrap();
    has(
        &table,
        &[
            "20 images",
            "seed 5",
            "(TR)",
            "(IR)",
            "R@10",
            "contrastive",
            "re-ranked",
        ],
    );
}

#[test]
fn models_are_inspected_and_exported() {
    let folder = trained();
    let run = json(
        folder,
        &[
            "model",
            "inspect",
            "runs/tiny/checkpoints/step-00000006.safetensors",
            "--tensors",
        ],
    );
    assert_eq!(run["step"], 6);
    let shape = &run["tensors"]["itm_head.weight"];
    assert_eq!(*shape, serde_json::json!([2, 32]));
    json(
        folder,
        &[
            "model",
            "export",
            "runs/tiny",
            "--out",
            "half.safetensors",
            "--f16",
        ],
    );
    let half = json(folder, &["model", "inspect", "half.safetensors"]);
    assert_eq!(half["step"], Value::Null);
    assert_eq!(half["parameters"], run["parameters"]);
    assert!(half["bytes"].as_u64().unwrap() * 3 < run["bytes"].as_u64().unwrap());
    json(
        folder,
        &[
            "match",
            "picture.png",
            "a heart",
            "--model",
            "half.safetensors",
        ],
    );

    let refused = failure(
        folder,
        1,
        &[
            "search",
            "heart",
            "--index",
            "index",
            "--model",
            "half.safetensors",
        ],
    );
    has(
        &refused,
        &["index", "features of model", "compute the features again"],
    );
}

#[test]
fn data_is_counted_and_drawn() {
    let folder = trained();
    let shard = format!("{}/test-*.tar", samples());
    let stats = json(folder, &["data", "stats", &shard]);
    assert!(stats["stats"]["records"].as_u64().unwrap() > 100);
    assert_eq!(stats["stats"]["unreadable_images"], 0);
    let sheet = json(
        folder,
        &[
            "data",
            "preview",
            &shard,
            "--out",
            "sheet.png",
            "--count",
            "6",
        ],
    );
    assert_eq!(sheet["keys"].as_array().unwrap().len(), 6);
    let other = json(
        folder,
        &[
            "data",
            "preview",
            &shard,
            "--out",
            "other.png",
            "--count",
            "6",
            "--seed",
            "1",
        ],
    );
    assert_ne!(sheet["keys"], other["keys"]);
    let drawn = image::open(folder.join("sheet.png")).unwrap();
    assert_eq!(u64::from(drawn.width()), sheet["width"].as_u64().unwrap());
}

#[test]
fn scenes_are_made_checked_and_drawn() {
    let folder = trained();
    let pictograms = samples();
    let make = |noise: &'static str| {
        let options = ["--out", "scenes", "--side", "64", "--noise", noise];
        let counts = ["--train", "60", "--val", "0", "--test", "30"];
        let mut args = vec!["data", "scenes", "--pictograms", &pictograms];
        args.extend(options);
        args.extend(counts);
        args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()
    };
    let quiet = make("0");
    let quiet: Vec<&str> = quiet.iter().map(String::as_str).collect();
    let made = json(folder, &quiet);
    assert_eq!(made["splits"][0]["report"]["scenes"], 60);
    assert_eq!(made["splits"][1]["split"], "test");
    assert_eq!(json(folder, &quiet)["splits"][0]["kept"], true);
    let noisy = make("0.5");
    let noisy: Vec<&str> = noisy.iter().map(String::as_str).collect();
    has(
        &failure(folder, 1, &noisy),
        &["scenes/train", "noise", "remove the folder"],
    );

    let checked = json(folder, &["data", "scenes-check", "scenes"]);
    assert!(checked["tasks"].as_array().unwrap().len() > 4);
    let list = "scenes/train/captions.json:scenes/train";
    let sheet = json(
        folder,
        &[
            "data",
            "preview",
            list,
            "--out",
            "scenes.png",
            "--count",
            "4",
        ],
    );
    assert_eq!(sheet["keys"].as_array().unwrap().len(), 4);
}

#[test]
fn bad_model_files_are_named_with_the_fix() {
    let folder = trained();
    let inspect = |name: &str| failure(folder, 1, &["model", "inspect", name]);
    has(
        &inspect("picture.png"),
        &["picture.png", "not a readable safetensors file"],
    );

    let whole = std::fs::read(folder.join("runs/tiny/model.safetensors")).unwrap();
    std::fs::write(folder.join("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    has(
        &inspect("cut.safetensors"),
        &["cut.safetensors", "truncated"],
    );

    // A safetensors file of something else: an empty header.
    std::fs::write(folder.join("other.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
    has(
        &inspect("other.safetensors"),
        &[
            "other.safetensors",
            "not a fitup checkpoint",
            "fitup.format",
        ],
    );

    has(&inspect("missing.safetensors"), &["missing.safetensors"]);
    let none = failure(folder, 1, &["match", "picture.png", "a heart"]);
    has(
        &none,
        &[
            "weights/albef-tiny.safetensors",
            "--model",
            "fitup pretrain",
        ],
    );
    let picture = failure(folder, 1, &with_model(&["match", "tiny.toml", "a heart"]));
    has(&picture, &["tiny.toml", "unknown image format"]);
}

#[test]
fn bad_recipes_are_named_with_the_field() {
    let folder = fresh("recipes");
    write_recipe(&folder);
    let text = std::fs::read_to_string(folder.join("tiny.toml")).unwrap();
    std::fs::write(
        folder.join("typo.toml"),
        text.replace("batch_size", "batchsize"),
    )
    .unwrap();
    let typo = failure(&folder, 1, &["pretrain", "typo.toml"]);
    has(&typo, &["typo.toml", "batchsize", "batch_size", "line"]);
    let value = failure(
        &folder,
        1,
        &["pretrain", "tiny.toml", "--set", "objectives.queue_size=33"],
    );
    has(
        &value,
        &["objectives.queue_size", "33", "data.batch_size = 8"],
    );
    let unknown = failure(&folder, 1, &["pretrain", "albef-huge"]);
    has(&unknown, &["albef-huge", "recipes/pretrain", "albef-tiny"]);
    let data = failure(
        &folder,
        1,
        &[
            "pretrain",
            "tiny.toml",
            "--set",
            "data.train.paths=[\"no.tar\"]",
        ],
    );
    has(&data, &["no.tar"]);
    let device = failure(&folder, 1, &["pretrain", "tiny.toml", "--device", "gpu"]);
    has(&device, &["gpu", "cpu"]);
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    let folder = fresh("usage");
    for args in [
        &["search", "--index", "index"][..],
        &["search", "text", "--image", "a.png", "--index", "index"],
        &["index", "build", "--out", "index"],
        &["train"],
    ] {
        failure(&folder, 2, args);
    }
}
