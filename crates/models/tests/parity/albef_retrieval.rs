use burn::tensor::{Device, Tensor};
use fitup_models::albef::retrieval::{RetrievalBatch, RetrievalMemory};
use fitup_models::albef::{Albef, AlbefEncoders, NegativeDraw};
use fitup_models::objectives::itc::{PairId, id_targets};
use fitup_models::objectives::itm::{self, HardNegatives, Negatives};
use fitup_models::weights;

use crate::albef_pretrain::config;
use crate::golden::Golden;

fn model(golden: &Golden, device: &Device) -> Albef {
    let state = golden.group("state.");
    let empty = config(golden).init_retrieval(device);
    weights::load(empty, &state, weights::albef_task_name, |name| {
        !weights::is_momentum(name) && !name.ends_with("_queue")
    })
    .unwrap()
}

/// The momentum model after this step's update: the recorded run updates before it uses it.
fn momentum(golden: &Golden, device: &Device) -> AlbefEncoders {
    let state = golden.group("out.state.");
    let empty = config(golden).init_retrieval_encoders(device);
    let name = weights::albef_task_momentum_name;
    weights::load(empty, &state, name, weights::is_momentum).unwrap()
}

fn ids(golden: &Golden) -> Vec<PairId> {
    let image = |id: &i64| PairId {
        image: *id as u64,
        caption: None,
    };
    golden.ints("in.idx").iter().map(image).collect()
}

fn queue_ids(golden: &Golden) -> Vec<Option<PairId>> {
    let queued = golden.ints("state.idx_queue");
    let image = |id: &i64| {
        let image = u64::try_from(*id).ok()?;
        Some(PairId {
            image,
            caption: None,
        })
    };
    queued.iter().map(image).collect()
}

fn batch(golden: &Golden, device: &Device) -> RetrievalBatch {
    RetrievalBatch {
        image: golden.float("in.image", device),
        input_ids: golden.int("in.input_ids", device),
        attention_mask: golden.int("in.attention_mask", device),
        ids: ids(golden),
    }
}

fn memory(golden: &Golden, device: &Device) -> RetrievalMemory {
    RetrievalMemory {
        image_queue: golden.float("state.image_queue", device),
        text_queue: golden.float("state.text_queue", device),
        ids: queue_ids(golden),
    }
}

fn negatives(golden: &Golden) -> NegativeDraw {
    let index = |name: &str| golden.ints(name).iter().map(|i| *i as usize).collect();
    NegativeDraw::Given(Negatives {
        image_idx: index("in.neg_image_idx"),
        text_idx: index("in.neg_text_idx"),
    })
}

#[test]
fn losses_and_gradients() {
    let golden = Golden::load("albef_retrieval");
    let plain = Device::flex();
    let model = model(&golden, &plain.clone().autodiff());
    let momentum = momentum(&golden, &plain);
    let out = model.retrieval(
        &momentum,
        &batch(&golden, &plain),
        &memory(&golden, &plain),
        negatives(&golden),
        0.4,
        None,
    );
    golden.assert_output("out.image_feat_m", out.keys.image);
    golden.assert_output("out.text_feat_m", out.keys.text);
    golden.assert_output("out.sim_i2t", out.itc.sim_i2t);
    golden.assert_output("out.sim_t2i", out.itc.sim_t2i);
    golden.assert_output("out.sim_i2t_targets", out.itc.targets_i2t);
    golden.assert_output("out.sim_t2i_targets", out.itc.targets_t2i);
    golden.assert_output("out.loss_ita", out.itc.loss.clone());
    golden.assert_output("out.itm_logits", out.itm.logits);
    golden.assert_output("out.loss_itm", out.itm.loss.clone());
    let gradients = (out.itc.loss + out.itm.loss).backward();
    let found = weights::export_gradients(&model, &gradients, weights::albef_task_name);
    golden.assert_gradients(&found);
}

#[test]
fn without_distillation() {
    let golden = Golden::load("albef_retrieval");
    let plain = Device::flex();
    let model = model(&golden, &plain.clone().autodiff());
    // The loss was recorded on the starting weights, so its momentum update is this step's too.
    let out = model.retrieval(
        &momentum(&golden, &plain),
        &batch(&golden, &plain),
        &memory(&golden, &plain),
        negatives(&golden),
        0.0,
        None,
    );
    golden.assert_output("out.nodistill_loss_ita", out.itc.loss);
}

#[test]
fn targets_and_negatives_know_the_images() {
    let golden = Golden::load("albef_retrieval");
    let device = Device::flex();
    let ids = ids(&golden);
    let targets = id_targets(&ids, &queue_ids(&golden));
    golden.assert_output("out.sim_targets", Tensor::<2>::from_data(targets, &device));

    // The recorded weights are 0 exactly where the draw may not go.
    let n = ids.len();
    for direction in ["i2t", "t2i"] {
        let recorded = &golden.host(&format!("out.weights_{direction}")).values;
        let sim = golden.host(&format!("out.sim_{direction}"));
        let rows = sim.values.chunks(sim.shape[1]);
        let inside: Vec<f32> = rows.flat_map(|row| row[..n].to_vec()).collect();
        for uniform in [0.0, 0.25, 0.5, 0.75, 0.999] {
            let same = |i: usize, j: usize| ids[i].is_same(ids[j]);
            let sample = HardNegatives::Sample;
            let chosen = itm::choose(&inside, n, sample, &vec![uniform; n], same);
            for (i, j) in chosen.iter().enumerate() {
                assert!(recorded[i * n + j] > 0.0, "{direction} row {i}: {j}");
            }
        }
    }
}

#[test]
fn features_of_the_starting_model() {
    let golden = Golden::load("albef_retrieval");
    let device = Device::flex();
    let model = model(&golden, &device);
    let batch = batch(&golden, &device);
    let image = model.encoders.encode_image(batch.image);
    golden.assert_output("out.image_feat", image.embed);
    let text = model
        .encoders
        .encode_text(batch.input_ids, batch.attention_mask, None);
    golden.assert_output("out.text_feat", text.embed);
}
