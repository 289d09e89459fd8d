//! Initial weights from published encoders: DeiT and BERT checkpoints under ALBEF's names.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{TensorMap, WeightsError, is_redundant};

/// What became of a checkpoint's tensors and of a model's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialReport {
    /// Name in the checkpoint, name in the model.
    pub taken: Vec<(String, String)>,
    /// Parameters of the model, in the part that the checkpoint is for, that it does not give.
    pub fresh: Vec<String>,
    /// Tensors of the checkpoint that the model has no place for.
    pub dropped: Vec<String>,
}

impl fmt::Display for InitialReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| match names {
            [] => String::new(),
            _ => format!(" ({})", names.join(", ")),
        };
        write!(
            f,
            "{} tensors taken; {} start fresh{}; {} dropped{}",
            self.taken.len(),
            self.fresh.len(),
            list(&self.fresh),
            self.dropped.len(),
            list(&self.dropped)
        )
    }
}

/// A published encoder that ALBEF starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// Facebook's DeiT, a Vision Transformer as timm names it.
    Deit,
    /// Google's BERT as Hugging Face publishes it.
    Bert,
}

impl Encoder {
    /// The part of ALBEF that starts from it: what the names of its parameters begin with.
    pub fn part(self) -> &'static str {
        match self {
            Self::Deit => "visual_encoder.",
            Self::Bert => "text_encoder.",
        }
    }

    /// ALBEF's name of a tensor of the published checkpoint; `None` for heads that ALBEF drops:
    /// DeiT's classifiers, BERT's pooler and next-sentence head.
    pub fn albef_name(self, name: &str) -> Option<String> {
        match self {
            Self::Deit => {
                let kept = ["cls_token", "pos_embed", "patch_embed.", "blocks.", "norm."];
                let kept = kept.iter().any(|start| name.starts_with(start));
                kept.then(|| format!("{}{name}", self.part()))
            }
            Self::Bert => {
                // Checkpoints converted from TensorFlow name the parameters of LayerNorm otherwise.
                let name = match name.split_at_checked(name.rfind('.').map_or(0, |at| at + 1)) {
                    Some((module, "gamma")) => format!("{module}weight"),
                    Some((module, "beta")) => format!("{module}bias"),
                    _ => name.to_owned(),
                };
                // A bare encoder is published without the name of the module around it.
                let name = match name.strip_prefix("bert.").unwrap_or(&name) {
                    bare if bare.starts_with("embeddings.") || bare.starts_with("encoder.") => {
                        format!("bert.{bare}")
                    }
                    _ => name,
                };
                let kept = ["bert.embeddings.", "bert.encoder.", "cls.predictions."];
                let kept = kept.iter().any(|start| name.starts_with(start));
                kept.then(|| format!("{}{name}", self.part()))
            }
        }
    }

    /// The tensors of a published checkpoint under ALBEF's names, as far as a model whose
    /// parameters are `wanted` (official name, shape) has them, and what became of each.
    /// Position embeddings of DeiT are to be resized beforehand ([`super::fit_positions`], under
    /// their published name `pos_embed`).
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] when a tensor has another shape than the model's, or the
    /// checkpoint has nothing of the kind.
    pub fn take(
        self,
        checkpoint: TensorMap,
        wanted: &BTreeMap<String, Vec<usize>>,
    ) -> Result<(TensorMap, InitialReport), WeightsError> {
        let mut tensors = TensorMap::new();
        let mut report = InitialReport::default();
        let mut mis_shaped = Vec::new();
        for (from, tensor) in checkpoint {
            let place = self.albef_name(&from).filter(|name| !is_redundant(name));
            match place.and_then(|name| wanted.get_key_value(&name)) {
                None => report.dropped.push(from),
                Some((name, shape)) if *shape == tensor.shape => {
                    report.taken.push((from, name.clone()));
                    tensors.insert(name.clone(), tensor);
                }
                Some((_, shape)) => mis_shaped.push((from, shape.clone(), tensor.shape)),
            }
        }
        let part = wanted.keys().filter(|name| name.starts_with(self.part()));
        report.fresh = part
            .filter(|name| !tensors.contains_key(*name))
            .cloned()
            .collect();
        if tensors.is_empty() || !mis_shaped.is_empty() {
            return Err(WeightsError::Mismatch {
                missing: if tensors.is_empty() {
                    report.fresh
                } else {
                    vec![]
                },
                unexpected: vec![],
                mis_shaped,
            });
        }
        Ok((tensors, report))
    }
}
