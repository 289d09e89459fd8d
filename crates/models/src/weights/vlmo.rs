//! Official names of VLMo's parameters, and checkpoints made to fit another size.

use burn::tensor::{Device, Tensor, TensorData};

use super::{HostTensor, TensorMap, WeightsError, fit_positions, host_values};
use crate::layers::relative_position::{ResizeError, resize_table};
use crate::vlmo::{Positions, VlmoConfig};

/// Official name (`modules/vlmo_module.py`) of a parameter path in the models of
/// [`crate::vlmo`].
pub fn vlmo_name(path: &str) -> String {
    const TABLE: [(&str, &str); 18] = [
        ("relative_position.table", "relative_position_bias_table"),
        ("text_embeddings.layer_norm.", "text_embeddings.LayerNorm."),
        ("pooler.", "pooler.dense."),
        ("mlm_score.transform.", "mlm_score.transform.dense."),
        ("mlm_score.layer_norm.", "mlm_score.transform.LayerNorm."),
        ("itm_score.", "itm_score.fc."),
        ("itc.text_proj.", "itc_text_proj.fc."),
        ("itc.image_proj.", "itc_image_proj.fc."),
        ("itc.logit_scale", "logit_scale"),
        ("itc_vl.text_proj.", "itc_vl_text_proj.fc."),
        ("itc_vl.image_proj.", "itc_vl_image_proj.fc."),
        ("itc_vl.logit_scale", "logit_vl_scale"),
        ("vqa_classifier.input.", "vqa_classifier.0."),
        ("vqa_classifier.norm.", "vqa_classifier.1."),
        ("vqa_classifier.output.", "vqa_classifier.3."),
        ("nlvr2_classifier.input.", "nlvr2_classifier.0."),
        ("nlvr2_classifier.norm.", "nlvr2_classifier.1."),
        ("nlvr2_classifier.output.", "nlvr2_classifier.3."),
    ];
    let path = path.strip_prefix("encoder.").unwrap_or(path);
    let renamed = TABLE.iter().find_map(|(ours, official)| {
        let rest = path.strip_prefix(ours)?;
        Some(format!("{official}{rest}"))
    });
    renamed.unwrap_or_else(|| path.to_owned())
}

/// Whether an official name belongs to [`crate::vlmo::encoder::VlmoEncoder`], which fine-tuning
/// takes from a pre-trained model, and not to a head.
pub fn is_vlmo_encoder(name: &str) -> bool {
    const PARTS: [&str; 5] = [
        "transformer.",
        "relative_position_bias_table",
        "text_embeddings.",
        "token_type_embeddings.",
        "pooler.",
    ];
    PARTS.iter().any(|part| name.starts_with(part))
}

/// Makes a checkpoint fit a model of another image size or shorter texts, as the original does when
/// it loads one: positions of the image are resized, those of the text cut off. Tensors that fit
/// already, or that no resizing would make fit, stay as they are: loading reports the latter.
///
/// # Errors
/// [`ResizeError`] when the relative positions are no table of a window of patches.
pub fn fit_vlmo(tensors: &mut TensorMap, config: &VlmoConfig) -> Result<(), ResizeError> {
    if let Some(table) = tensors.get_mut("text_embeddings.position_embeddings.weight")
        && let [rows, width] = table.shape[..]
        && rows > config.max_text_len
    {
        table.values.truncate(config.max_text_len * width);
        table.shape = vec![config.max_text_len, width];
    }
    // Absent with relative positions; of another form, it is for loading to report.
    let _ = fit_positions(tensors, "transformer.pos_embed", config.grid());
    if let Some(table) = tensors.get_mut("relative_position_bias_table")
        && let Positions::Relative { table_text_len } = config.positions
        && table.shape.len() == 2
    {
        let resized = device_tensor(table, &Device::flex());
        *table = host_tensor(resize_table(resized, table_text_len, config.grid())?);
    }
    Ok(())
}

/// Gives the token types the row of NLVR2's second image, a copy of the first image's. Token types
/// that are not two rows stay as they are.
pub fn add_second_image_type(tensors: &mut TensorMap) {
    if let Some(types) = tensors.get_mut("token_type_embeddings.weight")
        && let [2, width] = types.shape[..]
    {
        types.values.extend_from_within(width..);
        types.shape = vec![3, width];
    }
}

/// Takes BEiT's tables of relative positions out of its checkpoint, `[rows, heads]` a layer or one
/// for all layers, and puts them side by side at the place of the patches in VLMo's `table` (`[rows,
/// layers * heads]`, for `window` patches a side), resized where BEiT's images had another size
/// (`convert_to_textpt_ckpt` of `modules/vlmo_module.py`, which knows one size). The other rows stay
/// as they are. Returns the names that were taken, or `None` where there are no tables.
///
/// # Errors
/// [`WeightsError::Mismatch`] when the tables do not fit the model's layers and heads.
pub(super) fn beit_table(
    checkpoint: &mut TensorMap,
    table: &HostTensor,
    window: usize,
) -> Result<Option<(Vec<String>, HostTensor)>, WeightsError> {
    const NAME: &str = "relative_position_bias_table";
    let layer = |name: &str| -> Option<usize> {
        let rest = name.strip_suffix(NAME)?;
        match rest.strip_prefix("blocks.") {
            Some(rest) => rest.strip_suffix(".attn.")?.parse().ok(),
            None => (rest == "rel_pos_bias.").then_some(0),
        }
    };
    let mut names: Vec<String> = checkpoint
        .keys()
        .filter(|n| layer(n).is_some())
        .cloned()
        .collect();
    names.sort_by_key(|name| layer(name));
    let mut parts: Vec<HostTensor> = Vec::new();
    parts.extend(names.iter().filter_map(|name| checkpoint.remove(name)));
    let Some(first) = parts.first() else {
        return Ok(None);
    };
    let patches = (2 * window).saturating_sub(1).pow(2) + 3;
    let mismatch = || WeightsError::Mismatch {
        missing: vec![],
        unexpected: vec![],
        mis_shaped: vec![(
            format!("{NAME} of {} layers", parts.len()),
            vec![patches, table.shape.get(1).copied().unwrap_or(0)],
            first.shape.clone(),
        )],
    };
    let ([rows, heads], [all, columns]) = (&first.shape[..], &table.shape[..]) else {
        return Err(mismatch());
    };
    let (rows, heads, all, columns) = (*rows, *heads, *all, *columns);
    let layers = columns / heads.max(1);
    let shared = parts.len() == 1;
    let fits = parts.iter().all(|part| part.shape == first.shape)
        && (shared || parts.len() == layers)
        && columns == layers * heads
        && all > patches + 2;
    if !fits {
        return Err(mismatch());
    }
    let mut values = Vec::with_capacity((rows + all - patches) * columns);
    for row in 0..rows {
        for layer in 0..layers {
            let part = &parts[if shared { 0 } else { layer }];
            values.extend_from_slice(&part.values[row * heads..(row + 1) * heads]);
        }
    }
    values.extend_from_slice(&table.values[patches * columns..]);
    let merged = HostTensor {
        shape: vec![rows + all - patches, columns],
        values,
    };
    // Beside the patches and the image's CLS: two crossings, and two rows a word.
    let table_text_len = (all - patches - 2) / 2;
    let merged = device_tensor(&merged, &Device::flex());
    match resize_table(merged, table_text_len, window) {
        Ok(resized) => Ok(Some((names, host_tensor(resized)))),
        Err(_) => Err(mismatch()),
    }
}

fn device_tensor<const D: usize>(tensor: &HostTensor, device: &Device) -> Tensor<D> {
    let data = TensorData::new(tensor.values.clone(), tensor.shape.clone());
    Tensor::from_data(data, device)
}

fn host_tensor<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    HostTensor {
        shape: tensor.dims().to_vec(),
        values: host_values(tensor),
    }
}
