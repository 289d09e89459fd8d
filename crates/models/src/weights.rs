//! Weights under the official names and layouts: files of safetensors and PyTorch, strict loading
//! with a precise report, writing, and initialisation from a seed or from published encoders.
//!
//! A module's parameters are visited in a fixed order; a system's table ([`albef_name`]) turns the
//! path of each into its official name, and the layout follows from where it sits: linear layers
//! are stored transposed by PyTorch, patch projections as a convolution kernel.

mod albef_tasks;
mod clip;
mod file;
pub mod initial;
mod parameters;
mod pickle;
mod pytorch;
mod resize;
mod sine_positions;
mod stage;
mod vilt;
mod vlmo;
mod zip;

pub use albef_tasks::{
    AlbefTask, albef_task_momentum_name, albef_task_name, fold_second_images, start_albef,
    unfold_second_images,
};
pub use clip::{ClipLayout, clip_name, load_clip};
pub use file::{
    HostTensor, Precision, TensorInfo, TensorMap, WeightsError, list, read, write, write_whole,
};
pub use parameters::{
    Parameter, export, export_gradients, host_integers, host_values, initialize, load, parameters,
};
pub use pickle::PickleError;
pub use pytorch::{PytorchError, write_pytorch};
pub use resize::fit_positions;
pub use sine_positions::sine_positions;
pub use stage::start_vlmo;
pub use vilt::vilt_name;
pub use vlmo::{add_second_image_type, fit_vlmo, is_vlmo_encoder, vlmo_name};
pub use zip::ZipError;

/// Official ALBEF name of a parameter path in [`crate::albef::Albef`]
/// (`models/model_pretrain.py`).
pub fn albef_name(path: &str) -> String {
    let path = path.strip_prefix("encoders.").unwrap_or(path);
    match path.strip_prefix("text_encoder.") {
        Some(rest) => format!("text_encoder.{}", bert_name(rest)),
        None => path.to_owned(),
    }
}

/// Official name of a parameter of the momentum copy: as [`albef_name`], with `_m` on the
/// module.
pub fn albef_momentum_name(path: &str) -> String {
    of_momentum(albef_name(path))
}

/// An official name with `_m` on the module.
fn of_momentum(name: String) -> String {
    match name.split_once('.') {
        Some((module, rest)) => format!("{module}_m.{rest}"),
        None => format!("{name}_m"),
    }
}

/// Whether an official name in an ALBEF checkpoint is one of the momentum copy's.
pub fn is_momentum(name: &str) -> bool {
    name.split('.').next().is_some_and(|m| m.ends_with("_m"))
}

/// Official name (`models/xbert.py`, after Hugging Face's BERT) of a path in
/// [`crate::layers::bert::Bert`].
pub fn bert_name(path: &str) -> String {
    const TABLE: [(&str, &str); 13] = [
        (".attention.query.", ".attention.self.query."),
        (".attention.key.", ".attention.self.key."),
        (".attention.value.", ".attention.self.value."),
        (".attention.output.", ".attention.output.dense."),
        (".attention.layer_norm.", ".attention.output.LayerNorm."),
        (".crossattention.query.", ".crossattention.self.query."),
        (".crossattention.key.", ".crossattention.self.key."),
        (".crossattention.value.", ".crossattention.self.value."),
        (".crossattention.output.", ".crossattention.output.dense."),
        (
            ".crossattention.layer_norm.",
            ".crossattention.output.LayerNorm.",
        ),
        (".intermediate.", ".intermediate.dense."),
        (".output.", ".output.dense."),
        (".layer_norm.", ".output.LayerNorm."),
    ];
    if let Some(rest) = path.strip_prefix("mlm_head.") {
        let rest = rest
            .replace("transform.", "transform.dense.")
            .replace("layer_norm.", "transform.LayerNorm.");
        return format!("cls.predictions.{rest}");
    }
    if let Some(rest) = path.strip_prefix("embeddings.") {
        return format!(
            "bert.embeddings.{}",
            rest.replace("layer_norm.", "LayerNorm.")
        );
    }
    let Some(rest) = path.strip_prefix("layers.") else {
        return path.to_owned();
    };
    let renamed = TABLE
        .iter()
        .find(|(ours, _)| rest.contains(ours))
        .map_or(rest.to_owned(), |(ours, official)| {
            rest.replace(ours, official)
        });
    format!("bert.encoder.layer.{renamed}")
}

/// Official name of a parameter path in [`crate::sentence::SentenceEncoder`]: a BERT published
/// without the name of a module around it.
pub fn sentence_name(path: &str) -> String {
    let name = bert_name(path);
    match name.strip_prefix("bert.") {
        Some(bare) => bare.to_owned(),
        None => name,
    }
}

/// Official names that hold nothing of their own: buffers, and copies of tied parameters.
pub fn is_redundant(name: &str) -> bool {
    name.ends_with("position_ids")
        || name.ends_with("relative_position_index")
        || name.contains("cls.predictions.decoder.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_hand() {
        for (path, want) in [
            ("temp", "temp"),
            ("itm_head.weight", "itm_head.weight"),
            (
                "encoders.visual_encoder.blocks.3.attn.qkv.bias",
                "visual_encoder.blocks.3.attn.qkv.bias",
            ),
            (
                "encoders.text_encoder.layers.7.crossattention.layer_norm.weight",
                "text_encoder.bert.encoder.layer.7.crossattention.output.LayerNorm.weight",
            ),
            (
                "encoders.text_encoder.layers.0.attention.output.bias",
                "text_encoder.bert.encoder.layer.0.attention.output.dense.bias",
            ),
            (
                "encoders.text_encoder.layers.0.layer_norm.bias",
                "text_encoder.bert.encoder.layer.0.output.LayerNorm.bias",
            ),
            (
                "encoders.text_encoder.layers.0.output.weight",
                "text_encoder.bert.encoder.layer.0.output.dense.weight",
            ),
            (
                "encoders.text_encoder.mlm_head.layer_norm.weight",
                "text_encoder.cls.predictions.transform.LayerNorm.weight",
            ),
            (
                "encoders.text_encoder.embeddings.word_embeddings.weight",
                "text_encoder.bert.embeddings.word_embeddings.weight",
            ),
        ] {
            assert_eq!(albef_name(path), want);
        }
        assert_eq!(
            albef_momentum_name("vision_proj.bias"),
            "vision_proj_m.bias"
        );
    }
}
