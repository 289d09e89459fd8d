use burn::tensor::{Device, Int, Tensor};
use fitup_models::clip::{
    Activation, Clip, ClipConfig, ClipTextConfig, ClipVisionConfig, EndOfText,
};
use fitup_models::objectives::contrastive::contrastive;
use fitup_models::objectives::itc::identity_targets;
use fitup_models::weights::{self, ClipLayout, TensorMap};

use crate::golden::{Golden, field, magnitude};

const HUGGING_FACE: [&str; 2] = ["clip_hf", "clip_hf_gelu"];

fn hugging_face_config(golden: &Golden) -> ClipConfig {
    let c = &golden.config;
    let text = |name: &str| field(c, &format!("/config/text/{name}"));
    let vision = |name: &str| field(c, &format!("/config/vision/{name}"));
    let activation = c.pointer("/config/hidden_act").unwrap().clone();
    ClipConfig {
        vision: ClipVisionConfig {
            image_size: vision("image_size"),
            patch_size: vision("patch_size"),
            width: vision("hidden_size"),
            depth: vision("num_hidden_layers"),
            heads: vision("num_attention_heads"),
            mlp_width: vision("intermediate_size"),
        },
        text: ClipTextConfig {
            vocab_size: text("vocab_size"),
            context_length: text("max_position_embeddings"),
            width: text("hidden_size"),
            depth: text("num_hidden_layers"),
            heads: text("num_attention_heads"),
            mlp_width: text("intermediate_size"),
            end_of_text: EndOfText::Id(text("eos_token_id") as i64),
        },
        embed_dim: field(c, "/config/projection_dim"),
        activation: serde_json::from_value(activation).unwrap(),
        logit_scale: 0.0,
    }
}

fn open_clip_config(golden: &Golden) -> ClipConfig {
    let c = &golden.config;
    let text = |name: &str| field(c, &format!("/config/text_cfg/{name}"));
    let vision = |name: &str| field(c, &format!("/config/vision_cfg/{name}"));
    assert_eq!(c.pointer("/config/quick_gelu").unwrap(), true);
    ClipConfig {
        vision: ClipVisionConfig {
            image_size: vision("image_size"),
            patch_size: vision("patch_size"),
            width: vision("width"),
            depth: vision("layers"),
            heads: vision("width") / vision("head_width"),
            mlp_width: 4 * vision("width"),
        },
        text: ClipTextConfig {
            vocab_size: text("vocab_size"),
            context_length: text("context_length"),
            width: text("width"),
            depth: text("layers"),
            heads: text("heads"),
            mlp_width: 4 * text("width"),
            end_of_text: EndOfText::ArgMax,
        },
        embed_dim: field(c, "/config/embed_dim"),
        activation: Activation::QuickGelu,
        logit_scale: 0.0,
    }
}

fn hugging_face_model(golden: &Golden, device: &Device) -> Clip {
    let empty = hugging_face_config(golden).init(device);
    weights::load_clip(empty, &golden.group("state."), |_| true).unwrap()
}

fn open_clip_model(golden: &Golden, device: &Device) -> Clip {
    let empty = open_clip_config(golden).init(device);
    weights::load_clip(empty, &golden.group("state."), |_| true).unwrap()
}

/// The paper's loss: every caption belongs to its own image alone.
fn paired_loss(logits: Tensor<2>) -> Tensor<1> {
    let [batch, _] = logits.dims();
    let targets = Tensor::from_data(identity_targets(batch, batch), &logits.device());
    contrastive(logits, targets)
}

#[test]
fn hugging_face_outputs_and_gradients() {
    for name in HUGGING_FACE {
        let golden = Golden::load(name);
        let device = Device::flex().autodiff();
        let model = hugging_face_model(&golden, &device);
        let image = model.encode_image(golden.float("in.pixel_values", &device));
        golden.assert_output("out.vision_last_hidden", image.tokens);
        golden.assert_output("out.vision_pooled", image.pooled);
        golden.assert_output("out.image_embeds", image.embed);
        // As training takes it: the last block for the first token alone.
        let image = model.embed_image(golden.float("in.pixel_values", &device));
        golden.assert_output("out.image_embeds", image.clone());
        let text = model.encode_text(
            golden.int("in.input_ids", &device),
            Some(golden.int("in.attention_mask", &device)),
        );
        golden.assert_output("out.text_last_hidden", text.tokens);
        golden.assert_output("out.text_pooled", text.pooled);
        golden.assert_output("out.text_embeds", text.embed.clone());
        let logits = model.logits(image.clone(), text.embed);
        golden.assert_output("out.logits_per_image", logits.clone());
        golden.assert_output("out.logits_per_text", logits.clone().transpose());
        let loss = paired_loss(logits);
        golden.assert_output("out.loss", loss.clone());

        let unmasked = model.encode_text(golden.int("in.input_ids", &device), None);
        let logits = model.logits(image, unmasked.embed);
        golden.assert_output("out.nomask_logits_per_image", logits);

        let gradients = loss.backward();
        let found = weights::export_gradients(&model, &gradients, weights::clip_name);
        let found = ClipLayout::HuggingFace.from_openai(&found);
        golden.assert_group("grad.", &found, 1e-3, |name| is_noise(&golden, name));
    }
}

/// Attention key biases have no true gradient: what is recorded is rounding noise, compared only
/// to be as small as that.
fn is_noise(golden: &Golden, name: &str) -> bool {
    if !name.ends_with(".k_proj.bias") {
        return false;
    }
    let recorded = &golden.host(&format!("grad.{name}")).values;
    assert!(magnitude(recorded) < 1e-6, "{name} is not noise");
    true
}

#[test]
fn open_clip_outputs_and_gradients() {
    let golden = Golden::load("clip_open");
    let device = Device::flex().autodiff();
    let model = open_clip_model(&golden, &device);
    let image = model.encode_image(golden.float("in.image", &device));
    golden.assert_output("out.encode_image_raw", image.pooled);
    golden.assert_output("out.image_features", image.embed.clone());
    let text = model.encode_text(golden.int("in.text", &device), None);
    golden.assert_output("out.encode_text_raw", text.pooled);
    golden.assert_output("out.text_features", text.embed.clone());
    golden.assert_output("out.logit_scale", model.scale());
    let logits = model.logits(image.embed, text.embed);
    golden.assert_output("out.logits_per_image", logits.clone());
    let loss = paired_loss(logits);
    golden.assert_output("out.loss", loss.clone());

    let gradients = loss.backward();
    let found = weights::export_gradients(&model, &gradients, weights::clip_name);
    golden.assert_group("grad.", &found, 1e-3, |_| false);
}

fn assert_same(got: &TensorMap, want: &TensorMap) {
    let names = |map: &TensorMap| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(got), names(want));
    for (name, tensor) in want {
        assert!(got[name] == *tensor, "{name} differs");
    }
}

#[test]
fn export_gives_back_the_official_state_of_every_layout() {
    let device = Device::flex();
    for name in HUGGING_FACE {
        let golden = Golden::load(name);
        let state = golden.group("state.");
        let layout = ClipLayout::HuggingFace;
        assert_eq!(ClipLayout::detect(&state), Some(layout));
        assert_same(&layout.from_openai(&layout.to_openai(&state)), &state);
        let model = hugging_face_model(&golden, &device);
        let exported = weights::export(&model, weights::clip_name);
        assert_same(&layout.from_openai(&exported), &state);
    }

    let golden = Golden::load("clip_open");
    let state = golden.group("state.");
    assert_eq!(ClipLayout::detect(&state), Some(ClipLayout::OpenAi));
    let model = open_clip_model(&golden, &device);
    assert_same(&weights::export(&model, weights::clip_name), &state);
    for layout in [ClipLayout::HuggingFace, ClipLayout::OpenClipText] {
        let written = layout.from_openai(&state);
        assert_eq!(ClipLayout::detect(&written), Some(layout));
        assert_same(&layout.to_openai(&written), &state);
        weights::load_clip(open_clip_config(&golden).init(&device), &written, |_| true).unwrap();
    }
}

#[test]
fn a_missing_projection_is_named() {
    let golden = Golden::load("clip_hf");
    let mut state = golden.group("state.");
    state
        .remove("text_model.encoder.layers.1.self_attn.k_proj.bias")
        .unwrap();
    let empty = hugging_face_config(&golden).init(&Device::flex());
    let error = weights::load_clip(empty, &state, |_| true)
        .unwrap_err()
        .to_string();
    for part in [
        "1 missing (transformer.resblocks.1.attn.in_proj_bias)",
        "2 unexpected (transformer.resblocks.1.self_attn.q_proj.bias",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_first_end_of_text_token_stands_for_the_text() {
    // Hugging Face pads with the end token, and a text may be padding for most of its length.
    let golden = Golden::load("clip_hf");
    let device = Device::flex();
    let mut config = hugging_face_config(&golden);
    let state = golden.group("state.");
    let ids = [
        [108, 5, 109, 109, 109],
        [108, 6, 7, 109, 109],
        [108, 6, 7, 8, 9],
    ];
    let ids = Tensor::<2, Int>::from_data(ids, &device);
    let pooled_at = |config: &ClipConfig, place: [usize; 3]| {
        let model = weights::load_clip(config.init(&device), &state, |_| true).unwrap();
        let text = model.encode_text(ids.clone(), None);
        for (row, at) in place.into_iter().enumerate() {
            let token = text.tokens.clone().narrow(0, row, 1).narrow(1, at, 1);
            let want = token.reshape([1, -1]).matmul(model.text.proj.val());
            let got = text.pooled.clone().narrow(0, row, 1);
            let diff: f32 = (got - want).abs().max().into_scalar();
            assert!(diff < 1e-5, "text {row}: {diff:e}");
        }
    };
    pooled_at(&config, [2, 3, 0]);
    config.text.end_of_text = EndOfText::ArgMax;
    pooled_at(&config, [2, 3, 0]);
}

#[test]
fn a_batch_equals_its_singles() {
    let golden = Golden::load("clip_open");
    let device = Device::flex();
    let model = open_clip_model(&golden, &device);
    let image = golden.float::<4>("in.image", &device);
    let ids = golden.int::<2>("in.text", &device);
    let images = model.encode_image(image.clone()).embed;
    let texts = model.encode_text(ids.clone(), None).embed;
    for i in 0..image.dims()[0] {
        let one = model.encode_image(image.clone().narrow(0, i, 1)).embed;
        let diff: f32 = (one - images.clone().narrow(0, i, 1))
            .abs()
            .max()
            .into_scalar();
        assert!(diff < 1e-5, "image {i}: {diff:e}");
        let one = model.encode_text(ids.clone().narrow(0, i, 1), None).embed;
        let diff: f32 = (one - texts.clone().narrow(0, i, 1))
            .abs()
            .max()
            .into_scalar();
        assert!(diff < 1e-5, "text {i}: {diff:e}");
    }
}
