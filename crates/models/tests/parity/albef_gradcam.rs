use burn::tensor::{Device, Int, Tensor};
use fitup_models::albef::Albef;
use fitup_models::system::Grounding;
use fitup_models::weights;

use crate::albef_pretrain::config;
use crate::golden::{Golden, field};

fn model(golden: &Golden, device: &Device) -> Albef {
    let empty = config(golden).init_retrieval(device);
    let state = golden.group("state.");
    weights::load(empty, &state, weights::albef_task_name, |_| true).unwrap()
}

fn inputs(golden: &Golden) -> (Tensor<4>, Tensor<2, Int>, Tensor<2, Int>) {
    let device = Device::flex();
    (
        golden.float("in.image", &device),
        golden.int("in.input_ids", &device),
        golden.int("in.attention_mask", &device),
    )
}

#[test]
fn maps_of_matching() {
    let golden = Golden::load("albef_gradcam");
    let layer = field(&golden.config, "/config/itm_block_num");
    // A model in use and a model in training give the same.
    for device in [Device::flex(), Device::flex().autodiff()] {
        let (image, ids, mask) = inputs(&golden);
        let cam = model(&golden, &device).matching_cam(image, ids, mask, layer);
        golden.assert_output("out.itm_logits", cam.itm_logits.clone());
        golden.assert_output("out.itm_cams", cam.weights.clone());
        golden.assert_output("out.itm_grads_clamped", cam.gradients.clone());
        golden.assert_small("out.gradcam_per_token", cam.per_token());
        golden.assert_small("out.gradcam_itm", cam.map());
    }
}

#[test]
fn a_lower_layer_gives_the_same_score_and_another_map() {
    let golden = Golden::load("albef_gradcam");
    let model = model(&golden, &Device::flex());
    let (image, ids, mask) = inputs(&golden);
    let cam = model.matching_cam(image, ids, mask, 2);
    golden.assert_output("out.itm_logits", cam.itm_logits.clone());
    let map = weights::host_values(cam.map());
    assert_ne!(map, golden.host("out.gradcam_itm").values);
    assert!(map.iter().all(|v| *v >= 0.0) && map.iter().any(|v| *v > 0.0));
}

#[test]
fn maps_of_the_contrastive_similarity() {
    let golden = Golden::load("albef_gradcam");
    let block = field(&golden.config, "/config/itc_block_num");
    let model = model(&golden, &Device::flex());
    let (image, ids, mask) = inputs(&golden);
    let cam = model.contrast_cam(image.clone(), ids.clone(), mask.clone(), block);
    golden.assert_output("out.itc_sim", cam.similarities.clone());
    golden.assert_small("out.gradcam_itc", cam.map);
    let lower = model.contrast_cam(image, ids, mask, 0);
    golden.assert_output("out.itc_sim", lower.similarities);
}

#[test]
fn texts_that_share_an_image_have_it_encoded_once() {
    let golden = Golden::load("albef_gradcam");
    let layer = field(&golden.config, "/config/itm_block_num");
    let model = model(&golden, &Device::flex());
    let (image, ids, mask) = inputs(&golden);
    let [batch, ..] = image.dims();
    let shared = image.clone().narrow(0, 1, 1);
    let repeated = shared.clone().repeat_dim(0, batch);
    let once = model.pair_cam(shared, &vec![0; batch], ids.clone(), mask.clone(), layer);
    let each = model.matching_cam(repeated, ids, mask, layer);
    let [once, each] = [once, each].map(|cam| weights::host_values(cam.per_token()));
    assert!(once.iter().any(|value| *value > 0.0));
    let apart = once.iter().zip(&each).map(|(a, b)| (a - b).abs());
    assert!(apart.fold(0.0, f32::max) < 1e-7);
}
