//! Entailment: one kind of sentence with all three labels, the picture deciding.
//!
//! Every premise has a curtain, for a curtain that told a neutral premise from a contradicted one would give the
//! label away. What decides is where it hangs: "there is a dog on the left side" is contradicted where the whole
//! left side can be seen and no dog is there, and undecided where the curtain hides a part of it. Each picture gets
//! triples of one template, one sentence for each label, so neither the words nor the picture alone tell the label.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::graph::{Scene, Side, Size};
use super::pool::Pool;
use super::program::{Attribute, Program, Query, Reading, Relation, Truth};

/// SNLI-VE's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Label {
    Entailment,
    Neutral,
    Contradiction,
}

impl Label {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Entailment, Self::Neutral, Self::Contradiction];

    /// As the official files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Entailment => "entailment",
            Self::Neutral => "neutral",
            Self::Contradiction => "contradiction",
        }
    }
}

impl From<Truth> for Label {
    fn from(truth: Truth) -> Self {
        match truth {
            Truth::True => Self::Entailment,
            Truth::False => Self::Contradiction,
            Truth::Unknown => Self::Neutral,
        }
    }
}

/// A sentence about a picture, with its label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypothesis {
    /// Index of the scene in its split.
    pub scene: usize,
    /// The sentence.
    pub text: String,
    /// What the picture says of it.
    pub label: Label,
    /// The program behind it.
    pub program: Program,
}

/// What the three sentences of a triple have in common.
#[derive(Clone, Copy, Debug)]
enum Form {
    Exists,
    SizedExists(Size),
    Count(usize),
    Relation(Relation),
    Size(Size),
    Larger,
}

const FORMS: [Form; 14] = [
    Form::Exists,
    Form::Exists,
    Form::SizedExists(Size::Small),
    Form::SizedExists(Size::Large),
    Form::Count(1),
    Form::Count(2),
    Form::Relation(Relation::LeftOf),
    Form::Relation(Relation::RightOf),
    Form::Relation(Relation::Above),
    Form::Relation(Relation::Below),
    Form::Size(Size::Small),
    Form::Size(Size::Large),
    Form::Larger,
    Form::Larger,
];

/// Triples of a picture.
const TRIPLES: usize = 2;
/// Sentences drawn in search of one label.
const TRIES: usize = 60;

/// The hypotheses on one scene: none on one without a curtain, else up to two triples.
pub(super) fn hypotheses(pool: Pool<'_>, index: usize, rng: &mut ChaCha8Rng) -> Vec<Hypothesis> {
    let scene = &pool.scenes[index];
    if scene.curtain.is_none() {
        return Vec::new();
    }
    let mut forms = FORMS;
    forms.shuffle(rng);
    let mut written: Vec<Hypothesis> = Vec::new();
    for form in forms {
        if written.len() == TRIPLES * Label::ALL.len() {
            break;
        }
        let triple: Vec<Hypothesis> = Label::ALL
            .into_iter()
            .filter_map(|label| {
                let program = search(pool, scene, form, label, rng)?;
                Some(Hypothesis {
                    scene: index,
                    text: program.sentence(),
                    label,
                    program,
                })
            })
            .collect();
        let fresh = |new: &Hypothesis| written.iter().all(|old| old.text != new.text);
        if triple.len() == Label::ALL.len() && triple.iter().all(fresh) {
            written.extend(triple);
        }
    }
    written
}

fn search(
    pool: Pool<'_>,
    scene: &Scene,
    form: Form,
    label: Label,
    rng: &mut ChaCha8Rng,
) -> Option<Program> {
    (0..TRIES).find_map(|_| {
        let program = propose(pool, scene, form, rng)?;
        (program.evaluate(scene).map(Label::from) == Some(label)).then_some(program)
    })
}

/// A sentence of a form, about a thing that is there or one that is not.
fn propose(pool: Pool<'_>, scene: &Scene, form: Form, rng: &mut ChaCha8Rng) -> Option<Program> {
    let any = |rng: &mut ChaCha8Rng| {
        if rng.random_bool(0.5) {
            scene.names().choose(rng).map(|name| Query::name(name))
        } else {
            pool.absent_name(scene, rng).map(Query::name)
        }
    };
    let side = |rng: &mut ChaCha8Rng| Side::ALL.choose(rng).copied();
    // Two names of which one at least is there: a sentence on two things that nobody sees is no premise's business.
    let two = |rng: &mut ChaCha8Rng| {
        let present = scene.names().choose(rng).map(|name| Query::name(name))?;
        let other = any(rng)?;
        if present == other {
            return None;
        }
        Some(if rng.random_bool(0.5) {
            (present, other)
        } else {
            (other, present)
        })
    };
    Some(match form {
        Form::Exists => Program::Exists(any(rng)?.on(side(rng)?)),
        Form::SizedExists(size) => Program::Exists(any(rng)?.sized(size).on(side(rng)?)),
        Form::Count(count) => Program::Count {
            query: any(rng)?.on(side(rng)?),
            count,
        },
        Form::Relation(relation) => {
            let (subject, object) = two(rng).or_else(|| two(rng))?;
            let program = |relation| Program::Relation {
                reading: Reading::The,
                relation,
                subject: subject.clone(),
                object: object.clone(),
            };
            // What is neither left nor right of the other is no clear contradiction of either.
            let denied = program(relation).evaluate(scene) == Some(Truth::False)
                && program(relation.inverse()).evaluate(scene) == Some(Truth::False);
            if denied {
                return None;
            }
            program(relation)
        }
        Form::Size(size) => Program::Attribute {
            subject: any(rng)?,
            attribute: Attribute::Size(size),
        },
        Form::Larger => {
            let (subject, object) = two(rng).or_else(|| two(rng))?;
            let program = Program::Larger {
                subject: subject.clone(),
                object: object.clone(),
            };
            let inverse = Program::Larger {
                subject: object,
                object: subject,
            };
            if program.evaluate(scene) == Some(Truth::False)
                && inverse.evaluate(scene) == Some(Truth::False)
            {
                return None;
            }
            program
        }
    })
}
