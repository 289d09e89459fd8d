//! ALBEF's fine-tuned models: their official names, and how each starts from the pre-training
//! checkpoint (`Retrieval.py`, `VQA.py`, `VE.py`, `Pretrain_nlvr.py`, `NLVR.py`).

use std::collections::{BTreeMap, BTreeSet};

use super::initial::InitialReport;
use super::{
    TensorMap, WeightsError, albef_name, bert_name, fit_positions, is_momentum, is_redundant,
    of_momentum,
};

/// A model that starts from a pre-trained ALBEF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlbefTask {
    /// [`crate::albef::AlbefConfig::init_retrieval`].
    Retrieval,
    /// [`crate::albef::vqa::AlbefVqa`].
    Vqa,
    /// [`crate::albef::entailment::AlbefEntailment`].
    Entailment,
    /// [`crate::albef::text_assignment::AlbefTextAssignment`].
    TextAssignment,
    /// [`crate::albef::nlvr2::AlbefNlvr2`]; also from a checkpoint of text assignment.
    Nlvr2,
}

/// Official name of a parameter path in a fine-tuned ALBEF: as [`albef_name`] for pre-training, but
/// the text encoder is a BERT without the name of a module around it; VQA's decoder has one.
pub fn albef_task_name(path: &str) -> String {
    if let Some(decoder) = path.strip_prefix("text_decoder.") {
        return format!("text_decoder.{}", bert_name(decoder));
    }
    let name = albef_name(path);
    if let Some(encoder) = name.strip_prefix("text_encoder.bert.") {
        return format!("text_encoder.{encoder}");
    }
    name.replace("cls_head.hidden.", "cls_head.0.")
        .replace("cls_head.output.", "cls_head.2.")
}

/// Official name of a parameter of the momentum copy: as [`albef_task_name`], with `_m` on the
/// module.
pub fn albef_task_momentum_name(path: &str) -> String {
    of_momentum(albef_task_name(path))
}

/// A parameter of a numbered layer: (`text_encoder.encoder.layer.`, 7, `output.dense.bias`).
fn layer(name: &str) -> Option<(&str, usize, &str)> {
    let at = name.find(".layer.")? + ".layer.".len();
    let (number, rest) = name[at..].split_once('.')?;
    Some((&name[..at], number.parse().ok()?, rest))
}

/// The part of a layer's parameter that two fusion layers of NLVR2 have in common.
fn is_shared(rest: &str) -> bool {
    let parts = ["crossattention.self.key.", "crossattention.self.value."];
    parts.iter().any(|part| rest.starts_with(part))
}

/// First layer with cross-attention of each module.
fn first_fusion_layers<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut first = BTreeMap::new();
    for name in names {
        if let Some((module, number, rest)) = layer(name)
            && rest.starts_with("crossattention.")
        {
            let least = first.entry(module.to_owned()).or_insert(number);
            *least = number.min(*least);
        }
    }
    first
}

/// Official state of a model for two images as ours: of the keys' and values' projections, which
/// each two fusion layers share and which the official file holds under both names, one is left,
/// under the first layer's name. Where they differ, the second's counts, as when the original
/// loads.
pub fn fold_second_images(tensors: TensorMap) -> TensorMap {
    let first = first_fusion_layers(tensors.keys());
    let mut folded = TensorMap::new();
    // Layers of one module are not in numerical order here, so the second's are put in last.
    let mut seconds = Vec::new();
    for (name, tensor) in tensors {
        match layer(&name) {
            Some((module, number, rest))
                if is_shared(rest) && !(number - first[module]).is_multiple_of(2) =>
            {
                seconds.push((format!("{module}{}.{rest}", number - 1), tensor));
            }
            _ => {
                folded.insert(name, tensor);
            }
        }
    }
    folded.extend(seconds);
    folded
}

/// The inverse of [`fold_second_images`]: what the original expects in a file.
pub fn unfold_second_images(tensors: TensorMap) -> TensorMap {
    let copies: Vec<_> = tensors
        .iter()
        .filter_map(|(name, tensor)| {
            let (module, number, rest) = layer(name).filter(|(_, _, rest)| is_shared(rest))?;
            Some((format!("{module}{}.{rest}", number + 1), tensor.clone()))
        })
        .collect();
    let mut tensors = tensors;
    tensors.extend(copies);
    tensors
}

/// All tensors of a fine-tuned model that starts from a pre-trained one. `drawn`: every parameter of
/// the model as drawn from the seed, with its momentum copy or without; `pretrained`: the
/// checkpoint of pre-training (for NLVR2 also of text assignment), both under official names; of a
/// model for two images `drawn` is folded ([`fold_second_images`]), as it is exported. The image's
/// positions are resized to the model's.
///
/// New heads start fresh, and so does the momentum copy where the checkpoint has none: it is to be
/// copied from the model after this. Heads that the task has no use for are dropped.
///
/// # Errors
/// [`WeightsError::Mismatch`] when anything else is missing, superfluous or of another shape;
/// [`WeightsError`] of [`fit_positions`] when positions are not those of a square image.
pub fn start_albef(
    task: AlbefTask,
    drawn: TensorMap,
    mut pretrained: TensorMap,
) -> Result<(TensorMap, InitialReport), WeightsError> {
    let mut report = InitialReport::default();
    for name in ["visual_encoder.pos_embed", "visual_encoder_m.pos_embed"] {
        if let Some([1, tokens, _]) = drawn.get(name).map(|t| &t.shape[..])
            && pretrained.contains_key(name)
        {
            let grid = tokens.saturating_sub(1).isqrt();
            report
                .fitted
                .extend(fit_positions(&mut pretrained, name, grid)?);
        }
    }
    let has_momentum = pretrained.keys().any(|name| is_momentum(name));
    let fusion = first_fusion_layers(pretrained.keys());
    if pretrained.contains_key("ta_head.weight") {
        pretrained = fold_second_images(pretrained);
    }
    let mut tensors = drawn;
    let (mut unexpected, mut mis_shaped) = (vec![], vec![]);
    let mut given = BTreeSet::new();
    for (from, tensor) in pretrained {
        let places = places(task, &from, &fusion);
        let mut kept = false;
        for to in places {
            let Some(place) = tensors.get_mut(&to) else {
                continue;
            };
            kept = true;
            // A scalar may be stored with no dimensions or with one.
            if place.values.len() == tensor.values.len()
                && (place.shape == tensor.shape || place.shape.is_empty())
            {
                place.values.clone_from(&tensor.values);
                report.taken.push((from.clone(), to.clone()));
                given.insert(to);
            } else {
                mis_shaped.push((to, place.shape.clone(), tensor.shape.clone()));
            }
        }
        if kept || is_redundant(&from) {
            continue;
        }
        match is_left_behind(&from) {
            true => report.dropped.push(from),
            false => unexpected.push(from),
        }
    }
    let not_given = tensors.keys().filter(|name| !given.contains(*name));
    let (fresh, missing) = not_given
        .cloned()
        .partition(|name| is_new_head(name) || (is_momentum(name) && !has_momentum));
    report.fresh = fresh;
    let missing: Vec<String> = missing;
    if missing.is_empty() && unexpected.is_empty() && mis_shaped.is_empty() {
        return Ok((tensors, report));
    }
    Err(WeightsError::Mismatch {
        missing,
        unexpected,
        mis_shaped,
    })
}

/// Names in the task's model of a tensor of the checkpoint, as far as the model has them. `fusion`:
/// the checkpoint's first fusion layers.
fn places(task: AlbefTask, from: &str, fusion: &BTreeMap<String, usize>) -> Vec<String> {
    let Some((module, rest)) = from
        .split_once('.')
        .filter(|(m, _)| m.starts_with("text_encoder"))
    else {
        return vec![from.to_owned()];
    };
    let decoder = module.replace("text_encoder", "text_decoder");
    let Some(bare) = rest.strip_prefix("bert.") else {
        return match task {
            // The head of masked words becomes the decoder's.
            AlbefTask::Vqa => vec![format!("{decoder}.{rest}")],
            _ => vec![from.to_owned()],
        };
    };
    let encoder = format!("{module}.{bare}");
    let above = layer(from).and_then(|(before, number, part)| {
        Some((number.checked_sub(*fusion.get(before)?)?, number, part))
    });
    match (task, above) {
        (AlbefTask::Vqa, Some((above, _, part))) => {
            let copy = format!("{decoder}.bert.encoder.layer.{above}.{part}");
            vec![encoder, copy]
        }
        (AlbefTask::Vqa, None) if bare.starts_with("embeddings.") => {
            vec![encoder, format!("{decoder}.{rest}")]
        }
        (AlbefTask::TextAssignment | AlbefTask::Nlvr2, Some((above, number, part))) => {
            let two = [number + above, number + above + 1];
            two.map(|number| format!("{module}.encoder.layer.{number}.{part}"))
                .into()
        }
        _ => vec![encoder],
    }
}

/// Heads that no earlier stage has.
fn is_new_head(name: &str) -> bool {
    let heads = ["cls_head.", "cls_head_m.", "ta_head."];
    heads.iter().any(|head| name.starts_with(head))
}

/// What pre-training and text assignment have and a task may have no use for.
fn is_left_behind(name: &str) -> bool {
    let parts = [
        "temp",
        "image_queue",
        "text_queue",
        "idx_queue",
        "queue_ptr",
        "vision_proj",
        "text_proj",
        "itm_head.",
        "ta_head.",
        "text_encoder.cls.",
        "text_encoder_m.",
        "visual_encoder_m.",
    ];
    parts.iter().any(|part| name.starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_hand() {
        for (path, want) in [
            (
                "encoders.text_encoder.layers.7.crossattention.key.bias",
                "text_encoder.encoder.layer.7.crossattention.self.key.bias",
            ),
            (
                "text_encoder.embeddings.layer_norm.weight",
                "text_encoder.embeddings.LayerNorm.weight",
            ),
            (
                "text_decoder.layers.0.output.weight",
                "text_decoder.bert.encoder.layer.0.output.dense.weight",
            ),
            (
                "text_decoder.mlm_head.bias",
                "text_decoder.cls.predictions.bias",
            ),
            ("cls_head.hidden.bias", "cls_head.0.bias"),
            ("cls_head.output.weight", "cls_head.2.weight"),
            ("itm_head.weight", "itm_head.weight"),
            ("temp", "temp"),
        ] {
            assert_eq!(albef_task_name(path), want);
        }
        assert_eq!(
            albef_task_momentum_name("cls_head.output.weight"),
            "cls_head_m.2.weight"
        );
    }

    #[test]
    fn layers_of_a_checkpoint_by_task() {
        let fusion = BTreeMap::from([("text_encoder.bert.encoder.layer.".to_owned(), 6)]);
        let part = "crossattention.self.query.bias";
        let at = |task, number| {
            let name = format!("text_encoder.bert.encoder.layer.{number}.{part}");
            places(task, &name, &fusion)
        };
        let encoder = |number| format!("text_encoder.encoder.layer.{number}.{part}");
        assert_eq!(at(AlbefTask::Retrieval, 11), [encoder(11)]);
        assert_eq!(at(AlbefTask::Nlvr2, 5), [encoder(5)]);
        assert_eq!(at(AlbefTask::Nlvr2, 6), [encoder(6), encoder(7)]);
        assert_eq!(
            at(AlbefTask::TextAssignment, 11),
            [encoder(16), encoder(17)]
        );
        let decoder = format!("text_decoder.bert.encoder.layer.2.{part}");
        assert_eq!(at(AlbefTask::Vqa, 8), [encoder(8), decoder]);
        assert_eq!(
            places(AlbefTask::Vqa, "text_encoder.cls.predictions.bias", &fusion),
            ["text_decoder.cls.predictions.bias"]
        );
    }
}
