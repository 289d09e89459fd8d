//! Bad input and killed processes cost nothing: a run killed at random moments and resumed ends
//! with the weights of one that was not; a truncated shard, a corrupt image, an empty caption, a
//! full disk and a wrong checkpoint each end in a clear error or a counted skip.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use fitup_data::pictograms::read_shard;
use fitup_data::shards::{ShardSample, ShardWriter};

const RECIPE: &str = r#"
name = "small"
seed = 7
[model]
system = "albef"
[model.albef]
embed_dim = 16
[model.albef.vision]
image_size = 32
patch_size = 16
width = 32
depth = 2
heads = 2
[model.albef.text]
vocab_size = 400
hidden_size = 32
num_hidden_layers = 4
fusion_layer = 2
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 32
encoder_width = 32
[data]
train = { kind = "shards", paths = ["SHARD"] }
batch_size = 8
fit = "pad_white"
randaugment = {}
[objectives]
queue_size = 32
[schedule]
kind = "cosine"
lr = 1e-3
warmup_steps = 10
epochs = 1
[run]
steps = 60
checkpoint_every = 4
evaluate_every = 0
log_every = 1
"#;

fn sample_shard() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../samples/pictograms/train-00000.tar")
        .canonicalize()
        .unwrap()
}

fn recipe(folder: &Path, shard: &Path) -> PathBuf {
    let path = folder.join("small.toml");
    std::fs::write(&path, RECIPE.replace("SHARD", shard.to_str().unwrap())).unwrap();
    path
}

fn pretrain(recipe: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fitup"));
    command.arg("pretrain").arg(recipe).arg("--out").arg(out);
    command.args(more).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Every tensor of a run's newest checkpoint: weights, momentum, queue, optimizer state.
fn final_state(out: &Path) -> BTreeMap<String, Vec<u32>> {
    let path = out.join("checkpoints/step-00000060.safetensors");
    let (tensors, _) = fitup_models::weights::read(&path).unwrap();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, bits(tensor.values)))
        .collect()
}

/// Logged losses by step.
fn losses(out: &Path) -> BTreeMap<u64, String> {
    let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    log.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|event| event["event"] == "step")
        .map(|event| (event["step"].as_u64().unwrap(), event["total"].to_string()))
        .collect()
}

#[test]
fn killed_ten_times_and_resumed_gives_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), &sample_shard());
    let whole = folder.path().join("whole");
    let started = Instant::now();
    let output = pretrain(&recipe, &whole, &[]).output().unwrap();
    let duration = started.elapsed();
    assert!(output.status.success(), "{}", text(&output));

    let killed = folder.path().join("killed");
    let mut kills = 0;
    for attempt in 0.. {
        assert!(attempt < 60, "{kills} kills in {attempt} attempts");
        let mut child = pretrain(&recipe, &killed, &["--resume"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if kills < 10 {
            // A random moment so early that ten such pieces seldom add up to a whole run.
            let random = std::hash::RandomState::new().build_hasher().finish();
            let share = (random % 1000) as f64 / 1000.0;
            std::thread::sleep(duration.mul_f64(0.02 + 0.13 * share));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                kills += 1;
            } else {
                // It finished before ten kills: start over, so that one run sees all ten.
                std::fs::remove_dir_all(&killed).unwrap();
                kills = 0;
            }
            child.wait().unwrap();
        } else {
            assert!(child.wait().unwrap().success());
            break;
        }
    }
    assert_eq!(kills, 10);
    let (a, b) = (final_state(&whole), final_state(&killed));
    assert_eq!(a.len(), b.len());
    for (name, tensor) in &a {
        assert!(*tensor == b[name], "{name} differs after resuming");
    }
    assert_eq!(losses(&whole), losses(&killed));
}

#[test]
fn a_corrupt_image_and_an_empty_caption_are_counted_skips() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), "bad", 1000).unwrap();
    for (i, pictogram) in read_shard(&sample_shard()).unwrap().into_iter().enumerate() {
        let mut image = pictogram.image;
        let mut captions = pictogram.record.captions.clone();
        if i % 100 == 3 {
            image.truncate(image.len() / 2);
        }
        if i % 100 == 5 {
            captions = vec!["...!".into()];
        }
        writer
            .write(ShardSample {
                key: &pictogram.key,
                image: &image,
                extension: "png",
                captions: &captions,
                metadata: None,
            })
            .unwrap();
    }
    let shard = writer.finish().unwrap().remove(0);
    let recipe = recipe(folder.path(), &shard);
    let out = folder.path().join("run");
    // One pass over the 700 records leaves out those that fill no batch: at most a few of the 14.
    let output = pretrain(&recipe, &out, &["--steps", "90"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let skipped = log
        .lines()
        .find(|line| line.contains("\"skipped\""))
        .unwrap();
    let skipped: serde_json::Value = serde_json::from_str(skipped).unwrap();
    assert!(skipped["skipped"].as_u64().unwrap() >= 8, "{skipped}");
    let report = skipped["report"].as_str().unwrap();
    assert!(report.contains("caption"), "{report}");
    assert!(
        report.contains("image") || report.contains("picture"),
        "{report}"
    );
}

#[test]
fn a_truncated_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(sample_shard()).unwrap();
    let shard = folder.path().join("cut.tar");
    std::fs::write(&shard, &bytes[..bytes.len() / 2 + 100]).unwrap();
    let recipe = recipe(folder.path(), &shard);
    let output = pretrain(&recipe, &folder.path().join("run"), &[])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cut.tar"), "{}", text(&output));
}

/// Files of at most a few kB can be written: what a full disk does to a checkpoint.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), &sample_shard());
    let out = folder.path().join("run");
    let output = pretrain(&recipe, &out, &["--steps", "8"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));

    let whole = pretrain(&recipe, &out, &["--resume"]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh"])
        .arg(whole.get_program())
        .args(whole.get_args());
    let output = limited.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("step-00000012.safetensors"),
        "{}",
        text(&output)
    );
    let left: Vec<String> = std::fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        left.iter().all(|name| name.starts_with("step-")),
        "{left:?}"
    );
    assert!(
        left.contains(&"step-00000008.safetensors".to_owned()),
        "{left:?}"
    );

    // Space again: it goes on and ends as if nothing had happened.
    let output = pretrain(&recipe, &out, &["--resume"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let straight = folder.path().join("straight");
    assert!(
        pretrain(&recipe, &straight, &[])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(final_state(&out) == final_state(&straight));
}

#[test]
fn a_wrong_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), &sample_shard());
    let out = folder.path().join("run");
    let checkpoints = out.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).unwrap();
    let file = checkpoints.join("step-00000004.safetensors");

    std::fs::write(&file, b"not a checkpoint").unwrap();
    let output = pretrain(&recipe, &out, &["--resume"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("step-00000004.safetensors"),
        "{}",
        text(&output)
    );

    // A whole safetensors file without fitup's metadata.
    let tensors = BTreeMap::from([(
        "x".to_owned(),
        fitup_models::weights::HostTensor {
            shape: vec![1],
            values: vec![0.0],
        },
    )]);
    let precision = fitup_models::weights::Precision::F32;
    fitup_models::weights::write(&file, &tensors, Default::default(), precision).unwrap();
    let output = pretrain(&recipe, &out, &["--resume"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("fitup.format"), "{}", text(&output));

    // A run of other sizes.
    std::fs::remove_dir_all(&out).unwrap();
    let other = ["--steps", "4", "--set", "model.albef.embed_dim=8"];
    assert!(
        pretrain(&recipe, &out, &other)
            .output()
            .unwrap()
            .status
            .success()
    );
    let output = pretrain(&recipe, &out, &["--resume"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("embed_dim"), "{}", text(&output));
}
