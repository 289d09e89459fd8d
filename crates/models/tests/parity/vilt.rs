use burn::tensor::{Device, Int, Tensor};
use fitup_models::layers::patch_selection::{PatchMask, PatchSelection};
use fitup_models::layers::vision_transformer::VisionTransformerConfig;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::objectives::wpa::{self, Ipot};
use fitup_models::system::SystemConfig;
use fitup_models::vilt::{
    ImageType, PretrainBatch, Vilt, ViltConfig, ViltFeatures, ViltImages, ViltTexts,
};
use fitup_models::weights;

use crate::golden::{Golden, assert_close, field};

pub const PATCH: usize = 16;

pub fn config(golden: &Golden, token_types: usize) -> ViltConfig {
    let field = |name: &str| field(&golden.config, &format!("/config/{name}"));
    assert_eq!(field("patch_size"), PATCH);
    ViltConfig {
        vision: VisionTransformerConfig {
            image_size: field("image_size"),
            patch_size: PATCH,
            width: field("hidden_size"),
            depth: field("num_layers"),
            heads: field("num_heads"),
            mlp_ratio: field("mlp_ratio"),
        },
        vocab_size: field("vocab_size"),
        max_text_len: field("max_text_len"),
        token_types,
        drop_rate: 0.0,
    }
}

fn model(golden: &Golden, device: &Device) -> Vilt {
    let config = config(golden, 2);
    assert_eq!(config.problem(), None);
    let state = golden.group("state.");
    weights::load(config.init(device), &state, weights::vilt_name, |_| true).unwrap()
}

pub fn texts(golden: &Golden, ids: &str, masks: &str, device: &Device) -> ViltTexts {
    ViltTexts {
        input_ids: golden.int(ids, device),
        attention_mask: golden.int(masks, device),
    }
}

/// Every patch in raster order, as the fixtures were recorded.
pub fn images(pixels: Tensor<4>) -> ViltImages {
    let mask = PatchMask::from_pixels(&pixels, PATCH);
    ViltImages {
        pixels,
        selection: PatchSelection::all(&mask, None),
    }
}

fn captions(golden: &Golden, device: &Device) -> ViltTexts {
    texts(golden, "in.text_ids", "in.text_masks", device)
}

fn host_ints(tensor: Tensor<2, Int>) -> Vec<i64> {
    let data = tensor.inner().into_data().convert::<i64>();
    data.try_to_vec().unwrap()
}

fn first_token(tokens: &Tensor<3>) -> Tensor<2> {
    tokens.clone().narrow(1, 0, 1).squeeze_dim(1)
}

fn assert_features(golden: &Golden, run: &str, images: &ViltImages, got: &ViltFeatures) {
    let name = |of: &str| format!("out.{run}infer.{of}");
    golden.assert_output(&name("text_feats"), got.text_tokens.clone());
    // Also where the mask is 0: the fill is the recorded one, the first padding patch.
    golden.assert_output(&name("image_feats"), got.image_tokens.clone());
    golden.assert_output(&name("cls_feats"), got.pooled.clone());
    golden.assert_output(&name("raw_cls_feats"), first_token(&got.text_tokens));
    let mask = host_ints(got.image_mask.clone());
    assert_eq!(mask, golden.ints(&name("image_masks")));
    let index: Vec<i64> = images
        .selection
        .rows_and_columns()
        .concat()
        .iter()
        .map(|at| *at as i64)
        .collect();
    assert_eq!(index, golden.ints(&name("patch_index")));
}

#[test]
fn square_wide_and_padded_images() {
    let golden = Golden::load("vilt");
    let device = Device::flex();
    let model = model(&golden, &device);
    let texts = captions(&golden, &device);
    for (run, input) in [
        ("", "in.image"),
        ("wide.", "in.image_wide"),
        ("padded.", "in.image_padded"),
    ] {
        let images = images(golden.float(input, &device));
        let features = model.stream.infer(&texts, &images, None);
        assert_features(&golden, run, &images, &features);
        if run == "padded." {
            // The recorded distance counts CLS and SEP in.
            let found = wpa::transport(
                features.text_tokens,
                features.image_tokens,
                features.text_mask,
                features.image_mask,
                Ipot::default(),
            );
            golden.assert_output("out.padded.ot_distance", found.distance);
        }
    }
}

#[test]
fn known_sizes_give_what_the_pixels_tell() {
    let golden = Golden::load("vilt");
    let pixels = golden.float("in.image_padded", &Device::flex());
    let sizes = [[4, 4], [3, 4], [4, 2], [2, 3]];
    let known = PatchMask::from_sizes(&sizes, [4, 4]);
    assert_eq!(known, PatchMask::from_pixels(&pixels, PATCH));
}

#[test]
fn losses_and_the_gradient_of_every_parameter() {
    let golden = Golden::load("vilt");
    let plain = Device::flex();
    let model = model(&golden, &plain.clone().autodiff());
    let labels: Vec<i64> = golden
        .host("in.itm_labels")
        .values
        .iter()
        .map(|l| *l as i64)
        .collect();
    let own: Tensor<4> = golden.float("in.image", &plain);
    let other: Tensor<4> = golden.float("in.false_image_0", &plain);
    let matched = labels.iter().enumerate().map(|(i, label)| {
        let from = if *label == 1 { &own } else { &other };
        from.clone().narrow(0, i, 1)
    });
    let batch = PretrainBatch {
        texts: captions(&golden, &plain),
        masked_input_ids: golden.int("in.text_ids_mlm", &plain),
        masked: MaskedPositions::from_labels(&golden.ints("in.text_labels_mlm")),
        itm_images: images(Tensor::cat(matched.collect(), 0)),
        images: images(own),
        itm_labels: labels,
    };
    let out = model.pretrain(&batch, None);
    let mlm = out.mlm.unwrap();
    golden.assert_output("out.mlm_loss", mlm.clone());
    golden.assert_output("out.itm_logits", out.itm.logits);
    golden.assert_output("out.itm_loss", out.itm.loss.clone());
    golden.assert_output("out.wpa_cost", out.wpa.transport.cost);
    golden.assert_output("out.wpa_T", out.wpa.transport.plan);
    golden.assert_output("out.wpa_distance", out.wpa.transport.distance);
    golden.assert_output("out.ot_loss", out.wpa.loss.clone());
    let wpa = out.wpa.loss.mul_scalar(wpa::WEIGHT);
    golden.assert_output("out.itm_wpa_loss", wpa.clone());
    let total = mlm + out.itm.loss + wpa;
    golden.assert_output("out.total_loss", total.clone());

    let gradients = total.backward();
    let found = weights::export_gradients(&model, &gradients, weights::vilt_name);
    golden.assert_group("grad.", &found, 1e-3, |_| false);
}

#[test]
fn vocabulary_logits_and_the_alignment_masks() {
    let golden = Golden::load("vilt");
    let device = Device::flex();
    let model = model(&golden, &device);
    let masked = texts(&golden, "in.text_ids_mlm", "in.text_masks", &device);
    let images = images(golden.float("in.image", &device));
    let features = model.stream.infer(&masked, &images, None);
    let everywhere = MaskedPositions {
        index: (0..40).collect(),
        token: vec![0; 40],
    };
    let logits = model.mlm_logits(features.text_tokens, &everywhere);
    golden.assert_output("out.mlm_logits", logits);

    let padding = |mask| host_ints(mask).iter().map(|m| 1 - m).collect::<Vec<_>>();
    let words = wpa::words_alone(features.text_mask);
    assert_eq!(padding(words), golden.ints("out.wpa_txt_pad"));
    let patches = wpa::without_first(features.image_mask);
    assert_eq!(padding(patches), golden.ints("out.wpa_img_pad"));
}

#[test]
fn an_image_alone_equals_itself_padded_in_a_batch() {
    let golden = Golden::load("vilt");
    let device = Device::flex();
    let model = model(&golden, &device);
    let all = captions(&golden, &device);
    let pixels: Tensor<4> = golden.float("in.image_padded", &device);
    let together = model.stream.infer(&all, &images(pixels.clone()), None);
    for (i, [rows, columns]) in [[4, 4], [3, 4], [4, 2], [2, 3]].into_iter().enumerate() {
        let one = ViltTexts {
            input_ids: all.input_ids.clone().narrow(0, i, 1),
            attention_mask: all.attention_mask.clone().narrow(0, i, 1),
        };
        let crop = pixels
            .clone()
            .narrow(0, i, 1)
            .narrow(2, 0, rows * PATCH)
            .narrow(3, 0, columns * PATCH);
        let alone = model.stream.infer(&one, &images(crop), None);
        let diff: f32 = (alone.pooled - together.pooled.clone().narrow(0, i, 1))
            .abs()
            .max()
            .into_scalar();
        assert!(diff < 1e-5, "image {i}: {diff:e}");
    }
}

#[test]
fn the_order_of_the_chosen_patches_does_not_matter_but_the_choice_does() {
    let golden = Golden::load("vilt");
    let device = Device::flex();
    let model = model(&golden, &device);
    let texts = captions(&golden, &device);
    let pixels: Tensor<4> = golden.float("in.image", &device);
    let mask = PatchMask::from_pixels(&pixels, PATCH);
    let pooled = |chosen: Vec<usize>| {
        let images = ViltImages {
            pixels: pixels.clone(),
            selection: PatchSelection::chosen(&mask, &vec![chosen; 4]),
        };
        model.stream.infer(&texts, &images, None).pooled
    };
    let some = pooled(vec![0, 3, 5, 9, 14]);
    let turned: f32 = (pooled(vec![9, 14, 0, 5, 3]) - some.clone())
        .abs()
        .max()
        .into_scalar();
    assert!(turned < 1e-5, "{turned:e}");
    let others: f32 = (pooled(vec![1, 3, 5, 9, 14]) - some)
        .abs()
        .max()
        .into_scalar();
    assert!(others > 1e-3, "{others:e}");
}

#[test]
fn texts_that_share_an_image_share_its_patches() {
    let golden = Golden::load("vilt");
    let device = Device::flex();
    let model = model(&golden, &device);
    let texts = captions(&golden, &device);
    let pixels = golden.float::<4>("in.image_padded", &device);
    let two = images(pixels.clone().narrow(0, 1, 2));
    let patches = model.stream.embed_image(&two).repeat(2);
    let shared = model.stream.fuse(&texts, patches, ImageType::First, None);
    let row = |i: usize| pixels.clone().narrow(0, i, 1);
    let copied = images(Tensor::cat(vec![row(1), row(1), row(2), row(2)], 0));
    let copied = model.stream.infer(&texts, &copied, None);
    let diff: f32 = (shared.pooled - copied.pooled).abs().max().into_scalar();
    assert_eq!(diff, 0.0);
}

#[test]
fn export_gives_back_the_official_state() {
    let golden = Golden::load("vilt");
    let exported = weights::export(&model(&golden, &Device::flex()), weights::vilt_name);
    for (name, tensor) in &exported {
        let want = golden.host(&format!("state.{name}"));
        assert_eq!(tensor.shape, want.shape, "{name}");
        assert_close(name, &tensor.values, &want.values, 0.0);
    }
}
