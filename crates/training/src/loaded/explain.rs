//! What a model looks at in a picture when it matches a text with it: one map for the text, and one
//! for each of its words.

use burn::tensor::{Int, Tensor, TensorData};
use fitup_index::metrics::grounding::HeatMap;
use fitup_models::system::{Grounding, MatchingCam};
use fitup_models::weights::host_values;
use image::RgbImage;

use super::{LoadedError, LoadedModel, MatchScore};

/// Where a model looks for a text, by Grad-CAM of matching.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The text as the model read it.
    pub text: String,
    /// That picture and text belong together, `[0, 1]`.
    pub probability: f32,
    /// The layer whose cross-attention was looked at, counted from the first text layer.
    pub layer: usize,
    /// Of the whole text, by which it is grounded; `[grid, grid]`, each 0 or more.
    pub map: Vec<f32>,
    /// In the order of the text.
    pub words: Vec<WordMap>,
    grid: usize,
    shown: [f64; 4],
}

/// Where a model looks for one word.
#[derive(Clone, Debug, PartialEq)]
pub struct WordMap {
    /// The word.
    pub word: String,
    /// Its share of what all words together look at, `[0, 1]`; 0 where none looks anywhere.
    pub mass: f32,
    /// The sum over its pieces, `[grid, grid]`, each 0 or more.
    pub map: Vec<f32>,
}

impl Explanation {
    /// One of the maps as it lies on the picture.
    pub fn heat_map<'a>(&self, map: &'a [f32]) -> HeatMap<'a> {
        HeatMap::new(map, self.grid, self.grid).of_part(self.shown)
    }
}

impl LoadedModel {
    /// The part that grounds texts, and the layer asked for or its own choice.
    ///
    /// # Errors
    /// [`LoadedError::Cannot`], [`LoadedError::Layer`].
    pub fn grounding(
        &self,
        layer: Option<usize>,
        task: &'static str,
    ) -> Result<(&dyn Grounding, usize), LoadedError> {
        let grounding = self.model.grounding().ok_or_else(|| {
            self.cannot(
                task,
                "it has no cross-attention from words to a picture; an albef has",
            )
        })?;
        let (layers, layer) = (
            grounding.layers(),
            layer.unwrap_or_else(|| grounding.default_layer()),
        );
        if !layers.contains(&layer) {
            return Err(LoadedError::Layer {
                model: self.name.clone(),
                layer,
                first: layers.start,
                last: layers.end.saturating_sub(1),
            });
        }
        Ok((grounding, layer))
    }

    /// Grad-CAM of matching for prepared pictures, each `[3, size, size]`, and cleaned texts, each
    /// with the place of its picture; at least one of both.
    pub(crate) fn matching_cam(
        &self,
        (grounding, layer): (&dyn Grounding, usize),
        images: &[Vec<f32>],
        texts: &[(usize, &str)],
    ) -> MatchingCam {
        let side = self.transform.size as usize;
        let pixels = TensorData::new(images.concat(), [images.len(), 3, side, side]);
        let (image_of, texts): (Vec<usize>, Vec<&str>) = texts.iter().copied().unzip();
        let tokens = self
            .tokenizer
            .encode_batch(&texts, self.recipe.data.max_tokens);
        let rows = |values: Vec<i64>| -> Tensor<2, Int> {
            let data = TensorData::new(values, [tokens.size, tokens.length]);
            Tensor::from_data(data, &self.device)
        };
        grounding.pair_cam(
            Tensor::from_data(pixels, &self.device),
            &image_of,
            rows(tokens.input_ids.clone()),
            rows(tokens.attention_mask.clone()),
            layer,
        )
    }

    /// Where the model looks for a text and for each of its words; `layer`: another than its own
    /// choice.
    ///
    /// # Errors
    /// [`LoadedError::EmptyText`], [`LoadedError::Cannot`], [`LoadedError::Layer`].
    pub fn explain(
        &self,
        image: &RgbImage,
        text: &str,
        layer: Option<usize>,
    ) -> Result<Explanation, LoadedError> {
        let (grounding, layer) = self.grounding(layer, "explain")?;
        let text = self.clean(text)?;
        let cam = self.matching_cam((grounding, layer), &[self.prepare(image)], &[(0, &text)]);
        let per_token = cam.per_token();
        let [_, seq, grid, _] = per_token.dims();
        let per_token = host_values(per_token);
        let logits = host_values(cam.itm_logits.clone());
        Ok(Explanation {
            probability: MatchScore::from([logits[0], logits[1]]).probability(),
            layer,
            map: host_values(cam.map()),
            words: word_maps(self.tokenizer.words(&text), &per_token, seq),
            text,
            grid,
            shown: self.transform.fit.shown([image.width(), image.height()]),
        })
    }
}

/// Joins the maps of each word's pieces. `words`: with the place after its last piece;
/// `per_token`: `[seq, grid, grid]`, `[CLS]` first. A word of which the model reads only the first
/// pieces has those; words beyond are left out.
fn word_maps(words: Vec<(String, usize)>, per_token: &[f32], seq: usize) -> Vec<WordMap> {
    let cells = per_token.len() / seq;
    let mut start = 1;
    let mut maps = Vec::with_capacity(words.len());
    for (word, end) in words {
        let pieces = &per_token[start.min(seq) * cells..end.min(seq) * cells];
        start = end;
        if pieces.is_empty() {
            break;
        }
        let mut map = vec![0.0; cells];
        for piece in pieces.chunks_exact(cells) {
            for (sum, value) in map.iter_mut().zip(piece) {
                *sum += value;
            }
        }
        let mass = map.iter().sum();
        maps.push(WordMap { word, mass, map });
    }
    let all: f32 = maps.iter().map(|map| map.mass).sum();
    if all > 0.0 {
        maps.iter_mut().for_each(|map| map.mass /= all);
    }
    maps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_word_are_added_and_the_rest_is_left_out() {
        let words = |ends: &[(&str, usize)]| -> Vec<(String, usize)> {
            ends.iter().map(|&(w, end)| (w.to_owned(), end)).collect()
        };
        // CLS and four pieces, of two cells each.
        let per_token = [9.0, 9.0, 1.0, 0.0, 2.0, 1.0, 0.0, 2.0, 0.0, 2.0];
        let maps = word_maps(
            words(&[("undo", 3), ("it", 4), ("all", 6), ("now", 7)]),
            &per_token,
            5,
        );
        let got: Vec<(&str, f32, &[f32])> = maps
            .iter()
            .map(|m| (m.word.as_str(), m.mass, m.map.as_slice()))
            .collect();
        assert_eq!(
            got,
            [
                ("undo", 0.5, &[3.0, 1.0][..]),
                ("it", 0.25, &[0.0, 2.0]),
                ("all", 0.25, &[0.0, 2.0]),
            ]
        );
        let nothing = word_maps(words(&[("it", 2)]), &[0.0; 4], 2);
        assert_eq!(nothing[0].mass, 0.0);
    }
}
