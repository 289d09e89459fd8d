//! Five recorded training steps of the original ALBEF, and six of both AdamW variants: losses,
//! temperature, weights, momentum weights and queue; the scores of its evaluation of retrieval. A failing comparison names the first tensor
//! that differs.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_data::text::Tokenizer;
use fitup_data::text::tokenizer::SPECIAL_TOKENS;
use fitup_index::ScoreMatrix;
use fitup_models::albef::{NegativeDraw, PretrainBatch};
use fitup_models::layers::packing::Packing;
use fitup_models::objectives::itc::PairId;
use fitup_models::objectives::itm::Negatives;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::system::System;
use fitup_models::weights::{self, TensorMap};
use fitup_training::albef::{AlbefPretrain, is_model};
use fitup_training::optimizer::{AdamW, AdamWOrder, OptimizerConfig};
use fitup_training::parameter_groups::ParameterGroup;
use fitup_training::recipe::Recipe;
use fitup_training::tasks::retrieval::{Ranking, Rerank};
use fitup_training::trainer::Pretrain;
use safetensors::{Dtype, SafeTensors};

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn floats(name: &str) -> TensorMap {
    fitup_models::weights::read(&golden(name)).unwrap().0
}

fn ints(name: &str) -> BTreeMap<String, (Vec<usize>, Vec<i64>)> {
    ints_of(&golden(name))
}

fn ints_of(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<i64>)> {
    let bytes = std::fs::read(path).unwrap();
    SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .filter(|(_, view)| view.dtype() == Dtype::I64)
        .map(|(name, view)| {
            let values = view.data().as_chunks::<8>().0.iter();
            let values = values.map(|b| i64::from_le_bytes(*b)).collect();
            (name.to_owned(), (view.shape().to_vec(), values))
        })
        .collect()
}

fn strip(tensors: &TensorMap, prefix: &str) -> TensorMap {
    tensors
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())))
        .collect()
}

#[track_caller]
fn assert_close(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    for (at, (g, w)) in got.iter().zip(want).enumerate() {
        let difference = if g.is_finite() {
            (g - w).abs()
        } else {
            f32::INFINITY
        };
        assert!(
            difference <= tolerance,
            "{name} differs: element {at} is {g}, recorded {w}, difference {difference:e} > {tolerance:e}"
        );
    }
}

fn magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// The recorded run's sizes and settings.
const RECIPE: &str = r#"
name = "trajectory"
[model]
system = "albef"
[model.albef]
embed_dim = 16
[model.albef.vision]
image_size = 48
patch_size = 16
width = 32
depth = 2
heads = 4
[model.albef.text]
vocab_size = 120
hidden_size = 32
num_hidden_layers = 4
fusion_layer = 2
num_attention_heads = 4
intermediate_size = 128
max_position_embeddings = 16
encoder_width = 32
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0
[data]
train = { kind = "folder", path = "unused" }
batch_size = 4
max_tokens = 10
[objectives]
queue_size = 16
[optimizer]
weight_decay = 0.02
[schedule]
kind = "constant"
lr = 1e-3
epochs = 1
"#;

/// The sizes of the recorded evaluation: those of the recipe, but for the image.
#[test]
fn retrieval_scores() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/golden");
    let info = std::fs::read(folder.join("albef_retrieval.json")).unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    let file = folder.join("albef_retrieval.safetensors");
    let (tensors, ints) = (weights::read(&file).unwrap().0, ints_of(&file));
    let size = ["model.albef.vision.image_size=64".to_owned()];
    let recipe = Recipe::parse(RECIPE, "test", &size).unwrap();
    let device = Device::flex();
    let empty = recipe.model.albef().init_retrieval(&device);
    let state = strip(&tensors, "state.");
    let model = weights::load(empty, &state, weights::albef_task_name, is_model).unwrap();
    let image = &tensors["in.eval_image"];
    let image = TensorData::new(image.values.clone(), image.shape.clone());
    let images = model.encode_images(Tensor::from_data(image, &device));
    let int = |name: &str| {
        let (shape, values) = ints[name].clone();
        Tensor::<2, Int>::from_data(TensorData::new(values, shape), &device)
    };
    let packing = Packing::from_mask(int("in.eval_attention_mask"));
    let texts = model.encode_texts(packing.pack(int("in.eval_input_ids")), &packing);
    let cosines = images.embed.clone().unwrap();
    let cosines = cosines.matmul(texts.embed.clone().unwrap().transpose());
    let cosines = weights::host_values(cosines);
    assert_close("cosines", &cosines, &tensors["out.eval_sims"].values, 1e-4);

    let i2t = ScoreMatrix::new(cosines, packing.texts());
    let rerank = Rerank {
        logit_scale: model.logit_scale(),
        matching: model.matching().unwrap(),
        ranking: Ranking::Matching,
        k: info["config"]["k_test"].as_u64().unwrap() as usize,
    };
    let t2i = i2t.transposed();
    let both = rerank.run(&images, &texts, (&i2t, &t2i), &mut |_, _, _| {});
    let (i2t, t2i) = both.unwrap();
    // Pairs that were not matched hold -100.
    for (name, got) in [("out.eval_scores_i2t", i2t), ("out.eval_scores_t2i", t2i)] {
        assert_close(name, got.values(), &tensors[name].values, 1e-4);
    }
}

#[test]
fn five_training_steps() {
    let info = json("albef_pretrain_traj.json");
    let tensors = floats("albef_pretrain_traj.safetensors");
    let ints = ints("albef_pretrain_traj.safetensors");
    let device = Device::flex();
    let recipe = Recipe::parse(RECIPE, "test", &[]).unwrap();
    let special = SPECIAL_TOKENS.map(str::to_owned).to_vec();
    let tokenizer = Tokenizer::from_vocabulary(special).unwrap();
    let state: TensorMap = strip(&tensors, "state.");
    let mut system = AlbefPretrain::new(&recipe, &tokenizer, Some(&state), &device).unwrap();
    let mut optimizer = AdamW::new(recipe.optimizer.clone(), AlbefPretrain::parameter_name);
    let losses = &tensors["out.losses"].values;
    let ids = [0, 1, 2, 3].map(|image| PairId {
        image,
        caption: None,
    });

    for step in 0..5usize {
        let int = |name: &str| -> Tensor<2, Int> {
            let (shape, values) = ints[&format!("in.{step}.{name}")].clone();
            Tensor::from_data(TensorData::new(values, shape), &device)
        };
        let index = |name: &str| -> Vec<usize> {
            let (_, values) = &ints[&format!("in.{step}.{name}")];
            values.iter().map(|i| *i as usize).collect()
        };
        let image = &tensors[&format!("in.{step}.image")];
        let batch = PretrainBatch {
            image: Tensor::from_data(
                TensorData::new(image.values.clone(), image.shape.clone()),
                &device,
            ),
            input_ids: int("input_ids"),
            attention_mask: int("attention_mask"),
            masked_input_ids: int("masked_input_ids"),
            masked: MaskedPositions::from_labels(&ints[&format!("in.{step}.mlm_labels")].1),
        };
        let negatives = NegativeDraw::Given(Negatives {
            image_idx: index("neg_image_idx"),
            text_idx: index("neg_text_idx"),
        });
        let alpha = info["alphas"][step].as_f64().unwrap();

        system.begin_step(step as u64);
        let output = system.losses_with(&batch, negatives, &ids, alpha, None);
        let (mlm, itc, itm) = (
            output.mlm.unwrap(),
            output.itc.unwrap().loss,
            output.itm.unwrap().loss,
        );
        let total = mlm.clone() + itc.clone() + itm.clone();
        let got: Vec<f32> = [mlm, itc, itm, total.clone()]
            .into_iter()
            .map(|loss| loss.inner().into_scalar())
            .collect();
        assert_close(
            &format!("losses of step {step}"),
            &got,
            &losses[4 * step..4 * step + 4],
            1e-4,
        );
        system.enqueue(output.keys.unwrap(), &ids);
        let gradients = GradientsParams::from_grads(total.backward(), system.model());
        let norm = fitup_training::optimizer::gradient_norm(system.model(), &gradients) as f32;
        let recorded = tensors[&format!("out.grad_norm{step}")].values[0];
        assert_close("gradient norm", &[norm], &[recorded], 1e-3 * recorded);
        system.map_model(|model| optimizer.step(model, gradients, 1e-3));
        let temp: f32 = system.model().temp.val().inner().into_scalar();
        let recorded = tensors[&format!("out.temp{step}")].values[0];
        assert_close(
            &format!("temp after step {step}"),
            &[temp],
            &[recorded],
            1e-5,
        );
    }

    let noise = info["noise_dominated"].as_object().unwrap();
    let found = system.export();
    let wanted = strip(&tensors, "out.state.");
    assert_eq!(found.len(), wanted.len(), "number of tensors");
    for (name, want) in wanted {
        let got = &found[&name];
        assert_eq!(got.shape, want.shape, "{name}: shape");
        // Attention key biases have no true gradient; AdamW turns rounding noise into whole steps
        // (the fixture lists by how much the original differs from itself in float64). A fused qkv
        // bias is compared where it is not keys.
        if !noise.contains_key(&name) {
            let tolerance = 1e-3 * magnitude(&want.values).max(1e-3);
            assert_close(&name, &got.values, &want.values, tolerance);
        } else if name.ends_with("qkv.bias") {
            let width = want.values.len() / 3;
            for part in [0..width, 2 * width..3 * width] {
                let (got, want) = (&got.values[part.clone()], &want.values[part]);
                assert_close(&name, got, want, 1e-3 * magnitude(want));
            }
        }
    }
    assert_eq!(
        system.queue().pointer as i64,
        ints["out.state.queue_ptr"].1[0]
    );
}

#[derive(Module, Debug)]
struct OneMatrix {
    weight: Param<Tensor<2>>,
}

#[test]
fn both_adamw_variants() {
    let tensors = floats("optim.safetensors");
    let config = &json("optim.json")["config"];
    let device = Device::flex();
    let tensor = |name: &str, device: &Device| -> Tensor<2> {
        let t = &tensors[name];
        Tensor::from_data(TensorData::new(t.values.clone(), t.shape.clone()), device)
    };
    for (variant, order, betas, eps) in [
        ("torch_adamw", AdamWOrder::Torch, [0.9, 0.999], 1e-8),
        ("hf_adamw", AdamWOrder::Transformers, [0.9, 0.98], 1e-8),
    ] {
        let mut module = OneMatrix {
            weight: Param::from_tensor(tensor("in.param", &device.clone().autodiff())),
        };
        let mut optimizer = AdamW::new(
            OptimizerConfig {
                order,
                betas,
                eps,
                weight_decay: config["wd"].as_f64().unwrap(),
                ..OptimizerConfig::default()
            },
            str::to_owned,
        );
        for step in 0..6 {
            let mut gradients = GradientsParams::new();
            gradients.register(module.weight.id, tensor(&format!("in.grad{step}"), &device));
            module = optimizer.step(module, gradients, config["lr"].as_f64().unwrap());
            let name = format!("out.{variant}.{step}");
            let got = module.weight.val().inner().into_data();
            let got: Vec<f32> = got.try_to_vec().unwrap();
            assert_close(&name, &got, &tensors[&name].values, 1e-6);
        }
    }
}

#[test]
fn groups_decide_on_decay_and_learning_rate() {
    fn spared_and_fast(name: &str, shape: &[usize]) -> ParameterGroup {
        assert_eq!((name, shape), ("weight", &[1, 1][..]));
        ParameterGroup {
            lr_factor: 3.0,
            decays: false,
        }
    }
    let device = Device::flex();
    let after = |optimizer: AdamW, gradient: f32| -> f32 {
        let mut optimizer = optimizer;
        let weight = Tensor::ones([1, 1], &device.clone().autodiff());
        let module = OneMatrix {
            weight: Param::from_tensor(weight),
        };
        let mut gradients = GradientsParams::new();
        let gradient = Tensor::<2>::full([1, 1], gradient, &device);
        gradients.register(module.weight.id, gradient);
        let module = optimizer.step(module, gradients, 0.1);
        module.weight.val().inner().into_scalar()
    };
    let config = OptimizerConfig {
        weight_decay: 0.5,
        ..OptimizerConfig::default()
    };
    let general = || AdamW::new(config.clone(), str::to_owned);
    let own = || general().with_groups(spared_and_fast);
    for (optimizer, gradient, want) in [
        (general(), 0.0, 0.95),
        (own(), 0.0, 1.0),
        // The first step goes by the whole learning rate.
        (general(), 1.0, 0.85),
        (own(), 1.0, 0.7),
    ] {
        assert_close("weight", &[after(optimizer, gradient)], &[want], 1e-6);
    }
}
