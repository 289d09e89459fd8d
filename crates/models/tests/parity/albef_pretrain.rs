use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fitup_models::albef::{
    Albef, AlbefConfig, AlbefEncoders, ItcMemory, NegativeDraw, PretrainBatch, PretrainObjectives,
};
use fitup_models::layers::block_compute::BlockCompute;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::layers::vision_transformer::VisionTransformerConfig;
use fitup_models::objectives::itc::identity_targets;
use fitup_models::objectives::itm::{self, HardNegatives, Negatives};
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::weights::{self, TensorMap};

use crate::albef_bert::bert_config;
use crate::golden::{Golden, assert_close, field, magnitude};

pub fn config(golden: &Golden) -> AlbefConfig {
    let c = &golden.config;
    let width = field(c, "/config/vit/embed_dim");
    AlbefConfig {
        vision: VisionTransformerConfig {
            image_size: field(c, "/config/image_res"),
            patch_size: field(c, "/config/vit/patch_size"),
            width,
            depth: field(c, "/config/vit/depth"),
            heads: field(c, "/config/vit/num_heads"),
            mlp_ratio: 4,
        },
        text: bert_config(c, "/config/bert", width),
        // Not recorded where a model has no embeddings.
        embed_dim: c
            .pointer("/config/embed_dim")
            .map_or(16, |_| field(c, "/config/embed_dim")),
        temp: 0.07,
    }
}

fn model(golden: &Golden, device: &Device) -> Albef {
    loaded(config(golden), golden, device)
}

fn loaded(config: AlbefConfig, golden: &Golden, device: &Device) -> Albef {
    let state = golden.group("state.");
    weights::load(config.init(device), &state, weights::albef_name, |name| {
        !weights::is_momentum(name) && !name.ends_with("_queue")
    })
    .unwrap()
}

/// The momentum model after this step's update: the recorded run updates before it uses it.
fn momentum(golden: &Golden, device: &Device) -> AlbefEncoders {
    let state = golden.group("out.state.");
    let empty = config(golden).init_encoders(device);
    weights::load(
        empty,
        &state,
        weights::albef_momentum_name,
        weights::is_momentum,
    )
    .unwrap()
}

fn batch(golden: &Golden, device: &Device) -> PretrainBatch {
    PretrainBatch {
        image: golden.float("in.image", device),
        input_ids: golden.int("in.input_ids", device),
        attention_mask: golden.int("in.attention_mask", device),
        masked_input_ids: golden.int("in.masked_input_ids", device),
        masked: MaskedPositions::from_labels(&golden.ints("in.mlm_labels")),
    }
}

fn objectives(golden: &Golden, device: &Device) -> PretrainObjectives {
    let index = |name: &str| golden.ints(name).iter().map(|i| *i as usize).collect();
    let n = field(&golden.config, "/config/batch");
    PretrainObjectives {
        itc: Some(ItcMemory {
            image_queue: golden.float("state.image_queue", device),
            text_queue: golden.float("state.text_queue", device),
            hard_targets: identity_targets(n, n + field(&golden.config, "/config/queue_size")),
        }),
        itm: Some(NegativeDraw::Given(Negatives {
            image_idx: index("in.neg_image_idx"),
            text_idx: index("in.neg_text_idx"),
        })),
        mlm: true,
        alpha_itc: 0.4,
        alpha_mlm: 0.4,
    }
}

#[test]
fn features_losses_and_gradients() {
    let golden = Golden::load("albef_pretrain");
    let plain = Device::flex();
    let model = model(&golden, &plain.clone().autodiff());
    let momentum = momentum(&golden, &plain);
    let batch = batch(&golden, &plain);

    let image = momentum.encode_image(batch.image.clone());
    golden.assert_output("out.image_embeds_m", image.tokens);
    golden.assert_output("out.image_feat_m", image.embed);
    let ids = (batch.input_ids.clone(), batch.attention_mask.clone());
    let text = momentum.encode_text(ids.0, ids.1, None);
    golden.assert_output("out.text_feat_m", text.embed);

    let objectives = objectives(&golden, &plain);
    let out = model.pretrain(&momentum, &batch, &objectives, None);
    let itc = out.itc.unwrap();
    golden.assert_output("out.sim_i2t_targets", itc.targets_i2t);
    golden.assert_output("out.sim_t2i_targets", itc.targets_t2i);
    golden.assert_output("out.sim_i2t", itc.sim_i2t);
    golden.assert_output("out.sim_t2i", itc.sim_t2i);
    golden.assert_output("out.loss_ita", itc.loss.clone());
    let itm = out.itm.unwrap();
    golden.assert_output("out.itm_logits", itm.logits);
    golden.assert_output("out.loss_itm", itm.loss.clone());
    let mlm = out.mlm.unwrap();
    golden.assert_output("out.loss_mlm", mlm.clone());
    let total = mlm + itc.loss + itm.loss;
    golden.assert_output("out.loss_total", total.clone());

    let gradients = total.backward();
    let found = weights::export_gradients(&model, &gradients, weights::albef_name);
    // What is recorded for attention key biases is rounding noise; the check of its size stands in
    // the BERT fixture's test.
    golden.assert_group("grad.", &found, 1e-3, |name| name.ends_with(".key.bias"));
}

/// Losses and gradients of the recorded step with dropout, its blocks computed as `compute` says.
fn dropped_out(
    golden: &Golden,
    compute: BlockCompute,
    frozen_images: bool,
) -> ([f32; 3], TensorMap) {
    let plain = Device::flex();
    let mut config = config(golden);
    config.text.hidden_dropout_prob = 0.1;
    config.text.attention_probs_dropout_prob = 0.1;
    let mut model = loaded(config, golden, &plain.clone().autodiff());
    if frozen_images {
        model.encoders.visual_encoder = model.encoders.visual_encoder.no_grad();
    }
    model.encoders.set_block_compute(compute);
    let batch = batch(golden, &plain);
    let objectives = objectives(golden, &plain);
    let dropout = Some(DropoutSeed::new(3));
    let out = model.pretrain(&momentum(golden, &plain), &batch, &objectives, dropout);
    let losses = [
        out.itc.unwrap().loss,
        out.itm.unwrap().loss,
        out.mlm.unwrap(),
    ];
    let gradients = Tensor::cat(losses.to_vec(), 0).sum().backward();
    let gradients = weights::export_gradients(&model, &gradients, weights::albef_name);
    (losses.map(|loss| loss.into_scalar()), gradients)
}

#[test]
fn checkpointed_blocks_give_the_same_losses_and_gradients() {
    let golden = Golden::load("albef_pretrain");
    let compute = BlockCompute {
        checkpointing: true,
        bf16: false,
    };
    for frozen_images in [false, true] {
        let (losses, gradients) = dropped_out(&golden, compute, frozen_images);
        let kept = dropped_out(&golden, BlockCompute::default(), frozen_images);
        assert_eq!(losses, kept.0, "losses");
        assert!(gradients.keys().eq(kept.1.keys()));
        for (name, want) in &kept.1 {
            // Where a tensor is read several times, its gradients are added in another order.
            let tolerance = 1e-6 * magnitude(&want.values).max(0.1);
            assert_close(name, &gradients[name].values, &want.values, tolerance);
        }
    }
}

#[test]
fn blocks_in_bfloat16_give_losses_and_gradients_to_its_precision() {
    let golden = Golden::load("albef_pretrain");
    let (losses, gradients) = dropped_out(&golden, BlockCompute::default(), false);
    let norm = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>().sqrt();
    for checkpointing in [false, true] {
        let compute = BlockCompute {
            checkpointing,
            bf16: true,
        };
        let rounded = dropped_out(&golden, compute, false);
        for (loss, want) in rounded.0.into_iter().zip(losses) {
            let error = (loss - want).abs() / want;
            assert!(error > 0.0 && error < 0.01, "{loss}, {want}");
        }
        // Key biases have no true gradient.
        let true_ones = gradients
            .iter()
            .filter(|(name, _)| !name.ends_with(".key.bias"));
        for (name, want) in true_ones {
            let pairs = rounded.1[name].values.iter().zip(&want.values);
            let errors: Vec<f32> = pairs.map(|(a, b)| a - b).collect();
            let (error, size) = (norm(&errors), norm(&want.values));
            assert!(error < 0.05 * size, "{name}: {error:e} of {size:e}");
        }
    }
}

#[test]
fn model_features() {
    let golden = Golden::load("albef_pretrain");
    let device = Device::flex();
    let model = model(&golden, &device);
    let batch = batch(&golden, &device);
    let image = model.encoders.encode_image(batch.image);
    golden.assert_output("out.image_embeds", image.tokens.clone());
    golden.assert_output("out.image_feat", image.embed);
    let text = model
        .encoders
        .encode_text(batch.input_ids, batch.attention_mask, None);
    golden.assert_output("out.text_embeds", text.tokens.clone());
    golden.assert_output("out.text_feat", text.embed);
    let everywhere = MaskedPositions {
        index: (0..40).collect(),
        token: vec![0; 40],
    };
    let kv = model.encoders.image_keys_values(image.tokens);
    let logits =
        model
            .encoders
            .mlm_logits(batch.masked_input_ids, text.mask, &kv, &everywhere, None);
    golden.assert_output("out.mlm_logits", logits);
}

#[test]
fn weights_of_the_negative_draw() {
    // The recorded weights are softmax rows without the diagonal: drawing at the middle of each
    // cell of their cumulated sum must give that cell.
    let golden = Golden::load("albef_pretrain");
    let n = field(&golden.config, "/config/batch");
    for direction in ["i2t", "t2i"] {
        let sim = golden.host(&format!("out.sim_{direction}"));
        let keys = sim.shape[1];
        let inside: Vec<f32> = sim
            .values
            .chunks(keys)
            .flat_map(|r| r[..n].to_vec())
            .collect();
        let weights = &golden.host(&format!("out.weights_{direction}")).values;
        for i in 0..n {
            let row = &weights[i * n..(i + 1) * n];
            let total: f32 = row.iter().sum();
            let mut before = 0.0;
            for (j, w) in row.iter().enumerate() {
                let middle = f64::from((before + w / 2.0) / total);
                before += w;
                if i == j || *w < 1e-6 {
                    continue;
                }
                let chosen = itm::choose(
                    &inside,
                    n,
                    HardNegatives::Sample,
                    &vec![middle; n],
                    |a, b| a == b,
                );
                assert_eq!(chosen[i], j, "{direction} row {i} at {middle}");
            }
        }
    }
}

#[test]
fn export_gives_back_the_official_state() {
    let golden = Golden::load("albef_pretrain");
    let model = model(&golden, &Device::flex());
    let exported = weights::export(&model, weights::albef_name);
    for (name, tensor) in &exported {
        let want = golden.host(&format!("state.{name}"));
        assert_eq!(tensor.shape, want.shape, "{name}");
        assert_close(name, &tensor.values, &want.values, 0.0);
    }
}

#[test]
fn a_missing_an_unexpected_and_a_mis_shaped_tensor_are_named() {
    let golden = Golden::load("albef_pretrain");
    let mut state = golden.group("state.");
    let moved = state.remove("itm_head.weight").unwrap();
    state.insert("itm_head.wait".into(), moved);
    state.get_mut("vision_proj.bias").unwrap().shape = vec![4, 4];
    let device = Device::flex();
    let error = weights::load(
        config(&golden).init(&device),
        &state,
        weights::albef_name,
        |name| !weights::is_momentum(name) && !name.ends_with("_queue"),
    )
    .unwrap_err()
    .to_string();
    for part in [
        "1 missing (itm_head.weight)",
        "1 unexpected (itm_head.wait)",
        "vision_proj.bias: expected [16], got [4, 4]",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn nothing_masked_gives_no_word_loss() {
    let golden = Golden::load("albef_pretrain");
    let plain = Device::flex();
    let model = model(&golden, &plain.clone().autodiff());
    let mut batch = batch(&golden, &plain);
    batch.masked = MaskedPositions::from_labels(&[-100; 40]);
    let out = model.pretrain(
        &momentum(&golden, &plain),
        &batch,
        &PretrainObjectives {
            itc: None,
            itm: None,
            mlm: true,
            alpha_itc: 0.0,
            alpha_mlm: 0.4,
        },
        None,
    );
    assert!(out.mlm.is_none());
}
