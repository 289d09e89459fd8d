use burn::tensor::{Device, Tensor};
use fitup_models::objectives::vqa::{self, soft_targets};
use fitup_models::vlmo::VlmoConfig;
use fitup_models::vlmo::downstream::{VlmoNlvr2, VlmoVqa, vqa_score};
use fitup_models::weights;

use crate::golden::{Golden, field};
use crate::vlmo::{config, text};

#[test]
fn retrieval_loss_and_gradients() {
    let golden = Golden::load("vlmo_irtr");
    let device = Device::flex().autodiff();
    // The state has no vision-language experts: none are used.
    let config = VlmoConfig {
        vl_start_layer: field(&golden.config, "/config/depth"),
        ..config(&golden)
    };
    let state = golden.group("state.");
    let empty = config.init_retrieval(&device);
    let model = weights::load(empty, &state, weights::vlmo_name, |_| true).unwrap();
    let image = golden.float("in.image", &device);
    let out = model.contrast(image, &text(&golden, "in.", &device), None);
    golden.assert_output("out.irtr_i2t_logits", out.i2t.clone());
    golden.assert_output("out.irtr_t2i_logits", out.i2t.transpose());
    golden.assert_output("out.irtr_logit_scale", model.itc.logit_scale.val().exp());
    golden.assert_output("out.irtr_loss", out.loss.clone());
    let gradients = out.loss.backward();
    let found = weights::export_gradients(&model, &gradients, weights::vlmo_name);
    golden.assert_group("grad.", &found, 1e-3, |_| false);
}

/// Both models on the one encoder of the recorded run.
fn models(golden: &Golden, device: &Device) -> (VlmoVqa, VlmoNlvr2) {
    let config = config(golden);
    let state = golden.group("state.");
    let nlvr2 = weights::load(
        config.init_nlvr2(device),
        &state,
        weights::vlmo_name,
        |name| !name.starts_with("vqa_classifier."),
    )
    .unwrap();
    let answers = field(&golden.config, "/config/vqav2_label_size");
    let mut vqa = config.init_vqa(answers, device);
    vqa.encoder = nlvr2.encoder.clone();
    let vqa = weights::load(vqa, &state, weights::vlmo_name, |name| {
        weights::is_vlmo_encoder(name) || name.starts_with("vqa_classifier.")
    })
    .unwrap();
    (vqa, nlvr2)
}

/// The recorded answers with their scores.
fn scored(golden: &Golden) -> Vec<Vec<(usize, f32)>> {
    let lists = |key: &str| golden.config[key].as_array().unwrap().clone();
    let (labels, scores) = (lists("vqa_labels"), lists("vqa_scores"));
    let pairs = labels.iter().zip(&scores).map(|(labels, scores)| {
        let labels = labels.as_array().unwrap().iter();
        let scores = scores.as_array().unwrap().iter();
        labels
            .zip(scores)
            .map(|(l, s)| (l.as_u64().unwrap() as usize, s.as_f64().unwrap() as f32))
            .collect()
    });
    pairs.collect()
}

fn downstream(name: &str) {
    let golden = Golden::load(name);
    let device = Device::flex().autodiff();
    let (vqa_model, mut nlvr2) = models(&golden, &device);
    // Loading made leaves of their own: one encoder again, so that its gradients add up.
    nlvr2.encoder = vqa_model.encoder.clone();

    let question = text(&golden, "in.", &device);
    let logits = vqa_model.logits(&question, golden.float("in.image", &device), None);
    golden.assert_output("out.vqa_logits", logits.clone());
    let answers = field(&golden.config, "/config/vqav2_label_size");
    let targets = Tensor::from_data(soft_targets(&scored(&golden), answers), &device);
    golden.assert_output("out.vqa_targets", targets.clone());
    let loss = vqa::vqa(logits.clone(), targets.clone());
    golden.assert_output("out.vqa_loss", loss.clone());
    let score = vqa_score(logits, targets);
    assert!((score - golden.host("out.vqa_score").values[0]).abs() < 1e-6);

    let image = |i: usize| golden.float(&format!("in.nlvr.image_{i}"), &device);
    let sentence = text(&golden, "in.nlvr.", &device);
    let logits = nlvr2.logits(&sentence, image(0), image(1), None);
    golden.assert_output("out.nlvr2_logits", logits.clone());
    let labels = golden.int("in.nlvr.answers", &device);
    let nlvr2_loss = VlmoNlvr2::loss(logits.clone(), labels);
    golden.assert_output("out.nlvr2_loss", nlvr2_loss.clone());
    let right = weights::host_values(logits)
        .chunks(2)
        .zip(golden.ints("in.nlvr.answers"))
        .filter(|(row, answer)| (row[1] > row[0]) == (*answer == 1))
        .count();
    let accuracy = golden.host("out.nlvr2_accuracy").values[0];
    assert_eq!(right as f32 / 4.0, accuracy);

    let gradients = (loss + nlvr2_loss).backward();
    let mut found = weights::export_gradients(&vqa_model, &gradients, weights::vlmo_name);
    found.extend(weights::export_gradients(
        &nlvr2,
        &gradients,
        weights::vlmo_name,
    ));
    golden.assert_group("grad.", &found, 1e-3, |_| false);
}

#[test]
fn question_answering_and_nlvr2_with_relative_positions() {
    downstream("vlmo_downstream_rel");
}

#[test]
fn question_answering_and_nlvr2_with_absolute_positions() {
    downstream("vlmo_downstream_abs");
}

#[test]
fn an_answer_given_twice_takes_the_later_score() {
    let targets = soft_targets(&[vec![(1, 0.3), (1, 0.9), (7, 1.0)], vec![]], 3);
    let values: Vec<f32> = targets.try_to_vec().unwrap();
    assert_eq!(values, [0.0, 0.9, 0.0, 0.0, 0.0, 0.0]);
}
