use burn::tensor::{Device, Tensor};
use fitup_models::layers::relative_position::{RelativePositionBias, resize_table};
use fitup_models::objectives::itm::{HardNegatives, NegativeDraw, Negatives};
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::system::SystemConfig;
use fitup_models::vlmo::encoder::{BranchedFeatures, IMAGE_TYPE, ModalityFeatures, TextBatch};
use fitup_models::vlmo::text_stage::{VlmoTextStage, frozen_in_text_stage};
use fitup_models::vlmo::{
    MLM_WEIGHT, Positions, PretrainBatch, PretrainObjectives, Vlmo, VlmoConfig,
};
use fitup_models::weights::{self, HostTensor, TensorMap};

use crate::golden::{Golden, assert_close, field};

pub fn config(golden: &Golden) -> VlmoConfig {
    let field = |name: &str| field(&golden.config, &format!("/config/{name}"));
    let is = |name: &str| golden.config["config"][name].as_bool().unwrap();
    VlmoConfig {
        image_size: field("image_size"),
        patch_size: field("patch_size"),
        width: field("embed_dim"),
        depth: field("depth"),
        heads: field("num_heads"),
        mlp_ratio: field("mlp_ratio"),
        vl_start_layer: field("vlffn_start_layer_index"),
        max_text_len: field("max_text_len"),
        vocab_size: field("vocab_size"),
        positions: if is("relative_position_bias") {
            Positions::Relative {
                table_text_len: field("max_text_len_of_initckpt"),
            }
        } else {
            Positions::Absolute
        },
        layer_scale: is("layer_scale"),
        drop_path: 0.0,
    }
}

pub fn text(golden: &Golden, at: &str, device: &Device) -> TextBatch {
    TextBatch {
        input_ids: golden.int(&format!("{at}text_ids"), device),
        attention_mask: golden.int(&format!("{at}text_masks"), device),
    }
}

fn model(golden: &Golden, device: &Device) -> Vlmo {
    let state = golden.group("state.");
    weights::load(
        config(golden).init(device),
        &state,
        weights::vlmo_name,
        |_| true,
    )
    .unwrap()
}

fn batch(golden: &Golden, device: &Device) -> PretrainBatch {
    PretrainBatch {
        image: golden.float("in.image", device),
        text: text(golden, "in.", device),
        masked_input_ids: golden.int("in.text_ids_mlm", device),
        masked: MaskedPositions::from_labels(&golden.ints("in.text_labels_mlm")),
    }
}

fn recorded_negatives(golden: &Golden) -> NegativeDraw {
    let index = |name: &str| golden.ints(name).iter().map(|i| *i as usize).collect();
    NegativeDraw::Given(Negatives {
        image_idx: index("in.neg_image_idx"),
        text_idx: index("in.neg_text_idx"),
    })
}

fn everything(golden: &Golden) -> PretrainObjectives {
    PretrainObjectives {
        itc: true,
        itm: Some(recorded_negatives(golden)),
        mlm: true,
    }
}

fn masked_text(batch: &PretrainBatch) -> TextBatch {
    TextBatch {
        input_ids: batch.masked_input_ids.clone(),
        attention_mask: batch.text.attention_mask.clone(),
    }
}

fn cls(tokens: &Tensor<3>) -> Tensor<2> {
    tokens.clone().narrow(1, 0, 1).squeeze_dim(1)
}

fn every_infer_mode(name: &str) {
    let golden = Golden::load(name);
    let device = Device::flex();
    let model = model(&golden, &device);
    let batch = batch(&golden, &device);
    let encoder = &model.encoder;

    let pair = encoder.fused(&batch.text, batch.image.clone(), IMAGE_TYPE, None);
    golden.assert_output("out.infer.text_feats", pair.text_tokens.clone());
    golden.assert_output("out.infer.image_feats", pair.image_tokens);
    golden.assert_output("out.infer.cls_feats", pair.pooled);
    // In a fused pair the raw CLS is taken after the final norm, alone before it.
    golden.assert_output("out.infer.raw_cls_feats", cls(&pair.text_tokens));
    let pair = encoder.fused(&masked_text(&batch), batch.image.clone(), IMAGE_TYPE, None);
    golden.assert_output("out.infer_mlm.text_feats", pair.text_tokens);

    let alone = |mode: &str, modality: &str, features: &ModalityFeatures| {
        let tokens = features.tokens.clone();
        golden.assert_output(&format!("out.{mode}.{modality}_feats"), tokens);
        let raw = features.raw_cls.clone();
        golden.assert_output(&format!("out.{mode}.raw_cls_feats"), raw);
    };
    let branched = |mode: &str, modality: &str, features: &BranchedFeatures| {
        alone(mode, modality, &features.own);
        let (own, vl) = match modality {
            "text" => (
                model.itc.embed_text(&features.own.tokens),
                model.itc_vl.embed_text(&features.vl_tokens),
            ),
            _ => (
                model.itc.embed_image(&features.own.tokens),
                model.itc_vl.embed_image(&features.vl_tokens),
            ),
        };
        golden.assert_output(&format!("out.{mode}.cls_feats"), own);
        golden.assert_output(&format!("out.{mode}.cls_vlffn_feats"), vl);
    };
    let both = encoder.text_branched(&batch.text, None);
    branched("infer_text", "text", &both);
    let both = encoder.image_branched(batch.image.clone(), None);
    branched("infer_image", "image", &both);

    let features = encoder.text(&batch.text, None);
    alone("infer_text_ft", "text", &features);
    let embed = model.itc.embed_text(&features.tokens);
    golden.assert_output("out.infer_text_ft.cls_feats", embed);
    let features = encoder.image(batch.image.clone(), None);
    alone("infer_image_ft", "image", &features);
    let embed = model.itc.embed_image(&features.tokens);
    golden.assert_output("out.infer_image_ft.cls_feats", embed);
    let features = encoder.text(&masked_text(&batch), None);
    alone("infer_text_mlm", "text", &features);
}

fn losses_and_gradients(name: &str) {
    let golden = Golden::load(name);
    let device = Device::flex().autodiff();
    let model = model(&golden, &device);
    let batch = batch(&golden, &device);
    let out = model.pretrain(&batch, &everything(&golden), None);

    let itc = out.itc.clone().unwrap();
    golden.assert_output("out.itc_i2t_logits", itc.own.i2t.clone());
    golden.assert_output("out.itc_t2i_logits", itc.own.i2t.transpose());
    golden.assert_output("out.itc_vl_i2t_logits", itc.vl.i2t);
    golden.assert_output("out.itc_loss_ffn", itc.own.loss);
    golden.assert_output("out.itc_loss_vlffn", itc.vl.loss);
    golden.assert_output("out.itc_loss", itc.loss);
    let scale = model.itc.logit_scale.val().exp();
    golden.assert_output("out.itc_logit_scale", scale);
    let itm = out.itm.clone().unwrap();
    golden.assert_output("out.itm_logits", itm.logits);
    golden.assert_output("out.itm_loss", itm.loss);
    let mlm = out.mlm.clone().unwrap();
    golden.assert_output("out.mlm_loss", mlm.mul_scalar(MLM_WEIGHT));
    let total = out.total().unwrap();
    golden.assert_output("out.total_loss", total.clone());

    let gradients = total.backward();
    let found = weights::export_gradients(&model, &gradients, weights::vlmo_name);
    golden.assert_group("grad.", &found, 1e-3, |_| false);
    let without: Vec<&str> = golden.config["parameters_without_gradient"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for name in weights::export(&model, weights::vlmo_name).keys() {
        assert_eq!(
            found.contains_key(name),
            !without.contains(&name.as_str()),
            "{name}"
        );
    }

    let plain = Device::flex();
    let model = self::model(&golden, &plain);
    let batch = self::batch(&golden, &plain);
    let pair = model
        .encoder
        .fused(&masked_text(&batch), batch.image, IMAGE_TYPE, None);
    let logits = model.mlm_score.logits(pair.text_tokens);
    golden.assert_output("out.mlm_logits", logits);
}

#[test]
fn every_infer_mode_with_relative_positions() {
    every_infer_mode("vlmo_rel");
}

#[test]
fn every_infer_mode_with_absolute_positions() {
    every_infer_mode("vlmo_abs");
}

#[test]
fn losses_and_gradients_with_relative_positions() {
    losses_and_gradients("vlmo_rel");
}

#[test]
fn losses_and_gradients_with_absolute_positions() {
    losses_and_gradients("vlmo_abs");
}

fn text_stage(name: &str) {
    let golden = Golden::load(name);
    let config = config(&golden).without_vl_experts();
    let start = field(&golden.config, "/config/vlffn_start_layer_index_effective");
    assert_eq!(config.vl_start_layer, start);
    let load = |device: &Device| -> VlmoTextStage {
        let state = golden.group("state.");
        let empty = config.init_text_stage(device);
        weights::load(empty, &state, weights::vlmo_name, |_| true).unwrap()
    };
    let texts = |device: &Device| TextBatch {
        input_ids: golden.int("in.text_ids_mlm", device),
        attention_mask: golden.int("in.text_masks", device),
    };
    let plain = Device::flex();
    golden.assert_output("out.mlm_logits", load(&plain).mlm_logits(&texts(&plain)));

    let device = plain.autodiff();
    let model = load(&device);
    let masked = MaskedPositions::from_labels(&golden.ints("in.text_labels_mlm"));
    let loss = model.mlm_loss(&texts(&device), &masked, None).unwrap();
    golden.assert_output("out.mlm_loss", loss.clone());
    let gradients = loss.backward();
    let found = weights::export_gradients(&model, &gradients, weights::vlmo_name);
    golden.assert_group("grad.", &found, 1e-3, |_| false);

    let listed = |key: &str| -> Vec<String> {
        let names = golden.config[key].as_array().unwrap();
        names
            .iter()
            .map(|n| n.as_str().unwrap().to_owned())
            .collect()
    };
    let (frozen, trained) = (listed("frozen"), listed("trainable"));
    let names = weights::export(&model, weights::vlmo_name);
    assert_eq!(names.len(), frozen.len() + trained.len());
    for name in names.keys() {
        assert_eq!(frozen_in_text_stage(name), frozen.contains(name), "{name}");
        assert_eq!(
            frozen_in_text_stage(name),
            !trained.contains(name),
            "{name}"
        );
    }
    let without = listed("trainable_without_gradient");
    for name in &trained {
        assert_eq!(found.contains_key(name), !without.contains(name), "{name}");
    }
    assert!(
        model
            .mlm_loss(
                &texts(&device),
                &MaskedPositions::from_labels(&[-100; 48]),
                None
            )
            .is_none()
    );
}

#[test]
fn text_stage_with_relative_positions() {
    text_stage("vlmo_textmlm_rel");
}

#[test]
fn text_stage_with_absolute_positions() {
    text_stage("vlmo_textmlm_abs");
}

#[test]
fn a_batch_equals_its_singles_and_the_two_separate_passes() {
    let golden = Golden::load("vlmo_rel");
    let device = Device::flex();
    let model = model(&golden, &device);
    let batch = batch(&golden, &device);
    let contrasts = model.contrasts(&batch, None);
    let scale: f32 = model.itc.logit_scale.val().exp().into_scalar();
    let pairs = batch.image.dims()[0];
    let row = |i: usize| Tensor::from_data([i as i64], &device);
    for i in 0..pairs {
        let image = batch.image.clone().narrow(0, i, 1);
        let image = model.encoder.image(image, None).tokens;
        let image = model.itc.embed_image(&image);
        for j in 0..pairs {
            let text = model.encoder.text(&batch.text.select(row(j)), None).tokens;
            let text = model.itc.embed_text(&text);
            let similarity: f32 = (image.clone() * text).sum().into_scalar();
            let in_batch: f32 = contrasts
                .own
                .i2t
                .clone()
                .slice([i..i + 1, j..j + 1])
                .into_scalar();
            assert!(
                (similarity * scale - in_batch).abs() < 1e-4,
                "image {i}, text {j}: {} alone, {in_batch} in the batch",
                similarity * scale
            );
        }
    }
}

#[test]
fn padding_changes_nothing() {
    let device = Device::flex();
    for name in ["vlmo_rel", "vlmo_abs"] {
        let golden = Golden::load(name);
        let model = model(&golden, &device);
        let batch = batch(&golden, &device);
        for (i, mask) in golden.ints("in.text_masks").chunks(12).enumerate() {
            let real = mask.iter().filter(|m| **m == 1).count();
            let row = batch.text.select(Tensor::from_data([i as i64], &device));
            let short = TextBatch {
                input_ids: row.input_ids.clone().narrow(1, 0, real),
                attention_mask: row.attention_mask.clone().narrow(1, 0, real),
            };
            let image = batch.image.clone().narrow(0, i, 1);
            let pooled = |text: &TextBatch| {
                let pair = model.encoder.fused(text, image.clone(), IMAGE_TYPE, None);
                pair.pooled
            };
            let diff: f32 = (pooled(&row) - pooled(&short)).abs().max().into_scalar();
            assert!(diff < 1e-5, "{name}, text {i}: {diff:e}");
        }
    }
}

#[test]
fn negatives_are_the_same_with_and_without_the_contrastive_loss() {
    let golden = Golden::load("vlmo_rel");
    let device = Device::flex().autodiff();
    let model = model(&golden, &device);
    let batch = batch(&golden, &device);
    let hardest = |itc| {
        let objectives = PretrainObjectives {
            itc,
            itm: Some(NegativeDraw::Choose {
                how: HardNegatives::Hardest,
                image: vec![0.0; 4],
                text: vec![0.0; 4],
                ids: vec![],
            }),
            mlm: false,
        };
        let out = model.pretrain(&batch, &objectives, None);
        assert_eq!(out.itc.is_some(), itc);
        assert!(out.mlm.is_none());
        weights::host_values(out.itm.unwrap().logits)
    };
    assert_close("itm_logits", &hardest(false), &hardest(true), 1e-6);
}

fn assert_index(golden: &Golden, name: &str, got: &[i64]) {
    assert_eq!(got, golden.ints(name), "{name}");
}

#[test]
fn relative_position_indices() {
    let device = Device::flex();
    let golden = Golden::load("vlmo_rel");
    let bias = RelativePositionBias::new(4, 20, 4, 4, &device);
    assert_index(&golden, "out.relative_position_index", &bias.image_index());
    assert_index(
        &golden,
        "out.text_relative_position_index",
        &bias.text_index(12),
    );
    let fused = bias.fused_index(12);
    assert_index(&golden, "out.text_imag_relative_position_index", &fused);

    let golden = Golden::load("vlmo_relpos_interp");
    for window in [6, 8] {
        let bias = RelativePositionBias::new(window, 20, 4, 4, &device);
        let name = |of: &str| format!("out.{of}relative_position_index_{window}");
        assert_index(&golden, &name(""), &bias.image_index());
        assert_index(&golden, &name("text_"), &bias.text_index(12));
        assert_index(&golden, &name("text_imag_"), &bias.fused_index(12));
    }
}

#[test]
fn relative_position_table_at_other_sizes() {
    let golden = Golden::load("vlmo_relpos_interp");
    let table = golden.float::<2>("in.relative_position_bias_table", &Device::flex());
    for window in [6, 8] {
        let resized = resize_table(table.clone(), 20, window).unwrap();
        golden.assert_output(
            &format!("out.relative_position_bias_table_{window}"),
            resized,
        );
    }
    let same = resize_table(table.clone(), 20, 4).unwrap();
    assert_eq!(weights::host_values(same), weights::host_values(table));
}

#[test]
fn a_checkpoint_fits_larger_images_and_shorter_texts() {
    let device = Device::flex();
    for name in ["vlmo_rel", "vlmo_abs"] {
        let golden = Golden::load(name);
        let mut config = config(&golden);
        config.image_size = 96;
        config.max_text_len = 8;
        let mut state = golden.group("state.");
        let load = |state: &TensorMap| {
            weights::load(config.init(&device), state, weights::vlmo_name, |_| true)
        };
        assert!(load(&state).is_err());
        weights::fit_vlmo(&mut state, &config).unwrap();
        let model = load(&state).unwrap();
        let positions = &model.encoder.text_embeddings.position_embeddings;
        assert_close(
            name,
            &weights::host_values(positions.weight.val()),
            &golden
                .host("state.text_embeddings.position_embeddings.weight")
                .values[..8 * 32],
            0.0,
        );
    }
}

#[test]
fn the_second_image_starts_as_the_first() {
    let types = HostTensor {
        shape: vec![2, 2],
        values: vec![1.0, 2.0, 3.0, 4.0],
    };
    let mut state = TensorMap::from([("token_type_embeddings.weight".to_owned(), types)]);
    for _ in 0..2 {
        weights::add_second_image_type(&mut state);
        let types = &state["token_type_embeddings.weight"];
        assert_eq!(types.shape, [3, 2]);
        assert_eq!(types.values, [1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
    }
}

#[test]
fn export_gives_back_the_official_state() {
    let golden = Golden::load("vlmo_rel");
    let state = golden.group("state.");
    let exported = weights::export(&model(&golden, &Device::flex()), weights::vlmo_name);
    assert_eq!(
        exported.keys().collect::<Vec<_>>(),
        state.keys().collect::<Vec<_>>()
    );
    for (name, tensor) in &exported {
        assert_eq!(tensor.shape, state[name].shape, "{name}");
        assert_close(name, &tensor.values, &state[name].values, 0.0);
    }
}

#[test]
fn a_missing_an_unexpected_and_a_mis_shaped_tensor_are_named() {
    let golden = Golden::load("vlmo_abs");
    let mut state = golden.group("state.");
    let moved = state.remove("itm_score.fc.weight").unwrap();
    state.insert("itm_score.fc.wait".into(), moved);
    state.get_mut("pooler.dense.bias").unwrap().shape = vec![4, 8];
    let empty = config(&golden).init(&Device::flex());
    let error = weights::load(empty, &state, weights::vlmo_name, |_| true)
        .unwrap_err()
        .to_string();
    for part in [
        "1 missing (itm_score.fc.weight)",
        "1 unexpected (itm_score.fc.wait)",
        "pooler.dense.bias: expected [32], got [4, 8]",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_configuration_that_does_not_fit_is_named() {
    for config in [
        VlmoConfig::base(),
        VlmoConfig::large(),
        VlmoConfig::base_plus(),
    ] {
        assert_eq!(config.problem(), None);
    }
    let broken = VlmoConfig {
        max_text_len: 200,
        ..VlmoConfig::base()
    };
    let problem = broken.problem().unwrap();
    assert!(problem.contains("max_text_len = 200"), "{problem}");
    let broken = VlmoConfig {
        vl_start_layer: 13,
        ..VlmoConfig::base()
    };
    let problem = broken.problem().unwrap();
    assert!(problem.contains("vl_start_layer = 13"), "{problem}");
}
