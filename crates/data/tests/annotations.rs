//! Annotation files of published data sets: what the original loaders make of them, and what is wrong with bad ones.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use fitup_data::annotations::check::{Kind, check};
use fitup_data::annotations::karpathy::{self, KarpathySplit};
use fitup_data::annotations::refcoco::{self, RefSplit};
use fitup_data::annotations::snli_ve::{self, Entailment};
use fitup_data::annotations::vqa::{self, ANSWER_END, Collection, VqaRecord};
use fitup_data::annotations::{
    AnnotationError, OnBad, Shape, captions, nlvr2, numbered, shape, visual_genome,
};
use serde_json::{Value, json};

/// Words ALBEF keeps in training and of captions, and of questions in tests.
const WORDS: usize = 30;
const TEST_WORDS: usize = 50;

fn sample(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/annotations")
        .join(file)
}

/// The recorded annotations as files, and what the original's loaders made of them.
struct Recorded {
    folder: tempfile::TempDir,
    outputs: Value,
}

impl Recorded {
    fn read() -> Self {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/albef_datasets.json");
        let document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, list) in document["annotations"].as_object().unwrap() {
            fs::write(folder.path().join(name), list.to_string()).unwrap();
        }
        Self {
            folder,
            outputs: document["outputs"].clone(),
        }
    }

    fn files(&self, name: &str) -> [PathBuf; 1] {
        [self.folder.path().join(name)]
    }
}

#[test]
fn captions_come_out_as_the_original_loaders_make_them() {
    let recorded = Recorded::read();
    let train = captions::read_lists(&recorded.files("re_train"), OnBad::Fail).unwrap();
    let numbers = numbered(
        train
            .records
            .iter()
            .map(|record| record.image_id.as_deref().unwrap()),
    );
    let items: Vec<Value> = train
        .records
        .iter()
        .zip(numbers)
        .map(|(record, number)| json!([record.cleaned(WORDS).next(), number]))
        .collect();
    assert_eq!(json!(items), recorded.outputs["re_train"]["items"]);

    let eval = captions::read_lists(&recorded.files("re_eval"), OnBad::Fail).unwrap();
    let set = captions::retrieval_texts(&eval.records, WORDS);
    let expected = &recorded.outputs["re_eval"];
    assert_eq!(json!(set.texts), expected["text"]);
    assert_eq!(json!(set.images), expected["image"]);
    for (text, image) in set.text_to_image.iter().enumerate() {
        assert_eq!(json!(image), expected["txt2img"][text.to_string()]);
    }
    for (image, texts) in set.image_to_texts.iter().enumerate() {
        assert_eq!(json!(texts), expected["img2txt"][image.to_string()]);
    }

    let pretrain = captions::read_lists(&recorded.files("pretrain"), OnBad::Fail).unwrap();
    let texts: Vec<String> = pretrain
        .records
        .iter()
        .flat_map(|record| record.cleaned(WORDS))
        .collect();
    assert_eq!(json!(texts), recorded.outputs["pretrain"]);
}

#[test]
fn questions_come_out_as_the_original_loader_makes_them() {
    let recorded = Recorded::read();
    let questions = vqa::read_lists(&recorded.files("vqa"), OnBad::Fail).unwrap();
    let of_training = |record: &VqaRecord| {
        let (answers, weights): (Vec<String>, Vec<f64>) = record
            .weighted_answers()
            .into_iter()
            .map(|answer| (format!("{}{ANSWER_END}", answer.text), answer.weight))
            .unzip();
        (record.cleaned(WORDS), answers, weights)
    };
    let train: Vec<_> = questions.records.iter().map(of_training).collect();
    assert_eq!(json!(train), recorded.outputs["vqa_train"]);

    let collated = &recorded.outputs["vqa_collate"];
    let cleaned: Vec<&String> = train.iter().map(|(question, ..)| question).collect();
    let answers: Vec<&String> = train.iter().flat_map(|(_, answers, _)| answers).collect();
    let counts: Vec<usize> = train.iter().map(|(_, answers, _)| answers.len()).collect();
    assert_eq!(json!(cleaned), collated["questions"]);
    assert_eq!(json!(answers), collated["answers"]);
    assert_eq!(json!(counts), collated["n"]);
    let weights = train.iter().flat_map(|(.., weights)| weights);
    for (&weight, expected) in weights.zip(collated["weights"].as_array().unwrap()) {
        assert_eq!(f64::from(weight as f32), expected.as_f64().unwrap());
    }

    let test: Vec<_> = questions
        .records
        .iter()
        .map(|record| (record.cleaned(TEST_WORDS), record.question_id))
        .collect();
    assert_eq!(json!(test), recorded.outputs["vqa_test"]);
}

#[test]
fn pairs_hypotheses_and_phrases_come_out_as_the_original_loaders_make_them() {
    let recorded = Recorded::read();
    let pairs = nlvr2::read_lists(&recorded.files("nlvr"), OnBad::Fail).unwrap();
    let items: Vec<_> = pairs
        .records
        .iter()
        .map(|pair| (pair.cleaned(WORDS), u8::from(pair.label)))
        .collect();
    assert_eq!(json!(items), recorded.outputs["nlvr"]);
    assert_eq!(pairs.records[1].images, ["2.jpg", "3.jpg"]);

    let hypotheses = snli_ve::read_lists(&recorded.files("ve"), OnBad::Fail).unwrap();
    let items: Vec<_> = hypotheses
        .records
        .iter()
        .map(|hypothesis| (hypothesis.cleaned(WORDS), hypothesis.label.class()))
        .collect();
    assert_eq!(json!(items), recorded.outputs["ve"]);
    assert_eq!(hypotheses.records[0].image, "0.jpg");

    let phrases = refcoco::read_lists(&recorded.files("grounding"), OnBad::Fail).unwrap();
    let numbers = numbered(phrases.records.iter().map(|phrase| phrase.picture_key()));
    let cleaned = || phrases.records.iter().map(|phrase| phrase.cleaned(WORDS));
    let train: Vec<_> = cleaned().zip(numbers).collect();
    assert_eq!(json!(train), recorded.outputs["grounding_train"]);
    let ids = phrases.records.iter().map(|phrase| phrase.ref_id);
    let test: Vec<_> = cleaned().zip(ids).collect();
    assert_eq!(json!(test), recorded.outputs["grounding_test"]);
}

#[test]
fn captions_as_published() {
    let splits = karpathy::read(&sample("dataset_coco.json"), OnBad::Fail).unwrap();
    let found: Vec<_> = splits
        .records
        .iter()
        .map(|record| (record.split, record.picture.image.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (KarpathySplit::Test, "val2014/COCO_val2014_000000000042.jpg"),
            (
                KarpathySplit::Restval,
                "val2014/COCO_val2014_000000000073.jpg"
            ),
            (
                KarpathySplit::Train,
                "train2014/COCO_train2014_000000000009.jpg"
            ),
        ]
    );
    let first = &splits.records[0].picture;
    assert_eq!(first.captions, ["A red kite.", "Kite in the sky!"]);
    assert_eq!(first.image_id.as_deref(), Some("42"));
    assert!(splits.records[1].split.is_training() && !splits.records[0].split.is_training());

    let flickr = karpathy::read(&sample("dataset_flickr30k.json"), OnBad::Fail).unwrap();
    assert_eq!(flickr.records[0].picture.image, "1000.jpg");
    assert_eq!(flickr.records[0].picture.image_id.as_deref(), Some("0"));

    let coco = captions::read_coco(&sample("captions_val2014.json"), OnBad::Fail).unwrap();
    assert_eq!(coco.records.len(), 2);
    assert_eq!(coco.records[0].captions, ["A red kite.", "A kite"]);
}

#[test]
fn questions_as_published() {
    // Either order: a file says what it is.
    let files = [sample("v2_annotations.json"), sample("v2_questions.json")];
    let questions = vqa::read_official(&files, OnBad::Fail).unwrap().records;
    assert_eq!(questions.len(), 2);
    let question = &questions[0];
    assert_eq!(question.image, "val2014/COCO_val2014_000000000042.jpg");
    assert_eq!(question.answers, ["red", "red", "orange", "red"]);
    assert_eq!(question.answer_type.as_deref(), Some("other"));
    let weights: Vec<_> = question
        .weighted_answers()
        .into_iter()
        .map(|answer| (answer.text, answer.weight))
        .collect();
    assert_eq!(
        weights,
        [("red".to_owned(), 0.75), ("orange".to_owned(), 0.25)]
    );
    // Without annotations a test set.
    let questions = vqa::read_official(&files[1..], OnBad::Fail)
        .unwrap()
        .records;
    assert!(questions[1].answers.is_empty() && questions[1].weighted_answers().is_empty());

    let files = [
        sample("vg_question_answers.json"),
        sample("vg_image_data.json"),
    ];
    let questions = visual_genome::read(&files, OnBad::Fail).unwrap().records;
    assert_eq!(questions.len(), 2);
    assert_eq!(questions[0].image, "VG_100K_2/7.jpg");
    assert_eq!(questions[0].collection, Collection::VisualGenome);
    assert_eq!(questions[0].weighted_answers()[0].weight, 0.5);
    let alone = visual_genome::read(&files[..1], OnBad::Fail)
        .unwrap()
        .records;
    assert_eq!(alone[0].image, "7.jpg");
}

#[test]
fn pairs_and_hypotheses_as_published() {
    let pairs = nlvr2::read_lines(&sample("nlvr2.jsonl"), OnBad::Fail)
        .unwrap()
        .records;
    assert_eq!(
        pairs[0].images,
        [
            "train/32/train-10-0-img0.png",
            "train/32/train-10-0-img1.png"
        ]
    );
    assert_eq!(pairs[1].images[0], "dev/dev-4-1-img0.png");
    assert!(pairs[0].label && !pairs[1].label);
    assert_eq!(pairs[1].sentence_key(), "dev-4--0");

    let hypotheses = snli_ve::read_lines(&sample("snli_ve.jsonl"), OnBad::Fail)
        .unwrap()
        .records;
    assert_eq!(hypotheses[0].label, Entailment::Neutral);
    assert_eq!(hypotheses[1].image, "1000.jpg");
    assert_eq!(hypotheses[1].sentence, "There is a person.");
}

#[test]
fn references_as_published_and_as_pickles() {
    let instances = sample("instances.json");
    let read = |file: &str| {
        refcoco::read_references(&sample(file), &instances, OnBad::Fail)
            .unwrap()
            .records
    };
    let references = read("refs.json");
    assert_eq!(references[0].split, RefSplit::TestA);
    assert_eq!(references[0].region, [1.5, 2.0, 10.25, 8.0]);
    assert_eq!(references[0].size, [64, 48]);
    assert_eq!(references[0].sentences, ["blue bowl", "bowl"]);
    // The file of the references cuts a thing out of the picture; the picture is the instances'.
    assert_eq!(references[0].image, "COCO_train2014_000000000009.jpg");
    for pickle in ["refs_python2_protocol0.p", "refs_python2_protocol2.p"] {
        assert_eq!(shape(&sample(pickle)).unwrap(), Shape::Pickle);
        assert_eq!(read(pickle), references, "{pickle}");
    }
    let proposals = refcoco::read_proposals(&sample("dets.json")).unwrap();
    assert_eq!(
        proposals[&9],
        [[1.0, 2.0, 10.0, 8.0], [20.0, 5.0, 3.0, 3.0]]
    );
    assert!(proposals[&10].is_empty());
}

/// What is wrong with a file of these contents, and what is skipped if that is allowed.
fn wrong<T: std::fmt::Debug>(
    content: &str,
    read: impl Fn(&Path, OnBad) -> Result<fitup_data::annotations::Annotations<T>, AnnotationError>,
) -> (String, usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.json");
    fs::write(&file, content).unwrap();
    let message = read(&file, OnBad::Fail).unwrap_err().to_string();
    let (start, problem) = message.split_once("file.json: ").unwrap();
    assert!(
        Path::new(start) == folder.path() || start.ends_with('/'),
        "{start}"
    );
    let skipped = read(&file, OnBad::Skip).map_or(usize::MAX, |read| read.skipped.count);
    (problem.to_owned(), skipped)
}

#[test]
fn what_is_wrong_is_named_with_file_record_and_field() {
    let lists = |file: &Path, on_bad| captions::read_lists(&[file.to_owned()], on_bad);
    for (content, expected) in [
        (
            r#"[{"image": "a.jpg", "caption": "x"}, {"image": "b.jpg"}]"#,
            "record 2, field `caption`: missing; the record has image",
        ),
        (
            r#"[{"image": 7, "caption": "x"}]"#,
            "record 1, field `image`: expected a text, found the number 7",
        ),
        (
            r#"[{"image": "a.jpg", "caption": ["x", null]}]"#,
            "record 1, field `caption`: expected a list of texts, found null",
        ),
        (
            r#"[{"image": "", "caption": "x"}]"#,
            "record 1, field `image`: expected the path of a picture, found an empty text",
        ),
        (
            r#"["x"]"#,
            "record 1, field `-`: expected an object, found the text \"x\"",
        ),
    ] {
        assert_eq!(wrong(content, lists), (expected.to_owned(), 1));
    }
    let (problem, skipped) = wrong(r#"[{"image": "a.jpg", "caption": "x"},"#, lists);
    assert!(problem.contains("the file ends too early"), "{problem}");
    assert_eq!(skipped, usize::MAX, "a cut file is never half read");
    let (problem, _) = wrong(r#"{"images": []}"#, lists);
    assert!(problem.contains("expected a list of records"), "{problem}");

    let albef = |file: &Path, on_bad| vqa::read_lists(&[file.to_owned()], on_bad);
    let question = |id: u64, dataset: &str, answer: Value| json!({"question_id": id, "question": "q", "image": "i", "dataset": dataset, "answer": answer});
    for (records, expected) in [
        (
            json!([
                question(1, "vqa", json!(["a"])),
                question(1, "vg", json!("a")),
                question(1, "vqa", json!(["a"]))
            ]),
            "record 3, field `question_id`: question 1 is there already",
        ),
        (
            json!([question(1, "vqa", json!("yes"))]),
            "record 1, field `answer`: expected a list of texts, as vqa has, found the text \"yes\"",
        ),
        (
            json!([question(1, "gqa", json!("yes"))]),
            "record 1, field `dataset`: expected vqa or vg, found \"gqa\"",
        ),
    ] {
        assert_eq!(wrong(&records.to_string(), albef), (expected.to_owned(), 1));
    }

    let lines = |file: &Path, on_bad| snli_ve::read_lines(file, on_bad);
    let (problem, skipped) = wrong(
        "{\"pairID\": \"1\", \"Flickr30K_ID\": \"1\", \"sentence2\": \"s\", \"gold_label\": \"-\"}\n",
        lines,
    );
    assert_eq!(
        problem,
        "record 1, field `gold_label`: no label: the people asked did not agree"
    );
    assert_eq!(skipped, 1);
    let pairs = |file: &Path, on_bad| nlvr2::read_lines(file, on_bad);
    let (problem, _) = wrong(
        "\n{\"identifier\": \"dev-1\", \"sentence\": \"s\", \"label\": \"True\"}",
        pairs,
    );
    assert_eq!(
        problem,
        "record 2, field `identifier`: expected SPLIT-SET-PAIR-SENTENCE, found \"dev-1\""
    );
}

#[test]
fn ids_that_point_nowhere_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("changed.json");
    let mut annotations: Value =
        serde_json::from_slice(&fs::read(sample("v2_annotations.json")).unwrap()).unwrap();
    annotations["annotations"][1]["question_id"] = 5.into();
    fs::write(&file, annotations.to_string()).unwrap();
    let files = [sample("v2_questions.json"), file.clone()];
    let error = vqa::read_official(&files, OnBad::Fail)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with(
            "changed.json: record 2, field `question_id`: no question of id 5 in the files of questions"
        ),
        "{error}"
    );
    let read = vqa::read_official(&files, OnBad::Skip).unwrap();
    // The annotation without its question, and the question without its annotation.
    assert_eq!((read.records.len(), read.skipped.count), (1, 2));
    assert_eq!(read.skipped.by_field["question_id"], 2);

    let mut references: Value =
        serde_json::from_slice(&fs::read(sample("refs.json")).unwrap()).unwrap();
    references[0]["ann_id"] = 99.into();
    fs::write(&file, references.to_string()).unwrap();
    let error = refcoco::read_references(&file, &sample("instances.json"), OnBad::Fail)
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("record 1, field `ann_id`: no thing of id 99 in the instances"),
        "{error}"
    );
    fs::write(&file, r#"{"9": [[1, 2, 3, 4]], "10": [[1, 2, 3]]}"#).unwrap();
    let error = refcoco::read_proposals(&file).unwrap_err().to_string();
    assert!(
        error.contains("record 2, field `10`: expected boxes"),
        "{error}"
    );
}

#[test]
fn a_check_says_what_is_there_and_what_is_missing() {
    let images = tempfile::tempdir().unwrap();
    let picture = images.path().join("val2014/COCO_val2014_000000000042.jpg");
    fs::create_dir_all(picture.parent().unwrap()).unwrap();
    fs::write(&picture, "x").unwrap();
    let roots = [images.path().to_owned()];
    let checked = check(Kind::Coco, &[sample("dataset_coco.json")], &roots).unwrap();
    assert_eq!((checked.records, checked.texts), (3, 4));
    assert_eq!((checked.pictures.found, checked.pictures.named), (1, 3));
    assert_eq!(
        checked.pictures.missing[0],
        "train2014/COCO_train2014_000000000009.jpg"
    );
    assert!(checked.unusable().is_none() && !checked.is_whole());
    // COCO's own file names the same picture without its folder.
    let checked = check(Kind::Coco, &[sample("captions_val2014.json")], &roots).unwrap();
    assert_eq!(checked.pictures.found, 1);

    fs::write(&picture, "").unwrap();
    let checked = check(Kind::Coco, &[sample("dataset_coco.json")], &roots).unwrap();
    assert_eq!(
        (checked.pictures.empty, checked.pictures.missing_count()),
        (1, 2)
    );
    assert!(checked.unusable().is_some(), "no picture holds anything");

    let files = ["refs_python2_protocol2.p", "instances.json", "dets.json"].map(sample);
    let checked = check(Kind::Refcoco, &files, &roots).unwrap();
    assert_eq!((checked.records, checked.texts), (2, 3));
    assert_eq!(checked.without_proposals, Some(0));
    let error = check(Kind::Refcoco, &files[..1], &roots).unwrap_err();
    assert!(error.to_string().contains("instances.json"), "{error}");
}
