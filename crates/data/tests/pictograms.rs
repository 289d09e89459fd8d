//! The committed sample keeps its promises, and a whole build runs offline on packages made up here.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use fitup_data::pictograms::{
    BuildError, BuildOptions, SampleOptions, build, check_splits, list_shards, read_shard,
    write_sample,
};
use serde_json::{Value, json};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/pictograms")
}

#[test]
fn the_committed_sample_is_small_whole_and_without_leaks() {
    let shards = list_shards(&sample()).unwrap();
    assert_eq!(
        shards
            .iter()
            .map(|(split, _)| split.as_str())
            .collect::<Vec<_>>(),
        ["test", "train"]
    );
    let bytes: u64 = shards
        .iter()
        .map(|(_, path)| fs::metadata(path).unwrap().len())
        .sum();
    assert!(bytes < 5_000_000, "{bytes} bytes");

    let [test, train] = [&shards[0], &shards[1]].map(|(_, path)| read_shard(path).unwrap());
    assert_eq!((train.len(), test.len()), (700, 170));
    for pictogram in train.iter().chain(&test) {
        let image = image::load_from_memory(&pictogram.image).unwrap();
        let record = &pictogram.record;
        assert_eq!(
            (image.width(), image.height()),
            (record.width, record.height),
            "{}",
            pictogram.key
        );
        assert_eq!(record.width.max(record.height), 128);
        assert!(
            !record.captions.is_empty()
                && record
                    .captions
                    .iter()
                    .all(|caption| !caption.trim().is_empty())
        );
    }
    let drawn: HashSet<&str> = train
        .iter()
        .map(|pictogram| pictogram.record.concept.as_str())
        .collect();
    let unknown = test
        .iter()
        .find(|pictogram| !drawn.contains(pictogram.record.concept.as_str()));
    assert!(
        unknown.is_none(),
        "no training picture shows the concept of {unknown:?}"
    );

    let report = check_splits(&sample()).unwrap();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn the_sample_names_the_terms_of_every_source() {
    let notice = fs::read_to_string(sample().join("ATTRIBUTION.md")).unwrap();
    let mut sources = BTreeSet::new();
    for (_, path) in list_shards(&sample()).unwrap() {
        for pictogram in read_shard(&path).unwrap() {
            assert!(
                ["Apache-2.0", "MIT", "CC-BY-4.0", "PD"]
                    .contains(&pictogram.record.license.as_str())
            );
            sources.insert(pictogram.record.source);
        }
    }
    assert!(sources.len() >= 7, "{sources:?}");
    for source in sources {
        assert!(
            notice.contains(&format!("| {source} |")),
            "{source} is not credited"
        );
    }
}

/// Every concept that the made-up packages draw: code point, name, group, subgroup.
const CONCEPTS: [(&str, &str, u32, u32); 5] = [
    ("1FAD6", "teapot", 1, 1),
    ("1F43C", "panda", 0, 0),
    ("1F98A", "fox", 0, 0),
    ("1F9A6", "otter", 0, 0),
    ("1F3A9", "top hat", 2, 2),
];

fn write_json(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

/// A work folder that looks as if all packages had been fetched.
fn packages(work: &Path) {
    let emojibase = work.join("packages/emojibase-data-17.0.0");
    let groups = json!({"0": "animals-nature", "1": "food-drink", "2": "objects"});
    write_json(
        &emojibase.join("meta/groups.json"),
        &json!({"groups": groups, "subgroups": {
        "0": "animal-mammal", "1": "drink", "2": "clothing"}}),
    );
    write_json(
        &emojibase.join("meta/unicode-names.json"),
        &json!({"1F3A9": "TOP HAT"}),
    );
    write_json(
        &emojibase.join("en/shortcodes/github.json"),
        &json!({"1F98A": ["fox_face", "reynard"]}),
    );
    let entry = |(code, name, group, subgroup): (&str, &str, u32, u32)| {
        json!({"label": name, "hexcode": code, "tags": [name, "cute", "a panda's friend"],
               "group": group, "subgroup": subgroup})
    };
    let entries: Vec<Value> = CONCEPTS.into_iter().map(entry).collect();
    for language in ["en", "zh", "fr", "de", "es", "ja", "hi", "ru", "pt", "ko"] {
        write_json(&emojibase.join(language).join("data.json"), &json!(entries));
    }
    let sets = [
        ("noto-1.2.9", 10),
        ("noto-v1-1.2.5", 20),
        ("twemoji-1.2.5", 30),
        ("fluent-emoji-flat-1.2.6", 40),
        ("fluent-emoji-1.2.7", 50),
        ("emojione-1.2.3", 60),
        ("fxemoji-1.2.2", 70),
    ];
    for (set, shade) in sets {
        let mut icons = serde_json::Map::new();
        for (at, (_, name, _, _)) in CONCEPTS.iter().enumerate() {
            // Every maker and concept has a shape and a colour of its own.
            let body = format!(
                "<rect x='2' y='2' width='{}' height='28' fill='rgb({},{shade},20)'/>",
                10 + 4 * at,
                50 * at
            );
            icons.insert(name.replace(' ', "-"), json!({"body": body}));
        }
        // Known by an older name only; pixels of another set, a blank, a broken and an unknown one.
        icons.insert(
            "reynard".to_owned(),
            json!({"body": format!("<circle cx='16' cy='16' r='9' fill='rgb({shade},0,200)'/>")}),
        );
        icons.insert(
            "otter-hidden".to_owned(),
            json!({"body": "", "hidden": true}),
        );
        icons.insert("topHat".to_owned(), json!({"body": "<path d='M0 0"}));
        icons.insert(
            "nobody-knows".to_owned(),
            json!({"body": "<circle r='9'/>"}),
        );
        let folder = work.join(format!("packages/iconify-json-{set}"));
        write_json(
            &folder.join("icons.json"),
            &json!({"icons": icons, "width": 32, "height": 32}),
        );
        if set.starts_with("noto-1") {
            write_json(
                &folder.join("chars.json"),
                &json!({"1fad6": "teapot", "1f43c": "panda"}),
            );
        }
    }
}

#[test]
fn a_whole_build_runs_offline_and_repeats() {
    let folder = tempfile::tempdir().unwrap();
    let (work, out) = (folder.path().join("work"), folder.path().join("out"));
    packages(&work);
    let options = BuildOptions {
        work,
        size: 48,
        per_shard: 10,
        openclipart: false,
        ..BuildOptions::new(&out)
    };
    // Left by a former build with more shards.
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("train-00042.tar"), b"old").unwrap();

    let mut stages = Vec::new();
    let report = build(&options, &mut |stage, done, all| {
        stages.push((stage.to_owned(), done, all))
    })
    .unwrap();
    assert_eq!(
        report.splits["test_zeroshot"].images, 7,
        "a panda by every maker"
    );
    assert_eq!(report.splits["test_zeroshot"].concepts, 1);
    assert_eq!(
        report.splits["test_style"].images, 5,
        "teapot, fox twice, otter and hat by the held-out maker"
    );
    let others: usize = ["train", "val", "test"]
        .iter()
        .map(|split| report.splits[*split].images)
        .sum();
    assert_eq!(others, 6 * 5);
    assert!(report.dropped["noto: icon of no known concept"] == 1);
    assert_eq!(report.dropped["twemoji: malformed SVG"], 1);
    assert_eq!(report.warnings.len(), 1);
    for stage in ["fetch", "rasterise", "write"] {
        assert!(
            stages.iter().any(|(name, _, _)| name == stage),
            "{stage} was not told"
        );
    }

    assert!(
        !out.join("train-00042.tar").exists(),
        "stale shards are removed"
    );
    assert!(
        out.join("train-00001.tar").exists(),
        "shards have ten pictures"
    );
    let leaks = check_splits(&out).unwrap();
    assert!(leaks.is_clean(), "{leaks}");
    let stats: Value = serde_json::from_slice(&fs::read(out.join("stats.json")).unwrap()).unwrap();
    assert_eq!(stats["splits"]["test_zeroshot"]["images"], 7);
    assert!(
        fs::read_to_string(out.join("ATTRIBUTION.md"))
            .unwrap()
            .contains("CC-BY-4.0")
    );

    for pictogram in read_shard(&out.join("train-00000.tar")).unwrap() {
        let record = pictogram.record;
        assert!(
            record
                .captions
                .iter()
                .all(|caption| !caption.contains("panda")),
            "{:?}",
            record.captions
        );
        assert_eq!(record.i18n["fr"], record.name);
    }

    let before = fs::read(out.join("train-00000.tar")).unwrap();
    assert_eq!(build(&options, &mut |_, _, _| {}).unwrap(), report);
    assert_eq!(
        fs::read(out.join("train-00000.tar")).unwrap(),
        before,
        "a build repeats to the byte"
    );
}

#[test]
fn bad_options_and_packages_are_errors_that_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (work, out) = (folder.path().join("work"), folder.path().join("out"));
    packages(&work);
    let options = BuildOptions {
        work: work.clone(),
        openclipart: false,
        ..BuildOptions::new(&out)
    };
    let none = BuildOptions {
        per_shard: 0,
        ..options.clone()
    };
    assert!(matches!(
        build(&none, &mut |_, _, _| {}),
        Err(BuildError::Option {
            option: "per_shard",
            ..
        })
    ));

    let broken = work.join("packages/iconify-json-twemoji-1.2.5/icons.json");
    fs::write(&broken, "{\"icons\": 3}").unwrap();
    let error = build(&options, &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(&error, BuildError::Package { path, .. } if *path == broken));
    assert!(
        error
            .to_string()
            .contains("remove the package's folder and run again")
    );
}

#[test]
fn a_sample_of_the_sample_is_deterministic_and_within_its_count() {
    let folder = tempfile::tempdir().unwrap();
    let take = |name: &str| {
        let out = folder.path().join(name);
        let options = SampleOptions {
            train: 60,
            test: 20,
            ..SampleOptions::new(sample(), &out)
        };
        (
            write_sample(&options).unwrap(),
            fs::read(out.join("train-00000.tar")).unwrap(),
        )
    };
    let (report, shard) = take("first");
    assert_eq!(report.train, 60);
    assert!((1..=20).contains(&report.test), "{report:?}");
    assert_eq!(take("second"), (report, shard));
}
