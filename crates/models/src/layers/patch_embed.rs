//! Image to patch tokens.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Linear, linear};

/// Non-overlapping patches, each projected linearly: the convolution with stride = kernel of the
/// originals (`patch_embed.proj`), written as one matrix product.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `[3 * patch * patch, width]`, rows in the order channel, y, x of the official kernel.
    pub proj: Linear,
    patch_size: usize,
}

impl PatchEmbed {
    /// Patches of `patch_size` pixels a side, tokens of `width`.
    pub fn new(patch_size: usize, width: usize, device: &Device) -> Self {
        Self {
            proj: linear(3 * patch_size * patch_size, width, device),
            patch_size,
        }
    }

    /// As [`PatchEmbed::new`], without the projection's bias.
    pub fn without_bias(patch_size: usize, width: usize, device: &Device) -> Self {
        let mut embed = Self::new(patch_size, width, device);
        embed.proj.bias = None;
        embed
    }

    /// Side of a patch in pixels.
    pub fn patch_size(&self) -> usize {
        self.patch_size
    }

    /// `image`: `[batch, 3, height, width]`, sides multiples of the patch size; returns
    /// `[batch, patches, width]`, row by row.
    pub fn forward(&self, image: Tensor<4>) -> Tensor<3> {
        self.proj.forward(cut(image, self.patch_size))
    }
}

/// The pixels of non-overlapping patches. `image`: `[batch, 3, height, width]`, sides multiples of
/// `patch_size`; returns `[batch, patches, 3 * patch_size * patch_size]`, row by row, each in the
/// order channel, y, x.
pub fn cut(image: Tensor<4>, patch_size: usize) -> Tensor<3> {
    let [batch, channels, height, width] = image.dims();
    let p = patch_size;
    let (rows, columns) = (height / p, width / p);
    image
        .reshape([batch, channels, rows, p, columns, p])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch, rows * columns, channels * p * p])
}
