//! A retrieval test set: all texts of all images in order, and which belongs to which.

use super::{RecordTexts, Source, SourceError};
use crate::text::pre_caption;

/// The texts of a source with the map both ways, as ALBEF's `re_eval_dataset` builds it. Every
/// caption is kept, also one that is empty after cleaning, so that scores stay comparable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetrievalTexts {
    /// Keys of the images, one per record.
    pub images: Vec<String>,
    /// Identities of the images, one per record.
    pub image_ids: Vec<u64>,
    /// All cleaned captions, image by image.
    pub texts: Vec<String>,
    /// For each text the image it describes.
    pub text_to_image: Vec<usize>,
    /// For each image its texts.
    pub image_to_texts: Vec<Vec<usize>>,
}

impl RetrievalTexts {
    /// Reads the texts of a whole source; pictures stay unread where the source allows it.
    ///
    /// # Errors
    /// When a record cannot be read: a test set is scored whole or not at all.
    pub fn from_source(source: &dyn Source, max_words: usize) -> Result<Self, SourceError> {
        let mut set = Self::default();
        for image in 0..source.len() {
            set.add(source.texts(image)?, max_words);
        }
        Ok(set)
    }

    /// Adds an image with its texts.
    pub(crate) fn add(&mut self, record: RecordTexts, max_words: usize) {
        let (image, first) = (self.images.len(), self.texts.len());
        for caption in &record.captions {
            self.texts
                .push(pre_caption(caption, max_words).unwrap_or_default());
            self.text_to_image.push(image);
        }
        self.image_to_texts
            .push((first..self.texts.len()).collect());
        self.images.push(record.key);
        self.image_ids.push(record.image_id);
    }
}
