//! A small image tokenizer of our own: every patch becomes one of a few hundred visual tokens, the
//! targets of masked image modelling where no foreign tokenizer is at hand.
//!
//! A vector-quantised autoencoder (van den Oord et al. 2017, arXiv 1711.00937) over single patches:
//! a two-layer encoder to a unit vector, the nearest entry of a codebook, a two-layer decoder back to
//! the pixels. The reconstruction's gradient passes the choice straight through. Unit vectors and a
//! codebook that follows its patches by moving means are those of BEiT v2 (Peng et al. 2022, arXiv
//! 2208.06366, `norm_ema_quantizer.py`); entries that fall out of use start anew from a patch.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::layers::patch_embed::cut;
use crate::layers::vision_transformer::Mlp;
use crate::layers::{l2_normalize, linear};
use crate::system::SystemConfig;
use crate::weights::{host_integers, host_values};

/// Share of the old value in the moving means of entries and of their use.
const DECAY: f64 = 0.99;

/// Patches of a batch that an entry has to stand for, as a moving mean, to be kept.
const LEAST_USE: f32 = 0.2;

/// Factor on the distance of patches from their entries, beside the reconstruction's 1.
pub const COMMITMENT_WEIGHT: f64 = 0.25;

/// Sizes of an image tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTokenizerConfig {
    /// Side of the square input image in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Side of a patch in pixels: one token each.
    pub patch_size: usize,
    /// Width of the hidden layers of encoder and decoder.
    pub hidden: usize,
    /// Width of a codebook entry.
    pub code_dim: usize,
    /// Entries of the codebook: visual tokens there are.
    pub codes: usize,
}

impl ImageTokenizerConfig {
    /// The tokenizer with all weights zero; see [`crate::weights::initialize`].
    pub fn init(&self, device: &Device) -> ImageTokenizer {
        let pixels = 3 * self.patch_size * self.patch_size;
        let mlp = |from, to| Mlp {
            fc1: linear(from, self.hidden, device),
            fc2: linear(self.hidden, to, device),
        };
        let zeros = Initializer::Zeros;
        ImageTokenizer {
            encoder: mlp(pixels, self.code_dim),
            decoder: mlp(self.code_dim, pixels),
            codebook: Codebook {
                // Neither is trained by gradients.
                entries: zeros
                    .init([self.codes, self.code_dim], device)
                    .set_require_grad(false),
                usage: zeros.init([self.codes], device).set_require_grad(false),
            },
            patch_size: self.patch_size,
        }
    }

    /// Tokens along one side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// A tokenizer reads no texts: it has no words and no places for them.
impl SystemConfig for ImageTokenizerConfig {
    fn image_size(&self) -> usize {
        self.image_size
    }

    fn vocab_size(&self) -> usize {
        0
    }

    fn max_tokens(&self) -> usize {
        0
    }

    fn problem(&self) -> Option<String> {
        let Self {
            image_size,
            patch_size,
            ..
        } = *self;
        if patch_size == 0 || image_size == 0 || !image_size.is_multiple_of(patch_size) {
            return Some(format!(
                "image_size = {image_size} must be a multiple of patch_size = {patch_size}"
            ));
        }
        let sizes = [
            ("hidden", self.hidden),
            ("code_dim", self.code_dim),
            ("codes", self.codes),
        ];
        let zero = sizes.into_iter().find(|(_, size)| *size == 0);
        zero.map(|(name, _)| format!("{name} must be at least 1"))
    }
}

/// The autoencoder.
#[derive(Module, Debug)]
pub struct ImageTokenizer {
    /// `3 * patch * patch -> hidden -> code_dim`.
    pub encoder: Mlp,
    /// `code_dim -> hidden -> 3 * patch * patch`.
    pub decoder: Mlp,
    /// What the encoder's vectors are rounded to.
    pub codebook: Codebook,
    patch_size: usize,
}

/// The entries that visual tokens stand for, with what is remembered of their use.
#[derive(Module, Debug)]
pub struct Codebook {
    /// `[codes, code_dim]`; compared by direction alone.
    pub entries: Param<Tensor<2>>,
    /// Patches per batch that each entry stood for, a moving mean, `[codes]`.
    pub usage: Param<Tensor<1>>,
}

/// What a batch of images gives to learn from.
#[derive(Clone, Debug)]
pub struct TokenizerOutput {
    /// Mean squared error of the normalised pixels, `[1]`.
    pub reconstruction: Tensor<1>,
    /// Mean squared distance of the patches' vectors from their entries, `[1]`.
    pub commitment: Tensor<1>,
    /// Unit vectors of the patches, row-major `[batch * patches, code_dim]`.
    pub latents: Vec<f32>,
    /// Their entries, `[batch * patches]`.
    pub tokens: Vec<i64>,
}

impl TokenizerOutput {
    /// `reconstruction + commitment / 4`, `[1]`.
    pub fn total(&self) -> Tensor<1> {
        self.reconstruction.clone() + self.commitment.clone().mul_scalar(COMMITMENT_WEIGHT)
    }
}

impl ImageTokenizer {
    /// The visual tokens of images, `[batch * patches]`, row by row. `image`: `[batch, 3,
    /// image_size, image_size]`, normalised with mean and deviation 0.5.
    pub fn tokens(&self, image: Tensor<4>) -> Vec<i64> {
        let latents = self.latents(cut(image, self.patch_size));
        self.codebook.nearest(latents)
    }

    /// Losses of a batch, and what [`Codebook::moved`] takes. `image`: as for [`Self::tokens`].
    pub fn losses(&self, image: Tensor<4>) -> TokenizerOutput {
        let patches = cut(image, self.patch_size);
        let latents = self.latents(patches.clone());
        let tokens = self.codebook.nearest(latents.clone());
        let index = TensorData::new(tokens.clone(), [tokens.len()]);
        let index: Tensor<1, Int> = Tensor::from_data(index, &latents.device());
        let chosen = l2_normalize(self.codebook.entries.val().select(0, index));
        let commitment = (latents.clone() - chosen.clone())
            .square()
            .sum_dim(1)
            .mean();
        // The value of the entry, the gradient of the vector.
        let passed = latents.clone() + (chosen - latents.clone()).detach();
        let decoded = self.decoder.forward(passed.unsqueeze_dim::<3>(0));
        let reconstruction = (decoded.reshape(patches.dims()) - patches).square().mean();
        TokenizerOutput {
            reconstruction,
            commitment,
            latents: host_values(latents.inner()),
            tokens,
        }
    }

    /// `patches`: `[batch, patches, 3 * patch * patch]`; returns unit rows, `[batch * patches,
    /// code_dim]`.
    fn latents(&self, patches: Tensor<3>) -> Tensor<2> {
        l2_normalize(self.encoder.forward(patches).flatten(0, 1))
    }
}

impl Codebook {
    /// The entry nearest to each row of `latents`, `[n, code_dim]`; returns `[n]`.
    fn nearest(&self, latents: Tensor<2>) -> Vec<i64> {
        // No gradient goes through a choice.
        let entries = l2_normalize(self.entries.val().inner());
        let similarity = latents.inner().matmul(entries.transpose());
        host_integers(similarity.argmax(1))
    }

    /// The codebook after a batch: entries move towards the mean of their vectors; those out of use
    /// start anew. `latents`, `tokens`: of [`TokenizerOutput`]; `restarts`: the row of `latents`
    /// that each entry would start from, `[codes]`.
    pub fn moved(self, latents: &[f32], tokens: &[i64], restarts: &[usize]) -> Self {
        let [codes, dim] = self.entries.dims();
        let mut entries = host_values(self.entries.val().inner());
        let mut usage = host_values(self.usage.val().inner());
        let mut sums = vec![0.0f32; codes * dim];
        let mut counts = vec![0.0f32; codes];
        for (latent, &token) in latents.chunks(dim).zip(tokens) {
            let token = token as usize;
            counts[token] += 1.0;
            for (sum, value) in sums[token * dim..].iter_mut().zip(latent) {
                *sum += value;
            }
        }
        let decay = DECAY as f32;
        for (code, entry) in entries.chunks_mut(dim).enumerate() {
            usage[code] = decay * usage[code] + (1.0 - decay) * counts[code];
            if usage[code] < LEAST_USE {
                usage[code] = LEAST_USE;
                entry.copy_from_slice(&latents[restarts[code] * dim..][..dim]);
            } else if counts[code] > 0.0 {
                let mean = unit(&sums[code * dim..][..dim]);
                let old = unit(entry);
                let between: Vec<f32> = old
                    .iter()
                    .zip(&mean)
                    .map(|(old, mean)| decay * old + (1.0 - decay) * mean)
                    .collect();
                entry.copy_from_slice(&unit(&between));
            }
        }
        Self {
            entries: with_values(self.entries, entries),
            usage: with_values(self.usage, usage),
        }
    }
}

/// The row divided by its Euclidean norm (at least 1e-12).
fn unit(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    row.iter().map(|x| x / norm).collect()
}

/// The parameter with other values, on its device, still without gradient.
fn with_values<const D: usize>(param: Param<Tensor<D>>, values: Vec<f32>) -> Param<Tensor<D>> {
    param.map(|old| {
        let data = TensorData::new(values, old.shape());
        Tensor::from_data(data, &old.device())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{export_gradients, initialize};

    fn config() -> ImageTokenizerConfig {
        ImageTokenizerConfig {
            image_size: 8,
            patch_size: 4,
            hidden: 16,
            code_dim: 4,
            codes: 8,
        }
    }

    fn tokenizer(device: &Device) -> ImageTokenizer {
        initialize(config().init(device), 0.3, 1)
    }

    fn image(device: &Device) -> Tensor<4> {
        let values = Tensor::arange(0..3 * 3 * 8 * 8, device).float();
        values.mul_scalar(0.7).sin().reshape([3, 3, 8, 8])
    }

    #[test]
    fn one_token_a_patch_whatever_else_is_in_the_batch() {
        let device = Device::flex();
        let tokenizer = tokenizer(&device);
        let all = tokenizer.tokens(image(&device));
        assert_eq!(all.len(), 3 * 4);
        for at in 0..3 {
            let one = tokenizer.tokens(image(&device).narrow(0, at, 1));
            assert_eq!(one, all[at * 4..][..4]);
        }
    }

    #[test]
    fn gradients_pass_the_choice_and_leave_the_codebook() {
        let device = Device::flex().autodiff();
        let tokenizer = tokenizer(&device);
        let output = tokenizer.losses(image(&device));
        let gradients = output.reconstruction.backward();
        let found = export_gradients(&tokenizer, &gradients, |path| path.to_owned());
        let of = |part: &str| found.keys().filter(|name| name.starts_with(part)).count();
        assert_eq!((of("encoder."), of("decoder."), of("codebook.")), (4, 4, 0));
        let moved = &found["encoder.fc1.weight"].values;
        assert!(moved.iter().any(|g| g.abs() > 1e-6));
    }

    #[test]
    fn entries_move_by_hand() {
        let device = Device::flex();
        let mut codebook = tokenizer(&device).codebook;
        codebook.entries = with_values(codebook.entries, [1.0, 0.0, 0.0, 0.0].repeat(8));
        codebook.usage = with_values(codebook.usage, vec![1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let latents = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]].concat();
        let moved = codebook.moved(&latents, &[0, 0], &[1; 8]);
        let entries = host_values(moved.entries.val());
        let usage = host_values(moved.usage.val());
        // Entry 0 moves a hundredth of the way to the mean direction of its two vectors.
        let half = 0.01 * 0.5f32.sqrt();
        let want = unit(&[0.99, half, 0.0, half]);
        for (got, want) in entries[..4].iter().zip(want) {
            assert!((got - want).abs() < 1e-6);
        }
        assert!((usage[0] - 1.01).abs() < 1e-6 && (usage[1] - 0.99).abs() < 1e-6);
        // Entry 1 is not used and stays; entry 2 is out of use and starts from row 1.
        assert_eq!(entries[4..8], [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(entries[8..12], [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(usage[2], LEAST_USE);
    }
}
