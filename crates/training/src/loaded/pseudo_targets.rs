//! What the momentum model puts beside the one-hot targets of a pair: other words for a masked one, other texts for the
//! picture. ALBEF, figure 2.

use burn::tensor::{Int, Tensor, TensorData};
use fitup_models::weights::host_values;
use image::RgbImage;
use serde::Serialize;

use super::{LoadedError, LoadedModel, dot};

/// Texts encoded at a time.
const CHUNK: usize = 64;

/// The pseudo-targets of a pair.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PseudoTargets {
    /// The text with one word masked.
    pub masked: String,
    /// The word that was masked: the one-hot target.
    pub word: String,
    /// What the momentum model puts in its place, the most probable first, with probabilities.
    pub words: Vec<(String, f32)>,
    /// The texts of the pool that the momentum model finds most like the picture, with cosines.
    pub texts: Vec<(String, f32)>,
}

/// Texts among which the momentum model looks.
#[derive(Clone, Debug)]
pub struct TextPool {
    texts: Vec<String>,
    /// `[texts, embed_dim]`, unit rows.
    rows: Vec<f32>,
}

impl LoadedModel {
    /// Embeds texts by the momentum model.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`] without a momentum model; [`LoadedError::EmptyText`].
    pub fn text_pool(&self, texts: &[String]) -> Result<TextPool, LoadedError> {
        let teacher = self.teacher()?;
        let mut cleaned = Vec::with_capacity(texts.len());
        for text in texts {
            cleaned.push(self.clean(text)?);
        }
        let mut rows = Vec::new();
        for chunk in cleaned.chunks(CHUNK) {
            let batch = self
                .tokenizer
                .encode_batch(chunk, self.recipe.data.max_tokens);
            let ints = |values: Vec<i64>| -> Tensor<2, Int> {
                let data = TensorData::new(values, [batch.size, batch.length]);
                Tensor::from_data(data, &self.device)
            };
            let (ids, mask) = (batch.input_ids.clone(), batch.attention_mask.clone());
            rows.extend(host_values(teacher.embed_texts(ints(ids), ints(mask))));
        }
        Ok(TextPool {
            texts: cleaned,
            rows,
        })
    }

    /// The pseudo-targets of a picture with a text, whose word number `word` (from 0, after cleaning) is masked; the
    /// `top` best of each.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`] without a momentum model; [`LoadedError::EmptyText`]; [`LoadedError::MaskTooLate`].
    pub fn pseudo_targets(
        &self,
        image: &RgbImage,
        text: &str,
        word: usize,
        pool: &TextPool,
        top: usize,
    ) -> Result<PseudoTargets, LoadedError> {
        let teacher = self.teacher()?;
        let cleaned = self.clean(text)?;
        let mut words: Vec<&str> = cleaned.split(' ').collect();
        let place = word.min(words.len() - 1);
        let target = std::mem::replace(&mut words[place], "[MASK]").to_owned();
        let masked = words.join(" ");
        let filled = self.fill(image, &masked, top)?;
        let momentum = filled
            .masks
            .into_iter()
            .next()
            .and_then(|mask| mask.momentum);

        let pixels = self.prepare(image);
        let side = self.transform.size as usize;
        let pixels = Tensor::from_data(TensorData::new(pixels, [1, 3, side, side]), &self.device);
        let row = host_values(teacher.embed_images(pixels));
        let mut order: Vec<(usize, f32)> = pool
            .rows
            .chunks(row.len())
            .map(|text| dot(text, &row))
            .enumerate()
            .collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        let texts = order.into_iter().take(top);
        Ok(PseudoTargets {
            masked,
            word: target,
            words: momentum.unwrap_or_default(),
            texts: texts
                .map(|(at, cosine)| (pool.texts[at].clone(), cosine))
                .collect(),
        })
    }

    fn teacher(&self) -> Result<&dyn fitup_models::system::Teacher, LoadedError> {
        self.momentum.as_deref().ok_or_else(|| {
            self.cannot(
                "give pseudo-targets",
                "it holds no momentum model; an albef has one, unless it was exported without",
            )
        })
    }
}
