//! The generators behind every draw: pure functions of seed, split, purpose and place, so that threads change nothing.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::graph::Split;

/// What a generator is for; generators of different purposes share no stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Curtain = 0,
    Scene = 1,
    Captions = 2,
    Noise = 3,
    Questions = 4,
    Balance = 5,
    Entailment = 6,
    Pairs = 7,
    Proposals = 8,
    Variants = 9,
}

/// The generator for one purpose at one scene, or whatever `index` counts, of one split.
pub(super) fn generator(seed: u64, split: Split, purpose: Purpose, index: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(index as u64).to_le_bytes());
    key[16..20].copy_from_slice(&(split as u32).to_le_bytes());
    key[20..24].copy_from_slice(&(purpose as u32).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}
