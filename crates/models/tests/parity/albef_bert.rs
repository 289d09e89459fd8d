use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_models::layers::bert::{
    Bert, BertConfig, ImageTokens, causal_mask, image_padding_mask, padding_mask,
};
use fitup_models::layers::packing::{Asked, Packing, Pairs};
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::objectives::{cross_entropy, soft_cross_entropy};
use fitup_models::weights;

use crate::golden::{Golden, assert_close, field};

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

fn config(golden: &Golden) -> BertConfig {
    let width = field(&golden.config, "/config/encoder_width");
    bert_config(&golden.config, "/config", width)
}

fn model(golden: &Golden, device: &Device) -> Bert {
    let empty = config(golden).init(device);
    let state = golden.group("state.");
    weights::load(empty, &state, weights::bert_name, |_| true).unwrap()
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
    let lengths = weights::host_integers(mask.clone().sum_dim(1));
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

/// Every way of asking for rows without padding gives the rows of the padded computation, and the
/// same gradients, in text mode and for pairs that repeat texts and images.
#[test]
fn rows_without_padding_equal_the_padded_ones() {
    let golden = Golden::load("albef_bert");
    let device = Device::flex().autodiff();
    let ids = golden.int::<2>("in.input_ids", &device);
    let attention_mask = golden.int::<2>("in.attention_mask", &device);
    let packing = Packing::from_mask(attention_mask.clone());
    let [batch, seq] = ids.dims();
    let image = ImageTokens {
        tokens: golden.float("in.image_embeds", &device),
        mask: None,
    };
    let last = |text: usize| packing.ranges().nth(text).unwrap().len() - 1;
    // Nothing of the last text; of the others the first and the last token.
    let places: Vec<Vec<usize>> = (0..batch)
        .map(|text| {
            if text + 1 == batch {
                vec![]
            } else {
                vec![0, last(text)]
            }
        })
        .collect();
    let pairs = [
        Pairs::own(batch),
        Pairs {
            texts: vec![1, 0, 1, batch - 1],
            images: vec![0, 0, 1, 1],
        },
    ];
    // The recorded model, and one whose only fusion layer is first and last at once.
    let mut config = config(&golden);
    config.fusion_layer = config.num_hidden_layers - 1;
    let single = weights::initialize(config.init(&device), 0.2, 3);
    for bert in [model(&golden, &device), single] {
        for pairs in &pairs {
            for asked in [Asked::All, Asked::First, Asked::At(places.clone())] {
                let kv = || bert.image_keys_values(std::slice::from_ref(&image));
                let text = bert.text_rows(packing.pack(ids.clone()), &packing, &Asked::All, None);
                let rows = bert.fusion_rows(text, &packing, pairs, &kv(), &asked, None);

                let index = |values: &[usize]| {
                    let values: Vec<i64> = values.iter().map(|i| *i as i64).collect();
                    let count = values.len();
                    Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
                };
                let (texts, images) = (index(&pairs.texts), index(&pairs.images));
                let mask = padding_mask(attention_mask.clone());
                let text = bert.text(ids.clone(), mask.clone(), None);
                let padded = bert.fusion(
                    text.select(0, texts.clone()),
                    mask.select(0, texts),
                    &kv().map(|x| x.select(0, images.clone())),
                    None,
                );
                let wanted: Vec<usize> = pairs
                    .texts
                    .iter()
                    .enumerate()
                    .flat_map(|(pair, text)| {
                        let places = match &asked {
                            Asked::All => (0..=last(*text)).collect(),
                            Asked::First => vec![0],
                            Asked::At(places) => places[*text].clone(),
                        };
                        places.into_iter().map(move |place| pair * seq + place)
                    })
                    .collect();
                let width = padded.dims()[2];
                let padded = padded
                    .reshape([pairs.texts.len() * seq, width])
                    .select(0, index(&wanted));

                let apart: f32 = (rows.clone() - padded.clone()).abs().max().into_scalar();
                assert!(
                    apart < 1e-5,
                    "{asked:?}, {pairs:?}: rows differ by {apart:e}"
                );
                let gradients = |x: Tensor<2>| {
                    let gradients = x.clone().mul(x).sum().backward();
                    weights::export_gradients(&bert, &gradients, weights::bert_name)
                };
                let (rows, padded) = (gradients(rows), gradients(padded));
                assert_eq!(
                    rows.keys().collect::<Vec<_>>(),
                    padded.keys().collect::<Vec<_>>()
                );
                for (name, want) in &padded {
                    let scale = crate::golden::magnitude(&want.values).max(1.0);
                    let place = format!("{asked:?}, gradient of {name}");
                    assert_close(&place, &rows[name].values, &want.values, 1e-4 * scale);
                }
            }
        }
    }
}
