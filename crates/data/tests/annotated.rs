//! Annotations as a source of training: every form of every kind, what is wrong with bad records, and what the loader
//! makes of good ones.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fitup_data::annotations::OnBad;
use fitup_data::images::Transform;
use fitup_data::loader::{
    Cleaning, EncodedAnswer, Loader, LoaderConfig, LoaderError, PairBatch, Position, SkipReason,
};
use fitup_data::sources::{AnnotationSpec, Source, SourceError, SourceSpec, Target, open};
use fitup_data::text::{Tokenizer, build_vocabulary};
use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Files of every kind as published, of a few records each, in `tests/annotations`.
fn sample(file: &str) -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/annotations");
    tests.join(file)
}

/// A picture of one colour, which tells it apart.
fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(3, 2, Rgb([shade, 0, 0]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A folder of pictures and annotation files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Pictures with shades 1, 2, ... in the order of their names here.
    fn with_pictures(names: &[&str]) -> Self {
        let folder = Self::new();
        for (name, shade) in names.iter().zip(1..) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, png(shade)).unwrap();
        }
        folder
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn list(&self, name: &str, records: &Value) -> PathBuf {
        self.file(name, &records.to_string())
    }

    fn lines(&self, name: &str, records: &[Value]) -> PathBuf {
        let lines: Vec<String> = records.iter().map(Value::to_string).collect();
        self.file(name, &lines.join("\n"))
    }

    fn spec(&self, files: &[PathBuf]) -> AnnotationSpec {
        AnnotationSpec {
            files: files.to_vec(),
            image_roots: vec![self.path().to_owned()],
            on_bad: OnBad::Fail,
            limit: None,
        }
    }

    fn open(
        &self,
        kind: fn(AnnotationSpec) -> SourceSpec,
        files: &[PathBuf],
    ) -> Result<Box<dyn Source>, SourceError> {
        open(&kind(self.spec(files)))
    }
}

fn karpathy(split: &'static str) -> impl Fn(AnnotationSpec) -> SourceSpec {
    move |annotations| SourceSpec::Karpathy {
        split: split.to_owned(),
        annotations,
    }
}

/// Keys, texts and classes of a source.
fn said(source: &dyn Source) -> Vec<(String, String, Option<usize>)> {
    let record = |index| {
        let record = source.get(index).unwrap();
        let class = record.target.as_ref().and_then(Target::class);
        (record.key, record.captions[0].clone(), class)
    };
    (0..source.len()).map(record).collect()
}

fn answers(source: &dyn Source, index: usize) -> Vec<String> {
    match source.get(index).unwrap().target {
        Some(Target::Answers(question)) => question.answers,
        other => panic!("{other:?}"),
    }
}

#[test]
fn questions_of_all_forms_join_in_one_source() {
    let folder = Folder::with_pictures(&[
        "val2014/COCO_val2014_000000000042.jpg",
        "VG_100K_2/7.jpg",
        "list.jpg",
    ]);
    let list = folder.list(
        "vqa_train.json",
        &json!([{"question_id": 5, "question": "What is it?", "image": "list.jpg", "dataset": "vqa", "answer": ["a cup", "cup", "cup"]}]),
    );
    let files = [
        sample("v2_annotations.json"),
        list,
        sample("vg_question_answers.json"),
        sample("v2_questions.json"),
        sample("vg_image_data.json"),
    ];
    let source = folder.open(SourceSpec::Vqa, &files).unwrap();
    assert_eq!(
        said(&*source),
        [
            ("5", "What is it?"),
            ("42000", "What color is the kite?"),
            ("42001", "Is it high?"),
            ("900", "What is on the table?"),
            ("901", "Where is it?"),
        ]
        .map(|(key, question)| (key.to_owned(), question.to_owned(), None))
    );
    assert_eq!(answers(&*source, 0), ["a cup", "cup", "cup"]);
    assert_eq!(answers(&*source, 1), ["red", "red", "orange", "red"]);
    assert_eq!(answers(&*source, 3), ["A cup."]);
    let pictures: Vec<Vec<u8>> = (0..5).map(|i| source.get(i).unwrap().image).collect();
    assert_eq!(pictures, [png(3), png(1), png(1), png(2), png(2)]);
    assert!(source.get(0).unwrap().second_image.is_none());
    let ids: Vec<u64> = (0..5).map(|i| source.texts(i).unwrap().image_id).collect();
    assert!(ids[1] == ids[2] && ids[3] == ids[4] && ids[0] != ids[1] && ids[1] != ids[3]);
    assert!(
        source.describe().starts_with("5 questions of "),
        "{}",
        source.describe()
    );
    assert!(source.warnings().is_empty());

    // Questions without their annotations are a test part.
    let source = folder
        .open(SourceSpec::Vqa, &[sample("v2_questions.json")])
        .unwrap();
    assert!(answers(&*source, 0).is_empty());

    let spec = AnnotationSpec {
        limit: Some(2),
        ..folder.spec(&files)
    };
    assert_eq!(open(&SourceSpec::Vqa(spec)).unwrap().len(), 2);
}

#[test]
fn statements_of_both_forms_have_a_left_and_a_right_picture() {
    let folder = Folder::with_pictures(&[
        "images/train/32/train-10-0-img0.png",
        "images/train/32/train-10-0-img1.png",
        "dev/dev-4-1-img0.png",
        "dev/dev-4-1-img1.png",
    ]);
    let list = folder.list(
        "nlvr_train.json",
        &json!([{"images": ["dev/dev-4-1-img1.png", "dev/dev-4-1-img0.png"], "sentence": "One sleeps.", "label": "True"}]),
    );
    let source = folder
        .open(SourceSpec::Nlvr2, &[sample("nlvr2.jsonl"), list])
        .unwrap();
    assert_eq!(
        said(&*source),
        [
            // Of a record without a name its place, counted from 1.
            ("1", "One sleeps.", 1),
            ("train-10-0-0", "There are two dogs.", 1),
            ("dev-4-1-0", "One is asleep.", 0),
        ]
        .map(|(key, text, class)| (key.to_owned(), text.to_owned(), Some(class)))
    );
    let pictures: Vec<_> = (0..3)
        .map(|index| source.get(index).unwrap())
        .map(|record| (record.image, record.second_image.unwrap()))
        .collect();
    assert_eq!(
        pictures,
        [(png(4), png(3)), (png(1), png(2)), (png(3), png(4))]
    );
}

#[test]
fn hypotheses_of_both_forms_have_the_classes_of_the_head() {
    let folder = Folder::with_pictures(&["flickr30k-images/1000.jpg", "images/77.jpg"]);
    let list = folder.list(
        "ve_train.json",
        &json!([
            {"image": "77", "sentence": "Nobody is there.", "label": "contradiction"},
            {"image": "77", "sentence": "Someone is there.", "label": "entailment"},
        ]),
    );
    let source = folder
        .open(SourceSpec::Entailment, &[list, sample("snli_ve.jsonl")])
        .unwrap();
    assert_eq!(
        said(&*source),
        [
            ("1", "Nobody is there.", 0),
            ("2", "Someone is there.", 2),
            ("1000.jpg#2r1n", "A man waits for a friend.", 1),
            ("1000.jpg#2r1e", "There is a person.", 2),
        ]
        .map(|(key, text, class)| (key.to_owned(), text.to_owned(), Some(class)))
    );
    assert_eq!(source.get(0).unwrap().image, png(2));
    assert_eq!(source.get(2).unwrap().image, png(1));
}

#[test]
fn phrases_are_pairs() {
    let folder = Folder::with_pictures(&["train2014/1.jpg", "2.jpg"]);
    let list = folder.list(
        "refcoco+_train.json",
        &json!([
            {"image": "1.jpg", "text": "left cup", "ref_id": 5},
            {"image": "2.jpg", "text": "right cup", "ref_id": 6},
        ]),
    );
    let source = folder.open(SourceSpec::Phrases, &[list]).unwrap();
    assert_eq!(source.len(), 2);
    let record = source.get(0).unwrap();
    assert_eq!((record.image, record.target), (png(1), None));
    assert_eq!(record.captions, ["left cup"]);
    assert_ne!(record.image_id, source.get(1).unwrap().image_id);
}

#[test]
fn karpathys_splits_go_by_their_names_and_train_takes_restval() {
    let folder = Folder::with_pictures(&[
        "val2014/COCO_val2014_000000000042.jpg",
        "val2014/COCO_val2014_000000000073.jpg",
        "train2014/COCO_train2014_000000000009.jpg",
    ]);
    let open_split = |split| {
        let spec = folder.spec(&[sample("dataset_coco.json")]);
        open(&karpathy(split)(spec))
    };
    let keys = |split| {
        let source = open_split(split).unwrap();
        let keys = (0..source.len()).map(|index| source.get(index).unwrap().key);
        keys.collect::<Vec<_>>()
    };
    let [test, restval, train] = [
        "val2014/COCO_val2014_000000000042.jpg",
        "val2014/COCO_val2014_000000000073.jpg",
        "train2014/COCO_train2014_000000000009.jpg",
    ];
    assert_eq!(keys("train"), [restval, train]);
    assert_eq!(keys("restval"), [restval]);
    assert_eq!(keys("test"), [test]);
    let record = open_split("test").unwrap().get(0).unwrap();
    assert_eq!(record.captions, ["A red kite.", "Kite in the sky!"]);
    assert_eq!(record.image, png(1));
    for split in ["val", "training"] {
        let error = open_split(split).err().unwrap().to_string();
        assert!(
            error.contains("dataset_coco.json")
                && error.contains(&format!("{split:?}"))
                && error.contains("train, val, test"),
            "{error}"
        );
    }
}

fn question(id: u64, image: &str, answer: Value) -> Value {
    json!({"question_id": id, "question": format!("is it {id}"), "image": image, "dataset": "vqa", "answer": answer})
}

#[test]
fn a_bad_record_is_named_with_file_record_and_field_or_left_out_and_counted() {
    type Kind = fn(AnnotationSpec) -> SourceSpec;
    let folder = Folder::with_pictures(&["a.jpg"]);
    let statement =
        |label: &str| json!({"images": ["a.jpg", "a.jpg"], "sentence": "s", "label": label});
    let cases: [(Kind, &str, Value, &str); 7] = [
        (
            SourceSpec::Vqa,
            "first.json",
            json!([{"question_id": 2, "image": "a.jpg", "dataset": "vqa"}, question(1, "a.jpg", json!(["x"]))]),
            "record 1, field `question`: missing",
        ),
        (
            SourceSpec::Vqa,
            "missing.json",
            json!([question(1, "a.jpg", json!(["x"])), {"question_id": 2, "image": "a.jpg", "dataset": "vqa"}]),
            "record 2, field `question`: missing",
        ),
        (
            SourceSpec::Vqa,
            "twice.json",
            json!([
                question(1, "a.jpg", json!(["x"])),
                question(1, "a.jpg", json!(["y"]))
            ]),
            "record 2, field `question_id`: question 1 is there already",
        ),
        (
            SourceSpec::Nlvr2,
            "pairs.json",
            json!([statement("True"), statement("maybe")]),
            "record 2, field `label`: ",
        ),
        (
            SourceSpec::Nlvr2,
            "one.json",
            json!([statement("True"), {"images": ["a.jpg"], "sentence": "s", "label": "True"}]),
            "record 2, field `images`: ",
        ),
        (
            SourceSpec::Entailment,
            "hypotheses.json",
            json!([
                {"image": "a", "sentence": "s", "label": "neutral"},
                {"image": "a", "sentence": "s", "label": "perhaps"},
            ]),
            "record 2, field `label`: ",
        ),
        (
            SourceSpec::Phrases,
            "phrases.json",
            json!([{"image": "a.jpg", "text": "s", "ref_id": 1}, {"image": "a.jpg", "ref_id": 2}]),
            "record 2, field `text`: missing",
        ),
    ];
    for (kind, name, records, wanted) in cases {
        let file = folder.list(name, &records);
        let error = folder
            .open(kind, std::slice::from_ref(&file))
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(
            error.contains(&format!("{name}: {wanted}")),
            "{error} without {wanted}"
        );
        let source = open(&kind(AnnotationSpec {
            on_bad: OnBad::Skip,
            ..folder.spec(&[file])
        }))
        .unwrap();
        assert_eq!(source.len(), 1, "{name}");
        let [warning] = source.warnings() else {
            panic!("{name}: {:?}", source.warnings());
        };
        assert!(
            warning.starts_with("1 records left out, of ") && warning.contains(wanted),
            "{warning}"
        );
    }
}

#[test]
fn a_picture_that_is_not_there_is_an_error_of_its_record() {
    let folder = Folder::with_pictures(&["a.jpg"]);
    let list = folder.list(
        "vqa.json",
        &json!([
            question(1, "a.jpg", json!(["x"])),
            question(2, "gone/b.jpg", json!(["x"]))
        ]),
    );
    let source = folder.open(SourceSpec::Vqa, &[list]).unwrap();
    assert!(source.get(0).is_ok());
    let error = source.get(1).unwrap_err().to_string();
    assert!(
        error.contains("record 2, field `image`: no picture gone/b.jpg"),
        "{error}"
    );
    // Its text can be read all the same, as for a vocabulary.
    assert_eq!(source.texts(1).unwrap().captions, ["is it 2"]);
    assert!(matches!(
        source.get(2),
        Err(SourceError::OutOfRange { index: 2, len: 2 })
    ));

    // The right picture of two as well as the left one.
    let pair = json!([{"images": ["a.jpg", "b.jpg"], "sentence": "s", "label": "True"}]);
    let source = folder
        .open(SourceSpec::Nlvr2, &[folder.list("nlvr.json", &pair)])
        .unwrap();
    let error = source.get(0).unwrap_err().to_string();
    assert!(error.contains("no picture b.jpg"), "{error}");
}

#[test]
fn a_recipe_names_annotations_by_kind() {
    let parse = |text: &str| {
        let table: toml::Table = toml::from_str(text).unwrap();
        table["data"].clone().try_into::<SourceSpec>()
    };
    for kind in ["vqa", "nlvr2", "entailment", "phrases"] {
        let text = format!(
            "data = {{ kind = \"{kind}\", files = [\"a-*.json\"], image_roots = [\"i\", \"j\"], on_bad = \"skip\" }}"
        );
        let spec = parse(&text).unwrap();
        let (SourceSpec::Vqa(spec)
        | SourceSpec::Nlvr2(spec)
        | SourceSpec::Entailment(spec)
        | SourceSpec::Phrases(spec)) = spec
        else {
            panic!("{kind}: {spec:?}");
        };
        assert_eq!(spec.on_bad, OnBad::Skip);
        assert_eq!(spec.image_roots.len(), 2);
    }
    let split = "data = { kind = \"karpathy\", split = \"val\", annotations = { files = [\"a\"], image_roots = [] } }";
    assert!(matches!(parse(split), Ok(SourceSpec::Karpathy { .. })));
    let error = parse("data = { kind = \"vqa\", files = [], image_root = [] }").unwrap_err();
    assert!(error.to_string().contains("image_root"), "{error}");
}

// What the loader makes of them.

const SIDE: u32 = 4;

/// The shade of a picture in every pixel, plus one draw: shows picture and generator alike.
struct Probe;

impl Transform for Probe {
    fn size(&self) -> u32 {
        SIDE
    }

    fn apply(&self, image: &RgbImage, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let draw: f32 = rng.random_range(0.0..0.5);
        let shade = f32::from(image.get_pixel(0, 0).0[0]) + draw;
        vec![shade; 3 * (SIDE * SIDE) as usize]
    }
}

fn tokenizer() -> Arc<Tokenizer> {
    let words = ["is it red green a very dark red cup 0123456789"];
    Arc::new(Tokenizer::from_vocabulary(build_vocabulary(words.into_iter(), 200)).unwrap())
}

fn loader(source: Box<dyn Source>, config: LoaderConfig) -> Loader {
    let (probe, start) = (Arc::new(Probe), Position::default());
    Loader::new(Arc::from(source), probe, tokenizer(), config, start).unwrap()
}

fn batches(source: Box<dyn Source>, config: LoaderConfig, count: usize) -> Vec<PairBatch> {
    let mut loader = loader(source, config);
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

fn config(batch_size: usize, workers: usize, cleaning: Cleaning) -> LoaderConfig {
    LoaderConfig {
        batch_size,
        workers,
        seed: 3,
        cleaning,
        ..LoaderConfig::default()
    }
}

/// The shades that a batch's pictures begin with, without the draws.
fn shades(pixels: &[f32]) -> Vec<u8> {
    let each = 3 * (SIDE * SIDE) as usize;
    pixels.chunks(each).map(|image| image[0] as u8).collect()
}

/// Five questions, the last one without answers.
fn questions() -> (Folder, PathBuf) {
    let folder = Folder::with_pictures(&["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]);
    let records = json!([
        question(1, "1.jpg", json!(["red", "green", "red", "red"])),
        question(2, "2.jpg", json!(["a cup"])),
        {"question_id": 3, "question": "Is it RED??", "image": "3.jpg", "dataset": "vg", "answer": "very dark red"},
        question(4, "4.jpg", json!(["", "red"])),
        {"question_id": 5, "question": "is it?", "image": "5.jpg", "dataset": "vqa"},
    ]);
    let list = folder.list("vqa.json", &records);
    (folder, list)
}

#[test]
fn a_batch_of_questions_has_their_answers_as_albef_weighs_and_writes_them() {
    let (folder, list) = questions();
    let spec = AnnotationSpec {
        limit: Some(4),
        ..folder.spec(&[list])
    };
    let source = || open(&SourceSpec::Vqa(spec.clone())).unwrap();
    let [batch] = &batches(source(), config(4, 2, Cleaning::Question), 1)[..] else {
        panic!("one batch");
    };
    let tokenizer = tokenizer();
    let special = tokenizer.special();
    let of = |key: &str| batch.keys.iter().position(|k| k == key).unwrap();
    let said = |key: &str| -> Vec<(&str, f32)> {
        let answers = batch.answers[of(key)].iter();
        answers.map(|a| (a.text.as_str(), a.weight)).collect()
    };
    // In the order in which they come first; shares summed in double precision.
    assert_eq!(said("1"), [("red", 0.75), ("green", 0.25)]);
    assert_eq!(said("2"), [("a cup", 1.0)]);
    assert_eq!(said("3"), [("very dark red", 0.5)]);
    assert_eq!(said("4"), [("", 0.5), ("red", 0.5)]);
    for answer in batch.answers.iter().flatten() {
        // `encode` sets [CLS] before the pieces and nothing behind them.
        let pieces = tokenizer.encode(&answer.text, usize::MAX);
        let wanted = [&pieces[..], &[special.sep]].concat();
        assert_eq!(answer.input_ids, wanted, "{:?}", answer.text);
        assert_eq!(answer.input_ids[0], special.cls);
    }
    assert_eq!(batch.captions[of("3")], "is it red");
    let wanted: Vec<u8> = batch.keys.iter().map(|key| key.parse().unwrap()).collect();
    assert_eq!(shades(&batch.images), wanted);
    assert!(batch.classes.is_empty() && batch.second_images.is_empty());

    // Any number of workers, and any epoch.
    let one = batches(source(), config(2, 1, Cleaning::Question), 8);
    assert_eq!(one, batches(source(), config(2, 4, Cleaning::Question), 8));
    let orders: BTreeSet<Vec<String>> = one
        .chunks(2)
        .map(|epoch| [&epoch[0].keys[..], &epoch[1].keys].concat())
        .collect();
    assert!(orders.len() > 1, "each epoch has its own order");
}

#[test]
fn an_answer_too_long_for_the_model_is_cut_and_still_ends() {
    let tokenizer = tokenizer();
    let special = tokenizer.special();
    let whole = EncodedAnswer::new("a very dark red", 1.0, &tokenizer, usize::MAX).input_ids;
    let cut = EncodedAnswer::new("a very dark red", 1.0, &tokenizer, 4);
    assert_eq!(cut.input_ids.len(), 4);
    assert_eq!(cut.input_ids[..3], whole[..3]);
    assert_eq!(cut.input_ids[3], special.sep);
    assert_eq!(cut.text, "a very dark red");
    let exact = EncodedAnswer::new("a very dark red", 1.0, &tokenizer, whole.len());
    assert_eq!(exact.input_ids, whole);
}

#[test]
fn a_question_without_answers_is_skipped_in_training() {
    let (folder, list) = questions();
    let source = folder.open(SourceSpec::Vqa, &[list]).unwrap();
    let config = LoaderConfig {
        max_skipped_share: 1.0,
        ..config(5, 2, Cleaning::Question)
    };
    let mut loader = loader(source, config);
    let batch = loader.next_batch().unwrap();
    assert_eq!(batch.answers.len(), 5);
    assert!(!batch.keys.contains(&"5".to_owned()));
    let report = loader.report();
    let skipped = report.by_reason[&SkipReason::NoAnswer];
    assert!(skipped >= 1 && report.skipped == skipped, "{report}");
    assert_eq!(report.examples[0].key, "5");
    assert!(report.to_string().contains("no answer"), "{report}");
}

#[test]
fn absent_pictures_are_counted_and_too_many_end_the_run() {
    let folder = Folder::with_pictures(&["1.jpg"]);
    let records: Vec<Value> = (0..20)
        .map(|id| {
            question(
                id,
                if id % 2 == 0 { "1.jpg" } else { "gone.jpg" },
                json!(["red"]),
            )
        })
        .collect();
    let list = folder.list("vqa.json", &json!(records));
    let source = folder.open(SourceSpec::Vqa, &[list]).unwrap();
    let mut loader = loader(source, config(20, 2, Cleaning::Question));
    let error = (0..20).find_map(|_| loader.next_batch().err()).unwrap();
    let LoaderError::TooManySkipped { report, .. } = &error else {
        panic!("{error}");
    };
    assert!(report.by_reason[&SkipReason::Unreadable] > 20, "{report}");
    let said = error.to_string();
    assert!(
        ["vqa.json: record ", "field `image`", "gone.jpg"]
            .iter()
            .all(|part| said.contains(part)),
        "{error}"
    );
}

#[test]
fn a_batch_of_statements_has_both_pictures_in_place_and_their_classes() {
    let names: Vec<String> = (1..=12).map(|shade| format!("{shade}.jpg")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let folder = Folder::with_pictures(&names);
    let records: Vec<Value> = (0..6)
        .map(|pair| {
            let image = |side: usize| format!("{}.jpg", 2 * pair + 1 + side);
            let label = if pair % 3 == 0 { "True" } else { "False" };
            json!({"sentence": "Red, green.", "label": label, "images": [image(0), image(1)]})
        })
        .collect();
    let source = || {
        let list = folder.list("nlvr.json", &json!(records));
        folder.open(SourceSpec::Nlvr2, &[list]).unwrap()
    };
    let found = batches(source(), config(3, 1, Cleaning::Caption), 6);
    assert_eq!(found, batches(source(), config(3, 4, Cleaning::Caption), 6));
    for batch in &found {
        // The list's records go by their place, counted from 1.
        let pairs = batch.keys.iter().map(|key| key.parse::<u8>().unwrap() - 1);
        let pairs: Vec<u8> = pairs.collect();
        let left: Vec<u8> = pairs.iter().map(|pair| 2 * pair + 1).collect();
        let right: Vec<u8> = pairs.iter().map(|pair| 2 * pair + 2).collect();
        assert_eq!(shades(&batch.images), left);
        assert_eq!(shades(&batch.second_images), right);
        let classes: Vec<usize> = pairs.iter().map(|p| usize::from(p % 3 == 0)).collect();
        assert_eq!(batch.classes, classes);
        // Each picture is augmented by draws of its own.
        assert_ne!(batch.images[0].fract(), batch.second_images[0].fract());
        assert!(batch.answers.is_empty());
        assert_eq!(batch.captions[0], "red green");
    }
}

#[test]
fn a_batch_of_hypotheses_has_the_classes_of_its_labels() {
    let folder = Folder::with_pictures(&["flickr30k-images/1.jpg"]);
    let labels = ["contradiction", "neutral", "entailment"];
    let records: Vec<Value> = labels
        .iter()
        .map(|label| json!({"Flickr30K_ID": "1", "pairID": label, "sentence2": "it is red", "gold_label": label}))
        .collect();
    let lines = folder.lines("snli_ve_train.jsonl", &records);
    let source = folder.open(SourceSpec::Entailment, &[lines]).unwrap();
    let batch = &batches(source, config(3, 1, Cleaning::Caption), 1)[0];
    for (key, class) in batch.keys.iter().zip(&batch.classes) {
        assert_eq!(labels[*class], key);
    }
    assert!(batch.second_images.is_empty() && batch.answers.is_empty());
}
