//! Initial weights from published encoders: DeiT, BEiT and BERT checkpoints under the names of the
//! systems that start from them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::vlmo::beit_table;
use super::{HostTensor, TensorMap, WeightsError, fit_positions, is_redundant};

/// What became of a checkpoint's tensors and of a model's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialReport {
    /// Name in the checkpoint, name in the model.
    pub taken: Vec<(String, String)>,
    /// Parameters of the model, in the part that the checkpoint is for, that it does not give.
    pub fresh: Vec<String>,
    /// Tensors of the checkpoint that the model has no place for.
    pub dropped: Vec<String>,
    /// What was resized or cut to fit, a line each.
    pub fitted: Vec<String>,
}

/// Names of tensors that a line lists of many.
const SHOWN: usize = 8;

impl fmt::Display for InitialReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| match names {
            [] => String::new(),
            _ if names.len() <= SHOWN => format!(" ({})", names.join(", ")),
            _ => {
                let more = names.len() - SHOWN;
                format!(" ({} and {more} more)", names[..SHOWN].join(", "))
            }
        };
        write!(
            f,
            "{} tensors taken; {} start fresh{}; {} dropped{}",
            self.taken.len(),
            self.fresh.len(),
            list(&self.fresh),
            self.dropped.len(),
            list(&self.dropped)
        )?;
        self.fitted
            .iter()
            .try_for_each(|line| write!(f, "; {line}"))
    }
}

/// A published encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// Facebook's DeiT, or another Vision Transformer as timm names it.
    Deit,
    /// Microsoft's BEiT.
    Beit,
    /// Google's BERT as Hugging Face publishes it.
    Bert,
}

/// A system that starts from published encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Image encoder from DeiT, text encoder from BERT.
    Albef,
    /// The stream from a Vision Transformer; BERT gives the word embeddings and the head of masked
    /// words.
    Vilt,
    /// Attention and image experts from BEiT, or from DeiT; BERT as for [`Target::Vilt`].
    Vlmo {
        /// Patches along one side of its images, which the relative positions are made for.
        window: usize,
    },
}

/// Where a Vision Transformer lies in ViLT and VLMo.
const STREAM: &str = "transformer.";
/// What BERT gives to ViLT and VLMo.
const WORDS: [&str; 2] = ["text_embeddings.", "mlm_score."];
/// Experts of VLMo that an image encoder does not give.
const OTHER_EXPERTS: [&str; 2] = ["_text.", "_vl."];

impl Target {
    /// Whether a parameter of the model belongs to the part that `encoder` is for.
    fn starts_from(self, encoder: Encoder, name: &str) -> bool {
        let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
        match (self, encoder) {
            (Self::Albef, Encoder::Deit | Encoder::Beit) => begins(&["visual_encoder."]),
            (Self::Albef, Encoder::Bert) => begins(&["text_encoder."]),
            (Self::Vilt | Self::Vlmo { .. }, Encoder::Bert) => begins(&WORDS),
            (Self::Vilt, _) => begins(&[STREAM]),
            (Self::Vlmo { .. }, _) => {
                let other = OTHER_EXPERTS.iter().any(|expert| name.contains(expert));
                name == TABLE || (begins(&[STREAM]) && !other)
            }
        }
    }
}

/// VLMo's relative positions.
const TABLE: &str = "relative_position_bias_table";

impl Encoder {
    /// What a file holds, by its names; `None` for anything else.
    pub fn detect(tensors: &TensorMap) -> Option<Self> {
        let has = |name: &str| tensors.contains_key(name);
        if has("bert.embeddings.word_embeddings.weight") || has("embeddings.word_embeddings.weight")
        {
            Some(Self::Bert)
        } else if has("blocks.0.attn.q_bias") {
            Some(Self::Beit)
        } else if has("blocks.0.attn.qkv.weight") && has("patch_embed.proj.weight") {
            Some(Self::Deit)
        } else {
            None
        }
    }

    /// Whether it encodes images, not texts.
    pub fn reads_images(self) -> bool {
        self != Self::Bert
    }

    /// The tensors of a published checkpoint under the names of `target`, as far as `model` (all
    /// its parameters by official name, as they start) has them, and what became of each. Position
    /// embeddings are resized to the model's image, those of texts cut to its length.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] when a tensor has another shape than the model's, or the
    /// checkpoint has nothing of the kind; [`WeightsError::Unfit`] when the encoder is built
    /// otherwise than the part that it should start.
    pub fn take(
        self,
        target: Target,
        mut checkpoint: TensorMap,
        model: &TensorMap,
    ) -> Result<(TensorMap, InitialReport), WeightsError> {
        let mut report = InitialReport::default();
        let mut tensors = TensorMap::new();
        if self == Self::Beit {
            let table = model.get(TABLE);
            let (Target::Vlmo { window }, Some(table)) = (target, table) else {
                return Err(WeightsError::Unfit(
                    "a BEiT knows places by relative positions, and so starts a VLMo with positions = \"relative\" alone; a DeiT starts the others",
                ));
            };
            if let Some((names, merged)) = beit_table(&mut checkpoint, table, window)? {
                let to_table = |from| (from, TABLE.to_owned());
                report.taken.extend(names.into_iter().map(to_table));
                tensors.insert(TABLE.to_owned(), merged);
            }
        }
        let mut mis_shaped = Vec::new();
        for (from, tensor) in checkpoint {
            let mut kept = false;
            for (name, mut tensor) in self.place(target, &from, tensor) {
                let Some(wanted) = model.get(&name).filter(|_| !is_redundant(&name)) else {
                    continue;
                };
                kept = true;
                report.fitted.extend(fit(&name, &mut tensor, wanted)?);
                if tensor.shape == wanted.shape {
                    report.taken.push((from.clone(), name.clone()));
                    tensors.insert(name, tensor);
                } else {
                    mis_shaped.push((from.clone(), wanted.shape.clone(), tensor.shape));
                }
            }
            if !kept {
                report.dropped.push(from);
            }
        }
        tie_decoder(model, &mut tensors, &mut report);
        let part = model.keys().filter(|name| target.starts_from(self, name));
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

    /// The target's names of a tensor, with what belongs under each; none for what it drops:
    /// classifiers, BERT's pooler and next-sentence head.
    fn place(self, target: Target, name: &str, tensor: HostTensor) -> Vec<(String, HostTensor)> {
        if self == Self::Bert {
            let name = bert_in(target, &published_bert_name(name));
            return name.map(|name| (name, tensor)).into_iter().collect();
        }
        let kept = ["cls_token", "pos_embed", "patch_embed.", "blocks.", "norm."];
        if !kept.iter().any(|start| name.starts_with(start)) {
            return vec![];
        }
        match target {
            Target::Albef => vec![(format!("visual_encoder.{name}"), tensor)],
            Target::Vilt => vec![(format!("{STREAM}{name}"), tensor)],
            Target::Vlmo { .. } => {
                if let Some(attention) = name.strip_suffix(".qkv.bias") {
                    return query_and_value_bias(&format!("{STREAM}{attention}"), tensor);
                }
                let name = name.replace(".mlp.", ".mlp_imag.");
                let name = name.replace(".norm2.", ".norm2_imag.");
                vec![(format!("{STREAM}{name}"), tensor)]
            }
        }
    }
}

/// VLMo has no bias of keys, which adds the same to all scores of a query and so changes nothing.
fn query_and_value_bias(attention: &str, tensor: HostTensor) -> Vec<(String, HostTensor)> {
    let width = tensor.values.len() / 3;
    let part = |at: usize| HostTensor {
        shape: vec![width],
        values: tensor.values[at * width..(at + 1) * width].to_vec(),
    };
    vec![
        (format!("{attention}.q_bias"), part(0)),
        (format!("{attention}.v_bias"), part(2)),
    ]
}

/// A name in a published BERT as `BertForPreTraining` has it now: checkpoints converted from
/// TensorFlow name the parameters of LayerNorm otherwise, a bare encoder is published without the
/// name of the module around it.
fn published_bert_name(name: &str) -> String {
    let name = match name.split_at_checked(name.rfind('.').map_or(0, |at| at + 1)) {
        Some((module, "gamma")) => format!("{module}weight"),
        Some((module, "beta")) => format!("{module}bias"),
        _ => name.to_owned(),
    };
    match name.strip_prefix("bert.").unwrap_or(&name) {
        bare if bare.starts_with("embeddings.") || bare.starts_with("encoder.") => {
            format!("bert.{bare}")
        }
        _ => name,
    }
}

fn bert_in(target: Target, name: &str) -> Option<String> {
    if target == Target::Albef {
        let kept = ["bert.embeddings.", "bert.encoder.", "cls.predictions."];
        let kept = kept.iter().any(|start| name.starts_with(start));
        return kept.then(|| format!("text_encoder.{name}"));
    }
    if let Some(rest) = name.strip_prefix("bert.embeddings.") {
        return Some(format!("text_embeddings.{rest}"));
    }
    let rest = name.strip_prefix("cls.predictions.")?;
    // A copy of `bias`.
    (rest != "decoder.bias").then(|| format!("mlm_score.{rest}"))
}

/// Where a head of masked words is given without its output matrix, which in BERT is the word
/// embeddings: ViLT and VLMo have one of their own, and start it from them.
fn tie_decoder(model: &TensorMap, tensors: &mut TensorMap, report: &mut InitialReport) {
    const DECODER: &str = "mlm_score.decoder.weight";
    const EMBEDDINGS: &str = "text_embeddings.word_embeddings.weight";
    let wanted = model.contains_key(DECODER) && !tensors.contains_key(DECODER);
    if !(wanted && tensors.contains_key("mlm_score.bias")) {
        return;
    }
    if let Some(embeddings) = tensors.get(EMBEDDINGS).cloned() {
        let source = report.taken.iter().find(|(_, name)| name == EMBEDDINGS);
        let source = source.map_or(EMBEDDINGS.to_owned(), |(from, _)| from.clone());
        report.taken.push((source, DECODER.to_owned()));
        tensors.insert(DECODER.to_owned(), embeddings);
    }
}

/// Position embeddings of an image resized, of a text cut off, where `wanted` is of another size;
/// returns a line for the report where something was done. Anything else stays.
fn fit(
    name: &str,
    tensor: &mut HostTensor,
    wanted: &HostTensor,
) -> Result<Option<String>, WeightsError> {
    if tensor.shape == wanted.shape {
        return Ok(None);
    }
    if name.ends_with("pos_embed")
        && let [1, tokens, _] = wanted.shape[..]
    {
        let mut one = BTreeMap::from([(name.to_owned(), tensor.clone())]);
        let line = fit_positions(&mut one, name, tokens.saturating_sub(1).isqrt())?;
        if let Some(fitted) = one.remove(name) {
            *tensor = fitted;
        }
        return Ok(line);
    }
    if name.ends_with("position_embeddings.weight")
        && let ([rows, width], [kept, _]) = (&tensor.shape[..], &wanted.shape[..])
        && rows > kept
    {
        let (rows, width, kept) = (*rows, *width, *kept);
        tensor.values.truncate(kept * width);
        tensor.shape = vec![kept, width];
        let line = format!("{name}: the first {kept} of {rows} positions");
        return Ok(Some(line));
    }
    Ok(None)
}
