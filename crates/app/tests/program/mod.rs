//! The built binary, run as a person runs it.

// Every test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Recipe of a tiny ALBEF; `SAMPLES` stands for [`samples`].
pub const ALBEF: &str = r#"
name = "tiny"
seed = 5
[model]
system = "albef"
init_std = 0.05
[model.albef]
embed_dim = 16
[model.albef.vision]
image_size = 32
patch_size = 16
width = 32
depth = 2
heads = 2
[model.albef.text]
vocab_size = 200
hidden_size = 32
num_hidden_layers = 2
fusion_layer = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 16
encoder_width = 32
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0
[data]
train = { kind = "shards", paths = ["SAMPLES/train-00000.tar"], limit = 64 }
validation = { kind = "shards", paths = ["SAMPLES/test-00000.tar"], limit = 16 }
batch_size = 8
max_tokens = 12
fit = "pad_white"
[objectives]
queue_size = 32
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

/// The pictures of the repository, with `/` between folders on every system.
pub fn samples() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples/pictograms");
    path.replace('\\', "/")
}

/// Runs a command in a folder until it ends.
pub fn fitup(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fitup"));
    command.current_dir(folder).args(args).output().unwrap()
}

/// Standard output of a command that must work, as JSON.
pub fn json(folder: &Path, args: &[&str]) -> Value {
    let output = fitup(folder, &[args, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Message of a command that must fail with `code` and print no result.
pub fn failure(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = fitup(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} printed a result");
    stderr
}

/// A message holds all of these.
pub fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}
