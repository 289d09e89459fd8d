//! VLMo fine-tuned: retrieval as a dual encoder, visual question answering, NLVR2.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, activation};

use super::encoder::{IMAGE_TYPE, TextBatch, VlmoEncoder};
use super::{Contrast, ContrastiveHeads, VlmoConfig};
use crate::layers::dropout::DropoutSeed;
use crate::layers::{LayerNorm, Linear, linear};
use crate::objectives::cross_entropy;
use crate::weights::host_values;

impl VlmoConfig {
    /// The dual encoder with all weights zero. It has no use for vision-language experts: with
    /// `vl_start_layer = depth` there are none to be loaded.
    pub fn init_retrieval(&self, device: &Device) -> VlmoRetrieval {
        VlmoRetrieval {
            encoder: self.init_encoder(device),
            itc: ContrastiveHeads::new(self, device),
        }
    }

    /// The question answerer with all weights zero. `answers`: 3,129 in the original.
    pub fn init_vqa(&self, answers: usize, device: &Device) -> VlmoVqa {
        VlmoVqa {
            encoder: self.init_encoder(device),
            vqa_classifier: Classifier::new(self.width, 2 * self.width, answers, device),
        }
    }

    /// The model for NLVR2 with all weights zero; its token types have a third row
    /// ([`crate::weights::add_second_image_type`]).
    pub fn init_nlvr2(&self, device: &Device) -> VlmoNlvr2 {
        VlmoNlvr2 {
            encoder: self.encoder(3, device),
            nlvr2_classifier: Classifier::new(2 * self.width, 2 * self.width, 2, device),
        }
    }
}

/// Texts and images apart, compared by their embeddings.
#[derive(Module, Debug)]
pub struct VlmoRetrieval {
    /// Each modality runs alone.
    pub encoder: VlmoEncoder,
    /// Projections and scale.
    pub itc: ContrastiveHeads,
}

impl VlmoRetrieval {
    /// Unit rows, `[batch, width]`. `image`: as for [`VlmoEncoder::fused`].
    pub fn embed_image(&self, image: Tensor<4>, dropout: Option<DropoutSeed>) -> Tensor<2> {
        let features = self.encoder.image(image, dropout);
        self.itc.embed_image(&features.tokens)
    }

    /// Unit rows, `[batch, width]`.
    pub fn embed_text(&self, text: &TextBatch, dropout: Option<DropoutSeed>) -> Tensor<2> {
        let features = self.encoder.text(text, dropout);
        self.itc.embed_text(&features.tokens)
    }

    /// The contrastive loss of a batch of pairs, `image` and `text` row by row.
    pub fn contrast(
        &self,
        image: Tensor<4>,
        text: &TextBatch,
        dropout: Option<DropoutSeed>,
    ) -> Contrast {
        let image = self.embed_image(image, dropout.map(|d| d.at(0)));
        let text = self.embed_text(text, dropout.map(|d| d.at(1)));
        self.itc.contrast(image, text)
    }
}

/// Two linear layers with LayerNorm and GELU between.
#[derive(Module, Debug)]
pub struct Classifier {
    /// `input -> hidden`.
    pub input: Linear,
    /// Before the GELU.
    pub norm: LayerNorm,
    /// `hidden -> classes`.
    pub output: Linear,
}

impl Classifier {
    fn new(input: usize, hidden: usize, classes: usize, device: &Device) -> Self {
        Self {
            input: linear(input, hidden, device),
            // PyTorch's default epsilon, unlike the transformer's.
            norm: LayerNorm::new(hidden, 1e-5, device),
            output: linear(hidden, classes, device),
        }
    }

    /// `x`: `[batch, input]`; returns `[batch, classes]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.norm.forward(self.input.forward(x));
        self.output.forward(activation::gelu(hidden))
    }
}

/// Answers questions about images by choosing among frequent answers.
#[derive(Module, Debug)]
pub struct VlmoVqa {
    /// Question and image run fused.
    pub encoder: VlmoEncoder,
    /// Pooled pair to answers.
    pub vqa_classifier: Classifier,
}

impl VlmoVqa {
    /// `[batch, answers]`. `image`: as for [`VlmoEncoder::fused`].
    pub fn logits(
        &self,
        question: &TextBatch,
        image: Tensor<4>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let pair = self.encoder.fused(question, image, IMAGE_TYPE, dropout);
        self.vqa_classifier.forward(pair.pooled)
    }
}

/// Mean score of the answers chosen, in `[0, 1]`. `logits`, `targets`: `[batch, answers]`.
pub fn vqa_score(logits: Tensor<2>, targets: Tensor<2>) -> f32 {
    let chosen = logits.argmax(1);
    let scores = host_values(targets.gather(1, chosen).inner());
    scores.iter().sum::<f32>() / scores.len().max(1) as f32
}

/// Judges a sentence about two images.
#[derive(Module, Debug)]
pub struct VlmoNlvr2 {
    /// The sentence runs fused with each image; three token types.
    pub encoder: VlmoEncoder,
    /// Both pooled pairs, side by side, to false and true.
    pub nlvr2_classifier: Classifier,
}

impl VlmoNlvr2 {
    /// `[batch, 2]`, column 1 is "true". `first`, `second`: images as for
    /// [`VlmoEncoder::fused`].
    pub fn logits(
        &self,
        sentence: &TextBatch,
        first: Tensor<4>,
        second: Tensor<4>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let encoder = &self.encoder;
        let pair = |image, image_type, place| {
            let dropout = dropout.map(|d| d.at(place));
            encoder.fused(sentence, image, image_type, dropout).pooled
        };
        let pooled = vec![pair(first, IMAGE_TYPE, 0), pair(second, IMAGE_TYPE + 1, 1)];
        self.nlvr2_classifier.forward(Tensor::cat(pooled, 1))
    }

    /// Mean cross-entropy, `[1]`. `logits`: `[batch, 2]`, `labels`: `[batch]`, 1 for "true".
    pub fn loss(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        cross_entropy(logits, labels)
    }
}
