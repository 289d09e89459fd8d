#![allow(clippy::unwrap_used)]
//! Values worked by hand on one picture of 100 pixels:
//!
//! ```text
//!   0        50       100
//! 0 . D . . . . . . . .      D  dog   small brown   10..20, 10..20
//!   . . . . . . C C . .      C  car   large red     60..90, 10..40   (two cars: the other small, colour unclear)
//!   . . . . . . C C . .      c  car   small         40..55, 45..55   across both middles
//!50 . . . . c . . . . .      P  pear  small green   70..80, 80..90
//!   . # # . . . . . . .      #  curtain             10..30, 60..80
//!   . # # . . . . P . .
//! ```

use super::*;
use crate::scenes::Background;
use crate::scenes::PairProgram;
use crate::scenes::graph::Split;

fn object(
    name: &str,
    category: Category,
    colour: Option<Colour>,
    size: Size,
    at: [u32; 4],
) -> Object {
    Object {
        name: name.to_owned(),
        category,
        colour,
        size,
        maker: "noto".to_owned(),
        pictogram: "noto_0".to_owned(),
        variant: 0,
        mirrored: false,
        region: at.into(),
    }
}

fn scene(curtain: bool) -> Scene {
    Scene {
        image_id: Split::Train.image_id(0),
        side: 100,
        background: Background::Plain { colour: [200; 3] },
        curtain: curtain.then(|| [10, 60, 30, 80].into()),
        objects: vec![
            object(
                "dog",
                Category::Animal,
                Some(Colour::Brown),
                Size::Small,
                [10, 10, 20, 20],
            ),
            object(
                "car",
                Category::Vehicle,
                Some(Colour::Red),
                Size::Large,
                [60, 10, 90, 40],
            ),
            object(
                "car",
                Category::Vehicle,
                None,
                Size::Small,
                [40, 45, 55, 55],
            ),
            object(
                "pear",
                Category::Food,
                Some(Colour::Green),
                Size::Small,
                [70, 80, 80, 90],
            ),
        ],
    }
}

const T: Option<Truth> = Some(Truth::True);
const F: Option<Truth> = Some(Truth::False);
const U: Option<Truth> = Some(Truth::Unknown);

/// The value without and with the curtain.
fn values(program: &Program) -> [Option<Truth>; 2] {
    [false, true].map(|curtain| program.evaluate(&scene(curtain)))
}

fn exists(query: Query) -> [Option<Truth>; 2] {
    values(&Program::Exists(query))
}

fn count(query: Query, count: usize) -> [Option<Truth>; 2] {
    values(&Program::Count { query, count })
}

fn related(
    reading: Reading,
    subject: &str,
    relation: Relation,
    object: &str,
) -> [Option<Truth>; 2] {
    values(&Program::Relation {
        reading,
        relation,
        subject: Query::name(subject),
        object: Query::name(object),
    })
}

#[test]
fn existence() {
    assert_eq!(exists(Query::name("dog")), [T, T]);
    assert_eq!(exists(Query::name("cat")), [F, U]);
    assert_eq!(exists(Query::category(Category::Vehicle)), [T, T]);
    assert_eq!(exists(Query::name("dog").sized(Size::Large)), [F, U]);
}

#[test]
fn a_half_without_curtain_is_decided() {
    // The curtain is on the left side and in the bottom half.
    assert_eq!(exists(Query::name("cat").on(Side::Right)), [F, F]);
    assert_eq!(exists(Query::name("cat").on(Side::Top)), [F, F]);
    assert_eq!(exists(Query::name("cat").on(Side::Left)), [F, U]);
    assert_eq!(exists(Query::name("cat").on(Side::Bottom)), [F, U]);
    assert_eq!(exists(Query::name("pear").on(Side::Right)), [T, T]);
    assert_eq!(exists(Query::name("pear").on(Side::Left)), [F, U]);
}

#[test]
fn what_neither_fits_nor_does_not_has_no_value() {
    // The small car stands across the middle, and its colour is not clear; one certain car is enough all the same.
    assert_eq!(exists(Query::name("car").on(Side::Left)), [None, None]);
    assert_eq!(exists(Query::name("car").on(Side::Right)), [T, T]);
    assert_eq!(
        exists(Query::name("car").coloured(Colour::Blue)),
        [None, None]
    );
    assert_eq!(exists(Query::name("car").coloured(Colour::Red)), [T, T]);
    assert_eq!(
        count(Query::name("car").coloured(Colour::Red), 1),
        [None, None]
    );
    // What is excluded by its size need not have a clear colour.
    let large_blue = Query::name("car").coloured(Colour::Blue).sized(Size::Large);
    assert_eq!(exists(large_blue), [F, U]);
}

#[test]
fn counting() {
    assert_eq!(count(Query::name("car"), 2), [T, U]);
    assert_eq!(count(Query::name("car"), 3), [F, U]);
    // Nothing behind the curtain makes two cars one.
    assert_eq!(count(Query::name("car"), 1), [F, F]);
    assert_eq!(count(Query::name("cat"), 0), [T, U]);
    assert_eq!(count(Query::name("dog").on(Side::Top), 1), [T, T]);
    assert_eq!(count(Query::name("dog").on(Side::Left), 1), [T, U]);
}

#[test]
fn relations_of_any_two() {
    use Relation::{Above, Below, LeftOf, RightOf};
    let some = |subject, relation, object| related(Reading::Some, subject, relation, object);
    assert_eq!(some("dog", LeftOf, "car"), [T, T]);
    assert_eq!(some("dog", RightOf, "car"), [F, U]);
    assert_eq!(some("car", Above, "car"), [T, T]);
    // No row in common is needed: the dog ends where the small car has not begun.
    assert_eq!(some("dog", Above, "car"), [T, T]);
    assert_eq!(some("cat", Above, "dog"), [F, U]);
    assert_eq!(some("cat", Below, "dog"), [F, U]);
}

#[test]
fn relations_of_the_only_two() {
    use Relation::{Above, Below, LeftOf, RightOf};
    let the = |subject, relation, object| related(Reading::The, subject, relation, object);
    assert_eq!(the("dog", LeftOf, "pear"), [T, T]);
    assert_eq!(the("pear", LeftOf, "dog"), [F, F]);
    assert_eq!(the("dog", Above, "pear"), [T, T]);
    // There are two cars and no cat.
    assert_eq!(the("dog", LeftOf, "car"), [None, None]);
    // A cat behind the curtain may be right of the dog, is never above it, and there may be no cat.
    assert_eq!(the("cat", RightOf, "dog"), [None, U]);
    assert_eq!(the("cat", Below, "dog"), [None, U]);
    assert_eq!(the("cat", Above, "dog"), [None, F]);
    assert_eq!(the("cat", RightOf, "pear"), [None, F]);
    assert_eq!(the("pear", RightOf, "cat"), [None, U]);
    assert_eq!(the("cat", LeftOf, "fox"), [None, U]);
}

#[test]
fn strict_separation() {
    let a = Region::from([0, 0, 10, 10]);
    assert!(Relation::LeftOf.holds(a, [10, 0, 20, 10].into()));
    assert!(!Relation::LeftOf.holds(a, [9, 0, 20, 10].into()));
    assert!(Relation::Below.holds([0, 10, 5, 20].into(), a));
    for relation in Relation::ALL {
        assert!(!(relation.holds(a, a) || relation.inverse().holds(a, a)));
    }
}

#[test]
fn attributes_and_sizes() {
    let is = |name: &str, attribute| {
        values(&Program::Attribute {
            subject: Query::name(name),
            attribute,
        })
    };
    assert_eq!(is("pear", Attribute::Colour(Colour::Green)), [T, T]);
    assert_eq!(is("pear", Attribute::Colour(Colour::Red)), [F, F]);
    assert_eq!(is("pear", Attribute::Size(Size::Small)), [T, T]);
    assert_eq!(is("cat", Attribute::Size(Size::Small)), [None, U]);
    assert_eq!(is("car", Attribute::Size(Size::Small)), [None, None]);

    let larger = |subject: Query, object: Query| values(&Program::Larger { subject, object });
    let large_car = || Query::name("car").sized(Size::Large);
    assert_eq!(larger(large_car(), Query::name("pear")), [T, T]);
    assert_eq!(larger(Query::name("pear"), large_car()), [F, F]);
    assert_eq!(larger(Query::name("pear"), Query::name("dog")), [F, F]);
    // What is small is larger than nothing, whatever is behind the curtain.
    assert_eq!(larger(Query::name("pear"), Query::name("cat")), [None, F]);
    assert_eq!(larger(Query::name("cat"), Query::name("pear")), [None, U]);
    assert_eq!(larger(Query::name("cat"), large_car()), [None, F]);
}

#[test]
fn pairs_of_pictures() {
    let (one, mut other) = (scene(false), scene(false));
    other.objects.remove(2);
    let query = || Query::name("car");
    let dog = || Program::Exists(Query::name("dog"));
    let two = Program::Count {
        query: query(),
        count: 2,
    };
    let value = |program: PairProgram| program.evaluate(&one, &other);
    assert_eq!(value(PairProgram::Both(dog())), Some(true));
    assert_eq!(value(PairProgram::ExactlyOne(dog())), Some(false));
    assert_eq!(value(PairProgram::ExactlyOne(two.clone())), Some(true));
    assert_eq!(value(PairProgram::Left(two.clone())), Some(true));
    assert_eq!(value(PairProgram::Right(two)), Some(false));
    assert_eq!(
        value(PairProgram::Total {
            query: query(),
            count: 3
        }),
        Some(true)
    );
    assert_eq!(
        value(PairProgram::More {
            query: query(),
            left: true
        }),
        Some(true)
    );
    assert_eq!(
        value(PairProgram::More {
            query: query(),
            left: false
        }),
        Some(false)
    );
    // A curtain leaves open how many there are.
    assert_eq!(
        PairProgram::Total {
            query: query(),
            count: 3
        }
        .evaluate(&scene(true), &other),
        None
    );
}
