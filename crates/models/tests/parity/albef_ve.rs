use burn::module::Module;
use burn::tensor::Device;
use fitup_models::albef::entailment::{AlbefEntailment, EntailmentBatch};
use fitup_models::layers::packing::Packing;

use crate::albef_pretrain::config;
use crate::albef_tasks::{
    assert_follows_dropout, assert_task_gradients, with_dropout, with_momentum,
};
use crate::golden::Golden;

fn batch(golden: &Golden, device: &Device) -> EntailmentBatch {
    EntailmentBatch {
        image: golden.float("in.image", device),
        input_ids: golden.int("in.input_ids", device),
        attention_mask: golden.int("in.attention_mask", device),
        labels: golden.int("in.targets", device),
    }
}

pub fn models(golden: &Golden) -> (AlbefEntailment, AlbefEntailment) {
    with_momentum(
        golden,
        |state| state,
        |device| config(golden).init_entailment(device),
    )
}

#[test]
fn loss_and_gradients() {
    let golden = Golden::load("albef_ve");
    let (model, momentum) = models(&golden);
    let batch = batch(&golden, &Device::flex());
    let out = model.loss(Some(&momentum), &batch, 0.4, None);
    golden.assert_output("out.logits", out.logits);
    golden.assert_output("out.logits_m", out.teacher.unwrap());
    golden.assert_output("out.loss", out.loss.clone());
    assert_task_gradients(&golden, &model, out.loss);
}

#[test]
fn without_distillation() {
    let golden = Golden::load("albef_ve");
    let (model, _) = models(&golden);
    let batch = batch(&golden, &Device::flex());
    let out = model.loss(None, &batch, 0.4, None);
    assert!(out.teacher.is_none());
    golden.assert_output("out.nodistill_loss", out.loss);

    let packing = Packing::from_mask(batch.attention_mask);
    let ids = packing.pack(batch.input_ids);
    let logits = model.valid().forward(batch.image, ids, &packing, None);
    golden.assert_output("out.eval_logits", logits);
}

#[test]
fn dropout_follows_its_seed() {
    let golden = Golden::load("albef_ve");
    let config = with_dropout(&golden);
    let init = |device: &Device| config.init_entailment(device);
    let (model, _) = with_momentum(&golden, |state| state, init);
    let batch = batch(&golden, &Device::flex());
    assert_follows_dropout(|dropout| model.loss(None, &batch, 0.0, dropout).loss);
}
