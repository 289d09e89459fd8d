//! Encoding without training: images through a Vision Transformer, texts through a BERT.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use fitup_data::images::EvalTransform;
use fitup_data::text::Tokenizer;
use fitup_data::text::tokenizer::SPECIAL_TOKENS;
use fitup_models::albef::{Albef, AlbefConfig};
use fitup_models::layers::vision_transformer::{VisionTransformer, VisionTransformerConfig};
use fitup_models::system::EncodedTexts;
use fitup_models::weights;
use fitup_training::albef::is_model;
use fitup_training::tasks::retrieval::Scorer;
use serde::Deserialize;

use crate::Work;
use crate::tensors::{Inputs, Outputs};

/// What the driver chooses for images.
#[derive(Debug, Deserialize)]
pub struct ImageSettings {
    /// Sizes.
    vision: VisionTransformerConfig,
    /// Every token, or the first of each image.
    all_tokens: bool,
}

/// A batch of images to tokens after the final LayerNorm: all, or the first of each.
pub struct ImageEncoding {
    model: VisionTransformer,
    image: Tensor<4>,
    all_tokens: bool,
    tokens: Option<Tokens>,
}

enum Tokens {
    All(Tensor<3>),
    First(Tensor<2>),
}

impl ImageEncoding {
    /// Reads `weights.safetensors` under timm's names, and `inputs.safetensors`.
    pub fn new(settings: &ImageSettings, folder: &Path) -> anyhow::Result<Self> {
        let device = Device::flex();
        let (tensors, _) = weights::read(&folder.join("weights.safetensors"))?;
        let empty = settings.vision.init(&device);
        let mut inputs = Inputs::read(&folder.join("inputs.safetensors"))?;
        Ok(Self {
            model: weights::load(empty, &tensors, str::to_owned, |_| true)?,
            image: inputs.tensor("image", &device)?,
            all_tokens: settings.all_tokens,
            tokens: None,
        })
    }
}

impl Work for ImageEncoding {
    fn run(&mut self) -> anyhow::Result<()> {
        let image = self.image.clone();
        self.tokens = Some(match self.all_tokens {
            true => Tokens::All(self.model.forward(image)),
            false => Tokens::First(self.model.forward_first(image)),
        });
        Ok(())
    }

    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        match &self.tokens {
            Some(Tokens::All(tokens)) => outputs.tensor("tokens", tokens.clone()),
            Some(Tokens::First(tokens)) => outputs.tensor("tokens", tokens.clone()),
            None => {}
        }
        outputs
    }
}

/// What the driver chooses for texts.
#[derive(Debug, Deserialize)]
pub struct TextSettings {
    /// Sizes; all layers are text layers.
    albef: AlbefConfig,
    /// Tokens kept of a text.
    max_tokens: usize,
}

/// Texts to tokens, as an evaluation or an index encodes a collection: from the words on, which
/// the peer has as ids already.
pub struct TextEncoding {
    model: Albef,
    tokenizer: Tokenizer,
    device: Device,
    texts: Vec<String>,
    max_tokens: usize,
    /// Of the last run.
    encoded: Option<EncodedTexts>,
}

impl TextEncoding {
    /// Reads `weights.safetensors` under ALBEF's names, and `inputs.safetensors`: ids without
    /// special tokens but `[CLS]`.
    pub fn new(settings: &TextSettings, folder: &Path) -> anyhow::Result<Self> {
        let device = Device::flex();
        let (tensors, _) = weights::read(&folder.join("weights.safetensors"))?;
        let empty = settings.albef.init(&device);
        let model = weights::load(empty, &tensors, weights::albef_name, is_model)?;
        let mut inputs = Inputs::read(&folder.join("inputs.safetensors"))?;
        let (shape, ids) = inputs.integers("input_ids")?;
        // A vocabulary in which every id has a word of its own: the texts say the ids.
        let special = SPECIAL_TOKENS.map(str::to_owned).into_iter();
        let words = (special.len()..settings.albef.text.vocab_size).map(|id| format!("w{id}"));
        let tokenizer = Tokenizer::from_vocabulary(special.chain(words).collect())?;
        let text = |row: &[i64]| {
            let words = row.iter().skip(1).filter(|id| **id != 0);
            let words: Vec<String> = words.map(|id| format!("w{id}")).collect();
            words.join(" ")
        };
        Ok(Self {
            model,
            tokenizer,
            device,
            texts: ids.chunks(shape[1]).map(text).collect(),
            max_tokens: settings.max_tokens,
            encoded: None,
        })
    }
}

impl Work for TextEncoding {
    fn run(&mut self) -> anyhow::Result<()> {
        let scorer = Scorer {
            model: &self.model,
            tokenizer: &self.tokenizer,
            transform: EvalTransform::albef(16),
            device: &self.device,
        };
        self.encoded = Some(scorer.encode_texts(&self.texts, self.max_tokens));
        Ok(())
    }

    /// Each text's `[CLS]` row, and its last token's.
    fn outputs(&self) -> Outputs {
        let mut outputs = Outputs::default();
        if let Some(texts) = &self.encoded {
            let row = |row: usize| texts.tokens.clone().narrow(0, row, 1);
            let (first, last): (Vec<_>, Vec<_>) = texts
                .packing
                .ranges()
                .map(|range| (row(range.start), row(range.end - 1)))
                .unzip();
            outputs.tensor("first", Tensor::<2>::cat(first, 0));
            outputs.tensor("last", Tensor::<2>::cat(last, 0));
        }
        outputs
    }
}
