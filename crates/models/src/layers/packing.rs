//! Texts of different lengths without padding: their real tokens stand one after another as rows
//! of one matrix, `[rows, width]`, so that no layer computes what nobody reads.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_kernels::attention::Reach;

use crate::weights::host_integers;

/// Where each text lies among the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    lengths: Vec<usize>,
}

/// Which tokens of each text the caller wants: the last layer computes no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of them.
    All,
    /// `[CLS]` alone.
    First,
    /// Those at these places of each text, ascending; a text may have none.
    At(Vec<Vec<usize>>),
}

impl Packing {
    /// Texts of these lengths in tokens.
    pub fn new(lengths: Vec<usize>) -> Self {
        Self { lengths }
    }

    /// From a padding mask, `[batch, seq]`: 1 for the real tokens, which come first, then 0.
    pub fn from_mask(attention_mask: Tensor<2, Int>) -> Self {
        let [_, seq] = attention_mask.dims();
        let mask = host_integers(attention_mask);
        let real = |row: &[i64]| row.iter().filter(|real| **real != 0).count();
        Self::new(mask.chunks(seq).map(real).collect())
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.lengths.len()
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The rows of each text.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end - length..*end)
        })
    }

    /// The real tokens of padded ids, `[batch, seq]`, as `[rows]`.
    pub fn pack(&self, input_ids: Tensor<2, Int>) -> Tensor<1, Int> {
        let [batch, seq] = input_ids.dims();
        let texts = self.lengths.iter().enumerate();
        let places = texts.flat_map(|(text, length)| (0..*length).map(move |i| text * seq + i));
        let index = row_index(places, &input_ids.device());
        input_ids.reshape([batch * seq]).select(0, index)
    }

    /// Place of each row in its text, `[rows]`.
    pub fn positions(&self, device: &Device) -> Tensor<1, Int> {
        row_index(self.lengths.iter().flat_map(|length| 0..*length), device)
    }

    /// Row of each text's first token, `[texts]`.
    pub fn first_rows(&self, device: &Device) -> Tensor<1, Int> {
        row_index(self.ranges().map(|range| range.start), device)
    }

    /// Each text once for every time that `texts` names it, in that order.
    pub fn chosen(&self, texts: &[usize]) -> Self {
        Self::new(texts.iter().map(|text| self.lengths[*text]).collect())
    }

    /// The rows of [`Self::chosen`], `[rows, width]` in and out.
    pub fn choose_rows(&self, x: Tensor<2>, texts: &[usize]) -> Tensor<2> {
        let ranges: Vec<_> = self.ranges().collect();
        let rows = texts.iter().flat_map(|text| ranges[*text].clone());
        let index = row_index(rows, &x.device());
        x.select(0, index)
    }

    /// The rows that are asked for, with where each text's lie among them. `x`: `[rows, width]`;
    /// `texts`: which text of `asked` each of this packing's texts is.
    pub fn asked_rows(&self, x: Tensor<2>, asked: &Asked, texts: &[usize]) -> (Tensor<2>, Self) {
        let places: Vec<&[usize]> = match asked {
            Asked::All => return (x, self.clone()),
            Asked::First => vec![&[0]; self.texts()],
            Asked::At(places) => texts.iter().map(|text| &places[*text][..]).collect(),
        };
        let rows = self.ranges().zip(&places).flat_map(|(range, places)| {
            places.iter().map(move |place| {
                assert!(*place < range.len(), "token {place} of {}", range.len());
                range.start + place
            })
        });
        let index = row_index(rows, &x.device());
        let lengths = places.iter().map(|places| places.len()).collect();
        (x.select(0, index), Self::new(lengths))
    }

    /// Queries packed as `self` against keys packed as `source`, text by text.
    pub fn reading(&self, source: &Packing) -> Reach {
        let sequences = self.lengths.iter().copied().zip(source.ranges());
        Reach::new(sequences, source.rows())
    }

    /// Queries packed as `self`, text `i` against the tokens of image `images[i]`, when each of
    /// `count` images has `tokens` rows.
    pub fn reading_images(&self, images: &[usize], count: usize, tokens: usize) -> Reach {
        let rows = images.iter().map(|i| i * tokens..(i + 1) * tokens);
        Reach::new(self.lengths.iter().copied().zip(rows), count * tokens)
    }
}

impl Asked {
    /// The places `index` of flattened `[batch, seq]` tokens; ascending.
    pub fn at(index: &[i64], batch: usize, seq: usize) -> Self {
        let mut places = vec![Vec::new(); batch];
        for &i in index {
            places[i as usize / seq].push(i as usize % seq);
        }
        Self::At(places)
    }
}

fn row_index(rows: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.map(|row| row as i64).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn values(x: Tensor<2>) -> Vec<f32> {
        crate::weights::host_values(x)
    }

    #[test]
    fn real_tokens_stand_one_after_another() {
        let device = Device::flex();
        let mask = Tensor::<2, Int>::from_data([[1, 1, 0], [1, 1, 1]], &device);
        let packing = Packing::from_mask(mask);
        assert_eq!(packing, Packing::new(vec![2, 3]));
        assert_eq!(packing.ranges().collect::<Vec<_>>(), [0..2, 2..5]);
        let ids = Tensor::<2, Int>::from_data([[7, 8, 0], [4, 5, 6]], &device);
        let one_row = |x: Tensor<1, Int>| host_integers(x.unsqueeze_dim::<2>(0));
        assert_eq!(one_row(packing.pack(ids)), [7, 8, 4, 5, 6]);
        assert_eq!(one_row(packing.positions(&device)), [0, 1, 0, 1, 2]);
        assert_eq!(one_row(packing.first_rows(&device)), [0, 2]);
    }

    #[test]
    fn chosen_and_asked_rows() {
        let device = Device::flex();
        let packing = Packing::new(vec![2, 3]);
        let x = Tensor::<2>::from_data([[0.0], [1.0], [2.0], [3.0], [4.0]], &device);
        let twice = packing.choose_rows(x.clone(), &[1, 0, 1]);
        assert_eq!(values(twice), [2.0, 3.0, 4.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(packing.chosen(&[1, 0, 1]), Packing::new(vec![3, 2, 3]));

        let (first, _) = packing.asked_rows(x.clone(), &Asked::First, &[0, 1]);
        assert_eq!(values(first), [0.0, 2.0]);
        // Of a batch of 2 texts of at most 3 tokens, the flattened places 4 and 5.
        let at = Asked::at(&[4, 5], 2, 3);
        assert_eq!(at, Asked::At(vec![vec![], vec![1, 2]]));
        let (some, lengths) = packing.asked_rows(x, &at, &[0, 1]);
        assert_eq!(values(some), [3.0, 4.0]);
        assert_eq!(lengths, Packing::new(vec![0, 2]));
        assert_eq!(lengths.reading(&packing).segments()[0].keys, 2..5);
    }
}
