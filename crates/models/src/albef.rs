//! ALBEF: *Align before Fuse* (Li et al. 2021, arXiv 2107.07651).
//!
//! An image encoder and a text encoder are aligned with a contrastive loss (`itc`); then fusion
//! layers read the text while attending to the image, trained with image-text matching (`itm`,
//! hard negatives found by the alignment) and masked language modelling (`mlm`). A slowly moving
//! copy of the encoders, the momentum model, gives soft targets that forgive noisy web captions.
//! Exact against `models/model_pretrain.py`. The models that are fine-tuned from it are a file each:
//! [`retrieval`], [`vqa`], [`nlvr2`] with [`text_assignment`] before it, [`entailment`];
//! [`grounding`] shows what the model looks at.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::layers::bert::{
    Bert, BertConfig, ImageKeysValues, ImageTokens, KeysValues, padding_mask,
};
use crate::layers::block_compute::BlockCompute;
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::{Asked, Packing, Pairs};
use crate::layers::vision_transformer::{VisionTransformer, VisionTransformerConfig};
use crate::layers::{Linear, first_token, l2_normalize, linear};
use crate::objectives::itc::{self, Itc, ItcKeys};
use crate::objectives::itm::{self, Itm, Negatives};
use crate::objectives::mlm::{self, MaskedPositions};
use crate::system::{
    EncodedImages, EncodedTexts, Grounding, MaskedWords, Matching, System, SystemConfig, Teacher,
    no_multiple,
};
use crate::weights::host_values;

pub mod entailment;
pub mod grounding;
pub mod nlvr2;
pub mod retrieval;
pub mod text_assignment;
pub mod vqa;

pub use crate::objectives::itm::NegativeDraw;

/// Sizes of an ALBEF.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlbefConfig {
    /// Image encoder.
    pub vision: VisionTransformerConfig,
    /// Text encoder and fusion layers; `encoder_width` equals `vision.width`.
    pub text: BertConfig,
    /// Width of the embeddings that are compared.
    pub embed_dim: usize,
    /// Initial temperature.
    #[serde(default = "initial_temp")]
    pub temp: f64,
}

fn initial_temp() -> f64 {
    0.07
}

impl AlbefConfig {
    /// The model with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> Albef {
        Albef {
            encoders: self.init_encoders(device),
            itm_head: linear(self.text.hidden_size, 2, device),
            temp: Initializer::Constant { value: self.temp }.init([1], device),
        }
    }

    /// The part that the momentum model copies, with all weights zero.
    pub fn init_encoders(&self, device: &Device) -> AlbefEncoders {
        AlbefEncoders {
            visual_encoder: self.vision.init(device),
            text_encoder: self.text.init(device),
            vision_proj: linear(self.vision.width, self.embed_dim, device),
            text_proj: linear(self.text.hidden_size, self.embed_dim, device),
        }
    }
}

impl SystemConfig for AlbefConfig {
    fn image_size(&self) -> usize {
        self.vision.image_size
    }

    fn vocab_size(&self) -> usize {
        self.text.vocab_size
    }

    fn max_tokens(&self) -> usize {
        self.text.max_position_embeddings
    }

    fn problem(&self) -> Option<String> {
        let (vision, text) = (&self.vision, &self.text);
        vision
            .problem("vision")
            .or_else(|| {
                let heads = text.num_attention_heads;
                no_multiple(
                    "text.hidden_size",
                    text.hidden_size,
                    "text.num_attention_heads",
                    heads,
                )
            })
            .or_else(|| {
                (text.encoder_width != vision.width).then(|| {
                    format!(
                        "text.encoder_width = {} must equal vision.width = {}",
                        text.encoder_width, vision.width
                    )
                })
            })
            .or_else(|| {
                (text.fusion_layer >= text.num_hidden_layers).then(|| {
                    format!(
                        "text.fusion_layer = {} must be below text.num_hidden_layers = {}",
                        text.fusion_layer, text.num_hidden_layers
                    )
                })
            })
    }
}

/// Both encoders with their projections: what is trained, and what the momentum model copies.
#[derive(Module, Debug)]
pub struct AlbefEncoders {
    /// Images to tokens.
    pub visual_encoder: VisionTransformer,
    /// Texts to tokens; its upper layers are the fusion encoder.
    pub text_encoder: Bert,
    /// `vision.width -> embed_dim`.
    pub vision_proj: Linear,
    /// `text.hidden_size -> embed_dim`.
    pub text_proj: Linear,
}

/// An encoded batch of images.
#[derive(Clone, Debug)]
pub struct ImageFeatures {
    /// `[batch, 1 + patches, vision.width]`, CLS first.
    pub tokens: Tensor<3>,
    /// Projected CLS, unit rows, `[batch, embed_dim]`.
    pub embed: Tensor<2>,
}

/// An encoded batch of texts.
#[derive(Clone, Debug)]
pub struct TextFeatures {
    /// `[batch, seq, text.hidden_size]`, CLS first.
    pub tokens: Tensor<3>,
    /// Additive padding mask, `[batch, 1, seq]`.
    pub mask: Tensor<3>,
    /// Projected CLS, unit rows, `[batch, embed_dim]`.
    pub embed: Tensor<2>,
}

impl AlbefEncoders {
    /// How the blocks of both encoders are computed in training.
    pub fn set_block_compute(&mut self, compute: BlockCompute) {
        self.visual_encoder.set_block_compute(compute);
        self.text_encoder.set_block_compute(compute);
    }

    /// `image`: `[batch, 3, image_size, image_size]`, normalised with CLIP's mean and deviation.
    pub fn encode_image(&self, image: Tensor<4>) -> ImageFeatures {
        let tokens = self.visual_encoder.forward(image);
        let embed = l2_normalize(self.vision_proj.forward(first_token(&tokens)));
        ImageFeatures { tokens, embed }
    }

    /// The embeddings of [`Self::encode_image`] alone, `[batch, embed_dim]`.
    pub fn embed_image(&self, image: Tensor<4>) -> Tensor<2> {
        let first = self.visual_encoder.forward_first(image);
        l2_normalize(self.vision_proj.forward(first))
    }

    /// `input_ids`: `[batch, seq]`, `[CLS]` first; `attention_mask`: `[batch, seq]`, 1 for real
    /// tokens.
    pub fn encode_text(
        &self,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        dropout: Option<DropoutSeed>,
    ) -> TextFeatures {
        let mask = padding_mask(attention_mask);
        let tokens = self.text_encoder.text(input_ids, mask.clone(), dropout);
        let embed = l2_normalize(self.text_proj.forward(first_token(&tokens)));
        TextFeatures {
            tokens,
            mask,
            embed,
        }
    }

    /// As [`Self::encode_text`] without padding. `input_ids`: `[rows]`, packed as `packing`.
    pub fn encode_text_rows(
        &self,
        input_ids: Tensor<1, Int>,
        packing: &Packing,
        asked: Asked,
        dropout: Option<DropoutSeed>,
    ) -> TextRows {
        let bert = &self.text_encoder;
        let tokens = bert.text_rows(input_ids, packing, &asked, dropout);
        let first = match asked {
            Asked::First => tokens.clone(),
            _ => tokens
                .clone()
                .select(0, packing.first_rows(&tokens.device())),
        };
        let embed = l2_normalize(self.text_proj.forward(first));
        TextRows { tokens, embed }
    }

    /// Keys and values of the fusion layers for `tokens`, `[batch, 1 + patches, vision.width]`.
    pub fn image_keys_values(&self, tokens: Tensor<3>) -> ImageKeysValues {
        let image = ImageTokens { tokens, mask: None };
        self.text_encoder.image_keys_values(&[image])
    }

    /// Vocabulary logits at masked places. `masked_input_ids`: `[batch, seq]`; returns
    /// `[masked, vocab_size]`.
    pub fn mlm_logits(
        &self,
        masked_input_ids: Tensor<2, Int>,
        mask: Tensor<3>,
        image: &ImageKeysValues,
        masked: &MaskedPositions,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let bert = &self.text_encoder;
        let text = bert.text(masked_input_ids, mask.clone(), dropout.map(|d| d.at(0)));
        let fused = bert.fusion(text, mask, image, dropout.map(|d| d.at(1)));
        let [batch, seq, width] = fused.dims();
        let index = int_vector(&masked.index, &fused.device());
        bert.mlm_logits(fused.reshape([batch * seq, width]).select(0, index))
    }

    /// As [`Self::mlm_logits`] without padding. `masked_input_ids`: `[rows]`, packed as `packing`,
    /// text `i` beside image `i`; `asked`: the masked places.
    pub fn mlm_logits_rows(
        &self,
        masked_input_ids: Tensor<1, Int>,
        packing: &Packing,
        image: &ImageKeysValues,
        asked: &Asked,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let bert = &self.text_encoder;
        bert.mlm_logits(bert.multi_modal_rows(masked_input_ids, packing, image, asked, dropout))
    }
}

/// An encoded batch of texts without padding.
#[derive(Clone, Debug)]
pub struct TextRows {
    /// The rows that were asked for, `[rows, text.hidden_size]`.
    pub tokens: Tensor<2>,
    /// Projected CLS, unit rows, `[texts, embed_dim]`.
    pub embed: Tensor<2>,
}

/// The model: encoders, the matching head and the learnable temperature.
#[derive(Module, Debug)]
pub struct Albef {
    /// Both encoders.
    pub encoders: AlbefEncoders,
    /// `text.hidden_size -> 2` on the fused CLS; logit 1 is "they match".
    pub itm_head: Linear,
    /// `[1]`; similarities are divided by it. Kept in `[0.001, 0.5]` by the training step.
    pub temp: Param<Tensor<1>>,
}

/// One batch, on the plain (not autodiff) device.
#[derive(Clone, Debug)]
pub struct PretrainBatch {
    /// `[batch, 3, image_size, image_size]`, normalised.
    pub image: Tensor<4>,
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
    /// `[batch, seq]`, some tokens replaced.
    pub masked_input_ids: Tensor<2, Int>,
    /// Which, and by what.
    pub masked: MaskedPositions,
}

/// What the contrastive loss remembers of earlier batches, on the plain device.
#[derive(Clone, Debug)]
pub struct ItcMemory {
    /// Earlier momentum image embeddings, `[embed_dim, queue]`.
    pub image_queue: Tensor<2>,
    /// Earlier momentum text embeddings, `[embed_dim, queue]`.
    pub text_queue: Tensor<2>,
    /// Rows of [`crate::objectives::itc::identity_targets`] or
    /// [`crate::objectives::itc::id_targets`], `[batch, batch + queue]`.
    pub hard_targets: TensorData,
}

/// Which objectives a step computes, and how much the momentum model says.
#[derive(Clone, Debug)]
pub struct PretrainObjectives {
    /// Contrastive loss, with its memory.
    pub itc: Option<ItcMemory>,
    /// Matching loss, with its negatives.
    pub itm: Option<NegativeDraw>,
    /// Masked language modelling.
    pub mlm: bool,
    /// Share of the momentum model in the contrastive targets, `[0, 1]`.
    pub alpha_itc: f64,
    /// Share of the momentum model in the word targets, `[0, 1]`.
    pub alpha_mlm: f64,
}

/// Losses of a step with what belongs to them.
#[derive(Clone, Debug)]
pub struct PretrainOutput {
    /// Contrastive loss and similarities.
    pub itc: Option<Itc>,
    /// Momentum embeddings of this batch, `[batch, embed_dim]` each, to be enqueued.
    pub keys: Option<ItcKeys>,
    /// Matching loss and logits.
    pub itm: Option<Itm>,
    /// Masked-word loss, `[1]`; absent when nothing was masked.
    pub mlm: Option<Tensor<1>>,
}

impl Albef {
    /// The matching logits of encoded texts, `[rows, text.hidden_size]`, against images, `[pairs,
    /// 2]`.
    pub fn itm_logits(
        &self,
        text_tokens: Tensor<2>,
        packing: &Packing,
        pairs: &Pairs,
        image: &ImageKeysValues,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let bert = &self.encoders.text_encoder;
        let fused = bert.fusion_rows(text_tokens, packing, pairs, image, &Asked::First, dropout);
        self.itm_head.forward(fused)
    }

    /// One pre-training step's losses. `self` lives on an autodiff device, `momentum` (already
    /// updated for this step) and the batch on the device below it. The order of all random draws
    /// is the caller's: nothing here draws or remembers.
    ///
    /// Texts go through without padding, and no layer computes rows that no loss reads.
    pub fn pretrain(
        &self,
        momentum: &AlbefEncoders,
        batch: &PretrainBatch,
        objectives: &PretrainObjectives,
        dropout: Option<DropoutSeed>,
    ) -> PretrainOutput {
        let packing = Packing::from_mask(batch.attention_mask.clone());
        let input_ids = packing.pack(batch.input_ids.clone());
        let image = self
            .encoders
            .encode_image(Tensor::from_inner(batch.image.clone()));
        let text = self.encoders.encode_text_rows(
            Tensor::from_inner(input_ids.clone()),
            &packing,
            if objectives.itm.is_some() {
                Asked::All
            } else {
                Asked::First
            },
            dropout.map(|d| d.at(0)),
        );
        let distill_mlm = objectives.mlm && objectives.alpha_mlm > 0.0;
        let image_m = (objectives.itc.is_some() || distill_mlm)
            .then(|| momentum.encode_image(batch.image.clone()));

        let keys = objectives.itc.as_ref().zip(image_m.as_ref());
        let keys = keys.map(|(memory, image_m)| {
            let text_m = momentum.encode_text_rows(input_ids, &packing, Asked::First, None);
            ItcKeys {
                image: image_m.embed.clone(),
                text: text_m.embed,
                image_queue: memory.image_queue.clone(),
                text_queue: memory.text_queue.clone(),
            }
        });
        let itc = keys.as_ref().zip(objectives.itc.as_ref());
        let itc = itc.map(|(keys, memory)| {
            let targets = Tensor::from_data(memory.hard_targets.clone(), &batch.image.device());
            itc::itc(
                image.embed.clone(),
                text.embed.clone(),
                &ItcKeys {
                    image: Tensor::from_inner(keys.image.clone()),
                    text: Tensor::from_inner(keys.text.clone()),
                    image_queue: Tensor::from_inner(keys.image_queue.clone()),
                    text_queue: Tensor::from_inner(keys.text_queue.clone()),
                },
                self.temp.val(),
                Tensor::from_inner(targets),
                objectives.alpha_itc,
            )
        });

        let masks = objectives.mlm && !batch.masked.token.is_empty();
        let image_kv = (masks || objectives.itm.is_some())
            .then(|| self.encoders.image_keys_values(image.tokens.clone()));
        let itm = objectives.itm.as_ref().zip(image_kv.as_ref());
        let itm = itm.map(|(draw, image_kv)| {
            let negatives = draw.negatives(|| self.similarities(&image.embed, &text.embed, &itc));
            let dropout = dropout.map(|d| d.at(1));
            self.itm_loss(text.tokens.clone(), &packing, image_kv, &negatives, dropout)
        });

        let mlm = image_kv.filter(|_| masks).map(|image_kv| {
            let masked_ids = packing.pack(batch.masked_input_ids.clone());
            let [texts, seq] = batch.input_ids.dims();
            let asked = Asked::at(&batch.masked.index, texts, seq);
            let logits = self.encoders.mlm_logits_rows(
                Tensor::from_inner(masked_ids.clone()),
                &packing,
                &image_kv,
                &asked,
                dropout.map(|d| d.at(2)),
            );
            let teacher = image_m.filter(|_| distill_mlm).map(|image_m| {
                let image_kv = momentum.image_keys_values(image_m.tokens);
                let logits =
                    momentum.mlm_logits_rows(masked_ids, &packing, &image_kv, &asked, None);
                Tensor::from_inner(logits)
            });
            let tokens = int_vector(&batch.masked.token, &logits.device());
            mlm::mlm(logits, tokens, teacher, objectives.alpha_mlm)
        });

        PretrainOutput {
            itc,
            keys,
            itm,
            mlm,
        }
    }

    /// Similarities inside the batch, `[batch, batch]` row-major, image to text and text to image:
    /// those of the contrastive loss where it is computed. `image`, `text`: `[batch, embed_dim]`.
    fn similarities(
        &self,
        image: &Tensor<2>,
        text: &Tensor<2>,
        itc: &Option<Itc>,
    ) -> (Vec<f32>, Vec<f32>) {
        if let Some(itc) = itc {
            let batch = image.dims()[0];
            let inside = |sim: &Tensor<2>| host_values(sim.clone().inner().narrow(1, 0, batch));
            return (inside(&itc.sim_i2t), inside(&itc.sim_t2i));
        }
        let sim = image.clone().matmul(text.clone().transpose()) / self.temp.val().unsqueeze();
        let sim = sim.inner();
        (host_values(sim.clone()), host_values(sim.transpose()))
    }

    /// The matching loss over positives, (text, negative image) and (negative text, image), in
    /// one pass; the keys and values of each image are those already computed. `text_tokens`:
    /// `[rows, text.hidden_size]`.
    fn itm_loss(
        &self,
        text_tokens: Tensor<2>,
        packing: &Packing,
        image: &ImageKeysValues,
        negatives: &Negatives,
        dropout: Option<DropoutSeed>,
    ) -> Itm {
        let own: Vec<usize> = (0..packing.texts()).collect();
        let pairs = Pairs {
            texts: [&own[..], &own, &negatives.text_idx].concat(),
            images: [&own[..], &negatives.image_idx, &own].concat(),
        };
        let logits = self.itm_logits(text_tokens, packing, &pairs, image, dropout);
        let labels = Tensor::from_data(itm::labels(own.len()), &logits.device());
        itm::itm(logits, labels)
    }
}

fn int_vector(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

impl System for Albef {
    fn encode_images(&self, image: Tensor<4>) -> EncodedImages {
        let features = self.encoders.encode_image(image);
        EncodedImages {
            tokens: features.tokens,
            embed: Some(features.embed),
        }
    }

    fn embed_images(&self, image: Tensor<4>) -> Option<Tensor<2>> {
        Some(self.encoders.embed_image(image))
    }

    fn encode_texts(&self, input_ids: Tensor<1, Int>, packing: &Packing) -> EncodedTexts {
        let text = self
            .encoders
            .encode_text_rows(input_ids, packing, Asked::All, None);
        EncodedTexts {
            tokens: text.tokens,
            packing: packing.clone(),
            embed: Some(text.embed),
        }
    }

    fn embed_dim(&self) -> Option<usize> {
        Some(self.encoders.text_proj.weight.dims()[1])
    }

    fn logit_scale(&self) -> f32 {
        self.temp.val().into_scalar::<f32>().recip()
    }

    fn matching(&self) -> Option<&dyn Matching> {
        Some(self)
    }

    fn masked_words(&self) -> Option<&dyn MaskedWords> {
        Some(&self.encoders)
    }

    fn grounding(&self) -> Option<&dyn Grounding> {
        Some(self)
    }
}

impl Matching for Albef {
    /// Keys and values of the fusion layers' cross-attention, in turn.
    fn image_parts(&self, tokens: Tensor<3>) -> Vec<Tensor<3>> {
        let image = self.encoders.image_keys_values(tokens);
        let layers = image.layers.into_iter();
        layers.flat_map(|kv| [kv.keys, kv.values]).collect()
    }

    fn pair_logits(
        &self,
        texts: &EncodedTexts,
        image_parts: &[Tensor<3>],
        pairs: &Pairs,
    ) -> Tensor<2> {
        let layers = image_parts.as_chunks::<2>().0.iter();
        let image = ImageKeysValues {
            layers: layers
                .map(|[keys, values]| KeysValues {
                    keys: keys.clone(),
                    values: values.clone(),
                    mask: None,
                })
                .collect(),
        };
        self.itm_logits(texts.tokens.clone(), &texts.packing, pairs, &image, None)
    }
}

impl MaskedWords for AlbefEncoders {
    fn gap_logits(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        masked: &MaskedPositions,
    ) -> Tensor<2> {
        let image = self.image_keys_values(self.visual_encoder.forward(image));
        self.mlm_logits(
            input_ids,
            padding_mask(attention_mask),
            &image,
            masked,
            None,
        )
    }
}

impl Teacher for AlbefEncoders {
    fn embed_images(&self, image: Tensor<4>) -> Tensor<2> {
        self.embed_image(image)
    }

    fn embed_texts(&self, input_ids: Tensor<2, Int>, attention_mask: Tensor<2, Int>) -> Tensor<2> {
        self.encode_text(input_ids, attention_mask, None).embed
    }
}
