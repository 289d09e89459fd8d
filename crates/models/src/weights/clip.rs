//! CLIP's weights in the layouts they are published in. [`Clip`] has OpenAI's, so that the fused
//! projection of queries, keys and values is one matrix; the others are turned into it when read,
//! and back when written.

use crate::clip::Clip;

use super::parameters::transpose;
use super::{HostTensor, TensorMap, WeightsError, load};

/// Official name (OpenAI's `model.py`) of a parameter path in [`Clip`].
pub fn clip_name(path: &str) -> String {
    let path = match path.strip_prefix("text.") {
        Some("proj") => return "text_projection".to_owned(),
        Some(rest) => rest,
        None => path,
    };
    path.replace("patch_embed.proj.", "conv1.")
        .replace("blocks.", "transformer.resblocks.")
        .replace(".attn.qkv.", ".attn.in_proj_")
}

/// A way CLIP's weights are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipLayout {
    /// OpenAI and open_clip: queries, keys and values stacked, projections `[width, embed_dim]`.
    OpenAi,
    /// open_clip's `CustomTextCLIP`: as [`ClipLayout::OpenAi`], the text tower under `text.`.
    OpenClipText,
    /// Hugging Face's `CLIPModel`: separate queries, keys and values, projections `[embed_dim,
    /// width]`.
    HuggingFace,
}

/// Beginnings of names, Hugging Face's and OpenAI's.
const PREFIXES: [(&str, &str); 12] = [
    (
        "vision_model.embeddings.class_embedding",
        "visual.class_embedding",
    ),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    (
        "vision_model.embeddings.position_embedding.weight",
        "visual.positional_embedding",
    ),
    // The spelling is the original's.
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    (
        "vision_model.encoder.layers.",
        "visual.transformer.resblocks.",
    ),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("visual_projection.weight", "visual.proj"),
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    (
        "text_model.embeddings.position_embedding.weight",
        "positional_embedding",
    ),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_projection.weight", "text_projection"),
];

/// Parts of names inside a block, Hugging Face's and OpenAI's.
const IN_BLOCKS: [(&str, &str); 5] = [
    (".layer_norm1.", ".ln_1."),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
];

/// OpenAI's names of the matrices that Hugging Face stores transposed.
const TRANSPOSED: [&str; 2] = ["visual.proj", "text_projection"];

/// Hugging Face's parts of OpenAI's stacked projection, in the order they are stacked.
const STACKED: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

impl ClipLayout {
    /// The layout that the names follow; `None` where they are not CLIP's.
    pub fn detect(tensors: &TensorMap) -> Option<Self> {
        let any = |prefix: &str| tensors.keys().any(|name| name.starts_with(prefix));
        if any("text_model.") || any("vision_model.") {
            Some(Self::HuggingFace)
        } else if any("text.transformer.") {
            Some(Self::OpenClipText)
        } else if any("visual.") && any("transformer.resblocks.") {
            Some(Self::OpenAi)
        } else {
            None
        }
    }

    /// Tensors of this layout in OpenAI's, buffers left out. What does not have the form of its
    /// layout keeps its name, for the strict load to report.
    pub fn to_openai(self, tensors: &TensorMap) -> TensorMap {
        let parameters = tensors.iter().filter(|(name, _)| !is_buffer(name));
        match self {
            Self::OpenAi => parameters
                .map(|(name, tensor)| (name.clone(), tensor.clone()))
                .collect(),
            Self::OpenClipText => parameters
                .map(|(name, tensor)| {
                    let name = name.strip_prefix("text.").unwrap_or(name);
                    (name.to_owned(), tensor.clone())
                })
                .collect(),
            Self::HuggingFace => parameters
                .filter_map(|(name, tensor)| {
                    let stacked = stack(name, tensors);
                    let (name, tensor) = match stacked {
                        Stack::First(name, tensor) => (name, tensor),
                        Stack::Later => return None,
                        Stack::Not => (name.clone(), tensor.clone()),
                    };
                    let name = rename(&name, |(hugging_face, openai)| (hugging_face, openai));
                    Some(swap_projection(name.clone(), &name, tensor))
                })
                .collect(),
        }
    }

    /// Tensors of OpenAI's layout in this one: the inverse of [`ClipLayout::to_openai`].
    pub fn from_openai(self, tensors: &TensorMap) -> TensorMap {
        let tensors = tensors.iter();
        match self {
            Self::OpenAi => tensors
                .map(|(name, tensor)| (name.clone(), tensor.clone()))
                .collect(),
            Self::OpenClipText => tensors
                .map(|(name, tensor)| {
                    let shared = name.starts_with("visual.") || name == "logit_scale";
                    let name = if shared {
                        name.clone()
                    } else {
                        format!("text.{name}")
                    };
                    (name, tensor.clone())
                })
                .collect(),
            Self::HuggingFace => tensors
                .flat_map(|(name, tensor)| unstack(name, tensor))
                .map(|(name, tensor)| {
                    let renamed = rename(&name, |(hugging_face, openai)| (openai, hugging_face));
                    swap_projection(renamed, &name, tensor)
                })
                .collect(),
        }
    }
}

/// Puts weights of any published layout into the model, strictly (see [`load`]). `belongs`: as
/// there, of OpenAI's names.
///
/// # Errors
/// [`WeightsError::Mismatch`] that lists, under OpenAI's names, all that is missing, unexpected
/// and of another shape.
pub fn load_clip(
    module: Clip,
    tensors: &TensorMap,
    belongs: impl Fn(&str) -> bool,
) -> Result<Clip, WeightsError> {
    let layout = ClipLayout::detect(tensors).unwrap_or(ClipLayout::OpenAi);
    load(module, &layout.to_openai(tensors), clip_name, belongs)
}

/// Masks and position numbers, and the sizes that OpenAI's archives keep among the weights.
fn is_buffer(name: &str) -> bool {
    matches!(name, "input_resolution" | "context_length" | "vocab_size")
        || name.ends_with("attn_mask")
        || name.ends_with("position_ids")
}

/// `name` in the other layout; `direction` turns a pair of the tables into (from, to).
fn rename(
    name: &str,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> String {
    let begins = |from: &str| {
        // A table entry without a dot at its end is a whole name.
        name == from || (from.ends_with('.') && name.starts_with(from))
    };
    let Some((from, to)) = PREFIXES
        .map(&direction)
        .into_iter()
        .find(|(f, _)| begins(f))
    else {
        return name.to_owned();
    };
    let renamed = format!("{to}{}", &name[from.len()..]);
    let inside = IN_BLOCKS.map(direction).into_iter();
    match inside.clone().find(|(from, _)| renamed.contains(from)) {
        Some((from, to)) => renamed.replace(from, to),
        None => renamed,
    }
}

/// Transposes the tensor where OpenAI's name says that Hugging Face stores it so.
fn swap_projection(name: String, openai: &str, tensor: HostTensor) -> (String, HostTensor) {
    match tensor.shape[..] {
        [rows, columns] if TRANSPOSED.contains(&openai) => {
            let tensor = HostTensor {
                shape: vec![columns, rows],
                values: transpose(&tensor.values, rows, columns),
            };
            (name, tensor)
        }
        _ => (name, tensor),
    }
}

/// What becomes of a tensor when queries, keys and values are stacked.
enum Stack {
    /// It is the queries: name and tensor of the whole.
    First(String, HostTensor),
    /// It is keys or values, and part of the whole.
    Later,
    /// It has no part in it, or its partners are missing or of another shape.
    Not,
}

fn stack(name: &str, tensors: &TensorMap) -> Stack {
    let Some((block, rest)) = name.split_once(".self_attn.") else {
        return Stack::Not;
    };
    let Some((projection, kind)) = rest.split_once('.') else {
        return Stack::Not;
    };
    let parts = STACKED.map(|part| tensors.get(&format!("{block}.self_attn.{part}.{kind}")));
    let ([Some(q), Some(k), Some(v)], true) = (parts, STACKED.contains(&projection)) else {
        return Stack::Not;
    };
    if q.shape != k.shape || q.shape != v.shape || q.shape.is_empty() {
        return Stack::Not;
    }
    if projection != STACKED[0] {
        return Stack::Later;
    }
    let mut shape = q.shape.clone();
    shape[0] *= 3;
    let values = [&q.values[..], &k.values, &v.values].concat();
    let name = format!("{block}.attn.in_proj_{kind}");
    Stack::First(name, HostTensor { shape, values })
}

/// Queries, keys and values of a stacked projection; any other tensor as it is.
fn unstack(name: &str, tensor: &HostTensor) -> Vec<(String, HostTensor)> {
    let stacked = name.split_once(".attn.in_proj_");
    let rows = tensor.shape.first().copied().unwrap_or(0);
    match stacked {
        Some((block, kind)) if rows > 0 && rows.is_multiple_of(3) => {
            let mut shape = tensor.shape.clone();
            shape[0] = rows / 3;
            let parts = tensor.values.chunks(tensor.values.len() / 3);
            STACKED
                .iter()
                .zip(parts)
                .map(|(part, values)| {
                    let tensor = HostTensor {
                        shape: shape.clone(),
                        values: values.to_vec(),
                    };
                    (format!("{block}.self_attn.{part}.{kind}"), tensor)
                })
                .collect()
        }
        _ => vec![(name.to_owned(), tensor.clone())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], values: &[f32]) -> HostTensor {
        HostTensor {
            shape: shape.to_vec(),
            values: values.to_vec(),
        }
    }

    fn named(name: &str) -> TensorMap {
        TensorMap::from([(name.to_owned(), tensor(&[1], &[0.0]))])
    }

    #[test]
    fn names_by_hand() {
        for (path, want) in [
            ("logit_scale", "logit_scale"),
            ("visual.patch_embed.proj.weight", "visual.conv1.weight"),
            ("visual.proj", "visual.proj"),
            (
                "visual.blocks.3.attn.qkv.bias",
                "visual.transformer.resblocks.3.attn.in_proj_bias",
            ),
            (
                "text.blocks.0.mlp.c_fc.weight",
                "transformer.resblocks.0.mlp.c_fc.weight",
            ),
            ("text.proj", "text_projection"),
            ("text.positional_embedding", "positional_embedding"),
            ("text.token_embedding.weight", "token_embedding.weight"),
        ] {
            assert_eq!(clip_name(path), want);
        }
    }

    #[test]
    fn hugging_face_projections_are_stacked_and_transposed() {
        let layer = "text_model.encoder.layers.4";
        let hugging_face = TensorMap::from([
            (
                format!("{layer}.self_attn.k_proj.bias"),
                tensor(&[1], &[2.0]),
            ),
            (
                format!("{layer}.self_attn.q_proj.bias"),
                tensor(&[1], &[1.0]),
            ),
            (
                format!("{layer}.self_attn.v_proj.bias"),
                tensor(&[1], &[3.0]),
            ),
            (
                "text_projection.weight".into(),
                tensor(&[1, 2], &[5.0, 6.0]),
            ),
        ]);
        let openai = TensorMap::from([
            (
                "transformer.resblocks.4.attn.in_proj_bias".into(),
                tensor(&[3], &[1.0, 2.0, 3.0]),
            ),
            ("text_projection".into(), tensor(&[2, 1], &[5.0, 6.0])),
        ]);
        let layout = ClipLayout::HuggingFace;
        assert_eq!(layout.to_openai(&hugging_face), openai);
        assert_eq!(layout.from_openai(&openai), hugging_face);
    }

    #[test]
    fn a_projection_without_its_partners_keeps_its_name() {
        let name = "vision_model.encoder.layers.0.self_attn.v_proj.weight";
        let converted = ClipLayout::HuggingFace.to_openai(&named(name));
        let want = "visual.transformer.resblocks.0.self_attn.v_proj.weight";
        assert_eq!(converted, named(want));
    }

    #[test]
    fn buffers_are_left_out() {
        for name in [
            "text_model.embeddings.position_ids",
            "text.attn_mask",
            "vocab_size",
        ] {
            assert!(ClipLayout::OpenClipText.to_openai(&named(name)).is_empty());
        }
    }

    #[test]
    fn other_names_are_no_clip() {
        assert_eq!(ClipLayout::detect(&named("visual_encoder.cls_token")), None);
    }
}
