//! Masked words, filled in by the model and by its momentum copy.

use burn::tensor::{Int, Tensor, TensorData};
use fitup_data::text::pre_caption;
use fitup_models::objectives::mlm::MaskedPositions;
use fitup_models::system::MaskedWords;
use image::RgbImage;
use serde::Serialize;

use super::{LoadedError, LoadedModel, probabilities};

/// The gap, as the tokenizer knows it.
const MASK: &str = "[MASK]";

/// A text with the words that were found for its gaps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Filled {
    /// The text as the model read it, with its gaps.
    pub text: String,
    /// One entry a gap, in the order of the text.
    pub masks: Vec<FilledMask>,
}

/// Words for one gap, the most probable first. Probabilities are over the whole vocabulary;
/// special tokens are left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilledMask {
    /// By the model.
    pub model: Vec<(String, f32)>,
    /// By its momentum copy; absent where the file holds none.
    pub momentum: Option<Vec<(String, f32)>>,
}

impl Filled {
    /// The text with the model's best word in every gap.
    pub fn best(&self) -> String {
        let mut words = self.masks.iter();
        let mut parts = self.text.split(MASK);
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let word = words.next().and_then(|mask| mask.model.first());
            text.push_str(word.map_or(MASK, |(word, _)| word));
            text.push_str(part);
        }
        text
    }
}

impl LoadedModel {
    /// The `top` most probable words for every `[MASK]` (any case) of a text about a picture. The
    /// gaps of one text are filled independently of each other, as in training.
    ///
    /// # Errors
    /// [`LoadedError::NoMask`], [`LoadedError::MaskTooLate`] and [`LoadedError::Cannot`].
    pub fn fill(&self, image: &RgbImage, text: &str, top: usize) -> Result<Filled, LoadedError> {
        let model = self.model.masked_words().ok_or_else(|| {
            self.cannot(
                "fill in words",
                "it was not trained on masked words; an albef, a vilt or a vlmo is",
            )
        })?;
        let data = &self.recipe.data;
        let cleaned = clean_around_masks(text, data.max_words);
        let gaps = cleaned.matches(MASK).count();
        if gaps == 0 {
            return Err(LoadedError::NoMask {
                text: text.to_owned(),
            });
        }
        let ids = self.tokenizer.encode(&cleaned, data.max_tokens);
        let mask = self.tokenizer.special().mask;
        let index: Vec<i64> = (0..)
            .zip(&ids)
            .filter_map(|(place, id)| (*id == mask).then_some(place))
            .collect();
        if index.len() < gaps {
            return Err(LoadedError::MaskTooLate {
                text: cleaned,
                max_tokens: data.max_tokens,
            });
        }
        let pixels = self.prepare(image);
        let words = |model| self.words(model, &pixels, &ids, &index, top);
        let momentum = self
            .momentum
            .as_deref()
            .map(|m| words(m as &dyn MaskedWords));
        let model = words(model);
        let mut momentum = momentum.map(Vec::into_iter);
        let masks = model
            .into_iter()
            .map(|model| FilledMask {
                model,
                momentum: momentum.as_mut().and_then(Iterator::next),
            })
            .collect();
        Ok(Filled {
            text: cleaned,
            masks,
        })
    }

    /// The best words at each place of `index` in the one text `ids`.
    fn words(
        &self,
        model: &dyn MaskedWords,
        pixels: &[f32],
        ids: &[i64],
        index: &[i64],
        top: usize,
    ) -> Vec<Vec<(String, f32)>> {
        let side = self.transform.size as usize;
        let pixels = TensorData::new(pixels.to_vec(), [1, 3, side, side]);
        let row = |values: Vec<i64>| -> Tensor<2, Int> {
            let shape = [1, values.len()];
            Tensor::from_data(TensorData::new(values, shape), &self.device)
        };
        let masked = MaskedPositions {
            index: index.to_vec(),
            token: vec![self.tokenizer.special().mask; index.len()],
        };
        let logits = model.gap_logits(
            Tensor::from_data(pixels, &self.device),
            row(ids.to_vec()),
            row(vec![1; ids.len()]),
            &masked,
        );
        let [_, vocab_size] = logits.dims();
        probabilities(logits)
            .chunks(vocab_size)
            .map(|row| self.best_words(row, top))
            .collect()
    }

    fn best_words(&self, probabilities: &[f32], top: usize) -> Vec<(String, f32)> {
        let special = self.tokenizer.special();
        let special = [
            special.pad,
            special.unk,
            special.cls,
            special.sep,
            special.mask,
        ];
        let mut words: Vec<(i64, f32)> = (0..).zip(probabilities.iter().copied()).collect();
        words.sort_by(|a, b| b.1.total_cmp(&a.1));
        words
            .into_iter()
            .filter(|(id, _)| !special.contains(id))
            // A model may have more rows than its vocabulary has words.
            .filter_map(|(id, p)| Some((self.tokenizer.token(id)?.to_owned(), p)))
            .take(top)
            .collect()
    }
}

/// Cleans what stands between the gaps as captions are cleaned, and writes the gaps as the
/// tokenizer knows them.
fn clean_around_masks(text: &str, max_words: usize) -> String {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        // Gaps are ASCII, so their places are the same in the text and in its ASCII upper case.
        let at = rest.to_ascii_uppercase().find(MASK);
        let piece = at.map_or(rest, |at| &rest[..at]);
        parts.extend(pre_caption(piece, max_words));
        let Some(at) = at else { break };
        parts.push(MASK.to_owned());
        rest = &rest[at + MASK.len()..];
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cleaned_around_gaps_of_any_case() {
        assert_eq!(
            clean_around_masks("A [mask], in the [MASK]!", 30),
            "a [MASK] in the [MASK]"
        );
        assert_eq!(clean_around_masks("É[Mask]É", 30), "é [MASK] é");
        assert_eq!(clean_around_masks("no gap", 30), "no gap");
    }

    #[test]
    fn best_words_go_into_their_gaps() {
        let mask = |word: &str| FilledMask {
            model: vec![(word.to_owned(), 0.5)],
            momentum: None,
        };
        let filled = Filled {
            text: "a [MASK] in the [MASK]".to_owned(),
            masks: vec![mask("dog"), mask("snow")],
        };
        assert_eq!(filled.best(), "a dog in the snow");
    }
}
