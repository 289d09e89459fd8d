//! A stage of VLMo starts from the one before it: what is taken over, what starts fresh, what is
//! left behind.
//!
//! The original loads with `strict = False` and prints what is missing; here parts of the model are
//! missing or superfluous as a whole or not at all. Vision-language experts start fresh, as there.

use std::collections::BTreeSet;

use super::initial::InitialReport;
use super::{TensorMap, WeightsError, is_redundant};

/// A part that an earlier stage may lack, or have beyond what the next one needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StagePart {
    /// Embeddings and experts.
    Text,
    VlExperts,
    Pooler,
    MlmHead,
    ItmHead,
    Contrast,
    VlContrast,
    /// What the image stage predicts visual tokens with, and the tokenizer that gives them.
    VisualTokens,
}

impl StagePart {
    /// The part that an official name belongs to; `None` for what every stage has: attention,
    /// image experts, image embeddings, positions, token types, norm.
    fn of(name: &str) -> Option<Self> {
        let starts = |parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        if starts(&["text_embeddings."]) || has(&[".mlp_text.", ".norm2_text."]) {
            Some(Self::Text)
        } else if has(&[".mlp_vl.", ".norm2_vl."]) {
            Some(Self::VlExperts)
        } else if starts(&["pooler."]) {
            Some(Self::Pooler)
        } else if starts(&["mlm_score."]) {
            Some(Self::MlmHead)
        } else if starts(&["itm_score."]) {
            Some(Self::ItmHead)
        } else if starts(&["itc_vl_", "logit_vl_scale"]) {
            Some(Self::VlContrast)
        } else if starts(&["itc_", "logit_scale"]) {
            Some(Self::Contrast)
        } else if starts(&["lm_head.", "image_tokenizer."]) || name == "mask_token" {
            Some(Self::VisualTokens)
        } else {
            None
        }
    }
}

/// All tensors of a VLMo that starts from another stage's. `drawn`: every parameter of the model
/// as drawn from the seed; `earlier`: tensors of the earlier run, both under official names.
///
/// A part of the model starts fresh where the earlier run has nothing of it; what belongs to the
/// prediction of visual tokens is dropped.
///
/// # Errors
/// [`WeightsError::Mismatch`] when anything else is missing, superfluous or of another shape.
pub fn start_vlmo(
    drawn: TensorMap,
    earlier: TensorMap,
) -> Result<(TensorMap, InitialReport), WeightsError> {
    let there: BTreeSet<StagePart> = earlier.keys().filter_map(|n| StagePart::of(n)).collect();
    let mut tensors = drawn;
    let mut report = InitialReport::default();
    let (mut missing, mut unexpected, mut mis_shaped) = (vec![], vec![], vec![]);
    for name in tensors.keys().filter(|name| !earlier.contains_key(*name)) {
        match StagePart::of(name) {
            Some(part) if !there.contains(&part) => report.fresh.push(name.clone()),
            _ => missing.push(name.clone()),
        }
    }
    for (name, tensor) in earlier {
        match tensors.get_mut(&name) {
            // A scalar may be stored with no dimensions or with one.
            Some(place)
                if place.values.len() == tensor.values.len()
                    && (place.shape == tensor.shape || place.shape.is_empty()) =>
            {
                place.values = tensor.values;
                report.taken.push((name.clone(), name));
            }
            Some(place) => mis_shaped.push((name, place.shape.clone(), tensor.shape)),
            None if is_redundant(&name) => {}
            None if StagePart::of(&name) == Some(StagePart::VisualTokens) => {
                report.dropped.push(name);
            }
            None => unexpected.push(name),
        }
    }
    if missing.is_empty() && unexpected.is_empty() && mis_shaped.is_empty() {
        return Ok((tensors, report));
    }
    Err(WeightsError::Mismatch {
        missing,
        unexpected,
        mis_shaped,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vlmo::image_stage::in_image_stage;
    use crate::vlmo::{Positions, VlmoConfig};
    use crate::weights::{HostTensor, export, initialize, vlmo_name};
    use burn::tensor::Device;

    fn config() -> VlmoConfig {
        VlmoConfig {
            image_size: 4,
            patch_size: 2,
            width: 4,
            depth: 2,
            heads: 2,
            mlp_ratio: 2,
            vl_start_layer: 1,
            max_text_len: 4,
            vocab_size: 6,
            positions: Positions::Absolute,
            layer_scale: false,
            drop_path: 0.0,
        }
    }

    fn image_stage(seed: u64) -> TensorMap {
        let stage = config()
            .without_vl_experts()
            .init_image_stage(3, &Device::flex());
        let mut tensors = export(&initialize(stage, 0.1, seed), vlmo_name);
        tensors.retain(|name, _| in_image_stage(name));
        let tokenizer = HostTensor {
            shape: vec![1],
            values: vec![0.0],
        };
        tensors.insert("image_tokenizer.codebook.usage".into(), tokenizer);
        tensors
    }

    fn text_stage(seed: u64) -> TensorMap {
        let stage = config()
            .without_vl_experts()
            .init_text_stage(&Device::flex());
        export(&initialize(stage, 0.1, seed), vlmo_name)
    }

    fn pairs(seed: u64) -> TensorMap {
        export(
            &initialize(config().init(&Device::flex()), 0.1, seed),
            vlmo_name,
        )
    }

    /// Every name is in exactly one place of the report, and every value is where it says.
    fn start(drawn: TensorMap, earlier: TensorMap) -> InitialReport {
        let (tensors, report) = start_vlmo(drawn.clone(), earlier.clone()).unwrap();
        assert_eq!(tensors.len(), drawn.len());
        assert_eq!(report.taken.len() + report.fresh.len(), drawn.len());
        assert_eq!(report.taken.len() + report.dropped.len(), earlier.len());
        assert!(
            report
                .taken
                .iter()
                .all(|(from, to)| tensors[to] == earlier[from])
        );
        assert!(report.fresh.iter().all(|name| tensors[name] == drawn[name]));
        report
    }

    #[test]
    fn texts_start_from_images() {
        let report = start(text_stage(1), image_stage(2));
        let dropped = [
            "image_tokenizer.codebook.usage",
            "lm_head.bias",
            "lm_head.weight",
            "mask_token",
        ];
        assert_eq!(report.dropped, dropped);
        let fresh = |part: &str| report.fresh.iter().filter(|n| n.contains(part)).count();
        assert_eq!(fresh("attn") + fresh("imag") + fresh("norm1"), 0);
        assert_eq!(
            (fresh("mlp_text"), fresh("norm2_text"), fresh("mlm_score")),
            (8, 4, 6)
        );
        assert_eq!(fresh("text_embeddings"), 4 + 1);
    }

    #[test]
    fn pairs_start_from_texts_images_and_pairs() {
        let report = start(pairs(1), text_stage(2));
        assert!(report.dropped.is_empty());
        let part = |name: &str| StagePart::of(name);
        let fresh: BTreeSet<_> = report.fresh.iter().map(|name| part(name)).collect();
        let heads = [
            StagePart::ItmHead,
            StagePart::Contrast,
            StagePart::VlContrast,
        ];
        let expected = [StagePart::VlExperts].into_iter().chain(heads).map(Some);
        assert_eq!(fresh, expected.collect());
        assert!(start(pairs(1), image_stage(2)).fresh.len() > report.fresh.len());
        assert!(start(pairs(1), pairs(2)).fresh.is_empty());
    }

    #[test]
    fn what_is_half_there_is_refused_by_name() {
        let refused = |change: fn(&mut TensorMap)| {
            let mut earlier = text_stage(2);
            change(&mut earlier);
            start_vlmo(pairs(1), earlier).unwrap_err().to_string()
        };
        let attention = "transformer.blocks.0.attn.qkv.weight";
        let missing = refused(|t| drop(t.remove("transformer.blocks.0.attn.qkv.weight")));
        assert!(
            missing.contains("1 missing") && missing.contains(attention),
            "{missing}"
        );
        let half = refused(|t| drop(t.remove("transformer.blocks.1.mlp_text.fc2.bias")));
        assert!(half.contains("mlp_text.fc2.bias"), "{half}");
        let more = refused(|t| {
            drop(t.insert("vqa_classifier.0.bias".into(), t["mlm_score.bias"].clone()))
        });
        assert!(
            more.contains("1 unexpected") && more.contains("vqa"),
            "{more}"
        );
        let shape =
            refused(|t| drop(t.insert("mlm_score.bias".into(), t["pooler.dense.bias"].clone())));
        assert!(
            shape.contains("mlm_score.bias: expected [6], got [4]"),
            "{shape}"
        );
    }
}
