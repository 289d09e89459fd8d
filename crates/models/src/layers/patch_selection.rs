//! Which patches of a batch of differently sized images are read, and their positions
//! (`visual_embed` of ViLT's `modules/vision_transformer.py`).
//!
//! Images of a batch are padded with zeros at the right and at the bottom. Patches that hold image
//! are read, all or a random part of them; images with fewer are filled up with a padding patch,
//! which the attention mask hides. The learned position embedding is resized to each image's own
//! grid.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::weights::host_values;

/// Which patches of a batch hold image, and the grid that each image fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchMask {
    /// Rows and columns of the padded batch, in patches.
    grid: [usize; 2],
    /// Rows and columns of each image, in patches: what its position embedding is resized to.
    sizes: Vec<[usize; 2]>,
    /// `[batch, rows, columns]`, row-major.
    valid: Vec<bool>,
}

impl PatchMask {
    /// From known sizes: image `i` fills `sizes[i]`, rows and columns in patches, of a padded
    /// `grid`.
    ///
    /// # Panics
    /// When an image is empty or larger than the grid.
    pub fn from_sizes(sizes: &[[usize; 2]], grid: [usize; 2]) -> Self {
        let mut valid = Vec::with_capacity(sizes.len() * grid[0] * grid[1]);
        for &[rows, columns] in sizes {
            assert!(
                (1..=grid[0]).contains(&rows) && (1..=grid[1]).contains(&columns),
                "image of {rows} x {columns} patches in a grid of {grid:?}"
            );
            for row in 0..grid[0] {
                valid.extend((0..grid[1]).map(|column| row < rows && column < columns));
            }
        }
        Self {
            grid,
            sizes: sizes.to_vec(),
            valid,
        }
    }

    /// The original's guess from the pixels: a patch holds image where the channels of its first
    /// pixel (nearest down-sampling) do not sum to zero, and an image is as high and wide as the
    /// patches of its first column and row that do.
    ///
    /// A real pixel whose normalised channels cancel out is taken for padding: prefer
    /// [`Self::from_sizes`] where the sizes are known. An image that has no such patch in its
    /// first row or column, where the original crashes, counts as one patch long there.
    ///
    /// `pixels`: `[batch, 3, height, width]`, normalised, padded with zeros, sides multiples of
    /// `patch_size`.
    pub fn from_pixels(pixels: &Tensor<4>, patch_size: usize) -> Self {
        let [batch, channels, height, width] = pixels.dims();
        let p = patch_size;
        let grid = [height / p, width / p];
        let first: Tensor<6> = pixels
            .clone()
            .inner()
            .reshape([batch, channels, grid[0], p, grid[1], p])
            .narrow(3, 0, 1)
            .narrow(5, 0, 1)
            .sum_dim(1);
        let valid: Vec<bool> = host_values(first).iter().map(|sum| *sum != 0.0).collect();
        let count = |valid: &mut dyn Iterator<Item = &bool>| valid.filter(|v| **v).count().max(1);
        let sizes = valid
            .chunks(grid[0] * grid[1])
            .map(|image| {
                [
                    count(&mut image.iter().step_by(grid[1])),
                    count(&mut image[..grid[1]].iter()),
                ]
            })
            .collect();
        Self { grid, sizes, valid }
    }

    /// Indices of the patches of image `image` that hold image, row by row.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn valid(&self, image: usize) -> Vec<usize> {
        let patches = self.grid[0] * self.grid[1];
        let valid = &self.valid[image * patches..(image + 1) * patches];
        (0..patches).filter(|at| valid[*at]).collect()
    }

    fn images(&self) -> usize {
        self.sizes.len()
    }
}

/// The patches that are read of each image, in order, filled up to one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchSelection {
    grid: [usize; 2],
    sizes: Vec<[usize; 2]>,
    /// `[batch, len]`, indices into the grid.
    index: Vec<usize>,
    /// `[batch, len]`.
    valid: Vec<bool>,
    len: usize,
}

impl PatchSelection {
    /// All patches that hold image, row by row; of an image with more than `max_image_len` (where
    /// given) the first ones.
    pub fn all(mask: &PatchMask, max_image_len: Option<usize>) -> Self {
        let chosen: Vec<Vec<usize>> = (0..mask.images())
            .map(|image| {
                let mut valid = mask.valid(image);
                valid.truncate(max_image_len.unwrap_or(usize::MAX));
                valid
            })
            .collect();
        Self::chosen(mask, &chosen)
    }

    /// Of an image with more than `max_image_len` patches, that many by chance, each set of them
    /// as likely as any other: pre-training. `uniform`: one number in `[0, 1)` for each of
    /// `[batch, max_image_len]`, the draws.
    ///
    /// # Panics
    /// When the draws are too few.
    pub fn drawn(mask: &PatchMask, max_image_len: usize, uniform: &[f64]) -> Self {
        let chosen: Vec<Vec<usize>> = (0..mask.images())
            .map(|image| {
                let mut valid = mask.valid(image);
                if valid.len() > max_image_len {
                    // The first places of a Fisher-Yates shuffle.
                    let draws = &uniform[image * max_image_len..(image + 1) * max_image_len];
                    for (at, draw) in draws.iter().enumerate() {
                        let left = valid.len() - at;
                        valid.swap(at, at + ((draw * left as f64) as usize).min(left - 1));
                    }
                    valid.truncate(max_image_len);
                }
                valid
            })
            .collect();
        Self::chosen(mask, &chosen)
    }

    /// The patches named: per image, indices into the grid (row * columns + column), in the order
    /// of the tokens. Images with fewer than the longest list are filled up with their first
    /// padding patch.
    ///
    /// # Panics
    /// When there is not one list per image, or an index lies outside the grid.
    pub fn chosen(mask: &PatchMask, chosen: &[Vec<usize>]) -> Self {
        assert_eq!(chosen.len(), mask.images(), "one list of patches per image");
        let patches = mask.grid[0] * mask.grid[1];
        let len = chosen.iter().map(Vec::len).max().unwrap_or(0);
        let mut index = Vec::with_capacity(chosen.len() * len);
        let mut valid = Vec::with_capacity(chosen.len() * len);
        for (image, chosen) in mask.valid.chunks(patches).zip(chosen) {
            index.extend(chosen);
            valid.extend(chosen.iter().map(|at| image[*at]));
            // Without a padding patch any other does: what is filled up is hidden.
            let padding = image.iter().position(|v| !v).unwrap_or(0);
            index.resize(index.len() + len - chosen.len(), padding);
            valid.resize(valid.len() + len - chosen.len(), false);
        }
        Self {
            grid: mask.grid,
            sizes: mask.sizes.clone(),
            index,
            valid,
            len,
        }
    }

    /// Patches read of each image, padding included.
    pub fn patches_per_image(&self) -> usize {
        self.len
    }

    /// Row and column of every patch read, `[batch * patches]`.
    pub fn rows_and_columns(&self) -> Vec<[usize; 2]> {
        let columns = self.grid[1];
        self.index
            .iter()
            .map(|at| [at / columns, at % columns])
            .collect()
    }

    /// 1 where the patch holds image, 0 where it is padding, `[batch, patches]`.
    pub fn mask(&self, device: &Device) -> Tensor<2, Int> {
        let mask: Vec<i64> = self.valid.iter().map(|v| i64::from(*v)).collect();
        Tensor::from_data(TensorData::new(mask, [self.sizes.len(), self.len]), device)
    }

    /// The patches read out of `tokens`, `[batch, rows * columns, width]`: `[batch, patches,
    /// width]`.
    pub fn select(&self, tokens: Tensor<3>) -> Tensor<3> {
        let [batch, patches, width] = tokens.dims();
        let index: Vec<i64> = (0..batch)
            .flat_map(|image| {
                let chosen = &self.index[image * self.len..(image + 1) * self.len];
                chosen.iter().map(move |at| (image * patches + at) as i64)
            })
            .collect();
        let index = TensorData::new(index, [batch * self.len]);
        let index = Tensor::from_data(index, &tokens.device());
        tokens
            .reshape([batch * patches, width])
            .select(0, index)
            .reshape([batch, self.len, width])
    }

    /// The position embedding at every patch read: resized to each image's grid (bilinear,
    /// `align_corners = true`), zero outside of it.
    ///
    /// `pos_embed`: the patch rows of a square grid, `[side * side, width]`; returns `[batch,
    /// patches, width]`.
    ///
    /// # Panics
    /// When the rows do not form a square.
    pub fn positions(&self, pos_embed: Tensor<2>) -> Tensor<3> {
        let [cells, width] = pos_embed.dims();
        let side = cells.isqrt();
        assert_eq!(
            side * side,
            cells,
            "position embedding is not a square grid"
        );
        // One row of interpolation weights per patch: resizing is then one matrix product, and its
        // gradient another.
        let mut weights = vec![0.0f32; self.index.len() * cells];
        let patches = self
            .rows_and_columns()
            .into_iter()
            .zip(weights.chunks_mut(cells));
        for (at, ([row, column], weights)) in patches.enumerate() {
            let [rows, columns] = self.sizes[at / self.len];
            if row >= rows || column >= columns {
                continue;
            }
            for (y, of_row) in linear_taps(side, rows, row) {
                for (x, of_column) in linear_taps(side, columns, column) {
                    weights[y * side + x] += of_row * of_column;
                }
            }
        }
        let weights = TensorData::new(weights, [self.index.len(), cells]);
        let weights = Tensor::<2>::from_data(weights, &pos_embed.device());
        weights
            .matmul(pos_embed)
            .reshape([self.sizes.len(), self.len, width])
    }
}

/// The two source cells, with their weights, of cell `at` when `source` cells are resized
/// linearly to `target`, first on first and last on last.
fn linear_taps(source: usize, target: usize, at: usize) -> [(usize, f32); 2] {
    let scale = match target {
        0 | 1 => 0.0,
        _ => (source - 1) as f32 / (target - 1) as f32,
    };
    let x = scale * at as f32;
    let low = (x as usize).min(source - 1);
    let share = x - low as f32;
    [(low, 1.0 - share), ((low + 1).min(source - 1), share)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A 2 x 3 grid; the second image fills one row and two columns of it.
    fn mask() -> PatchMask {
        PatchMask::from_sizes(&[[2, 3], [1, 2]], [2, 3])
    }

    #[test]
    fn shorter_images_are_filled_up_with_padding() {
        let all = PatchSelection::all(&mask(), None);
        assert_eq!(all.index, [0, 1, 2, 3, 4, 5, 0, 1, 2, 2, 2, 2]);
        assert_eq!(all.valid[6..], [true, true, false, false, false, false]);
        let some = PatchSelection::all(&mask(), Some(3));
        assert_eq!(some.index, [0, 1, 2, 0, 1, 2]);
        assert_eq!(some.patches_per_image(), 3);
    }

    #[test]
    fn draws_choose_without_repetition_and_only_where_there_is_a_choice() {
        // Image 0: of 0..6 the one at 0.5 * 6 = 3, then of [1, 2, 0, 4, 5] the last.
        let drawn = PatchSelection::drawn(&mask(), 2, &[0.5, 0.999, 0.9, 0.9]);
        assert_eq!(drawn.index, [3, 5, 0, 1]);
        let same = PatchSelection::drawn(&mask(), 3, &[0.0; 6]);
        assert_eq!(same.index, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_pixel_that_sums_to_zero_is_taken_for_padding() {
        // 2 x 2 patches of one pixel: the last pixel of image 0 cancels out; image 1 is empty.
        let pixels: Vec<f32> = [[1.0; 4], [1.0, 1.0, 1.0, -1.0], [1.0, 1.0, 1.0, 0.0]]
            .concat()
            .into_iter()
            .chain([0.0; 12])
            .collect();
        let pixels = Tensor::from_data(TensorData::new(pixels, [2, 3, 2, 2]), &Device::flex());
        let mask = PatchMask::from_pixels(&pixels, 1);
        assert_eq!((mask.valid(0), mask.valid(1)), (vec![0, 1, 2], vec![]));
        assert_eq!(mask.sizes, [[2, 2], [1, 1]]);
        let all = PatchSelection::all(&mask, None);
        assert_eq!(all.index, [0, 1, 2, 0, 0, 0]);
        assert_eq!(all.valid[3..], [false; 3]);
    }

    #[test]
    fn positions_are_resized_to_each_image() {
        // side 2, width 1: 0 1 / 2 3.
        let device = Device::flex();
        let embed = Tensor::<2>::from_floats([[0.0], [1.0], [2.0], [3.0]], &device);
        let positions = PatchSelection::all(&mask(), None).positions(embed);
        let found: Vec<f32> = positions.into_data().try_to_vec().unwrap();
        assert_eq!(found[..6], [0.0, 0.5, 1.0, 2.0, 2.5, 3.0]);
        // One row takes the first of two; outside its two columns there is nothing.
        assert_eq!(found[6..], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
