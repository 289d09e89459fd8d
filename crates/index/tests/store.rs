//! The feature store: what is written is what is read, and nothing committed is ever lost.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::path::Path;

use fitup_index::store::{Salvaged, salvage};
use fitup_index::{
    Dtype, Item, ItemKind, ModelId, Store, StoreError, StoreSpec, StoreWriter, search,
};
use half::f16;
use proptest::prelude::*;
use tempfile::tempdir;

const DIM: usize = 3;

fn spec(dtype: Dtype) -> StoreSpec {
    StoreSpec {
        model: ModelId {
            name: "tiny".to_owned(),
            fingerprint: "00c0ffee".to_owned(),
        },
        dim: DIM,
        dtype,
        normalised: false,
    }
}

fn item(number: usize) -> Item {
    Item {
        key: format!("k{number}"),
        locator: format!("träume/{number}.jpg"),
        text: "line one\nline \"two\"\u{2028}".to_owned(),
        kind: if number.is_multiple_of(2) {
            ItemKind::Image
        } else {
            ItemKind::Text
        },
    }
}

fn items(range: std::ops::Range<usize>) -> Vec<Item> {
    range.map(item).collect()
}

fn rows(range: std::ops::Range<usize>) -> Vec<f32> {
    (range.start * DIM..range.end * DIM)
        .map(|i| i as f32 / 4.0 - 3.0)
        .collect()
}

fn write(folder: &Path, dtype: Dtype, count: usize) {
    let mut writer = StoreWriter::create(folder, &spec(dtype)).unwrap();
    writer.append(&rows(0..count), &items(0..count)).unwrap();
    writer.finish().unwrap();
}

fn assert_holds(folder: &Path, count: usize) {
    let store = Store::open(folder, Some("00C0FFEE")).unwrap();
    assert_eq!(store.items(), items(0..count));
    let all: Vec<f32> = (0..count).flat_map(|i| store.row(i).into_owned()).collect();
    assert_eq!(all, rows(0..count));
    assert_eq!(store.features().rows(), count);
}

fn set_len(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn what_is_written_is_read() {
    for dtype in [Dtype::F32, Dtype::F16] {
        let folder = tempdir().unwrap();
        write(folder.path(), dtype, 7);
        assert_holds(folder.path(), 7);
        let store = Store::open(folder.path(), None).unwrap();
        assert_eq!((store.len(), store.is_complete()), (7, true));
        assert_eq!(store.spec(), &spec(dtype));
        assert!(store.created() > 1_600_000_000);
        let expected = (7 * DIM * dtype.size()) as u64;
        assert_eq!(len(&folder.path().join("features.bin")), expected);
        let hits = search(store.features(), &[1.0, 1.0, 1.0], 1);
        assert_eq!(hits[0][0].row, 6);
    }
}

#[test]
fn an_empty_store_opens() {
    let folder = tempdir().unwrap();
    drop(StoreWriter::create(folder.path(), &spec(Dtype::F16)).unwrap());
    let store = Store::open(folder.path(), None).unwrap();
    assert!(store.is_empty() && !store.is_complete());
    assert!(search(store.features(), &[1.0; DIM], 5)[0].is_empty());
}

#[test]
fn appending_equals_writing_at_once() {
    let (whole, parts) = (tempdir().unwrap(), tempdir().unwrap());
    write(whole.path(), Dtype::F16, 10);
    for (first, last) in [(0, 1), (1, 6), (6, 6), (6, 10)] {
        let mut writer = StoreWriter::open_or_create(parts.path(), &spec(Dtype::F16)).unwrap();
        assert_eq!(writer.len(), first);
        for number in first..last {
            assert!(!writer.contains(&item(number).key));
            writer
                .append(&rows(number..number + 1), &items(number..number + 1))
                .unwrap();
            assert!(writer.contains(&item(number).key));
        }
        writer.commit().unwrap();
        assert_holds(parts.path(), last);
    }
    for name in ["features.bin", "items.jsonl"] {
        let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
        assert_eq!(read(whole.path()), read(parts.path()), "{name}");
    }
}

#[test]
fn appending_to_a_finished_store_unfinishes_it() {
    let folder = tempdir().unwrap();
    write(folder.path(), Dtype::F32, 2);
    let complete = || Store::open(folder.path(), None).unwrap().is_complete();
    let mut writer = StoreWriter::open_append(folder.path(), &spec(Dtype::F32)).unwrap();
    writer.commit().unwrap();
    assert!(complete());
    writer.append(&rows(2..3), &items(2..3)).unwrap();
    writer.commit().unwrap();
    assert!(!complete());
    writer.finish().unwrap();
    assert!(complete());
}

/// A writer killed at any byte: the committed rows are there, the tail is gone, and writing goes
/// on as if nothing had been.
#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    for dtype in [Dtype::F32, Dtype::F16] {
        let origin = tempdir().unwrap();
        let mut writer = StoreWriter::create(origin.path(), &spec(dtype)).unwrap();
        writer.append(&rows(0..2), &items(0..2)).unwrap();
        writer.commit().unwrap();
        let features = origin.path().join("features.bin");
        let lines = origin.path().join("items.jsonl");
        let (features_done, lines_done) = (len(&features), len(&lines));
        writer.append(&rows(2..4), &items(2..4)).unwrap();
        drop(writer);
        let (features_end, lines_end) = (len(&features), len(&lines));
        assert!(features_done < features_end && lines_done < lines_end);
        assert_holds(origin.path(), 2);

        let cuts = (features_done..=features_end)
            .map(|at| (at, lines_end))
            .chain((features_done..=features_end).map(|at| (at, lines_done)))
            .chain((lines_done..=lines_end).map(|at| (features_end, at)));
        for (features_len, lines_len) in cuts {
            let folder = tempdir().unwrap();
            for name in ["features.bin", "items.jsonl", "index.json"] {
                fs::copy(origin.path().join(name), folder.path().join(name)).unwrap();
            }
            set_len(&folder.path().join("features.bin"), features_len);
            set_len(&folder.path().join("items.jsonl"), lines_len);
            fs::write(folder.path().join("index.json.partial"), "{\"ver").unwrap();
            assert_holds(folder.path(), 2);

            let mut writer = StoreWriter::open_append(folder.path(), &spec(dtype)).unwrap();
            assert!(writer.contains("k1") && !writer.contains("k2"));
            writer.append(&rows(2..5), &items(2..5)).unwrap();
            writer.finish().unwrap();
            assert_holds(folder.path(), 5);
        }
    }
}

/// Committed bytes that are gone are damage, not a torn tail: named, and salvaged on request.
#[test]
fn committed_rows_that_are_gone_are_reported_and_the_rest_salvaged() {
    let origin = tempdir().unwrap();
    write(origin.path(), Dtype::F32, 3);
    for name in ["features.bin", "items.jsonl"] {
        let whole = fs::read(origin.path().join(name)).unwrap();
        for at in 0..whole.len() {
            let folder = tempdir().unwrap();
            for name in ["features.bin", "items.jsonl", "index.json"] {
                fs::copy(origin.path().join(name), folder.path().join(name)).unwrap();
            }
            set_len(&folder.path().join(name), at as u64);
            let errors = [
                Store::open(folder.path(), None).map(drop).unwrap_err(),
                StoreWriter::open_append(folder.path(), &spec(Dtype::F32))
                    .map(drop)
                    .unwrap_err(),
            ];
            for error in errors {
                assert!(
                    matches!(&error, StoreError::CutShort { path, expected, got }
                        if path.ends_with(name)
                            && (*expected, *got) == (whole.len() as u64, at as u64)),
                    "{error:?}"
                );
            }

            let kept = match name {
                "features.bin" => at / (DIM * 4),
                _ => whole[..at].iter().filter(|&&byte| byte == b'\n').count(),
            };
            let lost = 3 - kept;
            assert_eq!(salvage(folder.path()).unwrap(), Salvaged { kept, lost });
            assert_eq!(salvage(folder.path()).unwrap(), Salvaged { kept, lost: 0 });
            assert_holds(folder.path(), kept);
            let mut writer = StoreWriter::open_append(folder.path(), &spec(Dtype::F32)).unwrap();
            writer.append(&rows(kept..4), &items(kept..4)).unwrap();
            writer.finish().unwrap();
            assert_holds(folder.path(), 4);
        }
    }
}

#[test]
fn salvage_leaves_a_sound_store_alone() {
    let folder = tempdir().unwrap();
    write(folder.path(), Dtype::F32, 3);
    let index = fs::read(folder.path().join("index.json")).unwrap();
    assert_eq!(
        salvage(folder.path()).unwrap(),
        Salvaged { kept: 3, lost: 0 }
    );
    assert_eq!(fs::read(folder.path().join("index.json")).unwrap(), index);
    assert_holds(folder.path(), 3);
}

#[test]
fn damaged_lines_are_named() {
    let folder = tempdir().unwrap();
    write(folder.path(), Dtype::F32, 3);
    let path = folder.path().join("items.jsonl");
    let sound = fs::read(&path).unwrap();
    let second = sound.iter().position(|&byte| byte == b'\n').unwrap() + 1;

    let mut bytes = sound.clone();
    bytes[second] = b'#';
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        Store::open(folder.path(), None),
        Err(StoreError::Item { line: 2, .. })
    ));

    let mut bytes = sound.clone();
    bytes[second - 1] = b' ';
    fs::write(&path, &bytes).unwrap();
    assert!(Store::open(folder.path(), None).is_err());
    assert_eq!(
        salvage(folder.path()).unwrap(),
        Salvaged { kept: 0, lost: 3 }
    );
}

#[test]
fn another_model_is_refused_and_both_are_named() {
    let folder = tempdir().unwrap();
    write(folder.path(), Dtype::F32, 1);
    let error = Store::open(folder.path(), Some("beef")).unwrap_err();
    let message = error.to_string();
    for part in ["00c0ffee", "tiny", "beef", "compute the features again"] {
        assert!(message.contains(part), "{message}");
    }
    let mut other = spec(Dtype::F32);
    other.model.fingerprint = "beef".to_owned();
    assert!(matches!(
        StoreWriter::open_append(folder.path(), &other),
        Err(StoreError::WrongModel { .. })
    ));
    let mut renamed = spec(Dtype::F32);
    renamed.model.name = "the same weights elsewhere".to_owned();
    StoreWriter::open_append(folder.path(), &renamed).unwrap();
}

#[test]
fn appending_with_another_layout_is_refused() {
    let folder = tempdir().unwrap();
    write(folder.path(), Dtype::F32, 1);
    let with = |change: fn(&mut StoreSpec)| {
        let mut spec = spec(Dtype::F32);
        change(&mut spec);
        match StoreWriter::open_append(folder.path(), &spec).unwrap_err() {
            StoreError::Field { field, .. } => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with(|spec| spec.dim = 4), "dim");
    assert_eq!(with(|spec| spec.dtype = Dtype::F16), "dtype");
    assert_eq!(with(|spec| spec.normalised = true), "normalised");
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempdir().unwrap();
    let first = StoreWriter::create(folder.path(), &spec(Dtype::F32)).unwrap();
    assert!(matches!(
        StoreWriter::open_append(folder.path(), &spec(Dtype::F32)),
        Err(StoreError::Locked { .. })
    ));
    assert!(matches!(
        salvage(folder.path()),
        Err(StoreError::Locked { .. })
    ));
    drop(first);
    StoreWriter::open_append(folder.path(), &spec(Dtype::F32)).unwrap();
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempdir().unwrap();
    write(folder.path(), Dtype::F32, 1);
    let create = || StoreWriter::create(folder.path(), &spec(Dtype::F32)).map(drop);
    assert!(matches!(create(), Err(StoreError::AlreadyExists { .. })));
    fs::remove_file(folder.path().join("index.json")).unwrap();
    assert!(matches!(create(), Err(StoreError::AlreadyExists { path })
        if path.ends_with("features.bin")));
    for name in ["features.bin", "items.jsonl"] {
        set_len(&folder.path().join(name), 0);
    }
    create().unwrap();
}

#[test]
fn a_folder_without_a_store_stays_as_it_is() {
    let folder = tempdir().unwrap();
    assert!(matches!(
        Store::open(folder.path(), None),
        Err(StoreError::NotAStore { .. })
    ));
    assert!(StoreWriter::open_append(folder.path(), &spec(Dtype::F32)).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_faulty_batch_is_refused_whole() {
    let folder = tempdir().unwrap();
    let mut spec = spec(Dtype::F16);
    spec.normalised = true;
    let mut writer = StoreWriter::create(folder.path(), &spec).unwrap();
    let good = [1.0, 0.0, 0.0];
    let pair = |second: [f32; 3]| [good, second].concat();
    let mut refused = |rows: &[f32], items: &[Item]| writer.append(rows, items).unwrap_err();

    assert!(matches!(
        refused(&good, &items(0..2)),
        StoreError::BatchSize {
            items: 2,
            dim: 3,
            got: 3
        }
    ));
    for bad in [f32::NAN, f32::INFINITY, 70_000.0] {
        assert!(matches!(
            refused(&pair([0.0, bad, 0.0]), &items(0..2)),
            StoreError::NotFinite { key, column: 1, .. } if key == "k1"
        ));
    }
    assert!(matches!(
        refused(&pair([2.0, 0.0, 0.0]), &items(0..2)),
        StoreError::NotNormalised { length: 2.0, .. }
    ));
    assert!(matches!(
        refused(&pair(good), &[item(0), item(0)]),
        StoreError::DuplicateKey { key } if key == "k0"
    ));

    writer.append(&pair(good), &items(0..2)).unwrap();
    assert!(matches!(
        writer.append(&good, &items(1..2)),
        Err(StoreError::DuplicateKey { .. })
    ));
    writer.finish().unwrap();
    assert_eq!(Store::open(folder.path(), None).unwrap().len(), 2);
}

#[test]
fn a_spec_that_makes_no_sense_is_refused() {
    let folder = tempdir().unwrap();
    let mut spec = spec(Dtype::F32);
    spec.dim = 0;
    let field = |spec: &StoreSpec| match StoreWriter::create(folder.path(), spec).unwrap_err() {
        StoreError::Field { field, .. } => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(&spec), "dim");
    spec.dim = 3;
    for fingerprint in ["", "not hexadecimal"] {
        spec.model.fingerprint = fingerprint.to_owned();
        assert_eq!(field(&spec), "model.fingerprint");
    }
}

#[test]
fn faulty_indexes_are_refused() {
    let folder = tempdir().unwrap();
    write(folder.path(), Dtype::F32, 1);
    let path = folder.path().join("index.json");
    let sound = fs::read_to_string(&path).unwrap();
    let open_with = |from: &str, to: &str| {
        assert!(sound.contains(from), "{sound}");
        fs::write(&path, sound.replace(from, to)).unwrap();
        Store::open(folder.path(), None).unwrap_err()
    };
    assert!(matches!(
        open_with("\"version\": 1", "\"version\": 2, \"novelty\": true"),
        StoreError::Version {
            expected: 1,
            got: 2,
            ..
        }
    ));
    assert!(matches!(
        open_with("\"count\": 1", "\"count\": 2"),
        StoreError::ItemCount {
            expected: 2,
            got: 1,
            ..
        }
    ));
    assert!(matches!(
        open_with("\"dim\": 3", "\"dim\": 4"),
        StoreError::CutShort {
            expected: 16,
            got: 12,
            ..
        }
    ));
    assert!(matches!(
        open_with("\"dim\": 3", "\"dim\": 0"),
        StoreError::Field { field: "dim", .. }
    ));
    let huge = format!("\"count\": {}", u64::MAX);
    assert!(matches!(
        open_with("\"count\": 1", &huge),
        StoreError::ItemCount { .. }
    ));
    for (from, to) in [
        ("\"f32\"", "\"f64\""),
        ("{", ""),
        ("\"count\": 1", "\"count\": -1"),
    ] {
        assert!(matches!(open_with(from, to), StoreError::Header { .. }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn half_precision_keeps_eleven_bits(values in prop::collection::vec(-60_000.0f32..60_000.0, DIM)) {
        let folder = tempdir().unwrap();
        let mut writer = StoreWriter::create(folder.path(), &spec(Dtype::F16)).unwrap();
        writer.append(&values, &items(0..1)).unwrap();
        writer.finish().unwrap();
        let store = Store::open(folder.path(), None).unwrap();
        for (&kept, &value) in store.row(0).iter().zip(&values) {
            prop_assert_eq!(kept, f16::from_f32(value).to_f32());
            prop_assert!((kept - value).abs() <= value.abs() / 2048.0 + 1e-7);
        }
    }
}
