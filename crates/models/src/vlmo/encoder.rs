//! The Multiway Transformer with its embeddings: what every use of VLMo shares, and its ways of
//! running: a pair fused, or one modality alone (`modules/vlmo_module.py`, `infer*`).

use std::ops::Range;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Int, Tensor};

use super::{Positions, VlmoConfig};
use crate::layers::bert::BertEmbeddings;
use crate::layers::block_compute::BlockCompute;
use crate::layers::dropout::DropoutSeed;
use crate::layers::mome_block::{LAYER_NORM_EPS, Modality, MomeBlock, MomeBlockConfig, key_mask};
use crate::layers::patch_embed::PatchEmbed;
use crate::layers::relative_position::RelativePositionBias;
use crate::layers::{LayerNorm, Linear, first_token, linear};

/// Epsilon of the LayerNorms that VLMo takes from BERT.
pub(super) const TEXT_LAYER_NORM_EPS: f64 = 1e-12;

/// Row of the token types that marks text.
const TEXT_TYPE: usize = 0;
/// Row of the token types that marks the image; NLVR2's second image is the next one.
pub const IMAGE_TYPE: usize = 1;

/// A batch of texts.
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// `[batch, seq]`, `[CLS]` first; `seq` at most `max_text_len`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`, 1 for real tokens.
    pub attention_mask: Tensor<2, Int>,
}

impl TextBatch {
    /// The texts at `index`, `[n]`.
    pub fn select(&self, index: Tensor<1, Int>) -> Self {
        Self {
            input_ids: self.input_ids.clone().select(0, index.clone()),
            attention_mask: self.attention_mask.clone().select(0, index),
        }
    }
}

/// Pairs whose modalities saw each other.
#[derive(Clone, Debug)]
pub struct FusedFeatures {
    /// After the final norm, `[batch, seq, width]`.
    pub text_tokens: Tensor<3>,
    /// After the final norm, `[batch, 1 + patches, width]`.
    pub image_tokens: Tensor<3>,
    /// `tanh` of a linear layer on the text's `[CLS]`, `[batch, width]`.
    pub pooled: Tensor<2>,
}

/// One modality that passed its own experts alone.
#[derive(Clone, Debug)]
pub struct ModalityFeatures {
    /// After the final norm, `[batch, tokens, width]`, CLS first.
    pub tokens: Tensor<3>,
    /// CLS before the final norm, `[batch, width]`.
    pub raw_cls: Tensor<2>,
}

/// One modality alone, in both ways through the upper layers.
#[derive(Clone, Debug)]
pub struct BranchedFeatures {
    /// Through the modality's own experts to the end.
    pub own: ModalityFeatures,
    /// Through the vision-language experts from their first layer on, after the final norm,
    /// `[batch, tokens, width]`.
    pub vl_tokens: Tensor<3>,
}

impl VlmoConfig {
    /// Embeddings, transformer and pooler with all weights zero; see
    /// [`crate::weights::initialize`].
    pub fn init_encoder(&self, device: &Device) -> VlmoEncoder {
        self.encoder(2, device)
    }

    /// `token_types`: text, image, and for NLVR2 a second image.
    pub(super) fn encoder(&self, token_types: usize, device: &Device) -> VlmoEncoder {
        let zeros = Initializer::Zeros;
        let relative_position = match self.positions {
            Positions::Relative { table_text_len } => Some(RelativePositionBias::new(
                self.grid(),
                table_text_len,
                self.heads,
                self.depth,
                device,
            )),
            Positions::Absolute => None,
        };
        let pos_embed = matches!(self.positions, Positions::Absolute)
            .then(|| zeros.init([1, self.image_tokens(), self.width], device));
        let block = |layer: usize| MomeBlockConfig {
            width: self.width,
            heads: self.heads,
            mlp_ratio: self.mlp_ratio,
            layer_scale: self.layer_scale,
            vl_expert: layer >= self.vl_start_layer,
            // Deeper blocks are left out more often, the first never.
            drop_path: self.drop_path * layer as f64 / (self.depth - 1).max(1) as f64,
        };
        VlmoEncoder {
            transformer: MultiwayTransformer {
                cls_token: zeros.init([1, 1, self.width], device),
                pos_embed,
                patch_embed: PatchEmbed::new(self.patch_size, self.width, device),
                blocks: (0..self.depth).map(|i| block(i).init(device)).collect(),
                norm: LayerNorm::new(self.width, LAYER_NORM_EPS, device),
                vl_start_layer: self.vl_start_layer,
            },
            relative_position,
            text_embeddings: BertEmbeddings::new(
                [self.vocab_size, self.max_text_len, 2],
                self.width,
                TEXT_LAYER_NORM_EPS,
                self.drop_path,
                device,
            ),
            token_type_embeddings: EmbeddingConfig::new(token_types, self.width)
                .with_initializer(zeros)
                .init(device),
            pooler: linear(self.width, self.width, device),
        }
    }
}

/// The part that all heads stand on; field names follow the official state dict.
#[derive(Module, Debug)]
pub struct VlmoEncoder {
    /// Image embedding and blocks.
    pub transformer: MultiwayTransformer,
    /// With relative positions.
    pub relative_position: Option<RelativePositionBias>,
    /// Token ids to vectors. With relative positions their position table is kept, as in the
    /// published weights, and never read.
    pub text_embeddings: BertEmbeddings,
    /// `[2, width]` (3 rows for NLVR2): text, image, second image.
    pub token_type_embeddings: Embedding,
    /// `width -> width`, for fused pairs.
    pub pooler: Linear,
}

/// Image embedding and the blocks.
#[derive(Module, Debug)]
pub struct MultiwayTransformer {
    /// The image's, `[1, 1, width]`.
    pub cls_token: Param<Tensor<3>>,
    /// The image's, `[1, 1 + patches, width]`; with absolute positions.
    pub pos_embed: Option<Param<Tensor<3>>>,
    /// Image to patch tokens.
    pub patch_embed: PatchEmbed,
    /// The blocks, in order.
    pub blocks: Vec<MomeBlock>,
    /// Over all tokens, after the last block.
    pub norm: LayerNorm,
    vl_start_layer: usize,
}

/// Embedded tokens with what attention has to know of them.
struct Sequence {
    /// `[batch, tokens, width]`.
    tokens: Tensor<3>,
    modality: Modality,
    /// See [`key_mask`]; absent when every token is real.
    mask: Option<Tensor<3>>,
    /// Per layer, `[heads, tokens, tokens]`; empty with absolute positions.
    bias: Vec<Tensor<3>>,
}

impl VlmoEncoder {
    /// How the blocks are computed in training.
    pub fn set_block_compute(&mut self, compute: BlockCompute) {
        for block in &mut self.transformer.blocks {
            block.compute = compute;
        }
    }

    /// Texts and images in one sequence, pair by pair. `image`: `[batch, 3, image_size,
    /// image_size]`, normalised with mean and deviation 0.5; `image_type`: [`IMAGE_TYPE`], or the
    /// next for NLVR2's second image; `dropout`: absent in inference.
    pub fn fused(
        &self,
        text: &TextBatch,
        image: Tensor<4>,
        image_type: usize,
        dropout: Option<DropoutSeed>,
    ) -> FusedFeatures {
        let texts = self.embed_text(text, dropout);
        let mask = key_mask(text.attention_mask.clone());
        self.fuse(texts, mask, self.embed_image(image, image_type), dropout)
    }

    /// As [`Self::fused`], from what [`Self::embed_text`] and [`Self::embed_image`] give: an image
    /// is embedded once for all texts that meet it. `mask`: additive, `[batch, 1, seq]`.
    pub fn fuse(
        &self,
        texts: Tensor<3>,
        mask: Tensor<3>,
        images: Tensor<3>,
        dropout: Option<DropoutSeed>,
    ) -> FusedFeatures {
        let [batch, seq, _] = texts.dims();
        let image_tokens = images.dims()[1];
        let real = Tensor::zeros([batch, 1, image_tokens], &images.device());
        let bias = self.relative_position.as_ref().map(|p| p.fused(seq));
        let sequence = Sequence {
            tokens: Tensor::cat(vec![texts, images], 1),
            modality: Modality::Fused { text: seq },
            mask: Some(Tensor::cat(vec![mask, real], 2)),
            bias: bias.unwrap_or_default(),
        };
        let depth = self.transformer.blocks.len();
        let tokens = self.run(&sequence, sequence.tokens.clone(), 0..depth, dropout);
        let tokens = self.transformer.norm.forward(tokens);
        FusedFeatures {
            pooled: self.pooler.forward(first_token(&tokens)).tanh(),
            text_tokens: tokens.clone().narrow(1, 0, seq),
            image_tokens: tokens.narrow(1, seq, image_tokens),
        }
    }

    /// Texts alone, through the text experts.
    pub fn text(&self, text: &TextBatch, dropout: Option<DropoutSeed>) -> ModalityFeatures {
        self.alone(&self.text_sequence(text, dropout), dropout).0
    }

    /// Images alone, through the image experts. `image`: as for [`Self::fused`].
    pub fn image(&self, image: Tensor<4>, dropout: Option<DropoutSeed>) -> ModalityFeatures {
        let tokens = self.embed_image(image, IMAGE_TYPE);
        self.alone(&self.image_sequence(tokens), dropout).0
    }

    /// Images alone from their embedded patches, of which some may be replaced, through the image
    /// experts. `patches`: `[batch, patches, width]`, before their places are added.
    pub(super) fn image_of_patches(
        &self,
        patches: Tensor<3>,
        dropout: Option<DropoutSeed>,
    ) -> ModalityFeatures {
        let tokens = self.place_patches(patches, IMAGE_TYPE);
        self.alone(&self.image_sequence(tokens), dropout).0
    }

    /// Texts alone, through the text experts and through the vision-language experts.
    pub fn text_branched(
        &self,
        text: &TextBatch,
        dropout: Option<DropoutSeed>,
    ) -> BranchedFeatures {
        self.branched(self.text_sequence(text, dropout), dropout)
    }

    /// Images alone, through the image experts and through the vision-language experts.
    pub fn image_branched(
        &self,
        image: Tensor<4>,
        dropout: Option<DropoutSeed>,
    ) -> BranchedFeatures {
        let tokens = self.embed_image(image, IMAGE_TYPE);
        self.branched(self.image_sequence(tokens), dropout)
    }

    fn text_sequence(&self, text: &TextBatch, dropout: Option<DropoutSeed>) -> Sequence {
        let tokens = self.embed_text(text, dropout);
        let bias = self.relative_position.as_ref();
        Sequence {
            modality: Modality::Text,
            mask: Some(key_mask(text.attention_mask.clone())),
            bias: bias.map(|p| p.text(tokens.dims()[1])).unwrap_or_default(),
            tokens,
        }
    }

    /// `tokens`: embedded, `[batch, 1 + patches, width]`.
    fn image_sequence(&self, tokens: Tensor<3>) -> Sequence {
        let bias = self.relative_position.as_ref();
        Sequence {
            tokens,
            modality: Modality::Image,
            mask: None,
            bias: bias.map(RelativePositionBias::image).unwrap_or_default(),
        }
    }

    /// Features at the end, and the hidden state that enters the first vision-language layer.
    fn alone(
        &self,
        sequence: &Sequence,
        dropout: Option<DropoutSeed>,
    ) -> (ModalityFeatures, Tensor<3>) {
        let (start, depth) = (
            self.transformer.vl_start_layer,
            self.transformer.blocks.len(),
        );
        let middle = self.run(sequence, sequence.tokens.clone(), 0..start, dropout);
        let last = self.run(sequence, middle.clone(), start..depth, dropout);
        let features = ModalityFeatures {
            raw_cls: first_token(&last),
            tokens: self.transformer.norm.forward(last),
        };
        (features, middle)
    }

    fn branched(&self, sequence: Sequence, dropout: Option<DropoutSeed>) -> BranchedFeatures {
        let (own, middle) = self.alone(&sequence, dropout);
        let (start, depth) = (
            self.transformer.vl_start_layer,
            self.transformer.blocks.len(),
        );
        let text = match sequence.modality {
            Modality::Text => sequence.tokens.dims()[1],
            Modality::Image | Modality::Fused { .. } => 0,
        };
        let sequence = Sequence {
            modality: Modality::Fused { text },
            ..sequence
        };
        let dropout = dropout.map(|d| d.at(BRANCH_PLACE));
        let vl = self.run(&sequence, middle, start..depth, dropout);
        BranchedFeatures {
            own,
            vl_tokens: self.transformer.norm.forward(vl),
        }
    }

    /// `x`, `[batch, tokens, width]`, through some of the blocks.
    fn run(
        &self,
        sequence: &Sequence,
        x: Tensor<3>,
        layers: Range<usize>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<3> {
        layers.fold(x, |x, layer| {
            self.transformer.blocks[layer].forward(
                x,
                sequence.modality,
                sequence.mask.as_ref(),
                sequence.bias.get(layer),
                dropout.map(|d| d.at(layer as u64)),
            )
        })
    }

    /// Words with their places and the text's type, `[batch, seq, width]`.
    pub fn embed_text(&self, text: &TextBatch, dropout: Option<DropoutSeed>) -> Tensor<3> {
        let ids = text.input_ids.clone();
        let dropout = dropout.map(|d| d.at(EMBEDDING_PLACE));
        let x = match self.relative_position {
            Some(_) => self.text_embeddings.forward_unplaced(ids, dropout),
            None => self.text_embeddings.forward(ids, dropout),
        };
        x + self.token_type(TEXT_TYPE)
    }

    /// Patches with CLS in front, their places and type, `[batch, 1 + patches, width]`.
    pub fn embed_image(&self, image: Tensor<4>, image_type: usize) -> Tensor<3> {
        self.place_patches(self.transformer.patch_embed.forward(image), image_type)
    }

    /// CLS in front of the patches, places and type. `patches`: `[batch, patches, width]`; returns
    /// `[batch, 1 + patches, width]`.
    fn place_patches(&self, patches: Tensor<3>, image_type: usize) -> Tensor<3> {
        let transformer = &self.transformer;
        let [batch, _, width] = patches.dims();
        let cls = transformer.cls_token.val().expand([batch, 1, width]);
        let x = Tensor::cat(vec![cls, patches], 1);
        let x = match &transformer.pos_embed {
            Some(positions) => x + positions.val(),
            None => x,
        };
        x + self.token_type(image_type)
    }

    /// `[1, 1, width]`.
    fn token_type(&self, row: usize) -> Tensor<3> {
        let table = self.token_type_embeddings.weight.val();
        table.narrow(0, row, 1).unsqueeze_dim(0)
    }
}

/// Places of the dropout draws that belong to no layer of the main way.
const EMBEDDING_PLACE: u64 = 1000;
const BRANCH_PLACE: u64 = 1001;
