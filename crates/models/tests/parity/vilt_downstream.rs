use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use fitup_models::objectives::cross_entropy;
use fitup_models::objectives::vqa::{soft_targets, vqa};
use fitup_models::vilt::downstream::{ViltNlvr2, ViltRetrieval, ViltVqa, ranking_loss};
use fitup_models::vilt::{ViltStream, ViltTexts};
use fitup_models::weights::{self, TensorMap};

use crate::golden::{Golden, assert_close, field};
use crate::vilt::{config, images, texts};

const HEADS: [&str; 4] = [
    "vqa_classifier.",
    "nlvr2_classifier.",
    "itm_score.",
    "rank_output.",
];

/// Loads a task's model strictly: of the one recorded state, all but the other tasks' heads.
fn load<M: Module>(golden: &Golden, task: M, own: &[&str]) -> M {
    let state = golden.group("state.");
    weights::load(task, &state, weights::vilt_name, |name| {
        let head = HEADS.iter().find(|head| name.starts_with(**head));
        head.is_none_or(|head| own.contains(head))
    })
    .unwrap()
}

struct Tasks {
    vqa: ViltVqa,
    nlvr2: ViltNlvr2,
    retrieval: ViltRetrieval,
}

/// The three tasks on one stream, whose gradients then add up as in the recorded run.
fn tasks(golden: &Golden, device: &Device) -> Tasks {
    let config = config(golden, 3);
    let answers = field(&golden.config, "/config/vqav2_label_size");
    let empty = || config.init_stream(device);
    let vqa = load(
        golden,
        ViltVqa::new(empty(), answers, device),
        &["vqa_classifier."],
    );
    let mut nlvr2 = load(
        golden,
        ViltNlvr2::new(empty(), device),
        &["nlvr2_classifier."],
    );
    let itm_score = config.init(device).itm_score;
    let mut retrieval = load(
        golden,
        ViltRetrieval::new(empty(), itm_score, device),
        &["itm_score.", "rank_output."],
    );
    let stream: ViltStream = vqa.stream.clone();
    nlvr2.stream = stream.clone();
    retrieval.stream = stream;
    Tasks {
        vqa,
        nlvr2,
        retrieval,
    }
}

/// The recorded answers as index and score.
fn answers(golden: &Golden) -> Vec<Vec<(usize, f32)>> {
    let rows = |name: &str| golden.config[name].as_array().unwrap().clone();
    let labels = rows("vqa_labels");
    let scores = rows("vqa_scores");
    labels
        .iter()
        .zip(&scores)
        .map(|(labels, scores)| {
            let labels = labels.as_array().unwrap().iter();
            let scores = scores.as_array().unwrap().iter();
            labels
                .map(|l| l.as_u64().unwrap() as usize)
                .zip(scores.map(|s| s.as_f64().unwrap() as f32))
                .collect()
        })
        .collect()
}

#[test]
fn every_task_and_the_gradients_of_their_sum() {
    let golden = Golden::load("vilt_downstream");
    let device = Device::flex().autodiff();
    let tasks = tasks(&golden, &device);
    let image = images(golden.float("in.image", &device));

    let questions = texts(&golden, "in.text_ids", "in.text_masks", &device);
    let logits = tasks.vqa.forward(&questions, &image, None);
    golden.assert_output("out.vqa_logits", logits.clone());
    let targets = soft_targets(&answers(&golden), logits.dims()[1]);
    let targets = Tensor::<2>::from_data(targets, &device);
    golden.assert_output("out.vqa_targets", targets.clone());
    let vqa_loss = vqa(logits, targets);
    golden.assert_output("out.vqa_loss", vqa_loss.clone());

    let sentences = texts(&golden, "in.nlvr.text_ids", "in.nlvr.text_masks", &device);
    let pair = [0, 1].map(|i| images(golden.float(&format!("in.nlvr.image_{i}"), &device)));
    let logits = tasks.nlvr2.forward(&sentences, [&pair[0], &pair[1]], None);
    golden.assert_output("out.nlvr2_logits", logits.clone());
    let nlvr2_loss = cross_entropy(logits, golden.int("in.nlvr.answers", &device));
    golden.assert_output("out.nlvr2_loss", nlvr2_loss.clone());

    let score = tasks
        .retrieval
        .forward(&candidates(&golden, &device), &image, None);
    golden.assert_output("out.irtr_score", score.clone());
    let irtr_loss = ranking_loss(score);
    golden.assert_output("out.irtr_loss", irtr_loss.clone());

    let gradients = (vqa_loss + nlvr2_loss + irtr_loss).backward();
    let mut found = TensorMap::new();
    let name = weights::vilt_name;
    found.extend(weights::export_gradients(&tasks.vqa, &gradients, name));
    found.extend(weights::export_gradients(&tasks.nlvr2, &gradients, name));
    found.extend(weights::export_gradients(
        &tasks.retrieval,
        &gradients,
        name,
    ));
    golden.assert_group("grad.", &found, 1e-3, |_| false);
    assert!(!found.contains_key("itm_score.fc.weight"), "it is frozen");
}

/// Each image's own text, then its three others: `[images * 4]` rows.
fn candidates(golden: &Golden, device: &Device) -> ViltTexts {
    let side_by_side = |own: &str, of: &str| {
        let mut all = vec![golden.ints(own)];
        all.extend((0..3).map(|i| golden.ints(&format!("in.irtr.false_text_{i}_{of}"))));
        let rows: Vec<i64> = (0..4)
            .flat_map(|image| all.iter().map(move |t| &t[image * 10..(image + 1) * 10]))
            .flatten()
            .copied()
            .collect();
        Tensor::from_data(TensorData::new(rows, [16, 10]), device)
    };
    ViltTexts {
        input_ids: side_by_side("in.text_ids", "ids"),
        attention_mask: side_by_side("in.text_masks", "masks"),
    }
}

#[test]
fn export_gives_back_the_official_state() {
    let golden = Golden::load("vilt_downstream");
    let tasks = tasks(&golden, &Device::flex());
    let mut exported = weights::export(&tasks.vqa, weights::vilt_name);
    exported.extend(weights::export(&tasks.nlvr2, weights::vilt_name));
    exported.extend(weights::export(&tasks.retrieval, weights::vilt_name));
    let state = golden.group("state.");
    let names = |map: &TensorMap| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&exported), names(&state));
    for (name, tensor) in &exported {
        assert_eq!(tensor.shape, state[name].shape, "{name}");
        assert_close(name, &tensor.values, &state[name].values, 0.0);
    }
}

#[test]
fn new_tasks_start_from_what_was_pre_trained() {
    let golden = Golden::load("vilt");
    let device = Device::flex().autodiff();
    let state = golden.group("state.");
    let empty = config(&golden, 2).init(&device);
    let model = weights::load(empty, &state, weights::vilt_name, |_| true).unwrap();

    let nlvr2 = ViltNlvr2::new(model.stream.clone(), &device);
    let rows = weights::export(&nlvr2, weights::vilt_name)["token_type_embeddings.weight"].clone();
    let before = &state["token_type_embeddings.weight"].values;
    assert_eq!(rows.shape, [3, 32]);
    assert_eq!(rows.values[..64], before[..]);
    assert_eq!(rows.values[64..], before[32..]);

    let retrieval = ViltRetrieval::new(model.stream, model.itm_score, &device);
    let found = weights::export(&retrieval, weights::vilt_name);
    assert_eq!(
        found["rank_output.weight"].values[..],
        state["itm_score.fc.weight"].values[32..]
    );
    assert_eq!(found["rank_output.bias"].shape, [1]);
    assert_eq!(
        found["rank_output.bias"].values[..],
        state["itm_score.fc.bias"].values[1..]
    );
}
