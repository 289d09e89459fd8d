//! Pictures alone and texts alone: what the stages before the pairs are trained on.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use fitup_data::images::{EvalTransform, Fit, Normalize};
use fitup_data::loader::{Loader, LoaderConfig, PairBatch, Part, Position, SkipReason};
use fitup_data::sources::{OnTruncated, Source, SourceError, SourceSpec, open};
use fitup_data::text::{Tokenizer, build_vocabulary};
use image::{Rgb, RgbImage};

const SIDE: u32 = 4;

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(3, 3, Rgb([shade, 0, 0]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn loader(source: Box<dyn Source>, part: Part, workers: usize, start: Position) -> Loader {
    let transform = EvalTransform {
        size: SIDE,
        normalize: Normalize::HALF,
        fit: Fit::Stretch,
    };
    let vocabulary = build_vocabulary(["a line of text 0123456789"].into_iter(), 100);
    let config = LoaderConfig {
        part,
        batch_size: 4,
        workers,
        seed: 3,
        max_skipped_share: 0.5,
        ..LoaderConfig::default()
    };
    Loader::new(
        Arc::from(source),
        Arc::new(transform),
        Arc::new(Tokenizer::from_vocabulary(vocabulary).unwrap()),
        config,
        start,
    )
    .unwrap()
}

fn take(mut loader: Loader, count: usize) -> Vec<PairBatch> {
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

/// 17 pictures without any text, one of them broken.
fn pictures(folder: &Path) -> Box<dyn Source> {
    for shade in 0..17 {
        let mut bytes = png(shade);
        if shade == 6 {
            bytes.truncate(20);
        }
        fs::write(folder.join(format!("{shade:02}.png")), bytes).unwrap();
    }
    open(&SourceSpec::Folder {
        path: folder.to_owned(),
        limit: None,
    })
    .unwrap()
}

fn lines(folder: &Path, text: &[u8]) -> Result<Box<dyn Source>, SourceError> {
    let path = folder.join("lines.txt");
    fs::write(&path, text).unwrap();
    open(&SourceSpec::Lines {
        files: vec![path],
        limit: None,
    })
}

/// 20 lines, one with nothing in it but punctuation, one that is not UTF-8.
fn text() -> Vec<u8> {
    let line = |n: usize| match n {
        4 => b"...\n".to_vec(),
        9 => b"a l\xffne\n".to_vec(),
        _ => format!("a line {n}\n").into_bytes(),
    };
    (0..20).flat_map(line).collect()
}

/// The same batches on one thread and on three, and from the middle on.
fn same_from_anywhere(new: &dyn Fn(usize, Position) -> Loader) -> Vec<PairBatch> {
    let whole = take(new(1, Position::default()), 9);
    assert_eq!(take(new(3, Position::default()), 9), whole);
    assert_eq!(take(new(2, whole[5].next), 3), whole[6..9]);
    whole
}

#[test]
fn pictures_need_no_captions() {
    let folder = tempfile::tempdir().unwrap();
    let new = |workers, start| loader(pictures(folder.path()), Part::Images, workers, start);
    let batches = same_from_anywhere(&new);
    for batch in &batches {
        assert_eq!(batch.images.len(), 4 * 3 * (SIDE * SIDE) as usize);
        assert_eq!((batch.size, batch.keys.len(), batch.length), (4, 4, 0));
        assert!(batch.input_ids.is_empty() && batch.captions.is_empty());
    }
    // The broken picture is replaced and counted; nothing else is.
    let mut loader = new(2, Position::default());
    (0..8).for_each(|_| drop(loader.next_batch().unwrap()));
    let report = loader.report();
    assert_eq!(report.skipped, report.by_reason[&SkipReason::BadImage]);
    assert!(
        batches
            .iter()
            .all(|b| !b.keys.contains(&"06.png".to_owned()))
    );
}

#[test]
fn lines_need_no_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let new = |workers, start| {
        let source = lines(folder.path(), &text()).unwrap();
        loader(source, Part::Texts, workers, start)
    };
    let batches = same_from_anywhere(&new);
    for batch in &batches {
        assert!(batch.images.is_empty());
        assert_eq!(batch.input_ids.len(), 4 * batch.length);
        assert_eq!(batch.captions.len(), 4);
    }
    let epoch: BTreeSet<&String> = batches[..5].iter().flat_map(|b| &b.captions).collect();
    assert_eq!(epoch.len(), 18, "each usable line, the bad ones replaced");
    let mut loader = new(2, Position::default());
    (0..10).for_each(|_| drop(loader.next_batch().unwrap()));
    let reasons = loader.report().by_reason;
    assert!(reasons[&SkipReason::EmptyCaption] >= 2 && reasons[&SkipReason::Unreadable] >= 2);
}

#[test]
fn the_captions_of_shards_are_texts_and_their_pictures_images() {
    let shard =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/pictograms/test-00000.tar");
    let spec = SourceSpec::Shards {
        paths: vec![shard],
        on_truncated: OnTruncated::Error,
        limit: Some(40),
    };
    let take = |part| {
        let batches = take(
            loader(open(&spec).unwrap(), part, 2, Position::default()),
            5,
        );
        let keys: Vec<String> = batches.iter().flat_map(|b| b.keys.clone()).collect();
        (batches, keys)
    };
    let (pairs, order) = take(Part::Pairs);
    let (texts, text_order) = take(Part::Texts);
    let (images, image_order) = take(Part::Images);
    // What is read of the records does not change their order.
    assert!(order == text_order && order == image_order);
    for ((pair, text), image) in pairs.iter().zip(&texts).zip(&images) {
        assert_eq!(
            (&pair.captions, &pair.input_ids),
            (&text.captions, &text.input_ids)
        );
        assert_eq!(pair.images, image.images);
        assert!(text.images.is_empty() && image.captions.is_empty());
    }
}

#[test]
fn lines_are_found_by_their_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let source = lines(folder.path(), b"\xef\xbb\xbffirst\r\n\n  \nlast, \xc3\xa9").unwrap();
    assert_eq!(source.len(), 2);
    let texts = |index| source.texts(index).unwrap();
    assert_eq!(texts(0).captions, ["first"]);
    assert_eq!(texts(1).captions, ["last, \u{e9}"]);
    assert_eq!(texts(1).key, "lines.txt:4");
    assert_ne!(texts(0).image_id, texts(1).image_id);

    let none = source.get(0).unwrap_err().to_string();
    assert!(
        none.contains("lines.txt:1") && none.contains("text stage"),
        "{none}"
    );
    assert!(matches!(
        source.texts(2),
        Err(SourceError::OutOfRange { len: 2, .. })
    ));
    let long = lines(
        folder.path(),
        &[b"short\n".to_vec(), vec![b'x'; 70_000]].concat(),
    );
    let long = long.err().unwrap().to_string();
    assert!(long.contains("line 2") && long.contains("65536"), "{long}");
}
