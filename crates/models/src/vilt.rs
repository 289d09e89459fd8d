//! ViLT: *Vision-and-Language Transformer Without Convolution or Region Supervision* (Kim et al.
//! 2021, arXiv 2102.03334).
//!
//! One transformer, started from an image classifier's, reads word embeddings and linearly
//! projected patches as a single sequence: there is no image encoder before the fusion. Images
//! keep their aspect ratio, so those of a batch differ in size and are padded ([`patch_selection`]
//! says what is read of them). Trained with masked language modelling (`mlm`), image-text matching
//! (`itm`) and word-patch alignment (`wpa`). Exact against `modules/vilt_module.py`.
//!
//! [`patch_selection`]: crate::layers::patch_selection

pub mod downstream;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::layers::bert::BertEmbeddings;
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::{Packing, Pairs};
use crate::layers::patch_selection::{PatchMask, PatchSelection};
use crate::layers::vision_transformer::{VisionTransformer, VisionTransformerConfig};
use crate::layers::{LayerNorm, Linear, linear, linear_gelu};
use crate::objectives::itm::{self, Itm};
use crate::objectives::mlm::{self, MaskedPositions};
use crate::objectives::wpa::{self, Wpa};
use crate::system::{EncodedImages, EncodedTexts, MaskedWords, Matching, System, SystemConfig};

/// Epsilon of the text side's LayerNorms, BERT's.
const TEXT_EPSILON: f64 = 1e-12;

/// Sizes of a ViLT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViltConfig {
    /// The transformer. `image_size` fixes the grid of the learned positions (384 in the
    /// original), not the size of the images.
    pub vision: VisionTransformerConfig,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest text in tokens.
    #[serde(default = "forty")]
    pub max_text_len: usize,
    /// Kinds of tokens: text, image and, for NLVR2, second image.
    #[serde(default = "two")]
    pub token_types: usize,
    /// Dropout after embeddings and linear layers, `[0, 1)`.
    #[serde(default = "tenth")]
    pub drop_rate: f64,
}

fn forty() -> usize {
    40
}
fn two() -> usize {
    2
}
fn tenth() -> f64 {
    0.1
}

impl ViltConfig {
    /// The model with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> Vilt {
        let width = self.vision.width;
        Vilt {
            stream: self.init_stream(device),
            mlm_score: MlmScore {
                transform: linear(width, width, device),
                layer_norm: LayerNorm::new(width, TEXT_EPSILON, device),
                decoder: linear(width, self.vocab_size, device),
            },
            itm_score: linear(width, 2, device),
        }
    }

    /// The part that every task shares, with all weights zero.
    pub fn init_stream(&self, device: &Device) -> ViltStream {
        let width = self.vision.width;
        // BERT's own segment table has two rows, of which the first is added everywhere.
        let tables = [self.vocab_size, self.max_text_len, 2];
        ViltStream {
            text_embeddings: BertEmbeddings::new(
                tables,
                width,
                TEXT_EPSILON,
                self.drop_rate,
                device,
            ),
            token_type_embeddings: EmbeddingConfig::new(self.token_types, width)
                .with_initializer(Initializer::Zeros)
                .init(device),
            transformer: self.vision.init(device),
            pooler: linear(width, width, device),
            drop_rate: self.drop_rate,
        }
    }
}

impl SystemConfig for ViltConfig {
    fn image_size(&self) -> usize {
        self.vision.image_size
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_tokens(&self) -> usize {
        self.max_text_len
    }

    fn problem(&self) -> Option<String> {
        let vision = &self.vision;
        vision.problem("vision").or_else(|| {
            (self.token_types < 2)
                .then(|| format!("token_types = {} must be at least 2", self.token_types))
        })
    }
}

/// Texts of a batch.
#[derive(Clone, Debug)]
pub struct ViltTexts {
    /// `[batch, seq]`, `[CLS]` first, `[SEP]` last.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
}

/// Images of a batch.
#[derive(Clone, Debug)]
pub struct ViltImages {
    /// `[batch, 3, height, width]`, normalised with mean and deviation 0.5, padded with zeros at
    /// the right and at the bottom; sides multiples of the patch size.
    pub pixels: Tensor<4>,
    /// The patches that are read.
    pub selection: PatchSelection,
}

/// Embedded patches: what an image contributes, whatever the text.
#[derive(Clone, Debug)]
pub struct PatchTokens {
    /// `[batch, 1 + patches, width]`, CLS first, positions added.
    pub tokens: Tensor<3>,
    /// `[batch, 1 + patches]`, 1 for real patches and CLS.
    pub mask: Tensor<2, Int>,
}

impl PatchTokens {
    /// Every image `times` times in a row: `[batch * times, ..]`.
    pub fn repeat(&self, times: usize) -> Self {
        let [batch, tokens, width] = self.tokens.dims();
        let repeated = self.tokens.clone().unsqueeze_dim::<4>(1);
        let mask = self.mask.clone().unsqueeze_dim::<3>(1);
        Self {
            tokens: repeated.expand([batch, times, tokens, width]).reshape([
                batch * times,
                tokens,
                width,
            ]),
            mask: mask
                .expand([batch, times, tokens])
                .reshape([batch * times, tokens]),
        }
    }
}

/// Which of NLVR2's two images: it gets its own token type. Every other task has the first only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageType {
    /// The only image, or NLVR2's first.
    First,
    /// NLVR2's second; the model needs `token_types = 3`.
    Second,
}

/// Texts and images after the transformer.
#[derive(Clone, Debug)]
pub struct ViltFeatures {
    /// `[batch, seq, width]`; the first, `[CLS]`, is what the pooler reads.
    pub text_tokens: Tensor<3>,
    /// `[batch, seq]`, 1 for real tokens.
    pub text_mask: Tensor<2, Int>,
    /// `[batch, 1 + patches, width]`, CLS first; meaningless where the mask is 0.
    pub image_tokens: Tensor<3>,
    /// `[batch, 1 + patches]`, 1 for real patches and CLS.
    pub image_mask: Tensor<2, Int>,
    /// `tanh` of a linear layer on the text's `[CLS]`, `[batch, width]`: what the heads read.
    pub pooled: Tensor<2>,
}

/// Embeddings, transformer and pooler.
#[derive(Module, Debug)]
pub struct ViltStream {
    /// Token ids to vectors.
    pub text_embeddings: BertEmbeddings,
    /// `[token_types, width]`: text, image, second image.
    pub token_type_embeddings: Embedding,
    /// Patch embedding, positions, blocks and final norm.
    pub transformer: VisionTransformer,
    /// `width -> width`.
    pub pooler: Linear,
    drop_rate: f64,
}

impl ViltStream {
    /// The patches that are read, with CLS in front and positions added.
    pub fn embed_image(&self, images: &ViltImages) -> PatchTokens {
        let transformer = &self.transformer;
        let selection = &images.selection;
        let patches = transformer.patch_embed.forward(images.pixels.clone());
        let patches = selection.select(patches);
        let [batch, _, width] = patches.dims();
        let pos_embed = transformer.pos_embed.val();
        let cells = pos_embed.dims()[1] - 1;
        let of_cls = pos_embed.clone().narrow(1, 0, 1);
        let of_grid = pos_embed.narrow(1, 1, cells).reshape([cells, width]);
        let cls = (transformer.cls_token.val() + of_cls).expand([batch, 1, width]);
        let patches = patches + selection.positions(of_grid);
        let mask = selection.mask(&patches.device());
        let real = Tensor::ones([batch, 1], &mask.device());
        PatchTokens {
            tokens: Tensor::cat(vec![cls, patches], 1),
            mask: Tensor::cat(vec![real, mask], 1),
        }
    }

    /// Pairs through the transformer: text `i` with image `i`.
    pub fn infer(
        &self,
        texts: &ViltTexts,
        images: &ViltImages,
        dropout: Option<DropoutSeed>,
    ) -> ViltFeatures {
        self.fuse(texts, self.embed_image(images), ImageType::First, dropout)
    }

    /// As [`Self::infer`] with embedded images, which many texts may share.
    pub fn fuse(
        &self,
        texts: &ViltTexts,
        images: PatchTokens,
        image_type: ImageType,
        dropout: Option<DropoutSeed>,
    ) -> ViltFeatures {
        let text = self.typed_text(texts.input_ids.clone(), dropout);
        let image = self.typed_image(images.tokens, image_type, dropout);
        let (seq, patches) = (text.dims()[1], image.dims()[1]);
        let masks = vec![texts.attention_mask.clone(), images.mask.clone()];
        let mask = hidden_keys(Tensor::cat(masks, 1));
        let x = self.run(text, image, mask, dropout);
        ViltFeatures {
            text_tokens: x.clone().narrow(1, 0, seq),
            text_mask: texts.attention_mask.clone(),
            pooled: self.pool(&x),
            image_tokens: x.narrow(1, seq, patches),
            image_mask: images.mask,
        }
    }

    /// Embedded words with the text's type, `[batch, seq, width]`.
    fn typed_text(&self, input_ids: Tensor<2, Int>, dropout: Option<DropoutSeed>) -> Tensor<3> {
        let dropout = dropout.map(|seed| seed.at(1000));
        self.text_embeddings.forward(input_ids, dropout) + self.token_type(0)
    }

    /// Embedded patches with their type; same shape as `tokens`, `[batch, 1 + patches, width]`.
    fn typed_image(
        &self,
        tokens: Tensor<3>,
        image_type: ImageType,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let tokens = match dropout {
            Some(seed) => seed.at(1001).apply(tokens, self.drop_rate),
            None => tokens,
        };
        tokens
            + self.token_type(match image_type {
                ImageType::First => 1,
                ImageType::Second => 2,
            })
    }

    /// `[1, 1, width]`.
    fn token_type(&self, row: usize) -> Tensor<3> {
        let row = self.token_type_embeddings.weight.val().narrow(0, row, 1);
        row.unsqueeze_dim::<3>(0)
    }

    /// Text and image in one sequence through the transformer and its norm. `mask`: additive,
    /// `[batch, 1, seq + 1 + patches]`; returns `[batch, seq + 1 + patches, width]`.
    fn run(
        &self,
        text: Tensor<3>,
        image: Tensor<3>,
        mask: Tensor<3>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        let mut x = Tensor::cat(vec![text, image], 1);
        for (place, block) in (0..).zip(&self.transformer.blocks) {
            let dropout = dropout.map(|seed| (seed.at(place), self.drop_rate));
            x = block.forward_masked(x, mask.clone(), dropout);
        }
        self.transformer.norm.forward(x)
    }

    /// What the heads read of `[batch, tokens, width]`: `[batch, width]`.
    fn pool(&self, tokens: &Tensor<3>) -> Tensor<2> {
        let first = tokens.clone().narrow(1, 0, 1).squeeze_dim(1);
        self.pooler.forward::<2>(first).tanh()
    }

    /// Square images that fill the batch, all their patches read. `image`: `[batch, 3, side,
    /// side]`, the side a multiple of the patch size.
    pub fn whole_images(&self, image: Tensor<4>) -> ViltImages {
        let [batch, _, height, width] = image.dims();
        let patch = self.transformer.patch_embed.patch_size();
        let grid = [height / patch, width / patch];
        let mask = PatchMask::from_sizes(&vec![grid; batch], grid);
        ViltImages {
            pixels: image,
            selection: PatchSelection::all(&mask, None),
        }
    }

    /// A model for NLVR2 from one for single images: the second image's token type starts as a
    /// copy of the first's. A model that has it already stays as it is.
    #[must_use]
    pub fn with_second_image(mut self) -> Self {
        let embedding = &mut self.token_type_embeddings;
        embedding.weight = embedding.weight.clone().map(|rows| {
            if rows.dims()[0] > 2 {
                return rows;
            }
            let trained = rows.is_require_grad();
            let image = rows.clone().narrow(0, 1, 1);
            let rows = Tensor::cat(vec![rows, image], 0);
            rows.detach().set_require_grad(trained)
        });
        self
    }
}

/// Additive mask that hides keys: 0 where `mask` is 1, minus infinity where it is 0.
///
/// Minus infinity as in the original. The image's CLS is never hidden, so every row keeps a key
/// and no softmax divides by zero; the probability of a hidden key is exactly 0 in the plain
/// operator and `e^-87`, which no float32 sum notices, in the fused one. `mask`: `[batch, keys]`;
/// returns `[batch, 1, keys]`.
fn hidden_keys(mask: Tensor<2, Int>) -> Tensor<3> {
    let hidden = mask.equal_elem(0);
    Tensor::<2>::zeros(hidden.dims(), &hidden.device())
        .mask_fill(hidden, f32::NEG_INFINITY)
        .unsqueeze_dim(1)
}

/// Masked-language-modelling head; unlike BERT's its output matrix is its own.
#[derive(Module, Debug)]
pub struct MlmScore {
    /// `width -> width`.
    pub transform: Linear,
    /// After the GELU.
    pub layer_norm: LayerNorm,
    /// `width -> vocab_size`.
    pub decoder: Linear,
}

impl MlmScore {
    /// Vocabulary logits. `hidden`: `[n, width]`; returns `[n, vocab_size]`.
    pub fn forward(&self, hidden: Tensor<2>) -> Tensor<2> {
        let x = linear_gelu(&self.transform, hidden);
        self.decoder.forward(self.layer_norm.forward(x))
    }
}

/// The model with its pre-training heads.
#[derive(Module, Debug)]
pub struct Vilt {
    /// What every task shares.
    pub stream: ViltStream,
    /// Hidden vectors to vocabulary logits.
    pub mlm_score: MlmScore,
    /// `width -> 2`; logit 1 is "they match".
    pub itm_score: Linear,
}

/// One batch, on the plain (not autodiff) device.
#[derive(Clone, Debug)]
pub struct PretrainBatch {
    /// The captions.
    pub texts: ViltTexts,
    /// `[batch, seq]`, the captions with some tokens replaced.
    pub masked_input_ids: Tensor<2, Int>,
    /// Which, and by what.
    pub masked: MaskedPositions,
    /// The captions' images.
    pub images: ViltImages,
    /// The images that the captions are matched with: their own where the label is 1, another
    /// where it is 0. The original gives half of a batch each label.
    pub itm_images: ViltImages,
    /// `[batch]`, 0 or 1.
    pub itm_labels: Vec<i64>,
}

/// Losses of a step with what belongs to them.
#[derive(Clone, Debug)]
pub struct PretrainOutput {
    /// Masked-word loss, `[1]`; absent when nothing was masked.
    pub mlm: Option<Tensor<1>>,
    /// Matching loss and logits.
    pub itm: Itm,
    /// Alignment loss of the matching pass, to be multiplied by [`wpa::WEIGHT`].
    pub wpa: Wpa,
}

impl Vilt {
    /// Vocabulary logits at masked places, `[masked, vocab_size]`. `text_tokens`: `[batch, seq,
    /// width]`, of the masked texts.
    pub fn mlm_logits(&self, text_tokens: Tensor<3>, masked: &MaskedPositions) -> Tensor<2> {
        let [batch, seq, width] = text_tokens.dims();
        let index = TensorData::new(masked.index.clone(), [masked.index.len()]);
        let index = Tensor::from_data(index, &text_tokens.device());
        let hidden = text_tokens.reshape([batch * seq, width]).select(0, index);
        self.mlm_score.forward(hidden)
    }

    /// One pre-training step's losses. `self` lives on an autodiff device, the batch on the
    /// device below it. Masked words and matching are two passes, as in the original.
    pub fn pretrain(&self, batch: &PretrainBatch, dropout: Option<DropoutSeed>) -> PretrainOutput {
        let texts = |input_ids: &Tensor<2, Int>| ViltTexts {
            input_ids: Tensor::from_inner(input_ids.clone()),
            attention_mask: Tensor::from_inner(batch.texts.attention_mask.clone()),
        };
        let images = |images: &ViltImages| ViltImages {
            pixels: Tensor::from_inner(images.pixels.clone()),
            selection: images.selection.clone(),
        };

        let mlm = (!batch.masked.token.is_empty()).then(|| {
            let texts = texts(&batch.masked_input_ids);
            let dropout = dropout.map(|d| d.at(0));
            let features = self.stream.infer(&texts, &images(&batch.images), dropout);
            let logits = self.mlm_logits(features.text_tokens, &batch.masked);
            let tokens = TensorData::new(batch.masked.token.clone(), [batch.masked.token.len()]);
            let tokens = Tensor::from_data(tokens, &logits.device());
            mlm::mlm(logits, tokens, None, 0.0)
        });

        let texts = texts(&batch.texts.input_ids);
        let dropout = dropout.map(|d| d.at(1));
        let features = self
            .stream
            .infer(&texts, &images(&batch.itm_images), dropout);
        let logits = self.itm_score.forward(features.pooled);
        let labels = TensorData::new(batch.itm_labels.clone(), [batch.itm_labels.len()]);
        let labels = Tensor::<1, Int>::from_data(labels, &logits.device());
        PretrainOutput {
            mlm,
            itm: itm::itm(logits, labels.clone()),
            wpa: wpa::wpa(
                features.text_tokens,
                features.image_tokens,
                features.text_mask,
                features.image_mask,
                labels,
            ),
        }
    }
}

/// Pictures and texts are only ever read together: there is nothing to compare ahead.
impl System for Vilt {
    fn encode_images(&self, image: Tensor<4>) -> EncodedImages {
        let patches = self.stream.embed_image(&self.stream.whole_images(image));
        EncodedImages {
            tokens: self
                .stream
                .typed_image(patches.tokens, ImageType::First, None),
            embed: None,
        }
    }

    fn encode_texts(&self, input_ids: Tensor<1, Int>, packing: &Packing) -> EncodedTexts {
        let (ids, _) = packing.pad_ids(input_ids);
        EncodedTexts {
            tokens: packing.pack_rows(self.stream.typed_text(ids, None)),
            packing: packing.clone(),
            embed: None,
        }
    }

    fn embed_dim(&self) -> Option<usize> {
        None
    }

    fn logit_scale(&self) -> f32 {
        1.0
    }

    fn matching(&self) -> Option<&dyn Matching> {
        Some(self)
    }

    fn masked_words(&self) -> Option<&dyn MaskedWords> {
        Some(self)
    }
}

impl Matching for Vilt {
    /// The embedded patches: nothing else can be shared.
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
        let [batch, patches, _] = image.dims();
        let real = Tensor::zeros([batch, 1, patches], &image.device());
        let mask = Tensor::cat(vec![mask, real], 2);
        let x = self.stream.run(tokens, image, mask, None);
        self.itm_score.forward(self.stream.pool(&x))
    }
}

impl MaskedWords for Vilt {
    fn gap_logits(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        masked: &MaskedPositions,
    ) -> Tensor<2> {
        let texts = ViltTexts {
            input_ids,
            attention_mask,
        };
        let images = self.stream.whole_images(image);
        let features = self.stream.infer(&texts, &images, None);
        self.mlm_logits(features.text_tokens, masked)
    }
}
