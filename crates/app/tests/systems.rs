//! The same commands on systems other than ALBEF: what each can do, and what it says it cannot.
#![allow(clippy::unwrap_used)]

mod program;

use std::path::Path;

use program::{failure, json, samples};
use serde_json::Value;

/// Everything but `[model]` and `[objectives]`.
const RUN: &str = r#"
name = "tiny"
seed = 5
[data]
train = { kind = "shards", paths = ["SAMPLES/train-00000.tar"], limit = 64 }
validation = { kind = "shards", paths = ["SAMPLES/test-00000.tar"], limit = 16 }
batch_size = 8
max_tokens = 12
fit = "pad_white"
[schedule]
kind = "constant"
lr = 1e-3
epochs = 1
[run]
steps = 6
checkpoint_every = 4
evaluate_every = 6
evaluate_images = 16
evaluate_k = 4
log_every = 2
"#;

const CLIP: &str = r#"
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
[objectives]
itm = false
mlm = false
queue_size = 0
itc_targets = "image-or-caption"
"#;

const VILT: &str = r#"
[model]
system = "vilt"
init_std = 0.05
[model.vilt]
vocab_size = 200
max_text_len = 16
[model.vilt.vision]
image_size = 32
patch_size = 16
width = 32
depth = 2
heads = 2
[objectives]
itc = false
queue_size = 0
"#;

const VLMO: &str = r#"
[model]
system = "vlmo"
init_std = 0.05
[model.vlmo]
image_size = 32
patch_size = 16
width = 32
depth = 2
heads = 2
mlp_ratio = 2
vl_start_layer = 1
max_text_len = 16
vocab_size = 200
layer_scale = true
drop_path = 0.1
positions = { relative = { table_text_len = 16 } }
[objectives]
queue_size = 0
"#;

/// A folder with a recipe and a picture.
fn folder(recipe: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let recipe = format!("{RUN}{recipe}").replace("SAMPLES", &samples());
    std::fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
    image::RgbImage::from_fn(50, 40, |x, y| {
        image::Rgb([(x * 5) as u8, (y * 6) as u8, 90])
    })
    .save(folder.path().join("picture.png"))
    .unwrap();
    folder
}

/// Trains at once and in two parts, of which the second checkpoints gradients; both must come to the
/// same. Returns the run.
fn trained(folder: &Path) -> Value {
    let run = json(folder, &["pretrain", "tiny.toml"]);
    assert_eq!(run["step"], 6);
    let part = json(
        folder,
        &["pretrain", "tiny.toml", "--out", "other", "--steps", "4"],
    );
    assert_eq!(part["step"], 4);
    let resumed = json(
        folder,
        &[
            "pretrain",
            "tiny.toml",
            "--out",
            "other",
            "--resume",
            "--set",
            "run.gradient_checkpointing=true",
        ],
    );
    assert_eq!(resumed["last_step"]["total"], run["last_step"]["total"]);
    let bf16 = ["--out", "bf16", "--set", "run.bf16=true"];
    let bf16 = json(folder, &[&["pretrain", "tiny.toml"], &bf16[..]].concat());
    let [rounded, full] = [&bf16, &run].map(|run| run["last_step"]["total"].as_f64().unwrap());
    assert!((rounded - full).abs() < 0.02 * full, "{rounded}, {full}");
    run
}

const MODEL: [&str; 2] = ["--model", "runs/tiny"];

fn with_model<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &MODEL].concat()
}

#[test]
fn a_vilt_matches_and_fills_but_has_nothing_to_index() {
    let folder = folder(VILT);
    let folder = folder.path();
    let run = trained(folder);
    assert!(run["last_step"]["mlm"].is_number() && run["last_step"]["itc"].is_null());
    assert!(run["last_evaluation"]["itc"].is_null());
    assert!(run["last_evaluation"]["reranked"]["official"]["img_r10"].is_number());
    assert_eq!(
        json(folder, &["model", "inspect", "runs/tiny"])["system"],
        "vilt"
    );

    let matched = json(folder, &with_model(&["match", "picture.png", "a heart"]));
    assert!(matched["match_probability"].is_number() && matched["similarity"].is_null());
    let filled = json(folder, &with_model(&["fill", "picture.png", "a [MASK]"]));
    assert!(filled["masks"][0]["model"][0]["probability"].is_number());
    let shard = format!("{}/test-00000.tar", samples());
    let index = ["index", "build", "--data", &shard, "--out", "index"];
    let refused = failure(folder, 1, &with_model(&index));
    assert!(
        refused.contains("vilt") && refused.contains("embedding"),
        "{refused}"
    );
    let classify = ["classify", "picture.png", "--labels", "heart,star"];
    assert!(failure(folder, 1, &with_model(&classify)).contains("vilt"));
    let explain = ["explain", "picture.png", "a heart"];
    let explain = failure(folder, 1, &with_model(&explain));
    assert!(
        explain.contains("vilt") && explain.contains("cross-attention"),
        "{explain}"
    );
}

#[test]
fn a_vlmo_is_searched_as_a_dual_encoder_and_matches_as_a_fusion_encoder() {
    let folder = folder(VLMO);
    let folder = folder.path();
    let run = trained(folder);
    for number in ["itc", "itm", "mlm"] {
        assert!(run["last_step"][number].is_number(), "{number}");
    }
    let shard = format!("{}/test-00000.tar", samples());
    json(
        folder,
        &with_model(&["index", "build", "--data", &shard, "--out", "index"]),
    );
    let search = ["search", "a red heart", "--index", "index", "--rerank", "5"];
    let best = &json(folder, &with_model(&search))["found"][0];
    assert!(best["similarity"].is_number() && best["matching"].is_number());
    let matched = json(folder, &with_model(&["match", "picture.png", "a heart"]));
    assert!(matched["match_probability"].is_number() && matched["similarity"].is_number());
    let filled = json(folder, &with_model(&["fill", "picture.png", "a [MASK]"]));
    assert!(filled["masks"][0]["model"][0]["probability"].is_number());
    let evaluate = [
        "evaluate",
        "retrieval",
        "--data",
        &shard,
        "--images",
        "16",
        "--k",
        "4",
    ];
    let result = &json(folder, &with_model(&evaluate))["result"];
    assert!(result["itc"]["official"]["img_r1"].is_number());
    assert!(result["reranked"]["official"]["img_r1"].is_number());
}

#[test]
fn a_clip_trains_searches_and_classifies() {
    let folder = folder(CLIP);
    let folder = folder.path();
    let shard = format!("{}/test-00000.tar", samples());
    let run = trained(folder);
    assert!(run["last_step"]["itc"].as_f64().unwrap() > 0.0);
    assert!(run["last_step"]["itm"].is_null());
    assert!(run["last_evaluation"]["itc"]["official"]["img_r10"].is_number());
    assert!(run["last_evaluation"]["reranked"].is_null());

    let inspected = json(folder, &["model", "inspect", "runs/tiny"]);
    assert_eq!(inspected["system"], "clip");
    json(
        folder,
        &with_model(&[
            "index", "build", "--data", &shard, "--out", "index", "--texts",
        ]),
    );
    let found = json(
        folder,
        &with_model(&["search", "a red heart", "--index", "index"]),
    );
    let best = &found["found"][0];
    assert!(best["similarity"].is_number() && best["matching"].is_null());
    json(
        folder,
        &with_model(&["search", "--image", "picture.png", "--index", "index"]),
    );

    let matched = json(folder, &with_model(&["match", "picture.png", "a heart"]));
    assert!(matched["similarity"].is_number() && matched["match_probability"].is_null());
    let gap = failure(folder, 1, &with_model(&["fill", "picture.png", "a [MASK]"]));
    assert!(
        gap.contains("clip") && gap.contains("masked words"),
        "{gap}"
    );

    let classes = ["classify", "picture.png", "--labels", "heart,red star"];
    let classes = json(folder, &with_model(&classes));
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
    let template = failure(folder, 1, &with_model(&template));
    assert!(template.contains("a thing"), "{template}");

    let zero_shot = [
        "evaluate",
        "zero-shot",
        "--data",
        &shard,
        "--template",
        "{}",
    ];
    let by_group = [&zero_shot[..], &["--label-field", "group"], &MODEL].concat();
    let result = &json(folder, &by_group)["result"];
    assert!(result["classes"].as_u64().unwrap() > 3);
    let top1 = result["top1"].as_f64().unwrap();
    assert!(result["top5"].as_f64().unwrap() >= top1);
    let nothing = failure(folder, 1, &with_model(&zero_shot));
    assert!(nothing.contains("--label-field"), "{nothing}");

    let set = "objectives.itm=true";
    let refused = failure(
        folder,
        1,
        &["pretrain", "tiny.toml", "--out", "third", "--set", set],
    );
    assert!(refused.contains("objectives.itm"), "{refused}");
    let other = failure(
        folder,
        1,
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
