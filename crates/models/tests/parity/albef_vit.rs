use burn::tensor::Device;
use fitup_models::layers::position::interpolate_pos_embed;
use fitup_models::layers::vision_transformer::{VisionTransformer, VisionTransformerConfig};
use fitup_models::weights;

use crate::golden::{Golden, field};

fn model(golden: &Golden, device: &Device) -> VisionTransformer {
    let c = &golden.config;
    let config = VisionTransformerConfig {
        image_size: field(c, "/config/image_res"),
        patch_size: field(c, "/config/patch_size"),
        width: field(c, "/config/embed_dim"),
        depth: field(c, "/config/depth"),
        heads: field(c, "/config/num_heads"),
        mlp_ratio: field(c, "/config/mlp_ratio"),
    };
    let state = golden.group("state.");
    weights::load(config.init(device), &state, str::to_owned, |_| true).unwrap()
}

#[test]
fn outputs_of_every_block() {
    let golden = Golden::load("albef_vit");
    let device = Device::flex();
    let vit = model(&golden, &device);
    let image = golden.float("in.image", &device);
    golden.assert_output("out.patch_embed", vit.patch_embed.forward(image.clone()));
    let mut x = vit.embed(image.clone());
    for (i, block) in vit.blocks.iter().enumerate() {
        x = block.forward(x);
        golden.assert_output(&format!("out.block{i}"), x.clone());
    }
    golden.assert_output("out.tokens", vit.norm.forward(x));
    let tokens = vit.forward(image.clone());
    golden.assert_output("out.tokens", tokens.clone());
    let first = tokens.narrow(1, 0, 1).squeeze_dim::<2>(1);
    let apart: f32 = (vit.forward_first(image) - first).abs().max().into_scalar();
    assert!(apart < 1e-5, "first tokens differ by {apart}");
}

#[test]
fn gradient_of_every_parameter() {
    let golden = Golden::load("albef_vit");
    let device = Device::flex().autodiff();
    let vit = model(&golden, &device);
    let image = golden.float::<4>("in.image", &device).require_grad();
    let tokens = vit.forward(image.clone());
    let loss = (tokens * golden.float("in.cotangent", &device)).sum();
    let gradients = loss.backward();
    let mut found = weights::export_gradients(&vit, &gradients, str::to_owned);
    let image_grad = image.grad(&gradients).unwrap();
    found.insert(
        "image".into(),
        weights::HostTensor {
            shape: image_grad.dims().to_vec(),
            values: image_grad.into_data().try_to_vec().unwrap(),
        },
    );
    golden.assert_group("grad.", &found, 1e-3, |name| name.starts_with("in."));
}

#[test]
fn position_embedding_at_other_sizes() {
    let golden = Golden::load("albef_vit");
    let device = Device::flex();
    let mut vit = model(&golden, &device);
    let pos_embed = vit.pos_embed.val();
    for side in [3, 6, 7] {
        golden.assert_output(
            &format!("out.pos_embed_{side}x{side}"),
            interpolate_pos_embed(pos_embed.clone(), side, side),
        );
    }
    vit.pos_embed = vit.pos_embed.map(|p| interpolate_pos_embed(p, 6, 6));
    let image = golden.float("in.image_interp", &device);
    golden.assert_output("out.tokens_interp", vit.forward(image));
}

#[test]
fn a_batch_equals_its_singles() {
    let golden = Golden::load("albef_vit");
    let device = Device::flex();
    let vit = model(&golden, &device);
    let image = golden.float::<4>("in.image", &device);
    for i in 0..image.dims()[0] {
        let one = vit.forward(image.clone().narrow(0, i, 1));
        let all = vit.forward(image.clone()).narrow(0, i, 1);
        let diff: f32 = (one - all).abs().max().into_scalar();
        assert!(diff < 1e-5, "image {i}: {diff:e}");
    }
}
