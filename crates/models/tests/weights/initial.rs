use std::collections::BTreeSet;

use burn::tensor::Device;
use fitup_models::albef::{Albef, AlbefConfig};
use fitup_models::layers::bert::BertConfig;
use fitup_models::layers::vision_transformer::VisionTransformerConfig;
use fitup_models::vilt::ViltConfig;
use fitup_models::vlmo::{Positions, VlmoConfig};
use fitup_models::weights::initial::{Encoder, InitialReport, Target};
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

/// Every parameter by official name, as it starts.
fn wanted(model: &Albef) -> TensorMap {
    weights::export(model, weights::albef_name)
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
            Some((name.to_owned(), filled(&shape.shape, 2.0)))
        })
        .collect();
    deit.insert("pos_embed".into(), filled(&[1, 1 + 3 * 3, 4], 0.5));
    deit.insert("head.weight".into(), filled(&[1000, 4], 1.0));
    deit.insert("head.bias".into(), filled(&[1000], 1.0));

    assert_eq!(Encoder::detect(&deit), Some(Encoder::Deit));
    let (tensors, report) = Encoder::Deit
        .take(Target::Albef, deit.clone(), &wanted)
        .unwrap();
    assert_eq!(report.taken.len(), 150);
    assert_eq!(report.fresh, [""; 0]);
    assert_eq!(report.dropped, ["head.bias", "head.weight"]);
    assert_eq!(
        tensors["visual_encoder.blocks.11.attn.qkv.weight"].values[0],
        2.0
    );
    assert_eq!(
        report.to_string(),
        "150 tensors taken; 0 start fresh; 2 dropped (head.bias, head.weight); \
         visual_encoder.pos_embed: 3 x 3 patches resized to 4 x 4 (bicubic)"
    );
    weights::fit_positions(&mut deit, "pos_embed", 4).unwrap();
    assert_eq!(tensors["visual_encoder.pos_embed"], deit["pos_embed"]);

    deit.insert("norm.weight".into(), filled(&[5], 1.0));
    let unfit = Encoder::Deit
        .take(Target::Albef, deit, &wanted)
        .unwrap_err();
    let unfit = unfit.to_string();
    assert!(
        unfit.contains("norm.weight: expected [4], got [5]"),
        "{unfit}"
    );
}

#[test]
fn a_report_names_a_few_of_many_tensors() {
    let names = |count: usize| (0..count).map(|n| format!("t{n}")).collect();
    let report = InitialReport {
        fresh: names(8),
        dropped: names(9),
        ..InitialReport::default()
    };
    assert_eq!(
        report.to_string(),
        "0 tensors taken; 8 start fresh (t0, t1, t2, t3, t4, t5, t6, t7); \
         9 dropped (t0, t1, t2, t3, t4, t5, t6, t7 and 1 more)"
    );
}

/// BERT as published: `bert.*` with pooler and `cls.*` with the next-sentence head; no
/// cross-attention.
fn bert(wanted: &TensorMap) -> TensorMap {
    let mut bert: TensorMap = wanted
        .iter()
        .filter_map(|(name, shape)| {
            let name = name.strip_prefix("text_encoder.")?;
            let published = !name.contains(".crossattention.");
            published.then(|| (name.to_owned(), filled(&shape.shape, 3.0)))
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
        let (tensors, report) = Encoder::Bert
            .take(Target::Albef, checkpoint, &wanted)
            .unwrap();
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
    let (_, report) = Encoder::Bert.take(Target::Albef, bare, &wanted).unwrap();
    assert_eq!((report.taken.len(), report.fresh.len()), (197, 65));
    assert_eq!(report.dropped, ["pooler.dense.bias", "pooler.dense.weight"]);
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let wanted = wanted(&published_depth());
    let other = TensorMap::from([("layer1.0.conv1.weight".into(), filled(&[2], 1.0))]);
    assert_eq!(Encoder::detect(&other), None);
    let error = Encoder::Deit.take(Target::Albef, other, &wanted);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("150 missing"), "{error}");
}

/// A published Vision Transformer of two blocks, 4 wide, for 3 x 3 patches; every value tells its
/// place.
fn vision_transformer(attention: &[(&str, &[usize])]) -> TensorMap {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("cls_token".into(), vec![1, 1, 4]),
        ("patch_embed.proj.weight".into(), vec![4, 3, 2, 2]),
        ("patch_embed.proj.bias".into(), vec![4]),
        ("norm.weight".into(), vec![4]),
        ("norm.bias".into(), vec![4]),
        ("head.weight".into(), vec![10, 4]),
    ];
    for block in 0..2 {
        let in_block: [(&str, &[usize]); 11] = [
            ("norm1.weight", &[4]),
            ("norm1.bias", &[4]),
            ("attn.qkv.weight", &[12, 4]),
            ("attn.proj.weight", &[4, 4]),
            ("attn.proj.bias", &[4]),
            ("norm2.weight", &[4]),
            ("norm2.bias", &[4]),
            ("mlp.fc1.weight", &[16, 4]),
            ("mlp.fc1.bias", &[16]),
            ("mlp.fc2.weight", &[4, 16]),
            ("mlp.fc2.bias", &[4]),
        ];
        for (name, shape) in in_block.iter().chain(attention) {
            shapes.push((format!("blocks.{block}.{name}"), shape.to_vec()));
        }
    }
    let mut next = 0.0;
    let mut counted = |shape: Vec<usize>| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|at| next + at as f32)
            .collect();
        next += values.len() as f32;
        HostTensor { shape, values }
    };
    shapes
        .into_iter()
        .map(|(name, shape)| (name, counted(shape)))
        .collect()
}

fn vlmo(positions: Positions, layer_scale: bool) -> TensorMap {
    let config = VlmoConfig {
        image_size: 6,
        patch_size: 2,
        width: 4,
        depth: 2,
        heads: 2,
        mlp_ratio: 4,
        vl_start_layer: 1,
        max_text_len: 5,
        vocab_size: 10,
        positions,
        layer_scale,
        drop_path: 0.0,
    };
    let drawn = weights::initialize(config.init(&Device::flex()), 0.1, 1);
    weights::export(&drawn, weights::vlmo_name)
}

fn vilt() -> TensorMap {
    let config = ViltConfig {
        vision: VisionTransformerConfig {
            image_size: 6,
            patch_size: 2,
            width: 4,
            depth: 2,
            heads: 2,
            mlp_ratio: 4,
        },
        vocab_size: 10,
        max_text_len: 5,
        token_types: 2,
        drop_rate: 0.0,
    };
    let drawn = weights::initialize(config.init(&Device::flex()), 0.1, 1);
    weights::export(&drawn, weights::vilt_name)
}

#[test]
fn deit_becomes_the_stream_of_a_vilt() {
    let mut deit = vision_transformer(&[("attn.qkv.bias", &[12])]);
    deit.insert("pos_embed".into(), filled(&[1, 10, 4], 0.5));
    let model = vilt();
    let (tensors, report) = Encoder::Deit
        .take(Target::Vilt, deit.clone(), &model)
        .unwrap();
    assert_eq!(report.dropped, ["head.weight"]);
    assert_eq!(report.fresh, [""; 0]);
    assert_eq!(report.fitted, [""; 0]);
    assert_eq!(report.taken.len(), deit.len() - 1);
    for (from, to) in &report.taken {
        assert_eq!(*to, format!("transformer.{from}"));
        assert_eq!(tensors[to], deit[from]);
    }
}

#[test]
fn deit_becomes_attention_and_image_experts_of_a_vlmo() {
    let mut deit = vision_transformer(&[("attn.qkv.bias", &[12])]);
    deit.insert("pos_embed".into(), filled(&[1, 10, 4], 0.5));
    let model = vlmo(Positions::Absolute, false);
    let target = Target::Vlmo { window: 3 };
    let (tensors, report) = Encoder::Deit.take(target, deit.clone(), &model).unwrap();
    assert_eq!(report.fresh, [""; 0]);
    assert_eq!(report.dropped, ["head.weight"]);
    let block = "transformer.blocks.1";
    let bias = &deit["blocks.1.attn.qkv.bias"].values;
    assert_eq!(tensors[&format!("{block}.attn.q_bias")].values, bias[..4]);
    assert_eq!(tensors[&format!("{block}.attn.v_bias")].values, bias[8..]);
    for (ours, theirs) in [("mlp_imag.fc1", "mlp.fc1"), ("norm2_imag", "norm2")] {
        let ours = &tensors[&format!("{block}.{ours}.weight")];
        assert_eq!(*ours, deit[&format!("blocks.1.{theirs}.weight")]);
    }
    assert!(!tensors.keys().any(|name| name.contains("_text.")));
    assert!(tensors.keys().all(|name| model.contains_key(name)));
}

/// BEiT for `window` patches a side: two heads, tables of each layer.
fn beit(window: usize) -> TensorMap {
    let rows = (2 * window - 1).pow(2) + 3;
    vision_transformer(&[
        ("attn.q_bias", &[4]),
        ("attn.v_bias", &[4]),
        ("gamma_1", &[4]),
        ("gamma_2", &[4]),
        ("attn.relative_position_bias_table", &[rows, 2]),
    ])
}

#[test]
fn beit_becomes_attention_image_experts_and_positions_of_a_vlmo() {
    let relative = Positions::Relative { table_text_len: 7 };
    let model = vlmo(relative, true);
    let beit_3 = beit(3);
    assert_eq!(Encoder::detect(&beit_3), Some(Encoder::Beit));
    let target = Target::Vlmo { window: 3 };
    let (tensors, report) = Encoder::Beit.take(target, beit_3.clone(), &model).unwrap();
    assert_eq!(report.fresh, [""; 0]);
    assert_eq!(report.dropped, ["head.weight"]);
    assert_eq!(report.taken.len(), beit_3.len() - 1);
    let scale = "transformer.blocks.1.gamma_2";
    assert_eq!(tensors[scale], beit_3["blocks.1.gamma_2"]);

    // Layer by layer side by side in the first rows; words and crossings as they were.
    let name = "relative_position_bias_table";
    let (table, before) = (&tensors[name], &model[name]);
    assert_eq!(table.shape, [25 + 3 + 2 + 14, 4]);
    assert_eq!(table.shape, before.shape);
    for row in 0..44 {
        let got = &table.values[row * 4..row * 4 + 4];
        if row < 28 {
            let part = |layer: usize| {
                let theirs = &beit_3[&format!("blocks.{layer}.attn.{name}")];
                &theirs.values[row * 2..row * 2 + 2]
            };
            assert_eq!(got, [part(0), part(1)].concat(), "row {row}");
        } else {
            assert_eq!(got, &before.values[row * 4..row * 4 + 4], "row {row}");
        }
    }
}

#[test]
fn beit_tables_are_shared_and_resized_where_they_must_be() {
    let name = "relative_position_bias_table";
    let relative = Positions::Relative { table_text_len: 7 };
    let model = vlmo(relative, true);
    let target = Target::Vlmo { window: 3 };
    let mut shared = beit(3);
    shared.remove(&format!("blocks.1.attn.{name}"));
    let one = shared.remove(&format!("blocks.0.attn.{name}")).unwrap();
    shared.insert(format!("rel_pos_bias.{name}"), one.clone());
    let (tensors, _) = Encoder::Beit.take(target, shared, &model).unwrap();
    assert_eq!(tensors[name].values[4..8], [&one.values[2..4]; 2].concat());

    let (tensors, _) = Encoder::Beit.take(target, beit(4), &model).unwrap();
    assert_eq!(tensors[name].shape, [44, 4]);
    // The image's CLS is copied: rows 49 to 51 of BEiT's.
    let theirs = &beit(4)[&format!("blocks.0.attn.{name}")];
    assert_eq!(
        tensors[name].values[25 * 4..25 * 4 + 2],
        theirs.values[49 * 2..49 * 2 + 2]
    );

    let mut odd = beit(3);
    odd.insert(format!("blocks.1.attn.{name}"), filled(&[28, 3], 0.0));
    let error = Encoder::Beit.take(target, odd, &model).unwrap_err();
    assert!(error.to_string().contains("of 2 layers"), "{error}");
}

#[test]
fn beit_starts_nothing_without_relative_positions() {
    let absolute = vlmo(Positions::Absolute, false);
    for (target, model) in [
        (Target::Vlmo { window: 3 }, &absolute),
        (Target::Vilt, &vilt()),
        (Target::Albef, &wanted(&published_depth())),
    ] {
        let error = Encoder::Beit.take(target, beit(3), model).unwrap_err();
        assert!(error.to_string().contains("relative positions"), "{error}");
    }
}

#[test]
fn bert_gives_words_and_their_head_to_vilt_and_vlmo() {
    let mut bert = bert(&wanted(&published_depth()));
    bert.remove("cls.predictions.decoder.weight");
    bert.insert("cls.predictions.decoder.bias".into(), filled(&[10], 1.0));
    let words = "bert.embeddings.word_embeddings.weight";
    bert.insert(words.into(), filled(&[10, 4], 7.0));
    assert_eq!(Encoder::detect(&bert), Some(Encoder::Bert));
    let relative = Positions::Relative { table_text_len: 7 };
    for (target, model) in [
        (Target::Vilt, vilt()),
        (Target::Vlmo { window: 3 }, vlmo(relative, true)),
    ] {
        let (tensors, report) = Encoder::Bert.take(target, bert.clone(), &model).unwrap();
        assert_eq!(report.fresh, [""; 0], "{target:?}");
        assert_eq!(report.taken.len(), 5 + 6, "{target:?}");
        let cut = "text_embeddings.position_embeddings.weight";
        assert_eq!(
            report.fitted,
            [format!("{cut}: the first 5 of 6 positions")]
        );
        assert_eq!(tensors[cut].shape, [5, 4]);
        // The output matrix is the word embeddings.
        assert_eq!(tensors["mlm_score.decoder.weight"].values, [7.0; 40]);
        let dropped = |name: &str| report.dropped.iter().any(|d| d == name);
        assert!(dropped("bert.encoder.layer.0.output.dense.weight"));
        assert!(dropped("cls.predictions.decoder.bias"));
        assert!(tensors.keys().all(|name| model.contains_key(name)));
    }
}
