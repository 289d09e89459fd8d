use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use fitup_models::albef::{Albef, AlbefConfig};
use fitup_models::layers::bert::BertConfig;
use fitup_models::layers::vision_transformer::VisionTransformerConfig;
use fitup_models::weights::initial::Encoder;
use fitup_models::weights::{self, HostTensor, TensorMap};

use crate::fixture;

/// The depth of the published model; narrow, since names do not depend on widths.
fn published_depth() -> Albef {
    let vision = VisionTransformerConfig {
        image_size: 8,
        patch_size: 2,
        width: 4,
        depth: 12,
        heads: 2,
        mlp_ratio: 4,
    };
    let text = BertConfig {
        vocab_size: 10,
        hidden_size: 4,
        num_hidden_layers: 12,
        fusion_layer: 6,
        num_attention_heads: 2,
        intermediate_size: 8,
        max_position_embeddings: 6,
        encoder_width: 4,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
    };
    let config = AlbefConfig {
        vision,
        text,
        embed_dim: 3,
        temp: 0.07,
    };
    config.init(&Device::flex())
}

fn wanted(model: &Albef) -> BTreeMap<String, Vec<usize>> {
    let parameters = weights::parameters(model).into_iter();
    parameters
        .map(|(path, shape)| (weights::albef_name(&path), shape))
        .collect()
}

fn filled(shape: &[usize], value: f32) -> HostTensor {
    HostTensor {
        shape: shape.to_vec(),
        values: vec![value; shape.iter().product()],
    }
}

#[test]
fn the_published_checkpoint_has_exactly_the_names_of_the_table() {
    let published = std::fs::read_to_string(fixture("albef_pretrain_names.txt")).unwrap();
    let published: BTreeSet<&str> = published.lines().collect();
    assert_eq!(published.len(), 844);
    let model = published_depth();
    let mut names: BTreeSet<String> = wanted(&model).into_keys().collect();
    assert_eq!(names.len(), 419);
    let momentum = weights::parameters(&model.encoders).into_iter();
    names.extend(momentum.map(|(path, _)| weights::albef_momentum_name(&path)));
    for name in ["image_queue", "text_queue", "queue_ptr"] {
        names.insert(name.into());
    }
    for name in published {
        let known = names.remove(name) || weights::is_redundant(name);
        assert!(known, "{name} is in the checkpoint alone");
    }
    assert!(names.is_empty(), "not in the checkpoint: {names:?}");
}

#[test]
fn deit_becomes_the_image_encoder() {
    let wanted = wanted(&published_depth());
    let mut deit: TensorMap = wanted
        .iter()
        .filter_map(|(name, shape)| {
            let name = name.strip_prefix("visual_encoder.")?;
            Some((name.to_owned(), filled(shape, 2.0)))
        })
        .collect();
    deit.insert("pos_embed".into(), filled(&[1, 1 + 3 * 3, 4], 0.5));
    deit.insert("head.weight".into(), filled(&[1000, 4], 1.0));
    deit.insert("head.bias".into(), filled(&[1000], 1.0));

    let unfit = Encoder::Deit.take(deit.clone(), &wanted).unwrap_err();
    let unfit = unfit.to_string();
    assert!(
        unfit.contains("pos_embed: expected [1, 17, 4], got [1, 10, 4]"),
        "{unfit}"
    );

    weights::fit_positions(&mut deit, "pos_embed", 4).unwrap();
    let (tensors, report) = Encoder::Deit.take(deit, &wanted).unwrap();
    assert_eq!(report.taken.len(), 150);
    assert_eq!(report.fresh, [""; 0]);
    assert_eq!(report.dropped, ["head.bias", "head.weight"]);
    assert_eq!(
        tensors["visual_encoder.blocks.11.attn.qkv.weight"].values[0],
        2.0
    );
    assert_eq!(
        report.to_string(),
        "150 tensors taken; 0 start fresh; 2 dropped (head.bias, head.weight)"
    );
}

/// BERT as published: `bert.*` with pooler and `cls.*` with the next-sentence head; no
/// cross-attention.
fn bert(wanted: &BTreeMap<String, Vec<usize>>) -> TensorMap {
    let mut bert: TensorMap = wanted
        .iter()
        .filter_map(|(name, shape)| {
            let name = name.strip_prefix("text_encoder.")?;
            let published = !name.contains(".crossattention.");
            published.then(|| (name.to_owned(), filled(shape, 3.0)))
        })
        .collect();
    for (name, shape) in [
        ("bert.pooler.dense.weight", &[4, 4][..]),
        ("bert.pooler.dense.bias", &[4]),
        ("cls.predictions.decoder.weight", &[10, 4]),
        ("cls.seq_relationship.weight", &[2, 4]),
        ("cls.seq_relationship.bias", &[2]),
    ] {
        bert.insert(name.into(), filled(shape, 1.0));
    }
    bert
}

#[test]
fn bert_becomes_the_text_encoder_under_new_and_old_names() {
    let wanted = wanted(&published_depth());
    let new = bert(&wanted);
    let old: TensorMap = new
        .iter()
        .map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            let name = name.replace("LayerNorm.bias", "LayerNorm.beta");
            (name, tensor.clone())
        })
        .collect();
    assert!(old.contains_key("bert.embeddings.LayerNorm.gamma"));
    for checkpoint in [new, old] {
        let (tensors, report) = Encoder::Bert.take(checkpoint, &wanted).unwrap();
        assert_eq!(report.taken.len(), 202);
        let crossattention =
            |name: &&String| name.starts_with("text_encoder.") && name.contains(".crossattention.");
        let fresh: Vec<&String> = wanted.keys().filter(crossattention).collect();
        assert_eq!(fresh.len(), 60);
        assert_eq!(report.fresh.iter().collect::<Vec<_>>(), fresh);
        assert_eq!(
            report.dropped,
            [
                "bert.pooler.dense.bias",
                "bert.pooler.dense.weight",
                "cls.predictions.decoder.weight",
                "cls.seq_relationship.bias",
                "cls.seq_relationship.weight",
            ]
        );
        let norm = "text_encoder.bert.encoder.layer.11.output.LayerNorm.weight";
        assert_eq!(tensors[norm].values[0], 3.0);
    }
}

#[test]
fn a_bare_bert_encoder_leaves_the_word_head_fresh() {
    let wanted = wanted(&published_depth());
    let bare: TensorMap = bert(&wanted)
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("bert.")?.to_owned(), tensor)))
        .collect();
    let (_, report) = Encoder::Bert.take(bare, &wanted).unwrap();
    assert_eq!((report.taken.len(), report.fresh.len()), (197, 65));
    assert_eq!(report.dropped, ["pooler.dense.bias", "pooler.dense.weight"]);
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let wanted = wanted(&published_depth());
    let other = TensorMap::from([("layer1.0.conv1.weight".into(), filled(&[2], 1.0))]);
    let error = Encoder::Deit.take(other, &wanted).unwrap_err().to_string();
    assert!(error.contains("150 missing"), "{error}");
}
