//! Tasks for a dual encoder: a head on the embeddings of pictures and text, which never meet before it. CLIP's authors
//! have none; this is what the comparison with fusion needs.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::{Clip, ClipConfig};
use crate::vilt::downstream::ClassifierHead;

/// Parts of a picture with a text: both embeddings, their product and their distance.
const PARTS: usize = 4;

/// Classes of one picture or two with a text.
#[derive(Module, Debug)]
pub struct ClipClassifier {
    /// Both encoders.
    pub clip: Clip,
    /// `4 * embed_dim` a picture to classes.
    pub classifier: ClassifierHead,
}

impl ClipConfig {
    /// All weights zero, for `images` pictures (1 or 2) and `classes` classes.
    pub fn init_classifier(
        &self,
        images: usize,
        classes: usize,
        device: &Device,
    ) -> ClipClassifier {
        let input = PARTS * self.embed_dim * images;
        ClipClassifier {
            clip: self.init(device),
            classifier: ClassifierHead::new(input, 2 * self.embed_dim, classes, device),
        }
    }
}

impl ClipClassifier {
    /// Logits, `[batch, classes]`. `images`: as many as the head was made for, `[batch, 3, image_size, image_size]`
    /// each, normalised; `input_ids`, `attention_mask`: `[batch, seq]`.
    pub fn forward(
        &self,
        images: Vec<Tensor<4>>,
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
    ) -> Tensor<2> {
        let text = self.clip.encode_text(input_ids, Some(attention_mask)).embed;
        let parts = images.into_iter().flat_map(|image| {
            let image = self.clip.embed_image(image);
            [
                image.clone(),
                text.clone(),
                image.clone() * text.clone(),
                (image - text.clone()).abs(),
            ]
        });
        self.classifier.forward(Tensor::cat(parts.collect(), 1))
    }
}
