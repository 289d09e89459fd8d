//! The same commands on systems other than ALBEF: what each can do, and what it says it cannot.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const CLIP: &str = r#"
name = "tiny"
seed = 5
[model]
system = "clip"
init_std = 0.05
[model.clip]
embed_dim = 16
[model.clip.vision]
image_size = 32
patch_size = 16
width = 32
depth = 2
heads = 2
mlp_width = 64
[model.clip.text]
vocab_size = 200
context_length = 16
width = 32
depth = 2
heads = 2
mlp_width = 64
end_of_text = "last"
[data]
train = { kind = "shards", paths = ["SAMPLES/train-00000.tar"], limit = 64 }
validation = { kind = "shards", paths = ["SAMPLES/test-00000.tar"], limit = 16 }
batch_size = 8
max_tokens = 12
fit = "pad_white"
[objectives]
itm = false
mlm = false
queue_size = 0
itc_targets = "image-or-caption"
[schedule]
kind = "constant"
lr = 1e-3
epochs = 1
[run]
steps = 6
checkpoint_every = 4
evaluate_every = 6
evaluate_images = 16
log_every = 2
"#;

fn samples() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples/pictograms");
    path.replace('\\', "/")
}

fn fitup(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fitup"));
    command.current_dir(folder).args(args).output().unwrap()
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let output = fitup(folder, &[args, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn failure(folder: &Path, args: &[&str]) -> String {
    let output = fitup(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    stderr
}

#[test]
fn a_clip_trains_searches_and_classifies() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(
        folder.join("tiny.toml"),
        CLIP.replace("SAMPLES", &samples()),
    )
    .unwrap();
    let shard = format!("{}/test-00000.tar", samples());
    image::RgbImage::from_fn(50, 40, |x, y| {
        image::Rgb([(x * 5) as u8, (y * 6) as u8, 90])
    })
    .save(folder.join("picture.png"))
    .unwrap();

    let run = json(folder, &["pretrain", "tiny.toml"]);
    assert_eq!(run["step"], 6);
    assert!(run["last_step"]["itc"].as_f64().unwrap() > 0.0);
    assert!(run["last_step"]["itm"].is_null());
    assert!(run["last_evaluation"]["itc"]["official"]["img_r10"].is_number());
    assert!(run["last_evaluation"]["reranked"].is_null());
    let whole = json(
        folder,
        &["pretrain", "tiny.toml", "--out", "other", "--steps", "4"],
    );
    assert_eq!(whole["step"], 4);
    let resumed = json(
        folder,
        &["pretrain", "tiny.toml", "--out", "other", "--resume"],
    );
    assert_eq!(resumed["last_step"]["total"], run["last_step"]["total"]);

    let model = ["--model", "runs/tiny"];
    let inspected = json(folder, &["model", "inspect", "runs/tiny"]);
    assert_eq!(inspected["system"], "clip");
    json(
        folder,
        &[
            &[
                "index", "build", "--data", &shard, "--out", "index", "--texts",
            ],
            &model[..],
        ]
        .concat(),
    );
    let found = json(
        folder,
        &[&["search", "a red heart", "--index", "index"], &model[..]].concat(),
    );
    let best = &found["found"][0];
    assert!(best["similarity"].is_number() && best["matching"].is_null());
    json(
        folder,
        &[
            &["search", "--image", "picture.png", "--index", "index"],
            &model[..],
        ]
        .concat(),
    );

    let matched = json(
        folder,
        &[&["match", "picture.png", "a heart"], &model[..]].concat(),
    );
    assert!(matched["similarity"].is_number() && matched["match_probability"].is_null());
    let gap = failure(
        folder,
        &[&["fill", "picture.png", "a [MASK]"], &model[..]].concat(),
    );
    assert!(
        gap.contains("clip") && gap.contains("masked words"),
        "{gap}"
    );

    let classes = ["classify", "picture.png", "--labels", "heart,red star"];
    let classes = json(folder, &[&classes[..], &model[..]].concat());
    let probabilities = classes["classes"].as_array().unwrap().iter();
    let sum: f64 = probabilities
        .map(|c| c["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    let template = [
        "classify",
        "picture.png",
        "--labels",
        "heart",
        "--template",
        "a thing",
    ];
    let template = failure(folder, &[&template[..], &model[..]].concat());
    assert!(template.contains("a thing"), "{template}");

    let zero_shot = [
        "evaluate",
        "zero-shot",
        "--data",
        &shard,
        "--template",
        "{}",
    ];
    let by_group = [&zero_shot[..], &["--label-field", "group"], &model[..]].concat();
    let result = &json(folder, &by_group)["result"];
    assert!(result["classes"].as_u64().unwrap() > 3);
    let top1 = result["top1"].as_f64().unwrap();
    assert!(result["top5"].as_f64().unwrap() >= top1);
    let nothing = failure(folder, &[&zero_shot[..], &model[..]].concat());
    assert!(nothing.contains("--label-field"), "{nothing}");

    let set = "objectives.itm=true";
    let refused = failure(
        folder,
        &["pretrain", "tiny.toml", "--out", "third", "--set", set],
    );
    assert!(refused.contains("objectives.itm"), "{refused}");
    let other = failure(
        folder,
        &[
            "pretrain",
            "tiny.toml",
            "--out",
            "fourth",
            "--set",
            "model.system=albef",
        ],
    );
    assert!(other.contains("[model.albef]"), "{other}");
}
