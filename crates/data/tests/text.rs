//! Text against the original implementations, and vocabularies made here.
#![allow(clippy::unwrap_used, missing_docs)]

use fitup_data::text::masking::{self, MaskDraws};
use fitup_data::text::{
    BpeTokenizer, SpecialIds, Tokenizer, build_vocabulary, pre_caption, pre_question,
};
use serde_json::Value;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!(
        "{}/tests/golden/{name}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&golden(name)).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn ids(value: &Value) -> Vec<i64> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn captions_are_cleaned_as_the_original_does() {
    let fixture = golden_json("text_preprocess.json");
    let cases = fixture["pre_caption"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        for (words, field) in [(30, "out30"), (5, "out5")] {
            let expected = Some(case[field].as_str().unwrap()).filter(|text| !text.is_empty());
            assert_eq!(
                pre_caption(text, words).as_deref(),
                expected,
                "{text:?}, {words} words"
            );
        }
    }
}

#[test]
fn questions_are_cleaned_as_the_original_does() {
    let fixture = golden_json("text_preprocess.json");
    let cases = fixture["pre_question"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        for (words, field) in [(30, "out30"), (5, "out5")] {
            let expected = case[field].as_str().unwrap();
            assert_eq!(
                pre_question(text, words),
                expected,
                "{text:?}, {words} words"
            );
        }
    }
    let datasets = golden_json("albef_datasets.json");
    let asked = datasets["annotations"]["vqa"].as_array().unwrap();
    for (question, expected) in asked
        .iter()
        .zip(texts(&datasets["outputs"]["vqa_collate"]["questions"]))
    {
        assert_eq!(
            pre_question(question["question"].as_str().unwrap(), 30),
            expected
        );
    }
}

#[test]
fn token_ids_equal_the_original_tokenizer() {
    let fixture = golden_json("albef_tokenizer.json");
    let tokenizer = Tokenizer::from_vocabulary(texts(&fixture["vocab"])).unwrap();
    let named = &fixture["ids"];
    let special = SpecialIds {
        pad: named["pad"].as_i64().unwrap(),
        unk: named["unk"].as_i64().unwrap(),
        cls: named["cls"].as_i64().unwrap(),
        sep: named["sep"].as_i64().unwrap(),
        mask: named["mask"].as_i64().unwrap(),
    };
    assert_eq!(tokenizer.special(), special);

    for case in fixture["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let all = tokenizer.encode(text, usize::MAX);
        assert_eq!(all, ids(&case["ids_no_trunc"]), "{text:?}");
        let tokens: Vec<&str> = all[1..]
            .iter()
            .map(|&id| tokenizer.token(id).unwrap())
            .collect();
        assert_eq!(tokens, texts(&case["tokens"]), "{text:?}");

        let short = tokenizer.encode(text, 12);
        assert_eq!(short, ids(&case["ids_max12"]), "{text:?}");
        let padded = tokenizer.pad(&[short], 12);
        assert_eq!(padded.input_ids, ids(&case["ids_padmax12"]), "{text:?}");
        assert_eq!(
            padded.attention_mask,
            ids(&case["mask_padmax12"]),
            "{text:?}"
        );
    }
}

#[test]
fn a_batch_is_padded_to_its_longest_text() {
    let fixture = golden_json("albef_tokenizer.json");
    let tokenizer = Tokenizer::from_vocabulary(texts(&fixture["vocab"])).unwrap();
    let expected = |field: &str| -> Vec<i64> {
        let rows: Vec<Vec<i64>> = serde_json::from_value(fixture["batch"][field].clone()).unwrap();
        rows.concat()
    };
    let batch = tokenizer.encode_batch(&texts(&fixture["batch"]["texts"]), 9);
    assert_eq!((batch.size, batch.length), (6, 8));
    assert_eq!(batch.input_ids, expected("input_ids"));
    assert_eq!(batch.attention_mask, expected("attention_mask"));
}

#[test]
fn masking_equals_the_original_given_its_draws() {
    let bytes = golden("albef_mask.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| -> Vec<i64> {
        let view = tensors.tensor(name).unwrap();
        let bytes = view.data().chunks_exact(8);
        bytes
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let flags = |name: &str| -> Vec<bool> {
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .iter()
            .map(|&b| b != 0)
            .collect()
    };
    let draws = MaskDraws {
        masked: flags("in.draw_masked"),
        replaced: flags("in.draw_replace80"),
        randomised: flags("in.draw_random50"),
        random_ids: integers("in.random_words"),
    };
    let special = SpecialIds {
        pad: 0,
        unk: 1,
        cls: 2,
        sep: 3,
        mask: 4,
    };
    let masked = masking::apply(&integers("in.input_ids"), &draws, &special);
    assert_eq!(masked.input_ids, integers("out.input_ids"));
    assert_eq!(masked.labels, integers("out.labels"));
}

#[test]
fn vocabularies_are_deterministic_and_cover_their_corpus() {
    let corpus = [
        "a red ball on the grass",
        "two red dogs playing with a ball",
        "the dog's playing; the dogs played",
        "Éclair, 中国 dog no. 42",
    ];
    let built = build_vocabulary(corpus.into_iter(), 120);
    assert!(built.len() <= 120);
    for _ in 0..5 {
        // The standard hash maps are seeded anew for each instance.
        assert_eq!(build_vocabulary(corpus.into_iter(), 120), built);
    }
    let mut reversed = corpus;
    reversed.reverse();
    assert_eq!(build_vocabulary(reversed.into_iter(), 120), built);
    assert_eq!(build_vocabulary(corpus.into_iter(), 60), built[..60]);

    let tokenizer = Tokenizer::from_vocabulary(built).unwrap();
    for text in corpus
        .into_iter()
        .chain(["regard the balls, played by gnats"])
    {
        let ids = tokenizer.encode(text, usize::MAX);
        assert!(!ids.contains(&tokenizer.special().unk), "{text}: {ids:?}");
    }
    assert_eq!(tokenizer.encode("the dogs", usize::MAX).len(), 3);
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("The dogs!", usize::MAX)),
        "the dogs [UNK]"
    );
}

#[test]
fn byte_pairs_equal_the_original_tokenizer() {
    let fixture = golden_json("clip_bpe.json");
    let merges = texts(&fixture["merges"]).join("\n");
    let tokenizer =
        BpeTokenizer::from_vocab_and_merges(&fixture["vocab"].to_string(), &merges).unwrap();
    let small = BpeTokenizer::from_merges(&merges).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text, usize::MAX),
            ids(&case["ids"]),
            "{text:?}"
        );
        for (length, field) in [(77, "ids_77"), (8, "ids_8")] {
            let batch = tokenizer.encode_batch(&[text], length, 0);
            assert_eq!(batch.input_ids, ids(&case[field]), "{text:?}");
        }
        assert_eq!(
            small.encode(text, usize::MAX),
            ids(&case["small_ids"]),
            "{text:?}"
        );
    }
}
