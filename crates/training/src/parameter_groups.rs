//! Which parameter learns how fast and is decayed: one rule a system, asked for by
//! [`crate::trainer::Pretrain::parameter_group`].

/// What the optimizer does with one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParameterGroup {
    /// Factor on the learning rate.
    pub lr_factor: f64,
    /// Whether weight decay applies.
    pub decays: bool,
}

/// ALBEF's groups (`optim/optim_factory.py`, `add_weight_decay`): everything decays but biases and
/// other 1-D parameters. `shape`: as it is here, where a learnable scalar is `[1]`; in the original
/// it has no dimensions, and decays.
pub fn albef_group(name: &str, shape: &[usize]) -> ParameterGroup {
    let vector = shape.len() == 1 && shape[0] > 1;
    ParameterGroup {
        lr_factor: 1.0,
        decays: !(vector || name.ends_with(".bias")),
    }
}

/// CLIP's groups: "all weights that are not gains or biases" decay (Radford et al. 2021, section
/// 2.5), which open_clip's `main.py` reads as all with two dimensions or more. `shape`: as
/// [`albef_group`]'s.
pub fn clip_group(shape: &[usize]) -> ParameterGroup {
    ParameterGroup {
        lr_factor: 1.0,
        decays: shape.len() >= 2,
    }
}

/// VLMo's groups by official parameter name (`modules/vlmo_utils.py`, `set_schedule`), and ViLT's
/// (`modules/vilt_utils.py`), whose code it is.
/// `head_lr_factor`: factor on the learning rate of a new task's classifier (20 for VQA, else 1).
///
/// The original matches parts of names, and so decays the experts' LayerNorm weights (`norm2_text`
/// is not `norm2.`), LayerScale and the classifiers' LayerNorm, and spares the relative position
/// *bias* table. Kept, since the published models were trained that way.
pub fn vlmo_group(name: &str, head_lr_factor: f64) -> ParameterGroup {
    const SPARED: [&str; 5] = [
        "bias",
        "LayerNorm.weight",
        "norm.weight",
        "norm1.weight",
        "norm2.weight",
    ];
    const HEADS: [&str; 2] = ["vqa_classifier", "nlvr2_classifier"];
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    ParameterGroup {
        lr_factor: if has(&HEADS) { head_lr_factor } else { 1.0 },
        decays: !has(&SPARED),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn albef_decays_matrices_and_scalars() {
        for (name, shape, decays) in [
            ("temp", &[1][..], true),
            ("visual_encoder.norm.weight", &[8], false),
            ("visual_encoder.cls_token", &[1, 1, 8], true),
            ("vision_proj.weight", &[8, 4], true),
            ("itm_head.bias", &[1], false),
        ] {
            let group = albef_group(name, shape);
            assert_eq!((group.decays, group.lr_factor), (decays, 1.0), "{name}");
        }
    }

    #[test]
    fn clip_decays_matrices_alone() {
        assert!(clip_group(&[8, 4]).decays);
        assert!(!clip_group(&[8]).decays);
        assert!(!clip_group(&[1]).decays, "the logit scale");
    }

    #[test]
    fn equals_the_recorded_groups() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/vlmo_param_groups.json"
        ));
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let config = &golden["config"];
        let factor = number(&config["lr_mult"]);
        let (lr, decay) = (
            number(&config["learning_rate"]),
            number(&config["weight_decay"]),
        );
        let mut compared = 0;
        for (case, recorded) in golden["cases"].as_object().unwrap() {
            for group in recorded["groups"].as_array().unwrap() {
                for name in group["params"].as_array().unwrap() {
                    let name = name.as_str().unwrap();
                    let got = vlmo_group(name, factor);
                    let got_lr = lr * got.lr_factor;
                    assert!(
                        (got_lr - number(&group["initial_lr"])).abs() < 1e-12,
                        "{case}: {name}"
                    );
                    let got_decay = if got.decays { decay } else { 0.0 };
                    assert_eq!(got_decay, number(&group["weight_decay"]), "{case}: {name}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 124 + 116 + 122);
    }
}
