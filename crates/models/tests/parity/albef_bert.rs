use burn::tensor::{Device, Tensor};
use fitup_models::layers::bert::{
    Bert, BertConfig, ImageTokens, causal_mask, image_padding_mask, padding_mask,
};
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::objectives::{cross_entropy, soft_cross_entropy};
use fitup_models::weights;

use crate::golden::{Golden, field};

pub fn bert_config(c: &serde_json::Value, at: &str, encoder_width: usize) -> BertConfig {
    let field = |name: &str| field(c, &format!("{at}/{name}"));
    BertConfig {
        vocab_size: field("vocab_size"),
        hidden_size: field("hidden_size"),
        num_hidden_layers: field("num_hidden_layers"),
        fusion_layer: field("fusion_layer"),
        num_attention_heads: field("num_attention_heads"),
        intermediate_size: field("intermediate_size"),
        max_position_embeddings: field("max_position_embeddings"),
        encoder_width,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
    }
}

fn model(golden: &Golden, device: &Device) -> Bert {
    let width = field(&golden.config, "/config/encoder_width");
    let config = bert_config(&golden.config, "/config", width);
    let state = golden.group("state.");
    weights::load(config.init(device), &state, weights::bert_name, |_| true).unwrap()
}

struct Inputs {
    mask: Tensor<3>,
    image: ImageTokens,
}

fn inputs(golden: &Golden, device: &Device) -> Inputs {
    Inputs {
        mask: padding_mask(golden.int("in.attention_mask", device)),
        image: ImageTokens {
            tokens: golden.float("in.image_embeds", device),
            mask: Some(image_padding_mask(golden.int("in.image_atts", device))),
        },
    }
}

#[test]
fn outputs_of_every_mode() {
    let golden = Golden::load("albef_bert");
    let device = Device::flex();
    let bert = model(&golden, &device);
    let i = inputs(&golden, &device);
    let ids = golden.int("in.input_ids", &device);
    golden.assert_output("out.embeddings", bert.embeddings.forward(ids.clone(), None));
    let text = bert.text(ids.clone(), i.mask.clone(), None);
    golden.assert_output("out.text", text.clone());
    let kv = bert.image_keys_values(std::slice::from_ref(&i.image));
    let fused = bert.fusion(text.clone(), i.mask.clone(), &kv, None);
    golden.assert_output("out.fusion", fused.clone());
    golden.assert_output("out.multi_modal", fused);

    let second = ImageTokens {
        tokens: golden.float("in.image_embeds_1", &device),
        mask: None,
    };
    let two = bert.image_keys_values(&[i.image.clone(), second]);
    golden.assert_output(
        "out.multi_modal_two_images",
        bert.fusion(text, i.mask.clone(), &two, None),
    );

    let causal = causal_mask(golden.int("in.attention_mask", &device));
    let text = bert.text(ids, causal.clone(), None);
    golden.assert_output("out.decoder_causal", bert.fusion(text, causal, &kv, None));
}

#[test]
fn masked_language_modelling_and_gradients() {
    let golden = Golden::load("albef_bert");
    let device = Device::flex().autodiff();
    let bert = model(&golden, &device);
    let i = inputs(&golden, &device);
    let kv = bert.image_keys_values(std::slice::from_ref(&i.image));
    let fuse = |name: &str| {
        let text = bert.text(golden.int(name, &device), i.mask.clone(), None);
        bert.fusion(text, i.mask.clone(), &kv, None)
    };
    let masked = fuse("in.masked_input_ids");
    let [batch, seq, width] = masked.dims();
    let logits = bert.mlm_logits(masked.reshape([batch * seq, width]));
    golden.assert_output("out.mlm_logits", logits.clone());

    let positions = MaskedPositions::from_labels(&golden.ints("in.mlm_labels"));
    let n = positions.index.len();
    let index = Tensor::from_data(burn::tensor::TensorData::new(positions.index, [n]), &device);
    let tokens = Tensor::from_data(burn::tensor::TensorData::new(positions.token, [n]), &device);
    let picked = logits.select(0, index.clone());
    let hard = cross_entropy(picked.clone(), tokens);
    golden.assert_output("out.mlm_loss_hard", hard.clone());
    let soft = golden
        .float::<3>("in.soft_labels", &device)
        .reshape([(batch * seq) as i64, -1])
        .select(0, index);
    let loss = hard.mul_scalar(0.6) + soft_cross_entropy(picked, soft).mul_scalar(0.4);
    golden.assert_output("out.mlm_loss_alpha04", loss.clone());

    let fused = fuse("in.input_ids") * golden.float("in.cotangent", &device);
    let gradients = (fused.sum() + loss).backward();
    let found = weights::export_gradients(&bert, &gradients, weights::bert_name);
    golden.assert_group("grad.", &found, 1e-3, |name| {
        name.starts_with("in.") || is_noise(&golden, name)
    });
}

/// Attention key biases have no true gradient: what is recorded is rounding noise, compared only
/// to be as small as that.
fn is_noise(golden: &Golden, name: &str) -> bool {
    if !name.ends_with(".key.bias") {
        return false;
    }
    let recorded = &golden.host(&format!("grad.{name}")).values;
    assert!(
        crate::golden::magnitude(recorded) < 1e-3,
        "{name} is not noise"
    );
    true
}

#[test]
fn padding_changes_nothing() {
    let golden = Golden::load("albef_bert");
    let device = Device::flex();
    let bert = model(&golden, &device);
    let ids = golden.int::<2>("in.input_ids", &device);
    let mask = golden.int::<2>("in.attention_mask", &device);
    let lengths: Vec<i64> = mask
        .clone()
        .sum_dim(1)
        .into_data()
        .convert::<i64>()
        .try_to_vec()
        .unwrap();
    for (row, length) in lengths.iter().enumerate() {
        let length = *length as usize;
        let ids_row = ids.clone().narrow(0, row, 1);
        let mask_row = mask.clone().narrow(0, row, 1);
        let padded = bert.text(ids_row.clone(), padding_mask(mask_row.clone()), None);
        let alone = bert.text(
            ids_row.narrow(1, 0, length),
            padding_mask(mask_row.narrow(1, 0, length)),
            None,
        );
        let diff: f32 = (padded.narrow(1, 0, length) - alone)
            .abs()
            .max()
            .into_scalar();
        assert!(diff < 1e-5, "text {row}: {diff:e}");
    }
}
