//! BERT as a causal decoder (`BertLMHeadModel` of `models/xbert.py`): a token sees itself and those
//! before it, and every layer also reads the states of a source (VQA: of the question beside its
//! image). For a BERT whose layers are all fusion layers (`fusion_layer` 0).

use burn::tensor::{Int, Tensor};
use fitup_kernels::attention::{Reach, attention, row_index};

use super::{Bert, BertAttention};
use crate::layers::dropout::DropoutSeed;
use crate::layers::packing::Packing;
use crate::system::PADDING;

/// Keys and values of every layer's cross-attention, computed once for all sequences that read the
/// same source.
#[derive(Clone, Debug)]
pub struct SourceKeysValues {
    /// Per layer, `[source rows, hidden_size]` each.
    layers: Vec<[Tensor<2>; 2]>,
    packing: Packing,
}

impl SourceKeysValues {
    /// Sequences of `lengths` tokens, sequence `i` against source `reads[i]`.
    fn reach(&self, lengths: &[usize], reads: &[usize]) -> Reach {
        let ranges: Vec<_> = self.packing.ranges().collect();
        let keys = reads.iter().map(|source| ranges[*source].clone());
        Reach::new(lengths.iter().copied().zip(keys), self.packing.rows())
    }
}

/// Sequences that grow by one token at a time, all equally long.
#[derive(Clone, Debug)]
pub struct DecoderState {
    /// Per layer keys and values of the tokens so far, `[sequences, tokens, hidden_size]` each;
    /// empty before the first token.
    layers: Vec<[Tensor<3>; 2]>,
    /// Which source each sequence reads.
    reads: Vec<usize>,
    tokens: usize,
}

impl DecoderState {
    /// Sequences without a token; sequence `i` reads source `reads[i]`.
    pub fn new(reads: Vec<usize>) -> Self {
        Self {
            layers: Vec::new(),
            reads,
            tokens: 0,
        }
    }

    /// Each sequence once for every time that `sequences` names it, in that order.
    pub fn chosen(&self, sequences: &[usize]) -> Self {
        let choose = |x: &Tensor<3>| {
            let index = row_index(sequences.iter().copied(), &x.device());
            x.clone().select(0, index)
        };
        Self {
            layers: self
                .layers
                .iter()
                .map(|[k, v]| [choose(k), choose(v)])
                .collect(),
            reads: sequences.iter().map(|i| self.reads[*i]).collect(),
            tokens: self.tokens,
        }
    }
}

impl Bert {
    /// Keys and values of `states`, `[rows, encoder_width]`, packed as `packing`.
    pub fn source_keys_values(&self, states: Tensor<2>, packing: &Packing) -> SourceKeysValues {
        let cross = self.layers.iter().filter_map(|l| l.crossattention.as_ref());
        SourceKeysValues {
            layers: cross
                .map(|cross| cross.keys_values(states.clone()))
                .collect(),
            packing: packing.clone(),
        }
    }

    /// Whole sequences at once. `input_ids`: `[rows]`, packed as `packing`; sequence `i` reads source
    /// `reads[i]`. Returns `[rows, hidden_size]`.
    pub fn decode_rows(
        &self,
        input_ids: Tensor<1, Int>,
        packing: &Packing,
        source: &SourceKeysValues,
        reads: &[usize],
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let positions = packing.positions(&input_ids.device());
        let dropped = dropout.map(|d| d.at(1000));
        let mut x = self.embeddings.forward_rows(input_ids, positions, dropped);
        let mask = causal_mask(packing, &x);
        let reach = source.reach(packing.lengths(), reads);
        for (i, (layer, [k, v])) in self.layers.iter().zip(&source.layers).enumerate() {
            let dropout = dropout.map(|d| d.at(i as u64));
            let own = dropout.map(|d| d.at(0));
            x = layer
                .attention
                .forward_causal(x, packing, mask.clone(), own);
            if let Some(cross) = &layer.crossattention {
                let dropout = dropout.map(|d| d.at(1));
                x = cross.forward_rows(x, k.clone(), v.clone(), &reach, dropout);
            }
            x = layer.mlp(x, dropout);
        }
        x
    }

    /// One more token for each sequence, `input_ids`: `[sequences]`. Returns its hidden vector,
    /// `[sequences, hidden_size]`, and the sequences with it.
    pub fn decode_next(
        &self,
        input_ids: Tensor<1, Int>,
        state: &DecoderState,
        source: &SourceKeysValues,
    ) -> (Tensor<2>, DecoderState) {
        let sequences = state.reads.len();
        let position = row_index(
            std::iter::repeat_n(state.tokens, sequences),
            &input_ids.device(),
        );
        let mut x = self.embeddings.forward_rows(input_ids, position, None);
        let reach = source.reach(&vec![1; sequences], &state.reads);
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, (layer, [k, v])) in self.layers.iter().zip(&source.layers).enumerate() {
            let own = layer.attention.keys_values(x.clone());
            let own = own.map(|rows| rows.unsqueeze_dim::<3>(1));
            let all = match state.layers.get(i) {
                Some([k, v]) => {
                    let [key, value] = own;
                    let after = |before: &Tensor<3>, one| Tensor::cat(vec![before.clone(), one], 1);
                    [after(k, key), after(v, value)]
                }
                None => own,
            };
            x = layer.attention.forward_last(x, &all);
            layers.push(all);
            if let Some(cross) = &layer.crossattention {
                x = cross.forward_rows(x, k.clone(), v.clone(), &reach, None);
            }
            x = layer.mlp(x, None);
        }
        let state = DecoderState {
            layers,
            reads: state.reads.clone(),
            tokens: state.tokens + 1,
        };
        (x, state)
    }
}

impl BertAttention {
    /// Self-attention of `x`, `[rows, hidden_size]`, packed as `packing`, under `mask` of
    /// [`causal_mask`]; same shape out. Padded for the scores alone: a causal mask is no range of
    /// keys that a whole sequence reads.
    fn forward_causal(
        &self,
        x: Tensor<2>,
        packing: &Packing,
        mask: Tensor<3>,
        dropout: Option<DropoutSeed>,
    ) -> Tensor<2> {
        let [k, v] = self.keys_values(x.clone());
        let padded = [self.query.forward(x.clone()), k, v].map(|rows| packing.pad_rows(rows).0);
        let context = packing.pack_rows(self.context(padded, Some(mask), dropout));
        self.residual(context, x, dropout)
    }

    /// The last token of each sequence, `x`: `[sequences, hidden_size]`, over keys and values of
    /// all its tokens, `[sequences, tokens, hidden_size]`.
    fn forward_last(&self, x: Tensor<2>, [k, v]: &[Tensor<3>; 2]) -> Tensor<2> {
        let q = self.query.forward(x.clone()).unsqueeze_dim::<3>(1);
        let context = attention(q, k.clone(), v.clone(), None, self.heads);
        self.residual(context.squeeze_dim(1), x, None)
    }
}

/// Hides what comes later, `[sequences, longest, longest]`; padding comes after every real token,
/// so it is hidden with it. `like`: any tensor on the device.
fn causal_mask(packing: &Packing, like: &Tensor<2>) -> Tensor<3> {
    let longest = packing.lengths().iter().copied().max().unwrap_or(0);
    let later = Tensor::<2>::ones([longest, longest], &like.device()).triu(1);
    later
        .mul_scalar(PADDING)
        .unsqueeze_dim::<3>(0)
        .expand([packing.texts(), longest, longest])
}
