//! Questions about pictures without a curtain, whose answers are known and balanced.
//!
//! What keeps the text from giving the answer away:
//!
//! - existence: one name that is there and one that is not, both drawn as often as pictures show them;
//! - relation and size: the order of the two names decides, and is a coin flip;
//! - counting: only pictures of four things or more, answers 1, 2 and 3 equally often for each number of things, and
//!   so for names and for every category apart (more things are animals than are any one animal);
//! - colours: asked of a place ("the leftmost object") or a category and never of a name, for bananas are yellow, in
//!   pictures of at least four clear colours, of several things of different ones;
//! - sides: asked of one thing on either side.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::balance::{Evenness, balance};
use super::graph::{Category, Colour, Object, Scene, Side, Size};
use super::names::plural;
use super::pool::Pool;
use super::program::{Program, Query, Reading, Relation, Truth};

/// The form of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Template {
    /// "is there a dog in the picture?"
    Exists,
    /// "how many dogs are there?"
    Count,
    /// "what color is the leftmost object?"
    Colour,
    /// "is the dog on the left or the right side?"
    Side,
    /// "is the dog above the cat?"
    Relation,
    /// "is the dog larger than the cat?"
    Larger,
}

impl Template {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Exists,
        Self::Count,
        Self::Colour,
        Self::Side,
        Self::Relation,
        Self::Larger,
    ];

    /// VQAv2's `answer_type`.
    pub fn answer_type(self) -> &'static str {
        match self {
            Self::Exists | Self::Relation | Self::Larger => "yes/no",
            Self::Count => "number",
            Self::Colour | Self::Side => "other",
        }
    }

    /// VQAv2's `question_type`: the first words.
    pub fn question_type(self) -> &'static str {
        match self {
            Self::Exists => "is there a",
            Self::Count => "how many",
            Self::Colour => "what color is the",
            Self::Side | Self::Relation | Self::Larger => "is the",
        }
    }
}

/// A question with its only right answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Index of the scene in its split.
    pub scene: usize,
    /// Its form.
    pub template: Template,
    /// The question, in lower case, with its mark.
    pub text: String,
    /// The answer.
    pub answer: String,
    /// What answers are balanced within.
    #[serde(skip)]
    group: String,
}

/// Least distance between two things' middles, as a share of the side, for one to be the leftmost.
const OUTERMOST: f64 = 0.06;
/// Questions on two things, of each template, of a picture at most.
const COMPARISONS: usize = 2;
/// Clear colours that a picture has at least for one to be asked for: who sees the colours and not the question is
/// right one time in so many.
pub(super) const COLOURS_ASKED_IN: usize = 4;
/// Numbers that are asked for.
const NUMBERS: std::ops::RangeInclusive<usize> = 1..=3;
/// Pictures of fewer things cannot show every number of [`NUMBERS`] beside something else.
const COUNTED_IN: usize = 4;

/// The questions that could be asked of one scene; none of one with a curtain.
pub(super) fn candidates(pool: Pool<'_>, index: usize, rng: &mut ChaCha8Rng) -> Vec<Question> {
    let scene = &pool.scenes[index];
    if scene.curtain.is_some() {
        return Vec::new();
    }
    let mut asked = Vec::new();
    let mut ask = |template, group: String, text: String, answer: &str| {
        asked.push(Question {
            scene: index,
            template,
            text,
            answer: answer.to_owned(),
            group,
        });
    };
    let mut ask_program = |template, program: &Program| {
        let answer = match program.evaluate(scene) {
            Some(Truth::True) => "yes",
            Some(Truth::False) => "no",
            _ => return,
        };
        ask(template, String::new(), program.question(), answer);
    };

    if let (Some(present), Some(absent)) = (scene.names().choose(rng), pool.absent_name(scene, rng))
    {
        for name in [present, absent] {
            ask_program(Template::Exists, &Program::Exists(Query::name(name)));
        }
    }
    for (template, draw) in [
        (
            Template::Relation,
            relation as fn(&Scene, &mut ChaCha8Rng) -> Option<Program>,
        ),
        (Template::Larger, larger),
    ] {
        let mut programs: Vec<Program> =
            (0..COMPARISONS).filter_map(|_| draw(scene, rng)).collect();
        programs.dedup();
        for program in programs {
            ask_program(template, &program);
        }
    }
    for (noun, is_name, count) in counts(scene) {
        let among = if is_name { "names" } else { noun };
        ask(
            Template::Count,
            format!("{among} of {}", scene.objects.len()),
            format!("how many {} are there?", plural(noun)),
            &count.to_string(),
        );
    }
    if let Some(([one, other], things)) = sides(scene, rng) {
        for (name, answer) in things.into_iter().zip([one, other]) {
            ask(
                Template::Side,
                one.to_owned(),
                format!("is the {name} on the {one} or the {other} side?"),
                answer,
            );
        }
    }
    for (phrase, colour) in colours(scene, rng) {
        ask(
            Template::Colour,
            phrase.clone(),
            format!("what color is the {phrase}?"),
            colour,
        );
    }
    asked
}

/// What is kept of all candidates of a split: answers balanced within every template.
pub(super) fn select(candidates: Vec<Question>, rng: &mut ChaCha8Rng) -> Vec<Question> {
    let kept = balance(
        &candidates,
        |question| {
            let answer = question.answer.clone();
            ((question.template, question.group.clone()), answer)
        },
        |&(template, _)| match template {
            Template::Count => Evenness::Exact {
                answers: NUMBERS.count(),
            },
            Template::Colour => Evenness::Capped { place: 4 },
            _ => Evenness::Exact { answers: 2 },
        },
        rng,
    );
    let mut candidates: Vec<Option<Question>> = candidates.into_iter().map(Some).collect();
    kept.into_iter()
        .filter_map(|at| candidates[at].take())
        .collect()
}

/// Two things that are alone in bearing their names, in an order that a coin decides.
fn pair<'a>(
    scene: &'a Scene,
    fits: impl Fn(&Object, &Object) -> bool,
    rng: &mut ChaCha8Rng,
) -> Option<(&'a Object, &'a Object)> {
    let singles = scene.singles();
    let mut pairs = Vec::new();
    for subject in &singles {
        for object in &singles {
            if subject.name != object.name && fits(subject, object) {
                pairs.push((*subject, *object));
            }
        }
    }
    pairs.choose(rng).copied()
}

/// A relation that holds, or whose inverse does.
fn relation(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Program> {
    let relation = *Relation::ALL.choose(rng)?;
    let (subject, object) = pair(
        scene,
        |one, other| {
            relation.holds(one.region, other.region) || relation.holds(other.region, one.region)
        },
        rng,
    )?;
    Some(Program::Relation {
        reading: Reading::The,
        relation,
        subject: Query::name(&subject.name),
        object: Query::name(&object.name),
    })
}

fn larger(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Program> {
    let (subject, object) = pair(scene, |one, other| one.size != other.size, rng)?;
    Some(Program::Larger {
        subject: Query::name(&subject.name),
        object: Query::name(&object.name),
    })
}

/// Nouns, whether they are names, and how many things they count, of those numbers that are asked for.
fn counts(scene: &Scene) -> Vec<(&str, bool, usize)> {
    if scene.objects.len() < COUNTED_IN {
        return Vec::new();
    }
    let names = scene
        .names()
        .into_iter()
        .map(|name| (name, true, scene.count(name)));
    let categories = Category::ALL.into_iter().filter_map(|category| {
        let members = scene.objects.iter();
        let count = members.filter(|object| object.category == category).count();
        Some((category.noun()?, false, count))
    });
    names
        .chain(categories)
        .filter(|(_, _, count)| NUMBERS.contains(count))
        .collect()
}

/// The two sides of an axis, and a thing clearly on either of them: what lies on one side only would be seen without
/// reading the question.
fn sides<'a>(scene: &'a Scene, rng: &mut ChaCha8Rng) -> Option<([&'static str; 2], [&'a str; 2])> {
    let axis = rng.random_range(0..2);
    let sides = [[Side::Left, Side::Right], [Side::Top, Side::Bottom]][axis];
    let mut on = |side: Side| {
        let singles: Vec<&Object> = scene
            .singles()
            .into_iter()
            .filter(|object| object.clear_sides(scene.side)[axis] == Some(side))
            .collect();
        singles.choose(rng).map(|object| object.name.as_str())
    };
    let things = [on(sides[0])?, on(sides[1])?];
    Some((sides.map(Side::name), things))
}

/// Phrases that single a thing out without its name, with the things' colours, all different.
fn colours(scene: &Scene, rng: &mut ChaCha8Rng) -> Vec<(String, &'static str)> {
    let seen: BTreeSet<Colour> = scene
        .objects
        .iter()
        .filter_map(|object| object.colour)
        .collect();
    if seen.len() < COLOURS_ASKED_IN {
        return Vec::new();
    }
    let mut phrases: Vec<(String, &Object)> = Vec::new();
    for (phrase, axis, last) in [
        ("leftmost object", 0, false),
        ("rightmost object", 0, true),
        ("highest object", 1, false),
        ("lowest object", 1, true),
    ] {
        if let Some(object) = outermost(scene, axis, last) {
            phrases.push((phrase.to_owned(), object));
        }
    }
    for size in [Size::Small, Size::Large] {
        let mut alike = scene.objects.iter().filter(|object| object.size == size);
        if let (Some(object), None) = (alike.next(), alike.next()) {
            phrases.push((format!("only {} object", size.name()), object));
        }
    }
    for category in Category::ALL {
        let mut alike = scene
            .objects
            .iter()
            .filter(|object| object.category == category);
        if let (Some(noun), Some(object), None) = (category.noun(), alike.next(), alike.next()) {
            phrases.push((noun.to_owned(), object));
        }
    }
    phrases.shuffle(rng);
    let mut asked: Vec<(String, &'static str)> = Vec::new();
    for (phrase, object) in phrases {
        if let Some(colour) = object.colour.map(Colour::name)
            && asked.iter().all(|&(_, other)| other != colour)
        {
            asked.push((phrase, colour));
        }
    }
    asked
}

/// The thing whose middle comes first or last along an axis, by a clear distance.
pub(super) fn outermost(scene: &Scene, axis: usize, last: bool) -> Option<&Object> {
    let along = |object: &Object| i64::from(object.region.doubled_centre()[axis]);
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    objects.sort_by_key(|object| if last { -along(object) } else { along(object) });
    match objects.as_slice() {
        [first, second, ..] => {
            let distance = (along(first) - along(second)).abs() as f64 / 2.0;
            (distance > OUTERMOST * f64::from(scene.side)).then_some(first)
        }
        _ => None,
    }
}
