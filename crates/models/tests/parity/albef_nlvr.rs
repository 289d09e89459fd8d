use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fitup_models::albef::nlvr2::{AlbefNlvr2, Nlvr2Batch};
use fitup_models::albef::text_assignment::{
    AlbefTextAssignment, AssignmentBatch, AssignmentChoice,
};
use fitup_models::layers::bert::{ImageTokens, padding_mask};
use fitup_models::layers::packing::Packing;
use fitup_models::objectives::assignment::{Assignment, AssignmentDraw};
use fitup_models::weights;

use crate::albef_pretrain::config;
use crate::albef_tasks::{assert_task_gradients, with_momentum};
use crate::golden::Golden;

fn models(golden: &Golden) -> (AlbefNlvr2, AlbefNlvr2) {
    with_momentum(golden, weights::fold_second_images, |device| {
        config(golden).init_nlvr2(device)
    })
}

/// First and second images are halves of one recorded batch.
fn batch(golden: &Golden, device: &Device) -> Nlvr2Batch {
    let images: Tensor<4> = golden.float("in.image", device);
    let half = images.dims()[0] / 2;
    Nlvr2Batch {
        images: [0, half].map(|start| images.clone().narrow(0, start, half)),
        input_ids: golden.int("in.input_ids", device),
        attention_mask: golden.int("in.attention_mask", device),
        labels: golden.int("in.targets", device),
    }
}

#[test]
fn loss_and_gradients() {
    let golden = Golden::load("albef_nlvr");
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
    let golden = Golden::load("albef_nlvr");
    let (model, _) = models(&golden);
    let batch = batch(&golden, &Device::flex());
    golden.assert_output(
        "out.nodistill_loss",
        model.loss(None, &batch, 0.4, None).loss,
    );
    let packing = Packing::from_mask(batch.attention_mask);
    let ids = packing.pack(batch.input_ids);
    let logits = model.valid().forward(batch.images, ids, &packing, None);
    golden.assert_output("out.eval_logits", logits);
}

#[test]
fn text_states_beside_two_images() {
    let golden = Golden::load("albef_nlvr");
    let model = models(&golden).0.valid();
    let batch = batch(&golden, &Device::flex());
    let bert = &model.text_encoder;
    let images = batch.images.map(|image| ImageTokens {
        tokens: model.visual_encoder.forward(image),
        mask: None,
    });
    let images = bert.image_keys_values(&images);
    let mask = padding_mask(batch.attention_mask);
    let text = bert.text(batch.input_ids, mask.clone(), None);
    golden.assert_output("out.text_states", bert.fusion(text, mask, &images, None));
}

#[test]
fn the_second_layer_of_a_pair_reads_the_second_image() {
    let golden = Golden::load("albef_nlvr");
    let (model, _) = models(&golden);
    let model = model.valid();
    let batch = batch(&golden, &Device::flex());
    let packing = Packing::from_mask(batch.attention_mask);
    let ids = packing.pack(batch.input_ids);
    let [first, second] = batch.images;
    let logits = |images| weights::host_values(model.forward(images, ids.clone(), &packing, None));
    let swapped = logits([second.clone(), first.clone()]);
    assert_ne!(logits([first.clone(), second]), swapped);
    assert_ne!(logits([first.clone(), first]), swapped);
}

fn assignment_model(golden: &Golden, device: &Device) -> AlbefTextAssignment {
    let empty = config(golden).init_text_assignment(device);
    let state = weights::fold_second_images(golden.group("state."));
    weights::load(empty, &state, weights::albef_task_name, |_| true).unwrap()
}

#[test]
fn text_assignment_loss_and_gradients() {
    let golden = Golden::load("albef_pretrain_nlvr");
    let plain = Device::flex();
    let model = assignment_model(&golden, &plain.clone().autodiff());
    let index = |name: &str| golden.ints(name).iter().map(|i| *i as usize).collect();
    let assignment = Assignment {
        first: index("in.image0_idx"),
        second: index("in.image1_idx"),
    };
    assert_eq!(assignment.labels(), golden.ints("out.labels"));
    let batch = AssignmentBatch {
        image: golden.float("in.image", &plain),
        input_ids: golden.int("in.input_ids", &plain),
        attention_mask: golden.int("in.attention_mask", &plain),
    };
    let choice = AssignmentChoice::Given(assignment);
    let out = model.loss(&batch, choice, None);
    golden.assert_output("out.logits", out.logits);
    golden.assert_output("out.loss", out.loss.clone());
    let gradients = out.loss.backward();
    let found = weights::export_gradients(&model, &gradients, weights::albef_task_name);
    golden.assert_gradients(&found);
    assert!(
        !found.contains_key("vision_proj.weight"),
        "no loss trains it"
    );
}

#[test]
fn text_assignment_images() {
    let golden = Golden::load("albef_pretrain_nlvr");
    let device = Device::flex();
    let model = assignment_model(&golden, &device);
    let tokens = model
        .visual_encoder
        .forward(golden.float("in.image", &device));
    for (name, chosen) in [
        ("out.image0", "in.image0_idx"),
        ("out.image1", "in.image1_idx"),
    ] {
        let chosen = tokens.clone().select(0, golden.int(chosen, &device));
        golden.assert_output(name, chosen.narrow(1, 0, 1).squeeze_dim::<2>(1));
    }
    // The recorded weights are softmax rows without the diagonal: a draw in the middle of each cell
    // of their cumulated sum must give that cell.
    let sim = weights::host_values(model.image_similarities(tokens));
    let recorded = golden.host("out.weights");
    let n = recorded.shape[0];
    for text in 0..n {
        let row = &recorded.values[text * n..(text + 1) * n];
        let total: f32 = row.iter().sum();
        let mut before = 0.0;
        for (image, weight) in row.iter().enumerate() {
            let middle = f64::from((before + weight / 2.0) / total);
            before += weight;
            if *weight < 1e-6 {
                continue;
            }
            let draw = AssignmentDraw {
                has_own: 0.9,
                own_first: 0.0,
                others: [middle, 0.5],
            };
            let drawn = Assignment::draw(&sim, &vec![draw; n]);
            assert_eq!(drawn.first[text], image, "text {text} at {middle}");
        }
    }
}
