//! `fitup model convert` and `inspect` on files that other programs wrote.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fitup_models::weights;
use serde_json::{Value, json};

fn fitup(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fitup"));
    command.current_dir(folder).args(args).output().unwrap()
}

/// Standard output of a command that must work, as JSON.
fn document(folder: &Path, args: &[&str]) -> Value {
    let output = fitup(folder, &[args, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Message of a command that must fail.
#[track_caller]
fn failure(folder: &Path, args: &[&str], parts: &[&str]) {
    let output = fitup(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "no {part:?} in {stderr:?}");
    }
}

/// A folder with the files that PyTorch wrote, and nothing else.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("model_files")
        .join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/pytorch");
    for file in ["nested.pth", "legacy.pth", "module.pth"] {
        std::fs::copy(fixtures.join(file), folder.join(file)).unwrap();
    }
    folder
}

#[test]
fn a_pytorch_file_goes_to_safetensors_and_back() {
    let folder = folder("there_and_back");
    let there = document(
        &folder,
        &["model", "convert", "nested.pth", "there.safetensors"],
    );
    assert_eq!(there["tensors"], 13);
    assert_eq!(there["left_out"], json!(["flags", "ids"]));
    let args = ["model", "convert", "there.safetensors", "back.pth"];
    let back = document(&folder, &[&args[..], &["--key", "model"]].concat());
    assert_eq!(
        (&back["tensors"], &back["left_out"]),
        (&json!(13), &json!([]))
    );
    let read = |name: &str| weights::read(&folder.join(name)).unwrap().0;
    assert_eq!(read("there.safetensors"), read("legacy.pth"));
    assert_eq!(read("back.pth"), read("legacy.pth"));
    let bytes = std::fs::read(folder.join("back.pth")).unwrap();
    assert!(bytes.starts_with(b"PK"));
}

#[test]
fn sixteen_bits_halve_what_fits_and_refuse_what_does_not() {
    let folder = folder("half");
    let args = ["model", "convert", "module.pth", "half", "--f16"];
    let half = document(&folder, &[&args[..], &["--to", "safetensors"]].concat());
    assert_eq!(half["left_out"], json!(["1.num_batches_tracked"]));
    let seen = document(&folder, &["model", "inspect", "half"]);
    assert_eq!(
        seen["types"],
        json!({ "F16": { "tensors": 6, "elements": 16 } })
    );
    failure(
        &folder,
        &["model", "convert", "nested.pth", "half.pth", "--f16"],
        &["nested.pth", "brain holds 3.004", "16-bit"],
    );
    assert!(!folder.join("half.pth").exists());
}

#[test]
fn files_of_others_are_inspected() {
    let folder = folder("inspect");
    for file in ["nested.pth", "legacy.pth"] {
        let seen = document(&folder, &["model", "inspect", file, "--tensors"]);
        assert_eq!(seen["tensor_count"], 15);
        assert_eq!(seen["types"]["I64"], json!({ "tensors": 1, "elements": 4 }));
        let ids = json!({ "shape": [1, 4], "type": "I64" });
        assert_eq!(seen["tensors"]["ids"], ids);
        let output = fitup(&folder, &["model", "inspect", file, "--tensors"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for part in ["tensors       15", "transposed  [4, 3]  F32"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}

#[test]
fn what_cannot_be_converted_is_named_with_the_fix() {
    let folder = folder("errors");
    failure(
        &folder,
        &["model", "convert", "nested.pth", "out.xyz"],
        &["out.xyz", "--to safetensors"],
    );
    let keyed = ["model", "convert", "nested.pth", "out.safetensors"];
    let keyed = [&keyed[..], &["--key", "model"]].concat();
    failure(&folder, &keyed, &["--key is for .pth files"]);
    failure(
        &folder,
        &["model", "convert", "missing.pth", "out.safetensors"],
        &["missing.pth"],
    );
    let whole = std::fs::read(folder.join("legacy.pth")).unwrap();
    let evil = [&whole[..18], b"\x80\x02cos\nsystem\n)R."].concat();
    std::fs::write(folder.join("evil.pth"), evil).unwrap();
    for args in [
        &["model", "convert", "evil.pth", "out.safetensors"][..],
        &["model", "inspect", "evil.pth"],
    ] {
        failure(&folder, args, &["evil.pth", "refuses to run os.system"]);
    }
    assert!(!folder.join("out.safetensors").exists());
}
