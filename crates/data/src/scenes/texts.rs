//! All texts of a split: what is said and asked of its scenes.

use super::draws::{Purpose, generator};
use super::entailment::{Hypothesis, hypotheses};
use super::graph::Split;
use super::noise::{Caption, noisy_captions};
use super::pairs::{PairStatement, PairWriter};
use super::parallel;
use super::pool::Pool;
use super::questions::{self, Question};
use super::referring::{Referring, referring};

/// Scenes for every group of four pairs.
const SCENES_PER_GROUP: usize = 4;

/// Everything that is written about the scenes of a split.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    /// Of every scene.
    pub(super) captions: Vec<Vec<Caption>>,
    /// In the order of the scenes.
    pub(super) questions: Vec<Question>,
    /// In the order of the scenes.
    pub(super) hypotheses: Vec<Hypothesis>,
    /// In the order of the groups.
    pub(super) pairs: Vec<PairStatement>,
    /// In the order of the scenes.
    pub(super) referring: Vec<Referring>,
}

/// Writes all texts of a split. Only captions are noisy, a `noise` share of them.
pub(super) fn write(pool: Pool<'_>, split: Split, seed: u64, noise: f64, threads: usize) -> Texts {
    let scenes = 0..pool.scenes.len();
    let draws = |purpose, index| generator(seed, split, purpose, index);
    let captions = parallel::map(scenes.clone(), threads, |index| {
        let mut texts = draws(Purpose::Captions, index);
        noisy_captions(
            pool,
            index,
            noise,
            &mut texts,
            &mut draws(Purpose::Noise, index),
        )
    });
    let candidates = parallel::map(scenes.clone(), threads, |index| {
        questions::candidates(pool, index, &mut draws(Purpose::Questions, index))
    });
    let questions = questions::select(
        candidates.into_iter().flatten().collect(),
        &mut draws(Purpose::Balance, 0),
    );
    let hypotheses = parallel::map(scenes.clone(), threads, |index| {
        hypotheses(pool, index, &mut draws(Purpose::Entailment, index))
    });
    let writer = PairWriter::new(pool);
    let pairs = parallel::map(0..pool.scenes.len() / SCENES_PER_GROUP, threads, |set| {
        writer.group(set, &mut draws(Purpose::Pairs, set))
    });
    let referring = scenes
        .flat_map(|index| referring(&pool.scenes[index], index))
        .collect();
    Texts {
        captions,
        questions,
        hypotheses: hypotheses.into_iter().flatten().collect(),
        pairs: pairs.into_iter().flatten().collect(),
        referring,
    }
}
