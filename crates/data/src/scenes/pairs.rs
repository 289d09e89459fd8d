//! Statements about two pictures, as NLVR2 has them: each statement with four pairs, of two of which it is true.
//!
//! Every four pairs carry two statements with opposite labels, so neither the statement nor the pair alone tells
//! the label.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::graph::{Category, Scene};
use super::pair_program::PairProgram;
use super::pool::Pool;
use super::program::{Kind, Program, Query};

/// A statement about a pair of pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairStatement {
    /// Which group of four pairs it belongs to, counted in the split.
    pub set: usize,
    /// Which of the four pairs.
    pub pair: usize,
    /// Which of the two statements of the group.
    pub statement: usize,
    /// Indices of the left and the right scene in their split.
    pub scenes: [usize; 2],
    /// The statement.
    pub text: String,
    /// Whether it is true of the pair.
    pub label: bool,
}

/// Pairs drawn in search of four.
const PAIRS: usize = 40;
/// Statements tried before a group is given up.
const TRIES: usize = 12;

/// Draws groups of four pairs with two statements each.
pub(super) struct PairWriter<'a> {
    pool: Pool<'a>,
    /// Scenes without a curtain.
    open: Vec<usize>,
    /// Of these, the ones that show a name.
    by_name: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> PairWriter<'a> {
    pub(super) fn new(pool: Pool<'a>) -> Self {
        let is_open = |&at: &usize| pool.scenes[at].curtain.is_none();
        let mut by_name = pool.by_name();
        for scenes in by_name.values_mut() {
            scenes.retain(is_open);
        }
        Self {
            pool,
            open: (0..pool.scenes.len()).filter(is_open).collect(),
            by_name,
        }
    }

    /// One group: eight statements on pairs, or none where the search fails.
    pub(super) fn group(&self, set: usize, rng: &mut ChaCha8Rng) -> Vec<PairStatement> {
        (0..TRIES)
            .find_map(|_| self.try_group(set, rng))
            .unwrap_or_default()
    }

    fn try_group(&self, set: usize, rng: &mut ChaCha8Rng) -> Option<Vec<PairStatement>> {
        let topics = [self.topic(rng)?, self.topic(rng)?];
        let programs = [statement(topics[0], rng), statement(topics[1], rng)];
        let texts = programs.each_ref().map(PairProgram::sentence);
        if texts[0] == texts[1] {
            return None;
        }
        // Pairs on which the first statement is true and the second false, and the other way round.
        let mut found: [Vec<[usize; 2]>; 2] = Default::default();
        for _ in 0..PAIRS {
            let [left, right] = [self.scene(topics, rng)?, self.scene(topics, rng)?];
            let scenes = [&self.pool.scenes[left], &self.pool.scenes[right]];
            let askable = topics
                .iter()
                .all(|(name, _)| scenes.iter().all(|scene| self.pool.is_askable(name, scene)));
            let used = found.iter().flatten().flatten();
            if left == right || !askable || used.clone().any(|&at| at == left || at == right) {
                continue;
            }
            let first = programs[0].evaluate(scenes[0], scenes[1])?;
            let second = programs[1].evaluate(scenes[0], scenes[1])?;
            if first != second {
                let which = &mut found[usize::from(second)];
                if which.len() < 2 {
                    which.push([left, right]);
                }
            }
            if found.iter().all(|pairs| pairs.len() == 2) {
                break;
            }
        }
        if found.iter().any(|pairs| pairs.len() < 2) {
            return None;
        }
        let mut written = Vec::with_capacity(8);
        for (which, pairs) in found.into_iter().enumerate() {
            for (place, scenes) in pairs.into_iter().enumerate() {
                for (statement, text) in texts.iter().enumerate() {
                    written.push(PairStatement {
                        set,
                        pair: 2 * which + place,
                        statement,
                        scenes,
                        text: text.clone(),
                        label: statement == which,
                    });
                }
            }
        }
        Some(written)
    }

    /// A name, drawn as often as pictures show it, with its category.
    fn topic(&self, rng: &mut ChaCha8Rng) -> Option<(&'a str, Category)> {
        let at = *self.open.choose(rng)?;
        let objects = &self.pool.scenes[at].objects;
        objects
            .choose(rng)
            .map(|object| (object.name.as_str(), object.category))
    }

    /// A scene, often one that shows one of the topics: of others most statements would be false.
    fn scene(&self, topics: [(&'a str, Category); 2], rng: &mut ChaCha8Rng) -> Option<usize> {
        let list = match rng.random_range(0..3) {
            which @ 0..2 => self.by_name.get(topics[which].0)?,
            _ => &self.open,
        };
        list.choose(rng).copied()
    }
}

/// A statement on a name or on its category.
fn statement((name, category): (&str, Category), rng: &mut ChaCha8Rng) -> PairProgram {
    let query = if category.noun().is_some() && rng.random_bool(0.4) {
        Query::category(category)
    } else {
        Query::name(name)
    };
    let exists = Program::Exists(query.clone());
    match rng.random_range(0..8) {
        0 => PairProgram::Both(exists),
        1 => PairProgram::ExactlyOne(exists),
        2 => PairProgram::Left(exists),
        3 => PairProgram::Right(exists),
        4 => PairProgram::More { query, left: true },
        5 => PairProgram::More { query, left: false },
        _ => {
            let most = if matches!(query.kind, Kind::Category(_)) {
                5
            } else {
                3
            };
            PairProgram::Total {
                query,
                count: rng.random_range(1..=most),
            }
        }
    }
}

impl PairStatement {
    /// The two scenes.
    pub fn of<'a>(&self, scenes: &'a [Scene]) -> [&'a Scene; 2] {
        self.scenes.map(|at| &scenes[at])
    }
}
