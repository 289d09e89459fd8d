//! The built binary, run as a person runs it.

// Every test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

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
