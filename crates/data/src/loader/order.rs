//! The order of an epoch, and the generators behind every draw: pure functions of seed and position.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// What a generator is for; generators of different purposes share no stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// The order of an epoch.
    Order = 0,
    /// Caption and augmentation of one sample.
    Sample = 1,
    /// The records that stand in for a sample that cannot be used.
    Reserve = 2,
}

/// The generator for one purpose at one position of one epoch. `attempt` counts the records tried
/// at that position.
pub(super) fn generator(
    purpose: Purpose,
    seed: u64,
    epoch: u64,
    position: u64,
    attempt: u32,
) -> ChaCha8Rng {
    // The numbers are laid out side by side, not mixed: no two of them can give the same key.
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..24].copy_from_slice(&position.to_le_bytes());
    key[24..28].copy_from_slice(&attempt.to_le_bytes());
    key[28..].copy_from_slice(&(purpose as u32).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// All record indices below `len`, shuffled for one epoch.
pub(super) fn permutation(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut generator(Purpose::Order, seed, epoch, 0, 0));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_record_once_and_differs_from_the_next() {
        let mut first = permutation(50, 1, 0);
        assert_ne!(first, permutation(50, 1, 1));
        assert_ne!(first, permutation(50, 2, 0));
        assert_eq!(first, permutation(50, 1, 0));
        first.sort_unstable();
        assert_eq!(first, (0..50).collect::<Vec<_>>());
    }
}
