//! VLMo: *Unified Vision-Language Pre-Training with Mixture-of-Modality-Experts* (Bao et al. 2021,
//! arXiv 2111.02358).
//!
//! One transformer whose attention all modalities share, with experts of their own: run on a text
//! or an image alone it is a dual encoder for retrieval, run on both in one sequence a fusion
//! encoder. Trained in three stages: images alone ([`image_stage`]), texts alone ([`text_stage`]), pairs
//! ([`Vlmo::pretrain`]): image-text contrast (`itc`), matching with hard negatives (`itm`) and
//! masked language modelling (`mlm`). Exact against `modules/vlmo_module.py` and
//! `modules/objectives.py`.

pub mod downstream;
pub mod encoder;
pub mod image_stage;
pub mod text_stage;

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::{Packing, Pairs};
use crate::layers::{
    LayerNorm, Linear, first_token, l2_normalize, linear, linear_gelu, linear_without_bias,
};
use crate::objectives::cross_entropy;
use crate::objectives::itm::{self, Itm, NegativeDraw, Negatives};
use crate::objectives::mlm::{self, MaskedPositions};
use crate::system::{
    EncodedImages, EncodedTexts, MaskedWords, Matching, System, SystemConfig, no_multiple,
};
use crate::weights::host_values;
use encoder::{IMAGE_TYPE, TEXT_LAYER_NORM_EPS, TextBatch, VlmoEncoder};

/// How tokens know their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Positions {
    /// A bias per pair of places on the attention scores
    /// ([`crate::layers::relative_position`]).
    Relative {
        /// Longest text that the table has rows for: that of the text stage.
        table_text_len: usize,
    },
    /// Learned vectors added to the tokens.
    Absolute,
}

/// Sizes of a VLMo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlmoConfig {
    /// Side of the square input image in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of a token; a multiple of `heads`.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of the hidden layer of an expert, as a multiple of `width`.
    pub mlp_ratio: usize,
    /// First block with a vision-language expert; `depth` for none.
    pub vl_start_layer: usize,
    /// Longest text in tokens.
    pub max_text_len: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// How tokens know their places.
    pub positions: Positions,
    /// Whether residual branches are scaled per channel.
    pub layer_scale: bool,
    /// Probability that the last block's branches are left out for a sample in training, less
    /// for earlier blocks; also the dropout of the text embeddings. In `[0, 1)`.
    pub drop_path: f64,
}

impl VlmoConfig {
    /// `vlmo_base_patch16` at 224 pixels: 12 blocks of width 768.
    pub fn base() -> Self {
        Self {
            image_size: 224,
            patch_size: 16,
            width: 768,
            depth: 12,
            heads: 12,
            mlp_ratio: 4,
            vl_start_layer: 10,
            max_text_len: 40,
            vocab_size: 30_522,
            positions: Positions::Relative {
                table_text_len: 196,
            },
            layer_scale: true,
            drop_path: 0.1,
        }
    }

    /// `vlmo_large_patch16` at 224 pixels: 24 blocks of width 1,024.
    pub fn large() -> Self {
        Self {
            width: 1024,
            depth: 24,
            heads: 16,
            vl_start_layer: 21,
            ..Self::base()
        }
    }

    /// `vlmo_base_plus_patch16` at 224 pixels: 24 blocks of width 544, absolute positions.
    pub fn base_plus() -> Self {
        Self {
            width: 544,
            depth: 24,
            heads: 16,
            vl_start_layer: 21,
            positions: Positions::Absolute,
            layer_scale: false,
            ..Self::base()
        }
    }

    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of one image: the patches and CLS.
    pub fn image_tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }

    /// This model in the stages before the pairs, where no vision-language experts exist yet.
    pub fn without_vl_experts(&self) -> Self {
        Self {
            vl_start_layer: self.depth,
            ..self.clone()
        }
    }

    /// The pre-training model with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> Vlmo {
        Vlmo {
            encoder: self.init_encoder(device),
            mlm_score: MlmScore::new(self, device),
            itm_score: linear(self.width, 2, device),
            itc: ContrastiveHeads::new(self, device),
            itc_vl: ContrastiveHeads::new(self, device),
        }
    }
}

impl SystemConfig for VlmoConfig {
    fn image_size(&self) -> usize {
        self.image_size
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_tokens(&self) -> usize {
        self.max_text_len
    }

    fn problem(&self) -> Option<String> {
        let at_most = |name: &str, value: usize, of: &str, limit: usize| {
            (value > limit).then(|| format!("{name} = {value} must be at most {of} = {limit}"))
        };
        no_multiple("image_size", self.image_size, "patch_size", self.patch_size)
            .or_else(|| no_multiple("width", self.width, "heads", self.heads))
            .or_else(|| at_most("vl_start_layer", self.vl_start_layer, "depth", self.depth))
            .or_else(|| match self.positions {
                Positions::Relative { table_text_len } => at_most(
                    "max_text_len",
                    self.max_text_len,
                    "positions.relative.table_text_len",
                    table_text_len,
                ),
                Positions::Absolute => None,
            })
    }
}

/// The pre-training model.
#[derive(Module, Debug)]
pub struct Vlmo {
    /// Embeddings, blocks, pooler.
    pub encoder: VlmoEncoder,
    /// Hidden vectors to vocabulary logits.
    pub mlm_score: MlmScore,
    /// `width -> 2` on a pooled pair; logit 1 is "they match".
    pub itm_score: Linear,
    /// Contrast of the modalities' own experts.
    pub itc: ContrastiveHeads,
    /// Contrast of the vision-language experts on one modality.
    pub itc_vl: ContrastiveHeads,
}

/// Masked-language-modelling head; unlike ALBEF's, its output matrix is its own.
#[derive(Module, Debug)]
pub struct MlmScore {
    /// `width -> width`.
    pub transform: Linear,
    /// After the GELU.
    pub layer_norm: LayerNorm,
    /// `width -> vocab_size`, no bias.
    pub decoder: Linear,
    /// `[vocab_size]`.
    pub bias: Param<Tensor<1>>,
}

impl MlmScore {
    fn new(config: &VlmoConfig, device: &Device) -> Self {
        Self {
            transform: linear(config.width, config.width, device),
            layer_norm: LayerNorm::new(config.width, TEXT_LAYER_NORM_EPS, device),
            decoder: linear_without_bias(config.width, config.vocab_size, device),
            bias: Initializer::Zeros.init([config.vocab_size], device),
        }
    }

    /// `hidden`: `[.., width]`; returns `[.., vocab_size]`.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let x = linear_gelu(&self.transform, hidden);
        self.decoder.forward(self.layer_norm.forward(x)) + self.bias.val().unsqueeze()
    }

    /// Mean cross-entropy over masked tokens, `[1]`; `None` when nothing is masked. `tokens`:
    /// hidden vectors of all tokens, `[batch, seq, width]`.
    pub fn loss(&self, tokens: Tensor<3>, masked: &MaskedPositions) -> Option<Tensor<1>> {
        if masked.token.is_empty() {
            return None;
        }
        let words = int_vector(&masked.token, &tokens.device());
        Some(mlm::mlm(
            self.masked_logits(tokens, masked),
            words,
            None,
            0.0,
        ))
    }

    /// Logits at the masked places of all tokens, `[batch, seq, width]`; returns `[masked,
    /// vocab_size]`.
    fn masked_logits(&self, tokens: Tensor<3>, masked: &MaskedPositions) -> Tensor<2> {
        let [batch, seq, width] = tokens.dims();
        let index = int_vector(&masked.index, &tokens.device());
        let hidden = tokens.reshape([batch * seq, width]).select(0, index);
        self.logits(hidden)
    }
}

/// What turns both modalities' CLS into embeddings that are compared.
#[derive(Module, Debug)]
pub struct ContrastiveHeads {
    /// `width -> width`, no bias.
    pub text_proj: Linear,
    /// `width -> width`, no bias.
    pub image_proj: Linear,
    /// Logarithm of what similarities are multiplied by, `[1]`; not bounded.
    pub logit_scale: Param<Tensor<1>>,
}

/// Similarities and the loss of one contrast.
#[derive(Clone, Debug)]
pub struct Contrast {
    /// Image to text similarity times scale, `[batch, batch]`; transposed, text to image.
    pub i2t: Tensor<2>,
    /// Mean of both directions' cross-entropy, `[1]`.
    pub loss: Tensor<1>,
}

impl ContrastiveHeads {
    fn new(config: &VlmoConfig, device: &Device) -> Self {
        let scale = Initializer::Constant {
            value: (1.0f64 / 0.07).ln(),
        };
        Self {
            text_proj: linear_without_bias(config.width, config.width, device),
            image_proj: linear_without_bias(config.width, config.width, device),
            logit_scale: scale.init([1], device),
        }
    }

    /// `tokens`: `[batch, seq, width]`, CLS first, after the final norm; returns unit rows,
    /// `[batch, width]`.
    pub fn embed_text(&self, tokens: &Tensor<3>) -> Tensor<2> {
        l2_normalize(self.text_proj.forward(first_token(tokens)))
    }

    /// `tokens`: `[batch, 1 + patches, width]`, CLS first, after the final norm; returns unit
    /// rows, `[batch, width]`.
    pub fn embed_image(&self, tokens: &Tensor<3>) -> Tensor<2> {
        l2_normalize(self.image_proj.forward(first_token(tokens)))
    }

    /// Contrast inside a batch: row `i` belongs to row `i`. `image`, `text`: unit rows,
    /// `[batch, width]`.
    pub fn contrast(&self, image: Tensor<2>, text: Tensor<2>) -> Contrast {
        let scale = self.logit_scale.val().exp().unsqueeze();
        let i2t = image.matmul(text.transpose()) * scale;
        let pairs = Tensor::arange(0..i2t.dims()[0] as i64, &i2t.device());
        let loss = cross_entropy(i2t.clone(), pairs.clone())
            + cross_entropy(i2t.clone().transpose(), pairs);
        Contrast {
            i2t,
            loss: loss / 2.0,
        }
    }
}

/// One batch of pairs, on the model's device.
#[derive(Clone, Debug)]
pub struct PretrainBatch {
    /// `[batch, 3, image_size, image_size]`, normalised with mean and deviation 0.5.
    pub image: Tensor<4>,
    /// The captions.
    pub text: TextBatch,
    /// The captions' tokens, some replaced, `[batch, seq]`.
    pub masked_input_ids: Tensor<2, Int>,
    /// Which, and by what.
    pub masked: MaskedPositions,
}

/// Which objectives a step computes.
#[derive(Clone, Debug)]
pub struct PretrainObjectives {
    /// Both contrasts.
    pub itc: bool,
    /// Matching, with its negatives.
    pub itm: Option<NegativeDraw>,
    /// Masked language modelling.
    pub mlm: bool,
}

/// Both contrasts of a step.
#[derive(Clone, Debug)]
pub struct Contrasts {
    /// Of the modalities' own experts.
    pub own: Contrast,
    /// Of the vision-language experts.
    pub vl: Contrast,
    /// Mean of both losses, `[1]`.
    pub loss: Tensor<1>,
}

/// Losses of a step with what belongs to them.
#[derive(Clone, Debug)]
pub struct PretrainOutput {
    /// Contrastive losses and similarities.
    pub itc: Option<Contrasts>,
    /// Matching loss and logits.
    pub itm: Option<Itm>,
    /// Masked-word loss before its weight, `[1]`; absent when nothing was masked.
    pub mlm: Option<Tensor<1>>,
}

/// Weight of the masked-word loss beside the others' 1.
pub const MLM_WEIGHT: f64 = 0.25;

impl PretrainOutput {
    /// `(itc + itc_vl) / 2 + itm + mlm / 4` of what is there, `[1]`; `None` when nothing is.
    pub fn total(&self) -> Option<Tensor<1>> {
        let mlm = self.mlm.clone().map(|loss| loss.mul_scalar(MLM_WEIGHT));
        let itc = self.itc.as_ref().map(|itc| itc.loss.clone());
        let itm = self.itm.as_ref().map(|itm| itm.loss.clone());
        [itc, itm, mlm]
            .into_iter()
            .flatten()
            .reduce(|total, loss| total + loss)
    }
}

impl Vlmo {
    /// One pre-training step's losses. The order of all random draws is the caller's: nothing here
    /// draws or remembers.
    pub fn pretrain(
        &self,
        batch: &PretrainBatch,
        objectives: &PretrainObjectives,
        dropout: Option<DropoutSeed>,
    ) -> PretrainOutput {
        let itc = objectives
            .itc
            .then(|| self.contrasts(batch, dropout.map(|d| d.at(0))));
        let itm = objectives.itm.as_ref().map(|draw| {
            let negatives = draw.negatives(|| self.similarities(batch, &itc));
            self.itm(batch, &negatives, dropout.map(|d| d.at(1)))
        });
        let mlm = objectives.mlm && !batch.masked.token.is_empty();
        let mlm = mlm.then(|| {
            let text = TextBatch {
                input_ids: batch.masked_input_ids.clone(),
                attention_mask: batch.text.attention_mask.clone(),
            };
            let dropout = dropout.map(|d| d.at(2));
            let image = batch.image.clone();
            let pair = self.encoder.fused(&text, image, IMAGE_TYPE, dropout);
            self.mlm_score.loss(pair.text_tokens, &batch.masked)
        });
        PretrainOutput {
            itc,
            itm,
            mlm: mlm.flatten(),
        }
    }

    /// Both contrasts of a batch.
    pub fn contrasts(&self, batch: &PretrainBatch, dropout: Option<DropoutSeed>) -> Contrasts {
        let text = self
            .encoder
            .text_branched(&batch.text, dropout.map(|d| d.at(0)));
        let image = batch.image.clone();
        let image = self.encoder.image_branched(image, dropout.map(|d| d.at(1)));
        let own = self.itc.contrast(
            self.itc.embed_image(&image.own.tokens),
            self.itc.embed_text(&text.own.tokens),
        );
        let vl = self.itc_vl.contrast(
            self.itc_vl.embed_image(&image.vl_tokens),
            self.itc_vl.embed_text(&text.vl_tokens),
        );
        let loss = (own.loss.clone() + vl.loss.clone()) / 2.0;
        Contrasts { own, vl, loss }
    }

    /// Similarities by which hard negatives are found, row-major, image to text and text to image:
    /// those of the modalities' own experts.
    fn similarities(&self, batch: &PretrainBatch, itc: &Option<Contrasts>) -> (Vec<f32>, Vec<f32>) {
        let i2t = match itc {
            Some(itc) => itc.own.i2t.clone().inner(),
            None => {
                // No loss asks for these features: they are computed without a graph.
                let model = self.valid();
                let text = TextBatch {
                    input_ids: batch.text.input_ids.clone().inner(),
                    attention_mask: batch.text.attention_mask.clone().inner(),
                };
                let text = model.encoder.text(&text, None);
                let image = model.encoder.image(batch.image.clone().inner(), None);
                let image = model.itc.embed_image(&image.tokens);
                model
                    .itc
                    .contrast(image, model.itc.embed_text(&text.tokens))
                    .i2t
            }
        };
        (host_values(i2t.clone()), host_values(i2t.transpose()))
    }

    /// The matching loss over positives, (text, negative image) and (negative text, image), in
    /// one pass from the raw inputs: below the fused layers nothing can be shared.
    fn itm(
        &self,
        batch: &PretrainBatch,
        negatives: &Negatives,
        dropout: Option<DropoutSeed>,
    ) -> Itm {
        let device = batch.image.device();
        let pairs = negatives.text_idx.len();
        let all: Vec<usize> = (0..pairs).collect();
        let index = |parts: [&[usize]; 3]| {
            let parts: Vec<i64> = parts.concat().into_iter().map(|i| i as i64).collect();
            int_vector(&parts, &device)
        };
        let texts = index([&all, &all, &negatives.text_idx]);
        let images = index([&all, &negatives.image_idx, &all]);
        let text = batch.text.select(texts);
        let image = batch.image.clone().select(0, images);
        let pair = self.encoder.fused(&text, image, IMAGE_TYPE, dropout);
        let logits = self.itm_score.forward(pair.pooled);
        itm::itm(logits, Tensor::from_data(itm::labels(pairs), &device))
    }
}

/// One modality alone is compared; a pair in one sequence is matched.
impl System for Vlmo {
    fn encode_images(&self, image: Tensor<4>) -> EncodedImages {
        let alone = self.encoder.image(image.clone(), None);
        EncodedImages {
            tokens: self.encoder.embed_image(image, IMAGE_TYPE),
            embed: Some(self.itc.embed_image(&alone.tokens)),
        }
    }

    fn encode_texts(&self, input_ids: Tensor<1, Int>, packing: &Packing) -> EncodedTexts {
        let (input_ids, attention_mask) = packing.pad_ids(input_ids);
        let text = TextBatch {
            input_ids,
            attention_mask,
        };
        let alone = self.encoder.text(&text, None);
        EncodedTexts {
            tokens: packing.pack_rows(self.encoder.embed_text(&text, None)),
            packing: packing.clone(),
            embed: Some(self.itc.embed_text(&alone.tokens)),
        }
    }

    fn embed_dim(&self) -> Option<usize> {
        Some(self.itc.text_proj.weight.dims()[1])
    }

    fn logit_scale(&self) -> f32 {
        self.itc.logit_scale.val().exp().into_scalar()
    }

    fn matching(&self) -> Option<&dyn Matching> {
        Some(self)
    }

    fn masked_words(&self) -> Option<&dyn MaskedWords> {
        Some(self)
    }
}

impl Matching for Vlmo {
    /// The embedded patches: below the fused layers nothing else can be shared.
    fn image_parts(&self, tokens: Tensor<3>) -> Vec<Tensor<3>> {
        vec![tokens]
    }

    fn pair_logits(
        &self,
        texts: &EncodedTexts,
        image_parts: &[Tensor<3>],
        pairs: &Pairs,
    ) -> Tensor<2> {
        let (tokens, mask) = texts.padded(&pairs.texts);
        let image = pairs.images_of(&image_parts[0]);
        let pair = self.encoder.fuse(tokens, mask, image, None);
        self.itm_score.forward(pair.pooled)
    }
}

impl MaskedWords for Vlmo {
    fn gap_logits(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        masked: &MaskedPositions,
    ) -> Tensor<2> {
        let text = TextBatch {
            input_ids,
            attention_mask,
        };
        let pair = self.encoder.fused(&text, image, IMAGE_TYPE, None);
        self.mlm_score.masked_logits(pair.text_tokens, masked)
    }
}

fn int_vector(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}
