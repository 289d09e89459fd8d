//! `fitup model convert` and `inspect` on files that other programs wrote.
#![allow(clippy::unwrap_used)]

mod program;

use std::path::{Path, PathBuf};

use fitup_models::weights;
use program::{failure, fitup, json};

/// A command that must fail, with every part in its message.
#[track_caller]
fn fails(folder: &Path, args: &[&str], parts: &[&str]) {
    let message = failure(folder, 1, args);
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message:?}");
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
    let there = json(
        &folder,
        &["model", "convert", "nested.pth", "there.safetensors"],
    );
    assert_eq!(there["tensors"], 13);
    assert_eq!(there["left_out"], serde_json::json!(["flags", "ids"]));
    let args = ["model", "convert", "there.safetensors", "back.pth"];
    let back = json(&folder, &[&args[..], &["--key", "model"]].concat());
    assert_eq!(
        (&back["tensors"], &back["left_out"]),
        (&serde_json::json!(13), &serde_json::json!([]))
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
    let half = json(&folder, &[&args[..], &["--to", "safetensors"]].concat());
    assert_eq!(
        half["left_out"],
        serde_json::json!(["1.num_batches_tracked"])
    );
    let seen = json(&folder, &["model", "inspect", "half"]);
    assert_eq!(
        seen["types"],
        serde_json::json!({ "F16": { "tensors": 6, "elements": 16 } })
    );
    fails(
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
        let seen = json(&folder, &["model", "inspect", file, "--tensors"]);
        assert_eq!(seen["tensor_count"], 15);
        assert_eq!(
            seen["types"]["I64"],
            serde_json::json!({ "tensors": 1, "elements": 4 })
        );
        let ids = serde_json::json!({ "shape": [1, 4], "type": "I64" });
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
    fails(
        &folder,
        &["model", "convert", "nested.pth", "out.xyz"],
        &["out.xyz", "--to safetensors"],
    );
    let keyed = ["model", "convert", "nested.pth", "out.safetensors"];
    let keyed = [&keyed[..], &["--key", "model"]].concat();
    fails(&folder, &keyed, &["--key is for .pth files"]);
    fails(
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
        fails(&folder, args, &["evil.pth", "refuses to run os.system"]);
    }
    assert!(!folder.join("out.safetensors").exists());
}
