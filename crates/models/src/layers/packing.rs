//! Texts of different lengths without padding: their real tokens stand one after another as rows
//! of one matrix, `[rows, width]`, so that no layer computes what nobody reads.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fitup_kernels::attention::{Reach, row_index};

use crate::system::PADDING;
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

/// Which texts meet which images: pair `i` is text `texts[i]` with image `images[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// Indices into the texts.
    pub texts: Vec<usize>,
    /// Indices into the images.
    pub images: Vec<usize>,
}

impl Pairs {
    /// Text `i` with image `i`.
    pub fn own(count: usize) -> Self {
        Self {
            texts: (0..count).collect(),
            images: (0..count).collect(),
        }
    }

    /// The image of each pair: rows of `[images, ..]`.
    pub fn images_of<const D: usize>(&self, images: &Tensor<D>) -> Tensor<D> {
        let index = row_index(self.images.iter().copied(), &images.device());
        images.clone().select(0, index)
    }
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

    /// Tokens of each text.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
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
        let index = row_index(self.places(seq), &input_ids.device());
        input_ids.reshape([batch * seq]).select(0, index)
    }

    /// The rows of real tokens, `[rows, width]`, of `[batch, seq, width]`.
    pub fn pack_rows(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, seq, width] = x.dims();
        let index = row_index(self.places(seq), &x.device());
        x.reshape([batch * seq, width]).select(0, index)
    }

    /// The place of each row in flattened `[batch, seq]` tokens.
    fn places(&self, seq: usize) -> impl Iterator<Item = usize> {
        let texts = self.lengths.iter().enumerate();
        texts.flat_map(move |(text, length)| (0..*length).map(move |i| text * seq + i))
    }

    /// The inverse of [`Self::pack`] for systems that need padding: ids `[batch, longest]`, 0 beyond
    /// each text's end, and their mask, 1 for real tokens.
    pub fn pad_ids(&self, input_ids: Tensor<1, Int>) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let device = input_ids.device();
        let mask = self.real_tokens();
        let count = mask.len();
        let mask = Tensor::<1, Int>::from_data(TensorData::new(mask, [count]), &device);
        let ids = input_ids.select(0, row_index(self.padded_rows(), &device)) * mask.clone();
        let shape = [self.texts(), self.longest()];
        (ids.reshape(shape), mask.reshape(shape))
    }

    /// Rows, `[rows, width]`, with padding: `[texts, longest, width]`, where what is added repeats
    /// a row, and the additive mask that hides it, `[texts, 1, longest]`: 0, or [`PADDING`].
    pub fn pad_rows(&self, x: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let (device, width) = (x.device(), x.dims()[1]);
        let (texts, longest) = (self.texts(), self.longest());
        let padded = x.select(0, row_index(self.padded_rows(), &device));
        let hidden = self.real_tokens().into_iter();
        let mask: Vec<f32> = hidden
            .map(|real| if real == 1 { 0.0 } else { PADDING })
            .collect();
        let mask = TensorData::new(mask, [texts, 1, longest]);
        (
            padded.reshape([texts, longest, width]),
            Tensor::from_data(mask, &device),
        )
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// The row at each place of `[texts, longest]`; beyond a text's end, its last.
    fn padded_rows(&self) -> impl Iterator<Item = usize> {
        let longest = self.longest();
        self.ranges()
            .flat_map(move |range| (0..longest).map(move |i| (range.start + i).min(range.end - 1)))
    }

    /// 1 at each place of `[texts, longest]` that holds a token, else 0.
    fn real_tokens(&self) -> Vec<i64> {
        let longest = self.longest();
        let texts = self.lengths.iter();
        texts
            .flat_map(|length| (0..longest).map(move |i| i64::from(i < *length)))
            .collect()
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

    /// Which rows [`Self::chosen`] has.
    pub fn chosen_rows(&self, texts: &[usize]) -> Vec<usize> {
        let ranges: Vec<_> = self.ranges().collect();
        texts
            .iter()
            .flat_map(|text| ranges[*text].clone())
            .collect()
    }

    /// The rows of [`Self::chosen`], `[rows, width]` in and out.
    pub fn choose_rows(&self, x: Tensor<2>, texts: &[usize]) -> Tensor<2> {
        select_rows(x, &self.chosen_rows(texts))
    }

    /// Which rows are asked for, `None` for all of them, with where each text's lie among those.
    /// `texts`: which text of `asked` each of this packing's texts is.
    pub fn asked_rows(&self, asked: &Asked, texts: &[usize]) -> (Option<Vec<usize>>, Self) {
        let places: Vec<&[usize]> = match asked {
            Asked::All => return (None, self.clone()),
            Asked::First => vec![&[0]; self.texts()],
            Asked::At(places) => texts.iter().map(|text| &places[*text][..]).collect(),
        };
        let rows = self.ranges().zip(&places).flat_map(|(range, places)| {
            places.iter().map(move |place| {
                assert!(*place < range.len(), "token {place} of {}", range.len());
                range.start + place
            })
        });
        let lengths = places.iter().map(|places| places.len()).collect();
        (Some(rows.collect()), Self::new(lengths))
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

/// These rows of `[rows, width]`, in this order.
pub(super) fn select_rows(x: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let index = row_index(rows.iter().copied(), &x.device());
    x.select(0, index)
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

        let packed = Tensor::<1, Int>::from_data([7, 8, 4, 5, 6], &device);
        let (ids, mask) = packing.pad_ids(packed);
        assert_eq!(host_integers(ids), [7, 8, 0, 4, 5, 6]);
        assert_eq!(host_integers(mask), [1, 1, 0, 1, 1, 1]);
        let rows = Tensor::<2>::from_data([[7.0], [8.0], [4.0], [5.0], [6.0]], &device);
        let (rows, mask) = packing.pad_rows(rows);
        assert_eq!(values(rows.flatten(1, 2)), [7.0, 8.0, 8.0, 4.0, 5.0, 6.0]);
        assert_eq!(
            values(mask.flatten(1, 2)),
            [0.0, 0.0, PADDING, 0.0, 0.0, 0.0]
        );
    }

    #[test]
    fn chosen_and_asked_rows() {
        let device = Device::flex();
        let packing = Packing::new(vec![2, 3]);
        let x = Tensor::<2>::from_data([[0.0], [1.0], [2.0], [3.0], [4.0]], &device);
        let twice = packing.choose_rows(x.clone(), &[1, 0, 1]);
        assert_eq!(values(twice), [2.0, 3.0, 4.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(packing.chosen(&[1, 0, 1]), Packing::new(vec![3, 2, 3]));

        let (all, _) = packing.asked_rows(&Asked::All, &[0, 1]);
        assert_eq!(all, None);
        let (first, _) = packing.asked_rows(&Asked::First, &[0, 1]);
        assert_eq!(first, Some(vec![0, 2]));
        // Of a batch of 2 texts of at most 3 tokens, the flattened places 4 and 5.
        let at = Asked::at(&[4, 5], 2, 3);
        assert_eq!(at, Asked::At(vec![vec![], vec![1, 2]]));
        let (some, lengths) = packing.asked_rows(&at, &[0, 1]);
        assert_eq!(some, Some(vec![3, 4]));
        assert_eq!(values(select_rows(x, &[3, 4])), [3.0, 4.0]);
        assert_eq!(lengths, Packing::new(vec![0, 2]));
        assert_eq!(lengths.reading(&packing).segments()[0].keys, 2..5);
    }
}
