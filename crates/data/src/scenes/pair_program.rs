//! Statements about two pictures, true or false.

use serde::{Deserialize, Serialize};

use super::graph::Scene;
use super::program::{Program, Query, Truth};

/// A statement about a pair of pictures without curtains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairProgram {
    /// It holds of the left picture.
    Left(Program),
    /// It holds of the right picture.
    Right(Program),
    /// It holds of both.
    Both(Program),
    /// It holds of one and not of the other.
    ExactlyOne(Program),
    /// Both pictures together show exactly so many.
    Total {
        /// What is counted.
        query: Query,
        /// How many there must be.
        count: usize,
    },
    /// One picture shows more than the other.
    More {
        /// What is counted.
        query: Query,
        /// Whether the left picture is said to show more, or the right.
        left: bool,
    },
}

impl PairProgram {
    /// Whether it is true of the pair; `None` where it has no value or a curtain leaves it open.
    pub fn evaluate(&self, left: &Scene, right: &Scene) -> Option<bool> {
        let decided = |program: &Program, scene: &Scene| match program.evaluate(scene)? {
            Truth::True => Some(true),
            Truth::False => Some(false),
            Truth::Unknown => None,
        };
        let count = |query: &Query, scene: &Scene| {
            let visible = query.select(scene)?.len();
            scene.curtain.is_none().then_some(visible)
        };
        match self {
            Self::Left(program) => decided(program, left),
            Self::Right(program) => decided(program, right),
            Self::Both(program) => Some(decided(program, left)? & decided(program, right)?),
            Self::ExactlyOne(program) => Some(decided(program, left)? != decided(program, right)?),
            Self::Total {
                query,
                count: total,
            } => Some(count(query, left)? + count(query, right)? == *total),
            Self::More { query, left: true } => Some(count(query, left)? > count(query, right)?),
            Self::More { query, left: false } => Some(count(query, right)? > count(query, left)?),
        }
    }
}
