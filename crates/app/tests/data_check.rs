//! `fitup data check` on the annotation files that `fitup data scenes` writes, and on data that is not whole.

#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use std::fs;

use program::{failure, fitup, json, samples};

#[test]
fn scenes_are_whole_in_every_format_and_a_lost_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pictograms = samples();
    let made = [
        "data",
        "scenes",
        "--pictograms",
        &pictograms,
        "--out",
        "scenes",
        "--side",
        "64",
        "--train",
        "0",
        "--val",
        "0",
        "--test",
        "40",
    ];
    json(folder, &made);
    let kinds: [(&str, &[&str]); 11] = [
        ("coco", &["captions.json"]),
        ("coco", &["retrieval.json"]),
        ("coco", &["coco_captions.json"]),
        ("vqa", &["vqa.json"]),
        ("vqa", &["v2_questions.json", "v2_annotations.json"]),
        ("nlvr2", &["nlvr.json"]),
        ("nlvr2", &["nlvr2.jsonl"]),
        ("snli-ve", &["ve.json"]),
        ("snli-ve", &["snli_ve.jsonl"]),
        ("refcoco", &["grounding.json"]),
        ("refcoco", &["refs.json", "instances.json", "dets.json"]),
    ];
    let run = |kind: &str, files: &[&str], more: &[&str]| -> Vec<String> {
        let files = files.iter().map(|file| format!("scenes/test/{file}"));
        let start = ["data", "check", kind, "--annotations"].map(str::to_owned);
        let end = ["--images", "scenes/test"].iter().chain(more);
        let end = end.map(|word| (*word).to_owned());
        start.into_iter().chain(files).chain(end).collect()
    };
    for (kind, files) in kinds {
        let args = run(kind, files, &["--strict"]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let document = json(folder, &args);
        assert_eq!(document["whole"], true, "{kind} {files:?}: {document}");
        assert!(
            document["check"]["records"].as_u64().unwrap() > 5,
            "{kind} {files:?}"
        );
    }

    fs::remove_file(folder.join("scenes/test/images/test_3000003.jpg")).unwrap();
    let args = run("coco", &["captions.json"], &[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = fitup(folder, &args);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "39 pictures can be used");
    for expected in [
        "39 of 40 pictures are there",
        "1 are missing: images/test_3000003.jpg",
        "https://cocodataset.org/#download",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let strict = [&args[..], &["--strict"]].concat();
    let output = fitup(folder, &strict);
    assert_eq!(output.status.code(), Some(1));

    fs::remove_dir_all(folder.join("scenes/test/images")).unwrap();
    let output = fitup(folder, &args);
    assert_eq!(output.status.code(), Some(1), "no picture is there");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("none of 40 pictures is there"),
        "{message}"
    );
}

#[test]
fn what_cannot_be_read_names_file_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(
        folder.join("list.json"),
        r#"[{"image": "a.jpg"}, {"image": "b.jpg", "caption": 3}]"#,
    )
    .unwrap();
    fs::write(folder.join("page.json"), "<html>").unwrap();
    let check = |file: &'static str, images: &'static str| {
        [
            "data",
            "check",
            "coco",
            "--annotations",
            file,
            "--images",
            images,
        ]
    };
    let output = fitup(folder, &check("list.json", "."));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("2 records are skipped: 2 by `caption`"),
        "{text}"
    );
    assert!(
        text.contains("list.json: record 2, field `caption`: expected a text"),
        "{text}"
    );
    for (args, expected) in [
        (
            check("page.json", "."),
            ["page.json", "a page of HTML is no download"],
        ),
        (
            check("none.json", "."),
            ["none.json", "cs.stanford.edu/people/karpathy"],
        ),
        (
            check("list.json", "none"),
            ["none: no such folder", "--images"],
        ),
    ] {
        let message = failure(folder, 1, &args);
        for expected in expected {
            assert!(message.contains(expected), "{message}");
        }
    }
}
