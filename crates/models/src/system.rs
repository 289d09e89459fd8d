//! What a trained system can be asked, whatever it is built of. A system implements what it can
//! do and leaves out the rest: its absence is what callers report.

use std::fmt::Debug;
use std::ops::Range;

use burn::tensor::{Int, Tensor};
use fitup_kernels::attention::row_index;

use crate::layers::packing::{Packing, Pairs};
use crate::objectives::mlm::MaskedPositions;

/// Sizes of a system that the recipe and the data have to fit.
pub trait SystemConfig {
    /// Side of the square input image in pixels.
    fn image_size(&self) -> usize;
    /// Tokens in the vocabulary.
    fn vocab_size(&self) -> usize;
    /// Longest text in tokens.
    fn max_tokens(&self) -> usize;
    /// What does not fit together, as a sentence that names the fields; `None` when all does.
    fn problem(&self) -> Option<String>;
}

/// A sentence where the field `name` of this `value` is 0 or no multiple of the field `of`.
pub(crate) fn no_multiple(name: &str, value: usize, of: &str, unit: usize) -> Option<String> {
    (unit == 0 || value == 0 || !value.is_multiple_of(unit))
        .then(|| format!("{name} = {value} must be a multiple of {of} = {unit}, and not 0"))
}

/// A trained system on the plain (not autodiff) device.
pub trait System: Debug {
    /// `image`: `[n, 3, image_size, image_size]`, normalised.
    fn encode_images(&self, image: Tensor<4>) -> EncodedImages;

    /// The embeddings of [`Self::encode_images`] alone, `[n, embed_dim]`: for an index, which keeps
    /// nothing else. Systems override it where they need less work for it.
    fn embed_images(&self, image: Tensor<4>) -> Option<Tensor<2>> {
        self.encode_images(image).embed
    }

    /// `input_ids`: `[rows]`, the tokens of all texts one after another, packed as `packing`.
    fn encode_texts(&self, input_ids: Tensor<1, Int>, packing: &Packing) -> EncodedTexts;

    /// Width of the embeddings that are compared; `None` where images and texts are only ever
    /// read together.
    fn embed_dim(&self) -> Option<usize>;

    /// What cosines are multiplied by to become contrastive logits; 1 without embeddings.
    fn logit_scale(&self) -> f32;

    /// Whether a picture and a text belong together; `None` without such a head.
    fn matching(&self) -> Option<&dyn Matching>;

    /// Words for gaps; `None` without such a head.
    fn masked_words(&self) -> Option<&dyn MaskedWords>;

    /// What in a picture the words of a text mean; `None` where no layer of matching says so.
    fn grounding(&self) -> Option<&dyn Grounding> {
        None
    }
}

/// A batch of images, encoded apart from any text.
#[derive(Clone, Debug)]
pub struct EncodedImages {
    /// What [`Matching::image_parts`] takes, `[n, tokens, width]`.
    pub tokens: Tensor<3>,
    /// Unit rows, `[n, embed_dim]`; where the system has embeddings.
    pub embed: Option<Tensor<2>>,
}

/// A batch of texts, encoded apart from any image.
#[derive(Clone, Debug)]
pub struct EncodedTexts {
    /// What [`Matching::pair_logits`] takes, `[rows, width]`: the tokens of all texts one after
    /// another.
    pub tokens: Tensor<2>,
    /// Where each text lies among them.
    pub packing: Packing,
    /// Unit rows, `[n, embed_dim]`; where the system has embeddings.
    pub embed: Option<Tensor<2>>,
}

impl EncodedTexts {
    /// Each text once for every time that `texts` names it, in that order.
    pub fn chosen(&self, texts: &[usize]) -> Self {
        Self {
            tokens: self.packing.choose_rows(self.tokens.clone(), texts),
            packing: self.packing.chosen(texts),
            embed: self.embed.clone().map(|embed| {
                let index = row_index(texts.iter().copied(), &embed.device());
                embed.select(0, index)
            }),
        }
    }

    /// Batches of one system as one batch; at least one.
    pub fn cat(batches: Vec<Self>) -> Self {
        let embed: Vec<Tensor<2>> = batches.iter().filter_map(|b| b.embed.clone()).collect();
        let lengths = batches
            .iter()
            .flat_map(|b| b.packing.lengths().iter().copied());
        Self {
            packing: Packing::new(lengths.collect()),
            embed: (!embed.is_empty()).then(|| Tensor::cat(embed, 0)),
            tokens: Tensor::cat(batches.into_iter().map(|b| b.tokens).collect(), 0),
        }
    }

    /// For systems that need padding: each of `texts` as `[texts, longest, width]`, and the
    /// additive mask over what was added, `[texts, 1, longest]`.
    pub fn padded(&self, texts: &[usize]) -> (Tensor<3>, Tensor<3>) {
        let rows = self.packing.choose_rows(self.tokens.clone(), texts);
        self.packing.chosen(texts).pad_rows(rows)
    }
}

/// Added to the attention scores of padding: with float32 scores of any trained model it makes
/// their weights exactly 0.
pub const PADDING: f32 = -10_000.0;

/// Image-text matching.
pub trait Matching {
    /// What depends on the images alone, computed once for all texts that meet them. `tokens`:
    /// `[n, tokens, width]` of [`EncodedImages`]; every part has `n` rows.
    fn image_parts(&self, tokens: Tensor<3>) -> Vec<Tensor<3>>;

    /// Logits of "they do not match" and "they match", `[pairs, 2]`. The images of `pairs` are
    /// rows of every part.
    fn pair_logits(
        &self,
        texts: &EncodedTexts,
        image_parts: &[Tensor<3>],
        pairs: &Pairs,
    ) -> Tensor<2>;
}

/// Masked language modelling beside an image.
pub trait MaskedWords: Debug {
    /// Vocabulary logits at masked places, `[masked, vocab_size]`. `image`: `[n, 3, image_size,
    /// image_size]`, normalised; `input_ids`, `attention_mask`: `[n, seq]`.
    fn gap_logits(
        &self,
        image: Tensor<4>,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        masked: &MaskedPositions,
    ) -> Tensor<2>;
}

/// A momentum model: what gives a run its soft targets.
pub trait Teacher: MaskedWords {
    /// `image`: `[n, 3, image_size, image_size]`, normalised; returns unit rows, `[n, embed_dim]`.
    fn embed_images(&self, image: Tensor<4>) -> Tensor<2>;

    /// `input_ids`, `attention_mask`: `[n, seq]`; returns unit rows, `[n, embed_dim]`.
    fn embed_texts(&self, input_ids: Tensor<2, Int>, attention_mask: Tensor<2, Int>) -> Tensor<2>;
}

/// Where matching looks in a picture for the words of a text.
pub trait Grounding {
    /// Layers whose cross-attention can be looked at, counted from the first text layer; at least
    /// one.
    fn layers(&self) -> Range<usize>;

    /// The one that is looked at where nobody asks for another.
    fn default_layer(&self) -> usize;

    /// Grad-CAM of matching on the cross-attention of `layer`. `images`: `[n, 3, image_size,
    /// image_size]`, normalised, each encoded once; `image_of`: for each text the place of its
    /// image; `input_ids`, `attention_mask`: `[batch, seq]`.
    ///
    /// # Panics
    /// If `layer` is none of [`Self::layers`].
    fn pair_cam(
        &self,
        images: Tensor<4>,
        image_of: &[usize],
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        layer: usize,
    ) -> MatchingCam;
}

/// Where words of a text look in its image while the two are matched.
#[derive(Clone, Debug)]
pub struct MatchingCam {
    /// `[batch, 2]`; logit 1, "they match", is the score that is differentiated.
    pub itm_logits: Tensor<2>,
    /// Attention weights of each token on each patch, `[batch, heads, seq, grid, grid]`, 0 for
    /// padding.
    pub weights: Tensor<5>,
    /// Their gradients, where positive; same shape, 0 for padding.
    pub gradients: Tensor<5>,
}

impl MatchingCam {
    /// One map per token, `[batch, seq, grid, grid]`, each 0 or more: `[CLS]` first, 0 for padding.
    /// In the last fusion layer `[CLS]` alone has one: matching reads no other token above it.
    pub fn per_token(&self) -> Tensor<4> {
        (self.weights.clone() * self.gradients.clone())
            .mean_dim(1)
            .squeeze_dim(1)
    }

    /// One map per text, `[batch, grid, grid]`: the mean over its tokens, `[CLS]` and padding
    /// counted (so the scale depends on the longest text of the batch, the place of the largest
    /// value does not).
    pub fn map(&self) -> Tensor<3> {
        self.per_token().mean_dim(1).squeeze_dim(1)
    }
}
