//! Sentence embeddings: the tokens of a BERT without heads, averaged (*Sentence-BERT*, Reimers and
//! Gurevych 2019, arXiv 1908.10084). Reads the weights that the `sentence-transformers` library
//! publishes, and gives the embeddings that it gives.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use crate::layers::bert::{BertConfig, BertEmbeddings, BertLayer};
use crate::layers::l2_normalize;
use crate::layers::packing::Packing;
use crate::weights::{self, TensorMap, WeightsError};

/// Texts to unit vectors.
#[derive(Module, Debug)]
pub struct SentenceEncoder {
    /// Token ids to vectors.
    pub embeddings: BertEmbeddings,
    /// Text layers.
    pub layers: Vec<BertLayer>,
}

impl SentenceEncoder {
    /// All weights zero. Of the sizes, those of fusion and dropout are not used.
    pub fn new(config: &BertConfig, device: &Device) -> Self {
        let layer = |_| BertLayer::new(config, false, device);
        Self {
            embeddings: config.init_embeddings(device),
            layers: (0..config.num_hidden_layers).map(layer).collect(),
        }
    }

    /// With the weights of a published encoder, `embeddings.*` and `encoder.layer.*`. Its pooler,
    /// which the mean does not use, may be there.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] when the tensors are not those of a BERT of these sizes.
    pub fn load(self, tensors: &TensorMap) -> Result<Self, WeightsError> {
        let belongs = |name: &str| !name.starts_with("pooler.");
        weights::load(self, tensors, weights::sentence_name, belongs)
    }

    /// Unit rows, `[batch, hidden_size]`. `input_ids`: `[batch, seq]`, `[CLS] pieces [SEP]`;
    /// `attention_mask`: `[batch, seq]`, 1 for real tokens.
    pub fn forward(&self, input_ids: Tensor<2, Int>, attention_mask: Tensor<2, Int>) -> Tensor<2> {
        let packing = Packing::from_mask(attention_mask.clone());
        let positions = packing.positions(&input_ids.device());
        let mut x = self
            .embeddings
            .forward_rows(packing.pack(input_ids), positions, None);
        let own = packing.reading(&packing);
        for layer in &self.layers {
            x = layer.attend_self(x.clone(), x, &own, None);
            x = layer.mlp(x, None);
        }
        let (tokens, _) = packing.pad_rows(x);
        let longest = tokens.dims()[1];
        l2_normalize(mean_of_tokens(tokens, attention_mask.narrow(1, 0, longest)))
    }
}

/// Mean over the real tokens (`Pooling` of `sentence-transformers`, `pooling_mode_mean_tokens`).
/// `tokens`: `[batch, seq, width]`; `attention_mask`: `[batch, seq]`, 1 for real tokens; returns
/// `[batch, width]`.
pub fn mean_of_tokens(tokens: Tensor<3>, attention_mask: Tensor<2, Int>) -> Tensor<2> {
    let real = attention_mask.float();
    let count = real.clone().sum_dim(1).clamp_min(1e-9);
    let sum = (tokens * real.unsqueeze_dim::<3>(2)).sum_dim(1);
    sum.squeeze_dim::<2>(1) / count
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn::tensor::TensorData;

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        weights::host_values(tensor)
    }

    fn ids(rows: &[&[i64]]) -> Tensor<2, Int> {
        let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
        Tensor::from_data(data, &Device::flex())
    }

    #[test]
    fn mean_by_hand() {
        let tokens = vec![1.0f32, 2.0, 3.0, 6.0, 100.0, 100.0];
        let tokens = Tensor::from_data(TensorData::new(tokens, [1, 3, 2]), &Device::flex());
        let mean = mean_of_tokens(tokens, ids(&[&[1, 1, 0]]));
        assert_eq!(values(mean), [2.0, 4.0]);
    }

    #[test]
    fn padding_changes_nothing_and_rows_have_length_one() {
        let config = BertConfig {
            vocab_size: 20,
            hidden_size: 8,
            num_hidden_layers: 2,
            fusion_layer: 2,
            num_attention_heads: 2,
            intermediate_size: 16,
            max_position_embeddings: 6,
            encoder_width: 8,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
        };
        let empty = SentenceEncoder::new(&config, &Device::flex());
        let model = weights::initialize(empty, 0.5, 1);
        let alone = model.forward(ids(&[&[2, 7, 9, 3]]), ids(&[&[1, 1, 1, 1]]));
        let batch = model.forward(
            ids(&[&[2, 7, 9, 3, 0, 0], &[2, 11, 12, 13, 14, 3]]),
            ids(&[&[1, 1, 1, 1, 0, 0], &[1, 1, 1, 1, 1, 1]]),
        );
        let (alone, batch) = (values(alone), values(batch));
        for (at, (a, b)) in alone.iter().zip(&batch).enumerate() {
            assert!((a - b).abs() < 1e-6, "element {at}: {a} alone, {b} padded");
        }
        let length: f32 = batch[8..].iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
        let apart = alone.iter().zip(&batch[8..]).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) > 0.01);
    }

    #[test]
    fn names_are_those_of_a_bare_bert() {
        for (path, want) in [
            (
                "embeddings.layer_norm.weight",
                "embeddings.LayerNorm.weight",
            ),
            (
                "layers.5.attention.output.bias",
                "encoder.layer.5.attention.output.dense.bias",
            ),
            (
                "layers.0.layer_norm.bias",
                "encoder.layer.0.output.LayerNorm.bias",
            ),
        ] {
            assert_eq!(weights::sentence_name(path), want);
        }
    }
}
