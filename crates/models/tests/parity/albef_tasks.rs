//! How ALBEF's fine-tuned models are loaded and written, and how they start from the pre-trained one.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fitup_models::albef::AlbefConfig;
use fitup_models::layers::bert::BertConfig;
use fitup_models::layers::dropout::DropoutSeed;
use fitup_models::layers::vision_transformer::VisionTransformerConfig;
use fitup_models::weights::{self, AlbefTask, TensorMap, start_albef};
use serde_json::json;

use crate::albef_pretrain::config;
use crate::golden::{Golden, assert_close};

/// A model and its momentum copy after this step's update, each loaded strictly. `ours`: what makes
/// a model's parameters of the official tensors, where they are not the same.
pub fn with_momentum<M: Module>(
    golden: &Golden,
    ours: impl Fn(TensorMap) -> TensorMap,
    init: impl Fn(&Device) -> M,
) -> (M, M) {
    let plain = Device::flex();
    let model = weights::load(
        init(&plain.clone().autodiff()),
        &ours(golden.group("state.")),
        weights::albef_task_name,
        |name| !weights::is_momentum(name),
    );
    let momentum = weights::load(
        init(&plain),
        &ours(golden.group("out.state.")),
        weights::albef_task_momentum_name,
        weights::is_momentum,
    );
    (model.unwrap(), momentum.unwrap())
}

/// Gradients of a fine-tuned model's loss equal the recorded ones.
pub fn assert_task_gradients<M: Module>(golden: &Golden, model: &M, loss: Tensor<1>) {
    let gradients = loss.backward();
    let found = weights::export_gradients(model, &gradients, weights::albef_task_name);
    golden.assert_gradients(&found);
}

/// One seed gives one loss, another another. `loss`: with the dropout of a seed, or without.
pub fn assert_follows_dropout(loss: impl Fn(Option<DropoutSeed>) -> Tensor<1>) {
    let loss = |seed: Option<u64>| loss(seed.map(DropoutSeed::new)).into_scalar::<f32>();
    assert_eq!(loss(Some(1)), loss(Some(1)));
    assert_ne!(loss(Some(1)), loss(Some(2)));
    assert_ne!(loss(Some(1)), loss(None));
}

/// The recorded sizes with the authors' dropout.
pub fn with_dropout(golden: &Golden) -> AlbefConfig {
    let mut config = config(golden);
    config.text.hidden_dropout_prob = 0.1;
    config.text.attention_probs_dropout_prob = 0.1;
    config
}

#[test]
fn exports_give_back_the_official_states() {
    let name = weights::albef_task_name;
    let entailment = Golden::load("albef_ve");
    same_as_recorded(
        &entailment,
        weights::export(&crate::albef_ve::models(&entailment).0, name),
    );
    let nlvr = Golden::load("albef_nlvr");
    let (model, momentum) = with_momentum(&nlvr, weights::fold_second_images, |d| {
        config(&nlvr).init_nlvr2(d)
    });
    let unfold = weights::unfold_second_images;
    same_as_recorded(&nlvr, unfold(weights::export(&model, name)));
    let momentum = weights::export(&momentum, weights::albef_task_momentum_name);
    let recorded = nlvr.group("out.state.");
    assert_eq!(unfold(momentum), recorded);
    let vqa = Golden::load("albef_vqa");
    let (model, _) = with_momentum(&vqa, |state| state, |d| config(&vqa).init_vqa(d));
    same_as_recorded(&vqa, weights::export(&model, name));
}

/// Every official tensor but buffers, tied copies and the momentum model's, to the bit.
fn same_as_recorded(golden: &Golden, exported: TensorMap) {
    let mut state = golden.group("state.");
    state.retain(|name, _| !weights::is_momentum(name) && !weights::is_redundant(name));
    let names = |map: &TensorMap| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&exported), names(&state));
    for (name, tensor) in &exported {
        assert_eq!(tensor.shape, state[name].shape, "{name}");
        assert_close(name, &tensor.values, &state[name].values, 0.0);
    }
}

/// A task's model with its momentum copy, as drawn.
fn drawn<M: Module>(init: impl Fn(&Device) -> M) -> TensorMap {
    let device = Device::flex();
    let draw = |seed| weights::initialize(init(&device), 0.02, seed);
    let mut tensors = weights::export(&draw(1), weights::albef_task_name);
    tensors.extend(weights::export(&draw(2), weights::albef_task_momentum_name));
    tensors
}

/// What the recorded pre-training holds where a task starts from it.
fn pretrained() -> (Golden, TensorMap) {
    let golden = Golden::load("albef_pretrain");
    let state = golden.group("state.");
    (golden, state)
}

#[test]
fn question_answering_starts_from_pre_training() {
    let (golden, state) = pretrained();
    let drawn = drawn(|device| config(&golden).init_vqa(device));
    let (tensors, report) = start_albef(AlbefTask::Vqa, drawn.clone(), state.clone()).unwrap();
    assert!(report.fresh.is_empty(), "{:?}", report.fresh);
    let dropped = ["image_queue", "itm_head.bias", "temp", "text_proj_m.weight"];
    assert!(
        dropped
            .iter()
            .all(|name| report.dropped.contains(&(*name).to_owned()))
    );
    let part = "attention.self.query.weight";
    for (momentum, layer) in [("", 0), ("_m", 1)] {
        let copy = format!("text_decoder{momentum}.bert.encoder.layer.{layer}.{part}");
        let of = format!(
            "text_encoder{momentum}.bert.encoder.layer.{}.{part}",
            layer + 2
        );
        assert_eq!(tensors[&copy], state[&of]);
    }
    for name in [
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.bias",
    ] {
        let decoder = &tensors[&format!("text_decoder.{name}")];
        assert_eq!(decoder, &state[&format!("text_encoder.{name}")]);
    }
    // The whole loads strictly.
    let empty = config(&golden).init_vqa(&Device::flex());
    weights::load(empty, &tensors, weights::albef_task_name, |name| {
        !weights::is_momentum(name)
    })
    .unwrap();
}

#[test]
fn entailment_and_retrieval_start_from_pre_training() {
    let (golden, state) = pretrained();
    let entailment = drawn(|device| config(&golden).init_entailment(device));
    let (tensors, report) =
        start_albef(AlbefTask::Entailment, entailment.clone(), state.clone()).unwrap();
    assert!(report.fresh.iter().all(|name| name.starts_with("cls_head")));
    assert_eq!(report.fresh.len(), 8);
    assert_eq!(
        tensors["cls_head.0.weight"],
        entailment["cls_head.0.weight"]
    );
    assert_eq!(
        tensors["text_encoder_m.embeddings.LayerNorm.bias"],
        state["text_encoder_m.bert.embeddings.LayerNorm.bias"]
    );

    let device = Device::flex();
    let config = config(&golden);
    let name = weights::albef_task_name;
    let mut retrieval = weights::export(&config.init_retrieval(&device), name);
    retrieval.extend(weights::export(
        &config.init_retrieval_encoders(&device),
        weights::albef_task_momentum_name,
    ));
    let (tensors, report) = start_albef(AlbefTask::Retrieval, retrieval, state.clone()).unwrap();
    assert!(report.fresh.is_empty());
    for kept in ["temp", "itm_head.weight", "vision_proj_m.bias"] {
        assert_eq!(tensors[kept].values, state[kept].values);
    }
}

#[test]
fn two_image_models_start_from_copies_of_each_fusion_layer() {
    let (golden, state) = pretrained();
    let device = Device::flex();
    let name = weights::albef_task_name;
    let model = config(&golden).init_text_assignment(&device);
    let drawn = weights::export(&weights::initialize(model, 0.02, 1), name);
    let task = AlbefTask::TextAssignment;
    let (assigned, report) = start_albef(task, drawn, state.clone()).unwrap();
    assert_eq!(report.fresh, ["ta_head.bias", "ta_head.weight"]);
    for (layer, part) in [
        (2, "crossattention.self.query.weight"),
        (3, "output.LayerNorm.bias"),
        (4, "crossattention.self.key.weight"),
        (5, "crossattention.output.dense.weight"),
    ] {
        let of = 2 + (layer - 2) / 2;
        let copy = &assigned[&format!("text_encoder.encoder.layer.{layer}.{part}")];
        assert_eq!(
            copy,
            &state[&format!("text_encoder.bert.encoder.layer.{of}.{part}")]
        );
    }

    // NLVR2 from text assignment, which has no momentum copy, and from pre-training.
    let nlvr2 = self::drawn(|device| config(&golden).init_nlvr2(device));
    let (from_assigned, report) = start_albef(
        AlbefTask::Nlvr2,
        nlvr2.clone(),
        weights::unfold_second_images(assigned.clone()),
    )
    .unwrap();
    assert!(
        report
            .fresh
            .iter()
            .all(|n| weights::is_momentum(n) || n.starts_with("cls_head."))
    );
    let (from_pairs, report) = start_albef(AlbefTask::Nlvr2, nlvr2, state).unwrap();
    assert_eq!(report.fresh.len(), 8);
    for (name, tensor) in &from_pairs {
        if !weights::is_momentum(name) && !name.starts_with("cls_head.") {
            assert_eq!(tensor, &from_assigned[name], "{name}");
        }
    }
}

#[test]
fn what_a_checkpoint_lacks_or_has_too_much_is_named() {
    let (golden, state) = pretrained();
    let drawn = drawn(|device| config(&golden).init_entailment(device));
    let refused = |change: fn(&mut TensorMap)| {
        let mut state = state.clone();
        change(&mut state);
        let started = start_albef(AlbefTask::Entailment, drawn.clone(), state);
        started.unwrap_err().to_string()
    };
    let missing = refused(|t| drop(t.remove("visual_encoder.norm.bias")));
    assert!(
        missing.contains("1 missing (visual_encoder.norm.bias)"),
        "{missing}"
    );
    let more = refused(|t| drop(t.insert("ta_heat.bias".into(), t["temp"].clone())));
    assert!(more.contains("1 unexpected (ta_heat.bias)"), "{more}");
    let shape = refused(|t| {
        drop(t.insert("visual_encoder.norm.bias".into(), t["temp"].clone()));
    });
    assert!(
        shape.contains("visual_encoder.norm.bias: expected [32]"),
        "{shape}"
    );
}

/// What is drawn of a module, under the names of the model or of its momentum copy.
fn exported<M: Module>(module: M, name: fn(&str) -> String) -> TensorMap {
    weights::export(&weights::initialize(module, 0.02, 1), name)
}

/// `layer.7.output.dense.bias` as `layer.7.*`, with the part that is left out.
fn whole_layer(name: &str) -> (String, &str) {
    let at = [".layer.", ".blocks."]
        .iter()
        .find_map(|list| Some(name.find(list)? + list.len()));
    let end = at.and_then(|at| Some(at + name[at..].find('.')? + 1));
    match end {
        Some(end) => (format!("{}*", &name[..end]), &name[end..]),
        None => (name.to_owned(), ""),
    }
}

#[test]
fn every_start_takes_what_the_original_takes() {
    let path = "tests/golden/albef_starts.json";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let recorded: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let device = Device::flex();
    let config = deep_config();
    let (own, copy) = (weights::albef_task_name, weights::albef_task_momentum_name);
    let with = |mut model: TensorMap, momentum| {
        model.extend(momentum);
        model
    };
    let encoders = || exported(config.init_encoders(&device), weights::albef_momentum_name);
    let pretrained = with(
        exported(config.init(&device), weights::albef_name),
        encoders(),
    );
    let assignment = exported(config.init_text_assignment(&device), own);
    let retrieval = || config.init_retrieval_encoders(&device);
    let vqa = || config.init_vqa(&device);
    let entailment = || config.init_entailment(&device);
    let nlvr2 = || config.init_nlvr2(&device);
    let of_pairs = || pretrained.clone();
    let starts = [
        (
            "retrieval",
            AlbefTask::Retrieval,
            with(
                exported(config.init_retrieval(&device), own),
                exported(retrieval(), copy),
            ),
            of_pairs(),
        ),
        (
            "vqa",
            AlbefTask::Vqa,
            with(exported(vqa(), own), exported(vqa(), copy)),
            of_pairs(),
        ),
        (
            "ve",
            AlbefTask::Entailment,
            with(exported(entailment(), own), exported(entailment(), copy)),
            of_pairs(),
        ),
        (
            "pretrain_nlvr",
            AlbefTask::TextAssignment,
            assignment.clone(),
            of_pairs(),
        ),
        (
            "nlvr_from_pretrain_nlvr",
            AlbefTask::Nlvr2,
            with(exported(nlvr2(), own), exported(nlvr2(), copy)),
            weights::unfold_second_images(assignment),
        ),
    ];
    for (script, task, drawn, checkpoint) in starts {
        let (_, report) = start_albef(task, drawn, checkpoint).unwrap();
        let mut loaded = BTreeMap::new();
        for (from, to) in &report.taken {
            let ((from, of), (to, part)) = (whole_layer(from), whole_layer(to));
            assert_eq!(of, part, "{from} to {to}");
            *loaded.entry((to, from)).or_insert(0) += 1;
        }
        let loaded: Vec<_> = loaded
            .iter()
            .map(|((to, from), n)| json!([to, from, n]))
            .collect();
        assert_eq!(json!(loaded), recorded[script]["loaded"], "{script}");
        let mut fresh = BTreeMap::new();
        for name in &report.fresh {
            *fresh.entry(whole_layer(name).0).or_insert(0) += 1;
        }
        let fresh: Vec<_> = fresh.iter().map(|(name, n)| json!([name, n])).collect();
        assert_eq!(json!(fresh), recorded[script]["missing"], "{script}");
    }
}

/// As many layers as the published model, and as narrow as they can be.
fn deep_config() -> AlbefConfig {
    AlbefConfig {
        vision: VisionTransformerConfig {
            image_size: 4,
            patch_size: 2,
            width: 4,
            depth: 12,
            heads: 2,
            mlp_ratio: 2,
        },
        text: BertConfig {
            vocab_size: 6,
            hidden_size: 4,
            num_hidden_layers: 12,
            fusion_layer: 6,
            num_attention_heads: 2,
            intermediate_size: 8,
            max_position_embeddings: 5,
            encoder_width: 4,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
        },
        embed_dim: 2,
        temp: 0.07,
    }
}
