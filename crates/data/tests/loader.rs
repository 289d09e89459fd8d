//! Sources, shards and the loader, on files made for the occasion.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fitup_data::images::{DecodeLimits, Transform};
use fitup_data::loader::{
    CaptionChoice, Loader, LoaderConfig, LoaderError, PairBatch, Position, SkipReason, load_images,
};
use fitup_data::shards::{ShardError, ShardSample, ShardWriter};
use fitup_data::sources::{
    OnTruncated, Record, RetrievalTexts, Source, SourceError, SourceSpec, open,
};
use fitup_data::text::{Tokenizer, build_vocabulary, pre_caption};
use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const SIDE: u32 = 4;

/// Mean colour of the picture in every pixel, plus one draw: shows picture and generator alike.
struct Probe;

impl Transform for Probe {
    fn size(&self) -> u32 {
        SIDE
    }

    fn apply(&self, image: &RgbImage, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let pixel = image.get_pixel(0, 0).0;
        let draw: f32 = rng.random();
        (0..3)
            .flat_map(|channel| vec![f32::from(pixel[channel]) + draw; (SIDE * SIDE) as usize])
            .collect()
    }
}

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(3, 2, Rgb([shade, shade / 2, 7]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn record(index: usize) -> Record {
    Record {
        key: format!("r{index}"),
        image: png(index as u8),
        captions: vec![format!("word {index}"), format!("other words {index}")],
        image_id: index as u64,
        metadata: None,
        second_image: None,
        target: None,
    }
}

struct Memory(Vec<Record>);

impl Source for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Result<Record, SourceError> {
        // Uneven times, so that workers overtake each other.
        std::thread::sleep(Duration::from_micros((index as u64 * 37) % 500));
        Ok(self.0[index].clone())
    }

    fn describe(&self) -> String {
        format!("{} records in memory", self.0.len())
    }
}

fn config(batch_size: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size,
        workers,
        seed: 11,
        max_skipped_share: 0.5,
        ..LoaderConfig::default()
    }
}

fn loader(records: &[Record], config: LoaderConfig, start: Position) -> Loader {
    let words = ["word other words 0123456789"];
    let vocabulary = build_vocabulary(words.into_iter(), 100);
    Loader::new(
        Arc::new(Memory(records.to_vec())),
        Arc::new(Probe),
        Arc::new(Tokenizer::from_vocabulary(vocabulary).unwrap()),
        config,
        start,
    )
    .unwrap()
}

fn take(loader: &mut Loader, count: usize) -> Vec<PairBatch> {
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

/// 43 records of which three are bad in three ways.
fn mixed_records() -> Vec<Record> {
    let mut records: Vec<Record> = (0..43).map(record).collect();
    records[5].image.truncate(30);
    records[17].captions = vec!["...".to_owned()];
    records[30].captions.clear();
    records
}

#[test]
fn any_number_of_workers_gives_the_same_batches_and_report() {
    let records = mixed_records();
    let mut one = loader(&records, config(8, 1), Position::default());
    let mut four = loader(&records, config(8, 4), Position::default());
    assert_eq!(one.batches_per_epoch(), 5);
    assert_eq!(take(&mut one, 13), take(&mut four, 13));
    assert_eq!(one.report(), four.report());
    assert!(one.report().skipped > 0);
}

#[test]
fn a_resumed_run_continues_with_the_same_bits() {
    let records = mixed_records();
    let whole = take(&mut loader(&records, config(8, 3), Position::default()), 13);
    for resumed_after in [0, 2, 4, 9] {
        let position = whole[resumed_after].next;
        let mut resumed = loader(&records, config(8, 2), position);
        assert_eq!(
            take(&mut resumed, 3),
            whole[resumed_after + 1..resumed_after + 4]
        );
    }
    // A position counted by hand, at the end of an epoch instead of the start of the next.
    let end = Position { epoch: 0, batch: 5 };
    assert_eq!(
        take(&mut loader(&records, config(8, 2), end), 1),
        whole[5..6]
    );
}

#[test]
fn an_epoch_holds_each_record_once_and_drops_the_incomplete_batch() {
    let records: Vec<Record> = (0..43).map(record).collect();
    let mut loader = loader(&records, config(8, 2), Position::default());
    let epochs: Vec<Vec<PairBatch>> = (0..2).map(|_| take(&mut loader, 5)).collect();
    for (epoch, batches) in (0..).zip(&epochs) {
        let keys: BTreeSet<&String> = batches.iter().flat_map(|b| &b.keys).collect();
        assert_eq!(keys.len(), 40);
        for (batch, place) in batches.iter().zip(0..) {
            assert_eq!((batch.epoch, batch.batch), (epoch, place));
        }
    }
    assert_eq!(epochs[0][4].next, Position { epoch: 1, batch: 0 });
    assert_ne!(epochs[0][0].keys, epochs[1][0].keys);
}

#[test]
fn a_batch_is_made_of_its_records() {
    let records: Vec<Record> = (0..20).map(record).collect();
    let config = LoaderConfig {
        max_tokens: 4,
        caption: CaptionChoice::First,
        ..config(4, 2)
    };
    let batch = loader(&records, config, Position::default())
        .next_batch()
        .unwrap();
    let plane = (SIDE * SIDE) as usize;
    assert_eq!(batch.images.len(), 4 * 3 * plane);
    assert_eq!(batch.input_ids.len(), 4 * batch.length);
    assert!(batch.length <= 4);
    for at in 0..4 {
        let index = batch.image_ids[at] as usize;
        assert_eq!(batch.keys[at], format!("r{index}"));
        assert_eq!(batch.captions[at], format!("word {index}"));
        assert_eq!(batch.images[at * 3 * plane].floor(), index as f32);
        let row = &batch.input_ids[at * batch.length..][..batch.length];
        let mask = &batch.attention_mask[at * batch.length..][..batch.length];
        assert_eq!(row[0], 2);
        for (&id, &real) in row.iter().zip(mask) {
            assert_eq!(id != 0, real == 1);
        }
    }
}

#[test]
fn captions_are_drawn_anew_each_epoch() {
    let records: Vec<Record> = (0..8).map(record).collect();
    let batches = take(&mut loader(&records, config(8, 2), Position::default()), 20);
    let others = |b: &PairBatch| b.captions.iter().filter(|c| c.starts_with("other")).count();
    let drawn: usize = batches.iter().map(others).sum();
    assert!((50..110).contains(&drawn), "{drawn} of 160");
}

#[test]
fn skipped_samples_are_replaced_and_named() {
    let records = mixed_records();
    let mut loader = loader(&records, config(8, 2), Position::default());
    for batch in take(&mut loader, 30) {
        assert_eq!(batch.size, 8);
        for bad in ["r5", "r17", "r30"] {
            assert!(!batch.keys.iter().any(|key| key == bad));
        }
    }
    let report = loader.report();
    assert_eq!(report.seen, 240 + report.skipped);
    assert!(report.by_reason[&SkipReason::BadImage] > 0);
    assert!(report.by_reason[&SkipReason::EmptyCaption] > 0);
    let named: BTreeSet<&str> = report.examples.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(named, BTreeSet::from(["r5", "r17", "r30"]));
    assert!(
        report
            .to_string()
            .contains("r17: empty caption: nothing is left of \"...\"")
    );
}

#[test]
fn too_many_bad_samples_end_the_run_with_the_report() {
    let mut records: Vec<Record> = (0..40).map(record).collect();
    for record in records.iter_mut().step_by(4) {
        record.image = b"no picture".to_vec();
    }
    let config = LoaderConfig {
        max_skipped_share: 0.1,
        ..config(10, 2)
    };
    let mut loader = loader(&records, config, Position::default());
    let error = (0..50).find_map(|_| loader.next_batch().err()).unwrap();
    let LoaderError::TooManySkipped { report, .. } = &error else {
        panic!("{error}");
    };
    assert!(report.seen >= 100);
    assert!(report.share() > 0.1);
    assert!(error.to_string().contains("bad image"), "{error}");
}

#[test]
fn a_source_of_bad_samples_alone_stops() {
    let mut records: Vec<Record> = (0..40).map(record).collect();
    for record in &mut records {
        record.image.clear();
    }
    let mut loader = loader(&records, config(10, 2), Position::default());
    let error = loader.next_batch().unwrap_err();
    let LoaderError::TooManySkipped { report, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((report.seen, report.skipped), (100, 100));
    assert_eq!(report.examples.len(), 20);
    assert!(loader.next_batch().is_err());
}

#[test]
fn dropping_the_loader_ends_its_threads_promptly() {
    let records: Vec<Record> = (0..200).map(record).collect();
    for used in [0, 1] {
        let mut loader = loader(&records, config(64, 4), Position::default());
        take(&mut loader, used);
        let start = Instant::now();
        drop(loader);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn impossible_settings_are_refused() {
    let records: Vec<Record> = (0..10).map(record).collect();
    let new = |config: LoaderConfig, start: Position| {
        let vocabulary = build_vocabulary([].into_iter(), 10);
        Loader::new(
            Arc::new(Memory(records.clone())),
            Arc::new(Probe),
            Arc::new(Tokenizer::from_vocabulary(vocabulary).unwrap()),
            config,
            start,
        )
        .unwrap_err()
        .to_string()
    };
    let start = Position::default();
    assert!(new(config(11, 1), start).contains("batch size of 11"));
    assert!(new(config(4, 0), start).contains("workers is 0"));
    let share = LoaderConfig {
        max_skipped_share: f64::NAN,
        ..config(4, 1)
    };
    assert!(new(share, start).contains("max_skipped_share is NaN"));
    assert!(new(config(4, 1), Position { epoch: 3, batch: 3 }).contains("an epoch has 2"));
}

#[test]
fn evaluation_keeps_every_record_in_its_place() {
    let records = mixed_records();
    let source = Memory(records);
    let limits = DecodeLimits::default();
    let one = load_images(&source, 2..43, &Probe, &limits, 1);
    assert_eq!(one, load_images(&source, 2..43, &Probe, &limits, 4));
    assert_eq!(one.len(), 41);
    assert_eq!(one[0].as_ref().unwrap().key, "r2");
    assert_eq!(one[3].as_ref().unwrap_err().reason, SkipReason::BadImage);
    assert!(
        one[15].is_ok(),
        "a record without words still has its picture"
    );
    assert!(load_images(&source, 5..5, &Probe, &limits, 4).is_empty());
}

// Shards.

fn write_shards(folder: &Path, count: usize, per_shard: usize) -> Vec<PathBuf> {
    let mut writer = ShardWriter::create(folder, "train", per_shard).unwrap();
    for index in 0..count {
        let captions = [format!("first {index}"), format!("second {index}")];
        let metadata = json!({"image_id": index / 2, "licence": "CC0"});
        writer
            .write(ShardSample {
                key: &format!("{index:05}"),
                image: &png(index as u8),
                extension: "png",
                captions: &captions,
                metadata: Some(&metadata),
            })
            .unwrap();
    }
    writer.finish().unwrap()
}

fn shards(pattern: PathBuf, on_truncated: OnTruncated) -> Result<Box<dyn Source>, SourceError> {
    open(&SourceSpec::Shards {
        paths: vec![pattern],
        on_truncated,
        limit: None,
    })
}

#[test]
fn shards_read_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write_shards(folder.path(), 7, 3);
    assert_eq!(paths.len(), 3);
    let source = shards(folder.path().join("train-*.tar"), OnTruncated::Error).unwrap();
    assert_eq!(source.len(), 7);
    assert!(source.warnings().is_empty());
    for index in [6, 0, 3] {
        let record = source.get(index).unwrap();
        assert_eq!(record.key, format!("train-00000{}/{index:05}", index / 3));
        assert_eq!(record.image, png(index as u8));
        assert_eq!(
            record.captions,
            [format!("first {index}"), format!("second {index}")]
        );
        assert_eq!(record.metadata.as_ref().unwrap()["licence"], "CC0");
        let texts = source.texts(index).unwrap();
        assert_eq!(
            (texts.captions, texts.image_id),
            (record.captions, record.image_id)
        );
    }
    assert_eq!(
        source.get(0).unwrap().image_id,
        source.get(1).unwrap().image_id
    );
    assert_ne!(
        source.get(1).unwrap().image_id,
        source.get(2).unwrap().image_id
    );
    assert!(matches!(
        source.get(7),
        Err(SourceError::OutOfRange { index: 7, len: 7 })
    ));
}

#[test]
fn equal_samples_make_equal_shards_and_nothing_unfinished_stays() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (write_shards(a.path(), 4, 4), write_shards(b.path(), 4, 4));
    assert_eq!(fs::read(&first[0]).unwrap(), fs::read(&second[0]).unwrap());

    let mut writer = ShardWriter::create(b.path(), "other", 10).unwrap();
    let sample = |key| ShardSample {
        key,
        image: b"x",
        extension: "png",
        captions: &[],
        metadata: None,
    };
    writer.write(sample("k")).unwrap();
    assert!(matches!(
        writer.write(sample("k")),
        Err(ShardError::RepeatedKey { .. })
    ));
    for key in ["", "a.b", "/a", "a\nb"] {
        assert!(
            matches!(writer.write(sample(key)), Err(ShardError::Key { .. })),
            "{key:?}"
        );
    }
    drop(writer);
    assert_eq!(fs::read_dir(b.path()).unwrap().count(), 1);
}

#[test]
fn a_shard_cut_anywhere_is_an_error_or_gives_its_whole_samples() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(&write_shards(folder.path(), 3, 3)[0]).unwrap();
    let path = folder.path().join("cut.tar");
    let mut found = BTreeSet::new();
    // The last 1024 bytes are the end mark; one block of it is enough.
    for length in (0..whole.len() - 1024)
        .step_by(101)
        .chain([512, 1024, whole.len() - 1024])
    {
        fs::write(&path, &whole[..length]).unwrap();
        let error = shards(path.clone(), OnTruncated::Error).err().unwrap();
        let SourceError::Truncated {
            shard,
            offset,
            length: bytes,
            whole,
        } = &error
        else {
            panic!("cut at {length}: {error}");
        };
        assert_eq!((shard, *bytes), (&path, length as u64));
        assert!(*offset <= length as u64 + 512);
        assert!(error.to_string().contains("cut.tar"), "{error}");

        let source = shards(path.clone(), OnTruncated::Skip).unwrap();
        assert_eq!(source.len(), *whole);
        assert_eq!(source.warnings().len(), 1);
        for index in 0..source.len() {
            let record = source.get(index).unwrap();
            assert_eq!(record.image, png(index as u8));
            assert_eq!(record.captions.len(), 2);
        }
        found.insert(source.len());
    }
    assert_eq!(found, BTreeSet::from([0, 1, 2]));
}

#[test]
fn what_is_no_tar_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    fs::write(&path, vec![0x1f; 4096]).unwrap();
    let error = shards(path, OnTruncated::Skip).err().unwrap();
    assert!(matches!(error, SourceError::Malformed { .. }), "{error}");
    let error = shards(folder.path().join("y-*.tar"), OnTruncated::Skip)
        .err()
        .unwrap();
    assert!(matches!(error, SourceError::NoMatch { .. }), "{error}");
}

#[test]
fn shards_of_other_writers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    let long = format!("{}/{}", "d".repeat(90), "k".repeat(90));
    let picture = png(1);
    let files: [(String, &[u8]); 6] = [
        ("./0.JPG".to_owned(), &picture),
        ("./0.txt".to_owned(), b"a text"),
        ("1.txt".to_owned(), b"no picture"),
        (format!("{long}.seg.png"), b"mask"),
        (format!("{long}.webp"), &picture),
        (format!("{long}.json"), br#"{"captions": ["x"], "n": 3}"#),
    ];
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.finish().unwrap();

    let source = shards(path, OnTruncated::Error).unwrap();
    assert_eq!(source.len(), 2);
    assert_eq!(source.get(0).unwrap().captions, ["a text"]);
    let second = source.get(1).unwrap();
    assert_eq!(second.key, format!("a/{long}"));
    assert_eq!(
        (second.image, second.captions),
        (picture, vec!["x".to_owned()])
    );
    assert_eq!(source.warnings().len(), 1);
}

// Lists and folders.

#[test]
fn albef_lists_are_read_as_the_original_loader_does() {
    let path = format!(
        "{}/tests/golden/albef_datasets.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let fixture: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = |name: &str| {
        let list = folder.path().join(format!("{name}.json"));
        fs::write(&list, fixture["annotations"][name].to_string()).unwrap();
        open(&SourceSpec::AlbefJson {
            files: vec![list],
            image_root: Some(folder.path().to_owned()),
            limit: None,
        })
        .unwrap()
    };
    for index in 0..4 {
        fs::write(folder.path().join(format!("{index}.jpg")), png(index)).unwrap();
    }

    let train = source("re_train");
    let expected: Vec<(String, usize)> =
        serde_json::from_value(fixture["outputs"]["re_train"]["items"].clone()).unwrap();
    assert_eq!(train.len(), expected.len());
    let mut seen = Vec::new();
    for (index, (caption, id)) in expected.iter().enumerate() {
        let record = train.get(index).unwrap();
        assert_eq!(pre_caption(&record.captions[0], 30).as_ref(), Some(caption));
        if !seen.contains(&record.image_id) {
            seen.push(record.image_id);
        }
        assert_eq!(seen[*id], record.image_id);
    }
    assert_eq!(train.get(3).unwrap().image, png(3));

    let pretrain = source("pretrain");
    for (index, caption) in fixture["outputs"]["pretrain"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let texts = pretrain.texts(index).unwrap();
        assert_eq!(
            pre_caption(&texts.captions[0], 30).as_deref(),
            caption.as_str()
        );
    }

    let eval = RetrievalTexts::from_source(&*source("re_eval"), 30).unwrap();
    let expected = &fixture["outputs"]["re_eval"];
    assert_eq!(json!(eval.texts), expected["text"]);
    assert_eq!(json!(eval.images), expected["image"]);
    for (text, &image) in eval.text_to_image.iter().enumerate() {
        assert_eq!(expected["txt2img"][text.to_string()], json!(image));
    }
    for (image, texts) in eval.image_to_texts.iter().enumerate() {
        assert_eq!(expected["img2txt"][image.to_string()], json!(texts));
    }
}

#[test]
fn an_absent_picture_is_named_with_its_list_and_record() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("pairs.json");
    fs::write(&list, r#"[{"image": "gone.jpg", "caption": "a cat"}]"#).unwrap();
    let source = open(&SourceSpec::AlbefJson {
        files: vec![list],
        image_root: Some(folder.path().to_owned()),
        limit: None,
    })
    .unwrap();
    let error = source.get(0).unwrap_err().to_string();
    assert!(
        error.contains("pairs.json: record gone.jpg, field `image`"),
        "{error}"
    );
}

#[test]
fn a_malformed_list_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("bad.json");
    fs::write(&list, r#"[{"image": "a.jpg"}]"#).unwrap();
    let spec = SourceSpec::AlbefJson {
        files: vec![list],
        image_root: None,
        limit: None,
    };
    let error = open(&spec).err().unwrap().to_string();
    assert!(
        error.contains("bad.json") && error.contains("caption"),
        "{error}"
    );
}

#[test]
fn a_folder_takes_captions_from_its_table_or_beside_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir(root.join("sub")).unwrap();
    for (name, shade) in [("b.png", 1), ("sub/a.PNG", 2), ("c.png", 3)] {
        fs::write(root.join(name), png(shade)).unwrap();
    }
    fs::write(root.join("b.txt"), "a boat\n\nat sea\n").unwrap();
    fs::write(root.join("sub/a.txt"), "a cat").unwrap();
    let spec = SourceSpec::Folder {
        path: root.to_owned(),
        limit: None,
    };

    let source = open(&spec).unwrap();
    assert_eq!(source.len(), 3);
    assert_eq!(source.get(0).unwrap().captions, ["a boat", "at sea"]);
    // c.png has no text: a picture that can be indexed, and that training skips.
    assert!(source.get(1).unwrap().captions.is_empty());
    assert_eq!(source.get(2).unwrap().key, "sub/a.PNG");

    fs::write(
        root.join("captions.csv"),
        "\u{feff}caption,image\n\"one, two\",c.png\nthree,sub/a.PNG\nfour,c.png\n",
    )
    .unwrap();
    let source = open(&spec).unwrap();
    assert_eq!(source.len(), 2);
    assert_eq!(source.get(0).unwrap().captions, ["one, two", "four"]);
    assert_eq!(source.get(1).unwrap().image, png(2));

    fs::write(root.join("captions.csv"), "file,caption\nc.png,x\n").unwrap();
    let error = open(&spec).err().unwrap().to_string();
    assert!(
        error.contains("no column `image`") && error.contains("file"),
        "{error}"
    );
}

#[test]
fn a_recipe_names_sources_and_unknown_fields_are_errors() {
    #[derive(Debug, serde::Deserialize)]
    struct Recipe {
        data: SourceSpec,
    }
    let parse = |text: &str| toml::from_str::<Recipe>(text);
    let spec = parse(
        r#"data = { kind = "shards", paths = ["t-*.tar"], on_truncated = "skip", limit = 5 }"#,
    );
    assert_eq!(
        spec.unwrap().data,
        SourceSpec::Shards {
            paths: vec!["t-*.tar".into()],
            on_truncated: OnTruncated::Skip,
            limit: Some(5),
        }
    );
    assert!(
        parse(r#"data = { kind = "albef-json", files = ["a.json"], image_root = "i" }"#).is_ok()
    );
    assert!(parse(r#"data = { kind = "folder", path = "p" }"#).is_ok());
    let error = parse(r#"data = { kind = "folder", path = "p", limt = 3 }"#).unwrap_err();
    assert!(error.to_string().contains("limt"), "{error}");
}

#[test]
fn a_limit_keeps_the_first_records() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), 7, 3);
    let source = open(&SourceSpec::Shards {
        paths: vec![folder.path().join("train-*.tar")],
        on_truncated: OnTruncated::Error,
        limit: Some(4),
    })
    .unwrap();
    assert_eq!(source.len(), 4);
    assert_eq!(source.get(3).unwrap().key, "train-000001/00003");
    assert!(matches!(
        source.get(4),
        Err(SourceError::OutOfRange { len: 4, .. })
    ));
}
