//! English for queries and programs. Every sentence of the data set is made here or of parts made here.

use super::graph::Side;
use super::names::plural;
use super::pair_program::PairProgram;
use super::program::{Attribute, Kind, Program, Query, Reading, Relation};
use crate::pictograms::with_article;

/// `zero` to `twelve`.
pub(super) fn number_word(count: usize) -> &'static str {
    const WORDS: [&str; 13] = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve",
    ];
    WORDS.get(count).copied().unwrap_or("many")
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// "a dog", "two dogs".
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        with_article(noun)
    } else {
        format!("{} {}", number_word(count), plural(noun))
    }
}

impl Query {
    fn noun(&self) -> &str {
        match &self.kind {
            Kind::Name(name) => name,
            Kind::Category(category) => category.noun().unwrap_or("thing"),
        }
    }

    /// "large red car", without article and place.
    pub(super) fn bare(&self, many: bool) -> String {
        let noun = self.noun();
        let size = self.size.map(|size| size.name());
        let colour = self.colour.map(|colour| colour.name());
        let noun = if many { plural(noun) } else { noun.to_owned() };
        let words: Vec<&str> = size.into_iter().chain(colour).chain([&*noun]).collect();
        words.join(" ")
    }

    /// "a large red car on the left side".
    pub(super) fn indefinite(&self) -> String {
        format!("{}{}", with_article(&self.bare(false)), self.place())
    }

    /// "the large red car on the left side".
    pub(super) fn definite(&self) -> String {
        format!("the {}{}", self.bare(false), self.place())
    }

    fn place(&self) -> String {
        self.side.map_or_else(String::new, on_side)
    }
}

/// " on the left side", " in the top half", with the space before it.
pub(super) fn on_side(side: Side) -> String {
    match side {
        Side::Left | Side::Right => format!(" on the {} side", side.name()),
        Side::Top | Side::Bottom => format!(" in the {} half", side.name()),
    }
}

impl Relation {
    /// "to the left of", "above".
    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::LeftOf => "to the left of",
            Self::RightOf => "to the right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

impl Program {
    /// The program as a sentence without a full stop.
    pub fn sentence(&self) -> String {
        match self {
            Self::Exists(query) => format!("there is {}", query.indefinite()),
            Self::Count { query, count: 1 } => {
                format!(
                    "there is exactly one {}{}",
                    query.bare(false),
                    query.place()
                )
            }
            Self::Count { query, count } => format!(
                "there are exactly {} {}{}",
                number_word(*count),
                query.bare(true),
                query.place()
            ),
            Self::Relation {
                reading,
                relation,
                subject,
                object,
            } => {
                let term = |query: &Query| match reading {
                    Reading::Some => query.indefinite(),
                    Reading::The => query.definite(),
                };
                format!(
                    "{} is {} {}",
                    term(subject),
                    relation.phrase(),
                    term(object)
                )
            }
            Self::Attribute { subject, attribute } => {
                let value = match attribute {
                    Attribute::Size(size) => size.name(),
                    Attribute::Colour(colour) => colour.name(),
                };
                format!("{} is {value}", subject.definite())
            }
            Self::Larger { subject, object } => {
                format!(
                    "{} is larger than {}",
                    subject.definite(),
                    object.definite()
                )
            }
        }
    }

    /// The program as a question that is answered with yes or no.
    pub fn question(&self) -> String {
        match self {
            Self::Exists(query) => format!("is there {} in the picture?", query.indefinite()),
            Self::Count { .. } => {
                let sentence = self.sentence();
                let (verb, rest) = sentence
                    .strip_prefix("there is ")
                    .map(|rest| ("is", rest))
                    .or_else(|| {
                        sentence
                            .strip_prefix("there are ")
                            .map(|rest| ("are", rest))
                    })
                    .unwrap_or(("is", &sentence));
                format!("{verb} there {rest}?")
            }
            Self::Relation {
                relation,
                subject,
                object,
                ..
            } => format!(
                "is {} {} {}?",
                subject.definite(),
                relation.phrase(),
                object.definite()
            ),
            Self::Attribute { subject, attribute } => {
                let value = match attribute {
                    Attribute::Size(size) => size.name(),
                    Attribute::Colour(colour) => colour.name(),
                };
                format!("is {} {value}?", subject.definite())
            }
            Self::Larger { subject, object } => {
                format!(
                    "is {} larger than {}?",
                    subject.definite(),
                    object.definite()
                )
            }
        }
    }
}

impl PairProgram {
    /// The program as a sentence without a full stop.
    pub fn sentence(&self) -> String {
        let of = |program: &Program| {
            let sentence = program.sentence();
            match program {
                Program::Exists(query) => query.indefinite(),
                _ => sentence
                    .trim_start_matches("there is ")
                    .trim_start_matches("there are ")
                    .to_owned(),
            }
        };
        match self {
            Self::Left(program) => format!("the left image contains {}", of(program)),
            Self::Right(program) => format!("the right image contains {}", of(program)),
            Self::Both(program) => format!("both images contain {}", of(program)),
            Self::ExactlyOne(program) => {
                format!(
                    "one of the images shows {} and the other does not",
                    of(program)
                )
            }
            Self::Total { query, count: 1 } => {
                format!("there is exactly one {} in total", query.bare(false))
            }
            Self::Total { query, count } => format!(
                "there are exactly {} {} in total",
                number_word(*count),
                query.bare(true)
            ),
            Self::More { query, left } => {
                let (more, fewer) = if *left {
                    ("left", "right")
                } else {
                    ("right", "left")
                };
                format!(
                    "the {more} image has more {} than the {fewer} image",
                    query.bare(true)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::graph::{Category, Colour, Size};

    #[test]
    fn sentences() {
        let ox = Query::name("ox");
        assert_eq!(counted(2, "ox"), "two oxen");
        assert_eq!(
            Program::Exists(ox.clone().sized(Size::Large).on(Side::Left)).sentence(),
            "there is a large ox on the left side"
        );
        assert_eq!(
            Program::Exists(ox.clone()).question(),
            "is there an ox in the picture?"
        );
        let count = |count| Program::Count {
            query: ox.clone().on(Side::Top),
            count,
        };
        assert_eq!(
            count(1).sentence(),
            "there is exactly one ox in the top half"
        );
        assert_eq!(
            count(3).sentence(),
            "there are exactly three oxen in the top half"
        );
        assert_eq!(
            count(3).question(),
            "are there exactly three oxen in the top half?"
        );
        let relation = Program::Relation {
            reading: Reading::Some,
            relation: Relation::LeftOf,
            subject: ox.clone().coloured(Colour::Brown),
            object: Query::category(Category::Instrument),
        };
        assert_eq!(
            relation.sentence(),
            "a brown ox is to the left of a musical instrument"
        );
        assert_eq!(
            PairProgram::More {
                query: ox,
                left: false
            }
            .sentence(),
            "the right image has more oxen than the left image"
        );
        assert_eq!(
            listed(&["a".to_owned(), "b".to_owned(), "c".to_owned()]),
            "a, b and c"
        );
    }
}
