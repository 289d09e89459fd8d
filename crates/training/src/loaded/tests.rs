#![allow(clippy::unwrap_used)]

use fitup_data::sources::{OnTruncated, Source, SourceSpec};
use fitup_index::ItemKind;
use fitup_models::weights::Precision;
use image::Rgb;

use super::*;
use crate::albef::AlbefPretrain;
use crate::trainer::Pretrain;

const RECIPE: &str = r#"
name = "tiny"
seed = 3
[model]
system = "albef"
init_std = 0.2
[model.albef]
embed_dim = 16
[model.albef.vision]
image_size = 32
patch_size = 16
width = 32
depth = 1
heads = 2
[model.albef.text]
vocab_size = 16
hidden_size = 32
num_hidden_layers = 2
fusion_layer = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 12
encoder_width = 32
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0
[data]
train = { kind = "folder", path = "unused" }
batch_size = 4
max_tokens = 8
[objectives]
queue_size = 8
[schedule]
kind = "cosine"
lr = 1e-3
min_lr = 1e-5
epochs = 1
"#;

fn checkpoint(seed: u64) -> Checkpoint {
    let recipe = Recipe::parse(RECIPE, "test", &[format!("seed={seed}")]).unwrap();
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue green square on the left right";
    let vocabulary: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let tokenizer = Tokenizer::from_vocabulary(vocabulary.clone()).unwrap();
    let device = crate::device::open("cpu").unwrap();
    let system = AlbefPretrain::new(&recipe, &tokenizer, None, &device).unwrap();
    Checkpoint {
        recipe,
        vocabulary,
        progress: Some(crate::checkpoint::Progress::default()),
        tensors: system.export(),
    }
}

fn open(path: &Path) -> LoadedModel {
    LoadedModel::open(path, &crate::device::open("cpu").unwrap()).unwrap()
}

fn model() -> LoadedModel {
    let device = crate::device::open("cpu").unwrap();
    LoadedModel::from_checkpoint(checkpoint(3), Path::new("test"), &device).unwrap()
}

fn plain(colour: [u8; 3]) -> RgbImage {
    let mut image = RgbImage::from_pixel(40, 40, Rgb([255; 3]));
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        if x > 10 && y < u32::from(colour[1] / 8) + 5 {
            *pixel = Rgb(colour);
        }
    }
    image
}

/// Three pictures with captions and one file that is no picture.
fn pictures(folder: &Path) -> SourceSpec {
    let colours = [
        ("red", [200, 0, 0]),
        ("green", [0, 200, 0]),
        ("blue", [0, 90, 200]),
    ];
    for (name, colour) in colours {
        plain(colour)
            .save(folder.join(format!("{name}.png")))
            .unwrap();
        let text = format!("a {name} square\nthe {name}, on the left\n");
        std::fs::write(folder.join(format!("{name}.txt")), text).unwrap();
    }
    std::fs::write(folder.join("broken.png"), b"no picture").unwrap();
    std::fs::write(folder.join("broken.txt"), "a broken one").unwrap();
    SourceSpec::Folder {
        path: folder.to_owned(),
        limit: None,
    }
}

fn options(dtype: Dtype) -> IndexOptions {
    IndexOptions {
        dtype,
        texts: true,
        workers: 2,
    }
}

#[test]
fn the_fingerprint_names_the_model_and_not_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, checkpoint: Checkpoint, precision| {
        let path = folder.path().join(name);
        checkpoint.write(&path, precision).unwrap();
        open(&path)
    };
    let whole = write("whole", checkpoint(3), Precision::F32);
    let exported = write("exported", checkpoint(3).for_use(), Precision::F32);
    let half = write("half", checkpoint(3).for_use(), Precision::F16);
    let other = write("other", checkpoint(4), Precision::F32);
    assert_eq!(whole.fingerprint.len(), 16);
    assert_eq!(whole.fingerprint, exported.fingerprint);
    assert_ne!(whole.fingerprint, half.fingerprint);
    assert_ne!(whole.fingerprint, other.fingerprint);

    let mut words = checkpoint(3);
    words.vocabulary[7] = "purple".to_owned();
    let words = write("words", words, Precision::F32);
    assert_ne!(whole.fingerprint, words.fingerprint);
}

#[test]
fn tensors_that_do_not_fit_are_named_with_the_file() {
    let mut checkpoint = checkpoint(3);
    checkpoint.tensors.remove("itm_head.weight");
    let device = crate::device::open("cpu").unwrap();
    let error = LoadedModel::from_checkpoint(checkpoint, Path::new("a.file"), &device).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("a.file") && error.contains("itm_head.weight"),
        "{error}"
    );
}

#[test]
fn pairs_score_alike_one_by_one_and_together() {
    let model = model();
    let matching = model.matching("match").unwrap();
    let images = [plain([200, 0, 0]), plain([0, 200, 0]), plain([0, 90, 200])];
    let prepared: Vec<_> = images.iter().map(|image| model.prepare(image)).collect();
    let encoded = model.encode_images(&prepared);
    let words = ["a red square", "the left", "blue"];
    let texts: Vec<_> = words.iter().map(|t| model.clean(t).unwrap()).collect();
    let texts = model.encode_texts(&texts);
    let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-5, "{a} and {b}");
    for (t, text) in words.iter().enumerate() {
        let together = model.match_images(matching, &encoded, &texts, t);
        for (image, score) in images.iter().zip(&together) {
            close(score.probability(), model.match_score(image, text).unwrap());
        }
    }
    let first = model.encode_images(&prepared[..1]);
    for (text, score) in words
        .iter()
        .zip(model.match_texts(matching, &first, &texts))
    {
        close(
            score.probability(),
            model.match_score(&images[0], text).unwrap(),
        );
    }
    let spread = model.match_images(matching, &encoded, &texts, 0);
    assert!(spread.iter().any(|score| score != &spread[0]));
}

#[test]
fn an_index_is_built_once_and_searched_in_two_steps() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let collection = Collection::open(&pictures(&data)).unwrap();
    let index = folder.path().join("index");
    let model = model();
    let build = || {
        model
            .build_index(&collection, &index, &options(Dtype::F32), &mut |_, _| {})
            .unwrap()
    };
    let first = build();
    assert_eq!((first.images, first.texts, first.present), (3, 7, 0));
    assert_eq!(first.skipped.skipped, 1);
    assert_eq!(first.skipped.examples[0].key, "broken.png");
    let second = build();
    assert_eq!((second.images, second.texts, second.present), (0, 0, 3));

    let store = model.open_store(&index).unwrap();
    let mut pictures = Pictures::default();
    let mut load = |item: &fitup_index::Item| pictures.load(&item.locator);
    let plain_search = model
        .search_text(&store, "a red square", 3, None, &mut load)
        .unwrap();
    let reranked = model
        .search_text(&store, "a red square", 3, Some(2), &mut load)
        .unwrap();
    let by_similarity = &plain_search.found;
    assert!(by_similarity.is_sorted_by(|a, b| a.similarity >= b.similarity));
    assert!(by_similarity.iter().all(|found| found.matching.is_none()));
    let matched: Vec<f32> = reranked.found.iter().filter_map(|f| f.matching).collect();
    assert_eq!(matched.len(), 2);
    assert!(matched[0] >= matched[1]);
    assert_eq!(reranked.found[2].row, by_similarity[2].row);
    let best = &reranked.found[0];
    let image = Pictures::default().load(&best.item.locator).unwrap();
    let direct = model.match_score(&image, "a red square").unwrap();
    assert!((direct - matched[0]).abs() < 1e-5);
    let cosine = model.similarity(&image, "a red square").unwrap();
    assert!((cosine - best.similarity).abs() < 1e-5);

    let texts = model.open_store(&index.join(TEXTS)).unwrap();
    assert!(texts.items().iter().all(|item| item.kind == ItemKind::Text));
    let found = model
        .search_image(&texts, &image, 7, Some(3))
        .unwrap()
        .found;
    let scored = found.iter().filter(|found| found.matching.is_some());
    assert_eq!((found.len(), scored.count()), (7, 3));

    let itself = model.search_image(&store, &image, 1, None).unwrap().found;
    assert_eq!(itself[0].item.key, best.item.key);
    assert!((itself[0].similarity - 1.0).abs() < 1e-5);
}

#[test]
fn a_picture_that_is_gone_ranks_behind_those_that_were_matched() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let collection = Collection::open(&pictures(&data)).unwrap();
    let index = folder.path().join("index");
    let model = model();
    model
        .build_index(&collection, &index, &options(Dtype::F16), &mut |_, _| {})
        .unwrap();
    std::fs::remove_file(data.join("red.png")).unwrap();
    let store = model.open_store(&index).unwrap();
    let mut load = |item: &fitup_index::Item| Pictures::default().load(&item.locator);
    let result = model
        .search_text(&store, "a red square", 3, Some(3), &mut load)
        .unwrap();
    assert_eq!(result.unreadable.len(), 1);
    assert!(result.unreadable[0].0.ends_with("red.png"));
    assert_eq!(result.found[2].item.key, "red.png");
    assert!(result.found[2].matching.is_none());
}

#[test]
fn another_models_index_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let collection = Collection::open(&pictures(&data)).unwrap();
    let index = folder.path().join("index");
    model()
        .build_index(&collection, &index, &options(Dtype::F32), &mut |_, _| {})
        .unwrap();
    let device = crate::device::open("cpu").unwrap();
    let other = LoadedModel::from_checkpoint(checkpoint(4), Path::new("test"), &device).unwrap();
    assert!(matches!(
        other.open_store(&index),
        Err(LoadedError::Store(StoreError::WrongModel { .. }))
    ));
}

#[test]
fn locators_lead_back_to_the_records_of_shards() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/pictograms");
    let spec = SourceSpec::Shards {
        paths: vec![
            samples.join("test-00000.tar"),
            samples.join("train-00000.tar"),
        ],
        on_truncated: OnTruncated::Error,
        limit: None,
    };
    let collection = Collection::open(&spec).unwrap();
    let mut pictures = Pictures::default();
    for index in [0, 5, collection.len() - 1] {
        let record = collection.get(index).unwrap();
        let texts = collection.texts(index).unwrap();
        let (key, locator) = collection.name(index, &texts);
        assert_eq!(key, record.key);
        let limits = fitup_data::images::DecodeLimits::default();
        let decoded = fitup_data::images::decode(&record.image, &limits).unwrap();
        assert_eq!(pictures.load(&locator).unwrap(), decoded);
    }
    let missing = pictures.load("shards:nowhere.tar#x").unwrap_err();
    assert!(missing.to_string().contains("shards:<path>#<record>"));
}

#[test]
fn gaps_are_filled_by_model_and_momentum() {
    let model = model();
    let image = plain([200, 0, 0]);
    let filled = model
        .fill(&image, "A [mask] square, on the [MASK]", 4)
        .unwrap();
    assert_eq!(filled.text, "a [MASK] square on the [MASK]");
    assert_eq!(filled.masks.len(), 2);
    for mask in &filled.masks {
        assert_eq!(mask.model.len(), 4);
        assert!(mask.model.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(mask.model.iter().all(|(word, _)| !word.starts_with('[')));
        // A fresh momentum copy equals its model.
        assert_eq!(mask.momentum.as_ref(), Some(&mask.model));
    }
    assert!(matches!(
        model.fill(&image, "a square", 4),
        Err(LoadedError::NoMask { .. })
    ));
    assert!(matches!(
        model.fill(&image, "a a a a a a a a [MASK]", 4),
        Err(LoadedError::MaskTooLate { .. })
    ));
    assert!(matches!(
        model.match_score(&image, "?!"),
        Err(LoadedError::EmptyText { .. })
    ));
}
