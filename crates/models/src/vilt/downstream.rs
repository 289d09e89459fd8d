//! ViLT's fine-tuned tasks (`modules/objectives.py`): a head each on the pooled features.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, activation};

use super::{ImageType, PatchTokens, ViltImages, ViltStream, ViltTexts};
use crate::layers::dropout::DropoutSeed;
use crate::layers::{LayerNorm, Linear, linear};
use crate::objectives::cross_entropy;

/// `output(gelu(norm(hidden(x))))`.
#[derive(Module, Debug)]
pub struct ClassifierHead {
    /// `input -> 2 * width`.
    pub hidden: Linear,
    /// Before the GELU; PyTorch's default epsilon, 1e-5.
    pub layer_norm: LayerNorm,
    /// `2 * width -> classes`.
    pub output: Linear,
}

impl ClassifierHead {
    /// All zero.
    pub fn new(input: usize, hidden: usize, classes: usize, device: &Device) -> Self {
        Self {
            hidden: linear(input, hidden, device),
            layer_norm: LayerNorm::new(hidden, 1e-5, device),
            output: linear(hidden, classes, device),
        }
    }

    /// `x`: `[batch, input]`; returns `[batch, classes]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = self.layer_norm.forward(self.hidden.forward(x));
        self.output.forward(activation::gelu(hidden))
    }
}

/// Question answering; trained with [`crate::objectives::vqa`].
#[derive(Module, Debug)]
pub struct ViltVqa {
    /// Embeddings, transformer and pooler.
    pub stream: ViltStream,
    /// `width -> answers`, 3,129 in the original.
    pub vqa_classifier: ClassifierHead,
}

impl ViltVqa {
    /// A new head for `answers` answers, all zero, on `stream`.
    pub fn new(stream: ViltStream, answers: usize, device: &Device) -> Self {
        let width = width(&stream);
        Self {
            stream,
            vqa_classifier: ClassifierHead::new(width, 2 * width, answers, device),
        }
    }

    /// Logits of the answers, `[batch, answers]`. `questions` and `images` are pairs.
    pub fn forward(
        &self,
        questions: &ViltTexts,
        images: &ViltImages,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let features = self.stream.infer(questions, images, dropout);
        self.vqa_classifier.forward(features.pooled)
    }
}

/// Whether a sentence is true of two images.
#[derive(Module, Debug)]
pub struct ViltNlvr2 {
    /// Embeddings, transformer and pooler, with three token types.
    pub stream: ViltStream,
    /// `2 * width -> 2`; logit 1 is "true".
    pub nlvr2_classifier: ClassifierHead,
}

impl ViltNlvr2 {
    /// A new head, all zero, on `stream`, which gets a third token type where it has none.
    pub fn new(stream: ViltStream, device: &Device) -> Self {
        let width = width(&stream);
        Self {
            stream: stream.with_second_image(),
            nlvr2_classifier: ClassifierHead::new(2 * width, 2 * width, 2, device),
        }
    }

    /// Logits, `[batch, 2]`: the sentence passes with each image, and the two pooled vectors are
    /// joined. Cross-entropy is the loss.
    pub fn forward(
        &self,
        sentences: &ViltTexts,
        images: [&ViltImages; 2],
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let pass = |images: &ViltImages, image_type, place| {
            let patches = self.stream.embed_image(images);
            let dropout = dropout.map(|d| d.at(place));
            self.stream
                .fuse(sentences, patches, image_type, dropout)
                .pooled
        };
        let first = pass(images[0], ImageType::First, 0);
        let second = pass(images[1], ImageType::Second, 1);
        self.nlvr2_classifier
            .forward(Tensor::cat(vec![first, second], 1))
    }
}

/// Image-text retrieval: one score per pair.
#[derive(Module, Debug)]
pub struct ViltRetrieval {
    /// Embeddings, transformer and pooler.
    pub stream: ViltStream,
    /// The pre-trained matching head, kept in the checkpoints but not trained.
    pub itm_score: Linear,
    /// `width -> 1`, started from the matching head's "they match".
    pub rank_output: Linear,
}

impl ViltRetrieval {
    /// Ranks as the pre-trained matching head does.
    pub fn new(stream: ViltStream, itm_score: Linear, device: &Device) -> Self {
        let mut rank_output = linear(width(&stream), 1, device);
        // Row 1 of the official matrix is column 1 here.
        let matching = itm_score.weight.val().narrow(1, 1, 1).detach();
        rank_output.weight = rank_output
            .weight
            .map(|old| matching.set_require_grad(old.is_require_grad()));
        if let (Some(bias), Some(of_matching)) = (rank_output.bias.take(), &itm_score.bias) {
            let matching = of_matching.val().narrow(0, 1, 1).detach();
            rank_output.bias =
                Some(bias.map(|old| matching.set_require_grad(old.is_require_grad())));
        }
        Self {
            stream,
            itm_score: itm_score.no_grad(),
            rank_output,
        }
    }

    /// Scores of pairs, `[pairs]`, the larger the better: text `i` with image `i`.
    pub fn score(
        &self,
        texts: &ViltTexts,
        images: PatchTokens,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<1> {
        let features = self
            .stream
            .fuse(texts, images, ImageType::First, dropout)
            .pooled;
        self.rank_output.forward(features).squeeze_dim(1)
    }

    /// Scores of each image against its texts, `[batch, texts]`, every image embedded once.
    /// `texts`: `batch * texts` rows, the texts of one image side by side, the true one first (15
    /// others in the original).
    ///
    /// # Panics
    /// When the texts cannot be shared out evenly among the images.
    pub fn forward(
        &self,
        texts: &ViltTexts,
        images: &ViltImages,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let (batch, pairs) = (images.pixels.dims()[0], texts.input_ids.dims()[0]);
        assert!(
            batch > 0 && pairs.is_multiple_of(batch),
            "{pairs} texts for {batch} images"
        );
        let each = pairs / batch;
        let images = self.stream.embed_image(images).repeat(each);
        self.score(texts, images, dropout).reshape([batch, each])
    }
}

/// Cross-entropy of [`ViltRetrieval::forward`]'s scores, `[batch, texts]`, where the first text of
/// each image is the true one; returns `[1]`.
pub fn ranking_loss(scores: Tensor<2>) -> Tensor<1> {
    let first = Tensor::<1, Int>::zeros([scores.dims()[0]], &scores.device());
    cross_entropy(scores, first)
}

fn width(stream: &ViltStream) -> usize {
    stream.pooler.weight.dims()[0]
}
